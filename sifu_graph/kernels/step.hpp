// One step of the recurrence that all edges share: `ops/recurrent.py` has the equations.

#pragma once

#include <cmath>

#include "vectors.hpp"

constexpr real EPS = 1e-6;  // of the normalisation: `ops/functional.py`, `NORM_EPS`

// out += x M
INLINE void multiply_add(const real* x, const real* M, vec (&out)[VECS]) {
    for (int i = 0; i < D; ++i) {
        vec x_i = splat(x[i]);
        for (int c = 0; c < VECS; ++c) out[c] += x_i * load(M + i * D + c * LANES);
    }
}

struct Step {
    vec unit[VECS];  // the product of the signal with W, without mean and of unit variance
    real inverse;    // one over the deviation that was divided by
    vec z[VECS];     // before GELU
    vec r[VECS];     // the signal after the token
};

// From the signal `now` [D] along an edge to a token with the vector `node` [D].
INLINE Step step_of(const real* now, const real* W, const real* gain, const real* node) {
    Step found;
    vec h[VECS] = {}, mean = {}, square = {};
    multiply_add(now, W, h);
    for (int c = 0; c < VECS; ++c) mean += h[c];
    mean = splat(sum(mean) / D);
    for (int c = 0; c < VECS; ++c) {
        h[c] = h[c] - mean;
        square += h[c] * h[c];
    }
    found.inverse = 1 / std::sqrt(sum(square) / D + EPS);
    for (int c = 0; c < VECS; ++c) {
        vec cdf, pdf;
        found.unit[c] = h[c] * splat(found.inverse);
        found.z[c] = found.unit[c] * load(gain + c * LANES) + load(node + c * LANES);
        phi(found.z[c], cdf, pdf);
        found.r[c] = found.z[c] * cdf;
    }
    return found;
}
