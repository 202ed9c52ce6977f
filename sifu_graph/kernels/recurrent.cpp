// The recurrence that all edges share, and its contest over the rows of a pair model, forward and backward.
//
// It knows streams, nodes and pairs; it does not know text, files or Python. `ops/recurrent.py` has the equations and
// the same in torch; `ops/pair_model.py` says what a pair model is. Compiled with -DREAL and -DWIDTH.
//
// Every sum has one fixed order: streams are independent and are added up in their order, positions are dealt to
// SHARES shares by their number. So the result has the same bits for any number of threads.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "threads.hpp"
#include "vectors.hpp"

constexpr int POSITIONS = 16;  // positions whose energies are held at a time
constexpr int SHARES = 8;      // of the positions, each with gradients of its own
constexpr real EPS = 1e-6;     // of the normalisation: `ops/functional.py`, `NORM_EPS`

// log(x) for a normal x > 0: x = m 2^e with m in [sqrt(1/2), sqrt(2)), and a polynomial for log m.
#ifdef REAL_IS_DOUBLE
INLINE vec vlog(vec x) {
    for (int i = 0; i < LANES; ++i) x[i] = std::log(x[i]);
    return x;
}
#else
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
#endif

extern "C" {

// The signals of `streams` streams over `steps` steps; arrays are [streams][steps] unless they say otherwise.
struct Recurrence {
    int64_t streams, steps, nodes;
    const int32_t* token;
    const uint8_t* restart;  // the signal begins anew before this token
    real* signal;            // [streams][D], what comes in, and what goes out
    const real* start;       // [D], the signal at a beginning
    const real* W;           // [D][D]
    const real* gain;        // [D]
    const real* node;        // [nodes][D]
    // results, kept for the backward pass
    real* before;   // [..][D], the signal before the token
    real* unit;     // [..][D], its product with W, without mean and of unit variance
    real* inverse;  // one over the deviation that was divided by
    real* z;        // [..][D], before GELU
    real* r;        // [..][D], the signal after the token
};

struct RecurrenceGradient {
    const real* r;  // [streams][steps][D], of the loss by every signal
    real* W;        // [D][D]
    real* gain;     // [D]
    real* node;     // [nodes][D]
    real* start;    // [D]
};

// Counts of pairs as exact interpolated Kneser-Ney rows: see `ops/pair_model.py`.
struct Pairs {
    const int64_t* first;     // [nodes + 1], where the pairs of a source begin
    const int32_t* target;    // [pairs], ascending within a source
    const int32_t* count;     // [pairs]
    const real* ratio;        // [pairs], X
    const real* log_ratio;    // [pairs], log(1 + X)
    const int64_t* total;     // [nodes]
    const real* left;         // [nodes], the probability of the lower order
    const real* log_lower;    // [nodes], log q
    const real* log_less;     // [nodes], log q of a target with one predecessor less
    const real* added;        // [pairs], what an edge adds to its energy; null: nothing
    double discount[4];       // of counts 0, 1, 2, and 3 or more
};

struct Candidates {
    int64_t nodes;
    const real* target;  // [nodes][D]
    const real* bias;    // [nodes]
    real scale;          // s
};

struct CandidateGradient {
    real* target;  // [nodes][D]
    real* bias;    // [nodes]
    double scale;
};

void sifu_recurrent_sizes(int64_t* sizes) {
    sizes[0] = sizeof(Recurrence);
    sizes[1] = sizeof(RecurrenceGradient);
    sizes[2] = sizeof(Pairs);
    sizes[3] = sizeof(Candidates);
    sizes[4] = sizeof(CandidateGradient);
}

}  // extern "C"

