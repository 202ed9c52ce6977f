// Vectors of 64 bytes, and exp, log and the normal distribution on them.
//
// Compiled with -DREAL (float or double) and -DWIDTH (the width d of the signal).

#pragma once

#include <cmath>
#include <cstdint>
#include <utility>

#ifndef REAL
#define REAL float
#endif
#ifndef WIDTH
#define WIDTH 32
#endif

typedef REAL real;
#define INLINE static inline __attribute__((always_inline))

// A vector is 64 bytes on every processor, so that sums have one order everywhere; it is made of parts, the vectors
// that the processor has. (GCC lowers one type of 64 bytes badly where a register is shorter: training took 3.5 times
// as long.)
#if defined(__AVX512F__)
constexpr int PART_BYTES = 64;
#elif defined(__AVX__)
constexpr int PART_BYTES = 32;
#else
constexpr int PART_BYTES = 16;
#endif
constexpr int D = WIDTH;
constexpr int LANES = 64 / sizeof(real);
constexpr int PARTS = 64 / PART_BYTES, PART_LANES = LANES / PARTS;
constexpr int VECS = D / LANES;
static_assert(D % LANES == 0, "the width must be a multiple of the vector length");

typedef real part __attribute__((vector_size(PART_BYTES)));
typedef real loose_part __attribute__((vector_size(PART_BYTES), aligned(sizeof(real)), may_alias));
#define EACH_PART for (int k = 0; k < PARTS; ++k)

struct vec {
    part p[PARTS];
    real& operator[](int lane) { return ((real*)p)[lane]; }
};

INLINE vec load(const real* from) {
    vec v;
    EACH_PART v.p[k] = (part) * (const loose_part*)(from + k * PART_LANES);
    return v;
}
INLINE void store(real* to, vec v) { EACH_PART *(loose_part*)(to + k * PART_LANES) = (loose_part)v.p[k]; }
INLINE vec splat(real x) {
    vec v;
    EACH_PART v.p[k] = x - part{};
    return v;
}
#define OPERATOR(op)                         \
    INLINE vec operator op(vec a, vec b) {   \
        EACH_PART a.p[k] = a.p[k] op b.p[k]; \
        return a;                            \
    }
OPERATOR(+)
OPERATOR(-)
OPERATOR(*)
OPERATOR(/)
#undef OPERATOR
INLINE void operator+=(vec& a, vec b) { EACH_PART a.p[k] += b.p[k]; }
INLINE vec operator-(vec a) {
    EACH_PART a.p[k] = -a.p[k];
    return a;
}
// a < b ? yes : no, lane by lane
INLINE vec where_less(vec a, vec b, vec yes, vec no) {
    EACH_PART yes.p[k] = a.p[k] < b.p[k] ? yes.p[k] : no.p[k];
    return yes;
}

// The lanes of a part, moved by HALF.
template <int HALF, int... I>
INLINE part moved(part v, std::integer_sequence<int, I...>) {
    return __builtin_shufflevector(v, v, ((I + HALF) % PART_LANES)...);
}

template <int HALF>
INLINE part folded(part v) {
    if constexpr (HALF > 0) return folded<HALF / 2>(v + moved<HALF>(v, std::make_integer_sequence<int, PART_LANES>{}));
    return v;
}

INLINE part sum_of_parts(vec v) {
    for (int half = PARTS / 2; half; half /= 2)
        for (int k = 0; k < half; ++k) v.p[k] += v.p[k + half];
    return v.p[0];
}

// Sums the lanes, halves first: a fixed tree.
INLINE real sum(vec v) { return folded<PART_LANES / 2>(sum_of_parts(v))[0]; }

// Of two parts, HALF lanes in turn: all lanes whose number has the bit HALF come from `b`.
template <int HALF, bool UPPER, int... I>
INLINE part exchanged(part a, part b, std::integer_sequence<int, I...>) {
    return __builtin_shufflevector(a, b, (((I & HALF) ? PART_LANES + I - HALF : I) + (UPPER ? HALF : 0))...);
}

