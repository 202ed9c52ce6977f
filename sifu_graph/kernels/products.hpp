// Products of small matrices, accumulated in registers.
//
// Every element of a result is one sum in the order of its index, whatever rows are computed together.

#pragma once

#include "vectors.hpp"

// How many vectors of sums the registers hold, beside a vector of M and an element of x.
constexpr int SUMS = (PARTS == 1 ? 16 : 12) / PARTS;
constexpr int MOST_ROWS = PARTS == 1 ? 8 : SUMS;  // of x at a time

// COLUMNS vectors of ROWS rows: out[n] += sum over i of x[n][i] M[i].
template <int ROWS, int COLUMNS>
INLINE void add_block(const real* x, int64_t row_stride, int64_t stride, const real* M, int64_t inner, real* out) {
    vec sums[ROWS][COLUMNS];
    for (int n = 0; n < ROWS; ++n)
        for (int c = 0; c < COLUMNS; ++c) sums[n][c] = load(out + n * D + c * LANES);
    for (int64_t i = 0; i < inner; ++i) {
        vec row[COLUMNS];
        for (int c = 0; c < COLUMNS; ++c) row[c] = load(M + i * D + c * LANES);
        for (int n = 0; n < ROWS; ++n) {
            vec element = splat(x[n * row_stride + i * stride]);
            for (int c = 0; c < COLUMNS; ++c) sums[n][c] += element * row[c];
        }
    }
    for (int n = 0; n < ROWS; ++n)
        for (int c = 0; c < COLUMNS; ++c) store(out + n * D + c * LANES, sums[n][c]);
}

template <int ROWS>
INLINE void add_rows(const real* x, int64_t row_stride, int64_t stride, const real* M, int64_t inner, real* out) {
    constexpr int COLUMNS = ROWS >= SUMS ? 1 : SUMS / ROWS < VECS ? SUMS / ROWS : VECS;
    int c = 0;
    for (; c + COLUMNS <= VECS; c += COLUMNS)
        add_block<ROWS, COLUMNS>(x, row_stride, stride, M + c * LANES, inner, out + c * LANES);
    if constexpr (VECS % COLUMNS > 0)
        add_block<ROWS, VECS % COLUMNS>(x, row_stride, stride, M + c * LANES, inner, out + c * LANES);
}

template <int ROWS>
INLINE void add_last_rows(int64_t rows, const real* x, int64_t row_stride, int64_t stride, const real* M, int64_t inner,
                          real* out) {
    if constexpr (ROWS > 0) {
        if (rows == ROWS) return add_rows<ROWS>(x, row_stride, stride, M, inner, out);
        add_last_rows<ROWS - 1>(rows, x, row_stride, stride, M, inner, out);
    }
}

// out[n][o] += sum over i < inner of x[n * row_stride + i * stride] M[i][o], for n < rows and o < D.
INLINE void add_product(int64_t rows, const real* x, int64_t row_stride, int64_t stride, const real* M, int64_t inner,
                        real* out) {
    int64_t n = 0;
    for (; n + MOST_ROWS <= rows; n += MOST_ROWS)
        add_rows<MOST_ROWS>(x + n * row_stride, row_stride, stride, M, inner, out + n * D);
    add_last_rows<MOST_ROWS - 1>(rows - n, x + n * row_stride, row_stride, stride, M, inner, out + n * D);
}