namespace {

// out += x M
INLINE void multiply_add(const real* x, const real* M, vec (&out)[VECS]) {
    for (int i = 0; i < D; ++i) {
        vec x_i = splat(x[i]);
        for (int c = 0; c < VECS; ++c) out[c] += x_i * load(M + i * D + c * LANES);
    }
}

void carry(const Recurrence& a, int64_t stream) {
    real* now = a.signal + stream * D;
    for (int64_t step = 0; step < a.steps; ++step) {
        int64_t at = stream * a.steps + step;
        if (a.restart[at]) std::memcpy(now, a.start, sizeof(real) * D);
        std::memcpy(a.before + at * D, now, sizeof(real) * D);
        vec h[VECS] = {}, mean = {}, square = {};
        multiply_add(now, a.W, h);
        for (int c = 0; c < VECS; ++c) mean += h[c];
        mean = splat(sum(mean) / D);
        for (int c = 0; c < VECS; ++c) {
            h[c] = h[c] - mean;
            square += h[c] * h[c];
        }
        real inverse = 1 / std::sqrt(sum(square) / D + EPS);
        a.inverse[at] = inverse;
        const real* e = a.node + (int64_t)a.token[at] * D;
        for (int c = 0; c < VECS; ++c) {
            vec unit = h[c] * splat(inverse), cdf, pdf;
            vec z = unit * load(a.gain + c * LANES) + load(e + c * LANES);
            phi(z, cdf, pdf);
            store(a.unit + at * D + c * LANES, unit);
            store(a.z + at * D + c * LANES, z);
            store(now + c * LANES, z * cdf);
        }
        std::memcpy(a.r + at * D, now, sizeof(real) * D);
    }
}

// The sums of one stream, and the gradient of every node vector that it met.
struct StreamGradient {
    real W[D * D], gain[D], start[D];
};

void carry_back(const Recurrence& a, const real* d_r, const real* W_t, int64_t stream, StreamGradient& sums, real* d_node) {
    std::memset(&sums, 0, sizeof sums);
    vec later[VECS] = {};  // what the next step says of this signal
    for (int64_t step = a.steps - 1; step >= 0; --step) {
        int64_t at = stream * a.steps + step;
        vec d_unit[VECS], first = {}, second = {};
        for (int c = 0; c < VECS; ++c) {
            vec z = load(a.z + at * D + c * LANES), unit = load(a.unit + at * D + c * LANES), cdf, pdf;
            phi(z, cdf, pdf);
            vec d_z = (load(d_r + at * D + c * LANES) + later[c]) * (cdf + z * pdf);
            store(d_node + at * D + c * LANES, d_z);
            store(sums.gain + c * LANES, load(sums.gain + c * LANES) + d_z * unit);
            d_unit[c] = d_z * load(a.gain + c * LANES);
            first += d_unit[c];
            second += d_unit[c] * unit;
        }
        vec mean = splat(sum(first) / D), along = splat(sum(second) / D), inverse = splat(a.inverse[at]);
        alignas(64) real d_h[D];
        for (int c = 0; c < VECS; ++c)
            store(d_h + c * LANES, (d_unit[c] - mean - load(a.unit + at * D + c * LANES) * along) * inverse);
        for (int i = 0; i < D; ++i) {
            vec x = splat(a.before[at * D + i]);
            for (int c = 0; c < VECS; ++c) {
                real* w = sums.W + i * D + c * LANES;
                store(w, load(w) + x * load(d_h + c * LANES));
            }
        }
        vec back[VECS] = {};
        multiply_add(d_h, W_t, back);
        for (int c = 0; c < VECS; ++c) {
            if (a.restart[at]) store(sums.start + c * LANES, load(sums.start + c * LANES) + back[c]);
            later[c] = a.restart[at] ? vec{} : back[c];
        }
    }
}

// The row of a source without one occurrence of a target: factor X of the others, and X and log q of the target.
struct Without {
    real factor = 1, own, log_lower;
    int64_t rank = -1;  // of the target in its row; -1: the pair was never counted
};

Without row_for(const Pairs& q, int64_t source, int32_t target, bool leave_one_out) {
    int64_t first = q.first[source], low = first, high = q.first[source + 1];
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (q.target[middle] < target)
            low = middle + 1;
        else
            high = middle;
    }
    Without row;
    row.log_lower = q.log_lower[target];
    row.own = 0;
    if (low == q.first[source + 1] || q.target[low] != target) return row;
    row.rank = low - first;
    row.own = q.ratio[low];
    if (!leave_one_out || q.count[low] == 0) return row;
    int64_t count = q.count[low], total = q.total[source];
    if (count == 1) row.log_lower = q.log_less[target];
    if (total <= 1) {
        row.factor = row.own = 0;
        return row;
    }
    double taken = q.discount[count < 3 ? count : 3], taken_less = q.discount[count - 1 < 3 ? count - 1 : 3];
    double left = ((double)q.left[source] * total - taken + taken_less) / (total - 1);
    row.factor = count >= 4 ? 1 : (double)q.left[source] * total / (total - 1) / left;
    row.own = (count - 1 - taken_less) / ((total - 1) * left * std::exp((double)row.log_lower));
    return row;
}

// What one share of the positions works with.
struct Share {
    std::vector<real> energy, log_ratio, d_target, d_bias;
    double d_scale = 0;
};

}  // namespace