// Transposes PART_LANES rows: in log2(PART_LANES) stages, squares beside the diagonal change places.
template <int HALF = PART_LANES / 2>
INLINE void transpose_tile(part (&rows)[PART_LANES]) {
    constexpr std::make_integer_sequence<int, PART_LANES> lanes;
    if constexpr (HALF > 0) {
        for (int r = 0; r < PART_LANES; ++r)
            if (!(r & HALF)) {
                part a = rows[r], b = rows[r + HALF];
                rows[r] = exchanged<HALF, false>(a, b, lanes);
                rows[r + HALF] = exchanged<HALF, true>(a, b, lanes);
            }
        transpose_tile<HALF / 2>(rows);
    }
}

// W_t = W^T
INLINE void transpose(const real* W, real* W_t) {
    constexpr int N = PART_LANES;
    for (int i = 0; i < D; i += N)
        for (int o = 0; o < D; o += N) {
            part rows[N];
            for (int r = 0; r < N; ++r) rows[r] = (part) * (const loose_part*)(W + (i + r) * D + o);
            transpose_tile(rows);
            for (int r = 0; r < N; ++r) *(loose_part*)(W_t + (o + r) * D + i) = (loose_part)rows[r];
        }
}

// ---- exp, log, Phi (the normal distribution function) and its density -----------------------------------------------

#ifdef REAL_IS_DOUBLE

INLINE vec vexp(vec x) {
    for (int i = 0; i < LANES; ++i) x[i] = std::exp(x[i]);
    return x;
}
INLINE vec vlog(vec x) {
    for (int i = 0; i < LANES; ++i) x[i] = std::log(x[i]);
    return x;
}
INLINE void phi(vec z, vec& cdf, vec& pdf) {
    for (int i = 0; i < LANES; ++i) {
        cdf[i] = 0.5 * std::erfc(-z[i] * 0.70710678118654752440);
        pdf[i] = 0.39894228040143267794 * std::exp(-0.5 * z[i] * z[i]);
    }
}
INLINE vec gelu(vec z) {
    for (int i = 0; i < LANES; ++i) z[i] *= 0.5 * std::erfc(-z[i] * 0.70710678118654752440);
    return z;
}

#else

typedef int32_t int_part __attribute__((vector_size(PART_BYTES)));

// bfloat16: the upper half of a float.
typedef uint16_t bfloat16;
typedef uint32_t uint_part __attribute__((vector_size(PART_BYTES)));
typedef bfloat16 loose_halves __attribute__((vector_size(PART_BYTES / 2), aligned(sizeof(bfloat16)), may_alias));
typedef uint32_t loose_words __attribute__((vector_size(PART_BYTES), aligned(sizeof(bfloat16)), may_alias));

// Of two parts that follow each other: all lanes of even number in the first, and of odd number in the second; and back.
template <int... I>
INLINE void lanes_by_turn(part& a, part& b, std::integer_sequence<int, I...>) {
    part even = __builtin_shufflevector(a, b, (2 * I)...);
    b = __builtin_shufflevector(a, b, (2 * I + 1)...);
    a = even;
}
template <int... I>
INLINE void lanes_in_order(part& a, part& b, std::integer_sequence<int, I...>) {
    part low = __builtin_shufflevector(a, b, (I / 2 + I % 2 * PART_LANES)...);
    b = __builtin_shufflevector(a, b, (PART_LANES / 2 + I / 2 + I % 2 * PART_LANES)...);
    a = low;
}
constexpr std::make_integer_sequence<int, PART_LANES> EACH_LANE;
INLINE void part_lanes_by_turn(part& a, part& b) { lanes_by_turn(a, b, EACH_LANE); }
INLINE void part_lanes_in_order(part& a, part& b) { lanes_in_order(a, b, EACH_LANE); }

INLINE vec load(const bfloat16* from) {
    vec v;
    EACH_PART v.p[k] = (part)(__builtin_convertvector(*(const loose_halves*)(from + k * PART_LANES), uint_part) << 16);
    return v;
}

