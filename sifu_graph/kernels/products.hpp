// Products of matrices, accumulated in registers.
//
// Every element of a result is one sum in the order of its index, whatever rows are computed together.

#pragma once

#include "vectors.hpp"

// How many vectors of sums the registers hold, beside a vector of M and an element of x.
constexpr int SUMS = (PARTS == 1 ? 16 : 12) / PARTS;
constexpr int MOST_ROWS = PARTS == 1 ? 8 : SUMS;  // of x at a time

// A matrix of elements `row` and `element` apart.
struct Strided {
    const real* from;
    int64_t row, element;
};

// COLUMNS vectors of ROWS rows of the product below.
template <int ROWS, int COLUMNS>
INLINE void add_block(Strided x, const real* M, int64_t M_row, int64_t inner, real* out, int64_t out_row) {
    vec sums[ROWS][COLUMNS];
    for (int n = 0; n < ROWS; ++n)
        for (int c = 0; c < COLUMNS; ++c) sums[n][c] = load(out + n * out_row + c * LANES);
    for (int64_t i = 0; i < inner; ++i) {
        vec row[COLUMNS];
        for (int c = 0; c < COLUMNS; ++c) row[c] = load(M + i * M_row + c * LANES);
        for (int n = 0; n < ROWS; ++n) {
            vec element = splat(x.from[n * x.row + i * x.element]);
            for (int c = 0; c < COLUMNS; ++c) sums[n][c] += element * row[c];
        }
    }
    for (int n = 0; n < ROWS; ++n)
        for (int c = 0; c < COLUMNS; ++c) store(out + n * out_row + c * LANES, sums[n][c]);
}

template <int WIDE, int ROWS>
INLINE void add_rows(Strided x, const real* M, int64_t M_row, int64_t inner, real* out, int64_t out_row) {
    constexpr int COLUMNS = ROWS >= SUMS ? 1 : SUMS / ROWS < WIDE ? SUMS / ROWS : WIDE;
    int c = 0;
    for (; c + COLUMNS <= WIDE; c += COLUMNS)
        add_block<ROWS, COLUMNS>(x, M + c * LANES, M_row, inner, out + c * LANES, out_row);
    if constexpr (WIDE % COLUMNS > 0)
        add_block<ROWS, WIDE % COLUMNS>(x, M + c * LANES, M_row, inner, out + c * LANES, out_row);
}

template <int WIDE, int ROWS>
INLINE void add_last_rows(int64_t rows, Strided x, const real* M, int64_t M_row, int64_t inner, real* out,
                          int64_t out_row) {
    if constexpr (ROWS > 0) {
        if (rows == ROWS) return add_rows<WIDE, ROWS>(x, M, M_row, inner, out, out_row);
        add_last_rows<WIDE, ROWS - 1>(rows, x, M, M_row, inner, out, out_row);
    }
}

// out[n][o] += sum over i < inner of x[n][i] M[i][o], for n < rows and o < WIDE * LANES.
template <int WIDE = VECS>
INLINE void add_product(int64_t rows, Strided x, const real* M, int64_t inner, real* out, int64_t M_row = D,
                        int64_t out_row = D) {
    for (; rows >= MOST_ROWS; rows -= MOST_ROWS) {
        add_rows<WIDE, MOST_ROWS>(x, M, M_row, inner, out, out_row);
        x.from += MOST_ROWS * x.row;
        out += MOST_ROWS * out_row;
    }
    add_last_rows<WIDE, MOST_ROWS - 1>(rows, x, M, M_row, inner, out, out_row);
}