extern "C" {

void sifu_recurrent_forward(const Recurrence* a, int64_t threads) {
    parallel(a->streams, threads, [&](int64_t stream) { carry(*a, stream); });
}

// Adds to nothing: every gradient is written whole.
void sifu_recurrent_backward(const Recurrence* a, const RecurrenceGradient* g, int64_t threads) {
    alignas(64) real W_t[D * D];
    transpose(a->W, W_t);
    std::vector<StreamGradient> sums(a->streams);
    std::vector<real> d_node(a->streams * a->steps * D);
    parallel(a->streams, threads, [&](int64_t stream) { carry_back(*a, g->r, W_t, stream, sums[stream], d_node.data()); });
    std::memset(g->W, 0, sizeof(real) * D * D);
    std::memset(g->gain, 0, sizeof(real) * D);
    std::memset(g->start, 0, sizeof(real) * D);
    std::memset(g->node, 0, sizeof(real) * D * a->nodes);
    for (const StreamGradient& one : sums) {
        for (int i = 0; i < D * D; ++i) g->W[i] += one.W[i];
        for (int i = 0; i < D; ++i) g->gain[i] += one.gain[i];
        for (int i = 0; i < D; ++i) g->start[i] += one.start[i];
    }
    for (int64_t at = 0; at < a->streams * a->steps; ++at) {
        real* row = g->node + (int64_t)a->token[at] * D;
        for (int i = 0; i < D; ++i) row[i] += d_node[at * D + i];
    }
}

// The contest of `positions` signals r [positions][D] whose tokens are `source` and whose next tokens are `target`
// (-1: not scored). `loss` [positions] in nats. With a gradient also d_r [positions][D] and `g`, of weight * the sum of
// the losses.
void sifu_recurrent_contest(int64_t positions, const real* r, const int32_t* source, const int32_t* target,
                            const Candidates* a, const Pairs* pairs, int64_t leave_one_out, real weight, real* loss,
                            real* d_r, CandidateGradient* g, int64_t threads) {
    int64_t blocks = (positions + POSITIONS - 1) / POSITIONS, vecs = (a->nodes + LANES - 1) / LANES, n = vecs * LANES;
    // The target vectors LANES nodes at a time, element by element; nodes that fill up the last vector never win.
    std::vector<real> packed(n * D), rest(n, real(-1e30)), log_lower(n);
    for (int64_t v = 0; v < a->nodes; ++v) {
        for (int i = 0; i < D; ++i) packed[(v / LANES * D + i) * LANES + v % LANES] = a->target[v * D + i];
        rest[v] = a->bias[v] + a->scale * pairs->log_lower[v];
        log_lower[v] = pairs->log_lower[v];
    }
    std::vector<Share> shares(SHARES);
    parallel(SHARES, threads, [&](int64_t number) {
        Share& mine = shares[number];
        mine.energy.resize(POSITIONS * n);
        mine.log_ratio.resize(n + LANES);
        if (g) {
            mine.d_target.assign(n * D, 0);
            mine.d_bias.assign(n, 0);
        }
        for (int64_t block = number; block < blocks; block += SHARES) {
            int64_t begin = block * POSITIONS, here = positions - begin < POSITIONS ? positions - begin : POSITIONS;
            alignas(64) real signal[POSITIONS * D] = {};
            std::memcpy(signal, r + begin * D, sizeof(real) * here * D);
            real* energy = mine.energy.data();
            for (int64_t k = 0; k < vecs; ++k) {
                const real* column = packed.data() + k * D * LANES;
                constexpr int ABREAST = 4;
                for (int p = 0; p < POSITIONS; p += ABREAST) {
                    vec sums[ABREAST];
                    for (int x = 0; x < ABREAST; ++x) sums[x] = load(rest.data() + k * LANES);
                    for (int i = 0; i < D; ++i) {
                        vec w = load(column + i * LANES);
                        for (int x = 0; x < ABREAST; ++x) sums[x] += splat(signal[(p + x) * D + i]) * w;
                    }
                    for (int x = 0; x < ABREAST; ++x) store(energy + (p + x) * n + k * LANES, sums[x]);
                }
            }
            for (int64_t p = 0; p < here; ++p) {
                real* E = energy + p * n;
                int64_t at = begin + p, u = source[at];
                int32_t goal = target[at];
                if (goal < 0) {
                    std::memset(E, 0, sizeof(real) * n);
                    loss[at] = 0;
                    continue;
                }
                const int64_t first = pairs->first[u], length = pairs->first[u + 1] - first;
                const int32_t* others = pairs->target + first;
                const real* log_ratio = pairs->log_ratio + first;
                Without row = row_for(*pairs, u, goal, leave_one_out);
                if (row.factor != 1) {
                    int64_t i = 0;
                    for (; i + LANES <= length; i += LANES)
                        store(&mine.log_ratio[i], vlog(splat(1) + splat(row.factor) * load(pairs->ratio + first + i)));
                    for (; i < length; ++i) mine.log_ratio[i] = std::log1p(row.factor * pairs->ratio[first + i]);
                    log_ratio = mine.log_ratio.data();
                }
                real own = row.log_lower - log_lower[goal] + std::log1p(row.own);  // log p less what `rest` has
                real E_goal = E[goal] + a->scale * own;
                for (int64_t i = 0; i < length; ++i) E[others[i]] += a->scale * log_ratio[i];
                if (pairs->added) {
                    const real* added = pairs->added + first;
                    for (int64_t i = 0; i < length; ++i) E[others[i]] += added[i];
                    if (row.rank >= 0) E_goal += added[row.rank];
                }
                E[goal] = E_goal;
                vec highest = load(E), total = {};
                for (int64_t v = LANES; v < n; v += LANES) {
                    vec e = load(E + v);
                    highest = where_less(highest, e, e, highest);
                }
                real top = highest[0];
                for (int i = 1; i < LANES; ++i) top = highest[i] > top ? highest[i] : top;
                for (int64_t v = 0; v < n; v += LANES) {
                    vec e = vexp(load(E + v) - splat(top));
                    store(E + v, e);
                    total += e;
                }
                real Z = sum(total);
                loss[at] = top + std::log(Z) - E_goal;
                if (!g) continue;
                vec normalise = splat(weight / Z), lower = {};
                for (int64_t v = 0; v < n; v += LANES) {
                    vec d = load(E + v) * normalise;
                    store(E + v, d);
                    lower += d * load(log_lower.data() + v);
                }
                E[goal] -= weight;
                real above = 0;  // the share of log(1 + X)
                for (int64_t i = 0; i < length; ++i) above += E[others[i]] * log_ratio[i];
                if (row.rank >= 0) above -= E[goal] * log_ratio[row.rank];
                mine.d_scale += (double)sum(lower) - (double)weight * log_lower[goal] + above + (double)E[goal] * own;
            }
            if (!g) continue;
            std::memset(energy + here * n, 0, sizeof(real) * (POSITIONS - here) * n);
            for (int p = 0; p < here; p += 2) {
                vec d[2][VECS] = {};
                for (int64_t v = 0; v < a->nodes; ++v) {
                    vec one = splat(energy[p * n + v]), two = splat(energy[(p + 1) * n + v]);
                    for (int c = 0; c < VECS; ++c) {
                        vec w = load(a->target + v * D + c * LANES);
                        d[0][c] += one * w;
                        d[1][c] += two * w;
                    }
                }
                for (int x = 0; x < 2 && p + x < here; ++x)
                    for (int c = 0; c < VECS; ++c) store(d_r + (begin + p + x) * D + c * LANES, d[x][c]);
            }
            for (int64_t v = 0; v < a->nodes; v += 2) {
                vec w[2][VECS];
                real bias[2] = {};
                for (int x = 0; x < 2; ++x)
                    for (int c = 0; c < VECS; ++c) w[x][c] = load(&mine.d_target[(v + x) * D + c * LANES]);
                for (int p = 0; p < POSITIONS; ++p) {
                    real one = energy[p * n + v], two = energy[p * n + v + 1];
                    bias[0] += one;
                    bias[1] += two;
                    for (int c = 0; c < VECS; ++c) {
                        vec x = load(signal + p * D + c * LANES);
                        w[0][c] += splat(one) * x;
                        w[1][c] += splat(two) * x;
                    }
                }
                for (int x = 0; x < 2; ++x) {
                    for (int c = 0; c < VECS; ++c) store(&mine.d_target[(v + x) * D + c * LANES], w[x][c]);
                    mine.d_bias[v + x] += bias[x];
                }
            }
        }
    });
    if (!g) return;
    constexpr int64_t PIECE = 256;  // nodes
    parallel((a->nodes + PIECE - 1) / PIECE, threads, [&](int64_t piece) {
        int64_t from = piece * PIECE, to = from + PIECE < a->nodes ? from + PIECE : a->nodes;
        for (int64_t v = from; v < to; ++v) g->bias[v] = shares[0].d_bias[v];
        for (int64_t i = from * D; i < to * D; ++i) g->target[i] = shares[0].d_target[i];
        for (int number = 1; number < SHARES; ++number) {
            for (int64_t v = from; v < to; ++v) g->bias[v] += shares[number].d_bias[v];
            for (int64_t i = from * D; i < to * D; ++i) g->target[i] += shares[number].d_target[i];
        }
    });
    g->scale = 0;
    for (const Share& one : shares) g->scale += one.d_scale;
}

}  // extern "C"