// exp(x) for x <= 88, to 1 ulp or so: 2^n * 2^f with |f| <= 1/2, and a polynomial for 2^f.
INLINE vec vexp(vec x) {
    x = where_less(x, splat(-87.0f), splat(-87.0f), x);
    vec scaled = x * splat(1.44269504f);
    vec shifted = scaled + splat(12582912.0f);  // 1.5 * 2^23: rounds to the nearest integer in the low bits
    vec n = shifted - splat(12582912.0f);
    vec f = x - n * splat(0.693359375f) + n * splat(2.12194440e-4f);
    vec p = splat(1.9875691500e-4f);
    p = p * f + splat(1.3981999507e-3f);
    p = p * f + splat(8.3334519073e-3f);
    p = p * f + splat(4.1665795894e-2f);
    p = p * f + splat(1.6666665459e-1f);
    p = p * f + splat(5.0000001201e-1f);
    p = p * f * f + f + splat(1.0f);
    EACH_PART p.p[k] = (part)((int_part)p.p[k] + (((int_part)shifted.p[k] - 0x4B400000) << 23));
    return p;
}

// log(x) for a normal x > 0: x = m 2^e with m in [sqrt(1/2), sqrt(2)), and a polynomial for log m.
INLINE vec vlog(vec x) {
    vec m, e;
    EACH_PART {
        int_part bits = (int_part)x.p[k];
        int_part exponent = (bits >> 23) - 126;
        part fraction = (part)((bits & 0x007fffff) | 0x3f000000);
        int_part low = fraction < 0.70710678f;  // -1 where true
        m.p[k] = fraction + (part)((int_part)fraction & low) - 1.0f;
        e.p[k] = __builtin_convertvector(exponent + low, part);
    }
    constexpr float c[] = {7.0376836292e-2f, -1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f,
                           -1.6668057665e-1f, 2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f};
    vec y = splat(c[0]), square = m * m;
    for (int i = 1; i < 9; ++i) y = y * m + splat(c[i]);
    y = y * m * square - splat(2.12194440e-4f) * e - splat(0.5f) * square;
    return m + y + splat(0.693359375f) * e;
}

INLINE vec magnitude(vec z) {
    EACH_PART z.p[k] = (part)((int_part)z.p[k] & 0x7FFFFFFF);
    return z;
}

// exp(-z*z/2) = 2^n * 2^f with |f| <= 1/2, and a polynomial for 2^f (9e-8).
INLINE vec gaussian(vec z) {
    vec square = z * z, rate = splat(-0.721347520f);  // -1/2 / ln 2
    square = where_less(square, splat(174.0f), square, splat(174.0f));
    vec shifted = square * rate + splat(12582912.0f);  // as in `vexp`; what it adds to the high bits is shifted out below
    vec f = square * rate - (shifted - splat(12582912.0f));
    constexpr float c[] = {1.0f, 0.69314698f, 0.24022242f, 0.05550734f, 0.00967151f, 0.00132647f};
    vec p = splat(c[5]);
    for (int i = 4; i >= 0; --i) p = p * f + splat(c[i]);
    EACH_PART p.p[k] = (part)((int_part)p.p[k] + ((int_part)shifted.p[k] << 23));
    return p;
}

// Phi(-a) exp(a*a/2) for a >= 0 as a polynomial in t = 1/(1 + 0.3 a), fitted for the least relative error (2e-7).
INLINE vec scaled_tail(vec a) {
    vec t = splat(1.0f) / (splat(1.0f) + a * splat(0.3f));
    constexpr float c[] = {6.59259149e-06f, 0.119497471f, 0.121850826f, 0.0949544087f, 0.14190121f, -0.0755901709f, 0.227860466f, -0.168779701f, 0.0382989123f};
    constexpr int n = sizeof(c) / sizeof(c[0]);
    vec p = splat(c[n - 1]);
    for (int i = n - 2; i >= 0; --i) p = p * t + splat(c[i]);
    return p;
}

INLINE void phi(vec z, vec& cdf, vec& pdf) {
    vec e = gaussian(z);
    vec tail = scaled_tail(magnitude(z)) * e;
    cdf = where_less(z, vec{}, tail, splat(1.0f) - tail);
    pdf = e * splat(0.39894228f);
}

// GELU(z) = max(z, 0) - |z| Phi(-|z|)
INLINE vec gelu(vec z) {
    vec a = magnitude(z);
    return where_less(vec{}, z, z, vec{}) - a * (scaled_tail(a) * gaussian(z));
}

#endif
