// The recurrence that all edges share, and its contest over the rows of a pair model, forward and backward.
//
// It knows streams, nodes and pairs; it does not know text, files or Python. `ops/recurrent.py` has the equations,
// `ops/recurrent_torch.py` the same in torch; `ops/pair_model.py` says what a pair model is. Compiled with -DREAL and -DWIDTH.
//
// Every sum has one fixed order: streams are independent and are added up in their order, positions are dealt to
// SHARES shares by their number. So the result has the same bits for any number of threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "products.hpp"
#include "step.hpp"
#include "threads.hpp"

constexpr int POSITIONS = 24;  // positions whose energies are held at a time: a multiple of `MOST_ROWS` everywhere
constexpr int64_t NEAR = 64;   // target vectors that are multiplied at a time: they stay in the inner cache
constexpr int SHARES = 8;      // of the positions, each with gradients of its own
constexpr int MOST_NODES = 8;  // in the name of a source

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

// Counts of pairs as exact interpolated Kneser-Ney rows: see `ops/pair_model.py`. The sources are the nodes, then the
// clones.
struct Pairs {
    const int64_t* first;     // [sources + 1], where the pairs of a source begin
    const int32_t* target;    // [pairs], ascending within a source
    const int32_t* count;     // [pairs]
    const real* ratio;        // [pairs], X
    const real* log_ratio;    // [pairs], log(1 + X)
    const int64_t* total;     // [sources]
    const double* left;       // [sources], the probability of the lower order
    const real* log_lower;    // [nodes], log q
    const real* log_less;     // [nodes], log q of a target with one predecessor less
    const real* added;        // [pairs], what an edge adds to its energy; null: nothing
    const int32_t* parent;    // [sources], -1: a node
    const double* discount;   // [MOST_NODES][4], of counts 0, 1, 2, and 3 or more, by the nodes in a source's name
};

// What the counts lose where the piece of the text that a position is in is left out: `LeftOut` of
// `ops/pair_model.py`.
struct LeftOut {
    const int32_t* piece;       // [positions]
    const int64_t* first;       // [pieces + 1], where the pairs of a piece begin
    const int64_t* pair;        // ascending within a piece
    const int32_t* count;       // what a pair loses
    const int64_t* first_node;  // [pieces + 1], where the nodes of a piece begin
    const int32_t* node;        // nodes that lose predecessors
    const real* ratio;          // of their q without the piece to q
    const real* log_ratio;
};

// What came before the positions in their documents.
struct Past {
    int64_t steps, before;  // tokens of a stream in the window, and before the window
    const int32_t* token;   // [streams][before + steps]
    const int32_t* reach;   // [streams][steps], tokens before the position that count; at most `before`
};

struct Candidates {
    int64_t nodes;
    const real* target;        // [nodes][D]
    const real* bias;          // [nodes]
    const real* repeat;        // [nodes][2], f and m
    const real* repeat_after;  // [2], h
    real scale;                // s
};

struct CandidateGradient {
    real* target;        // [nodes][D]
    real* bias;          // [nodes]
    real* repeat;        // [nodes][2]
    real* repeat_after;  // [2]
    double scale;
};

void sifu_recurrent_sizes(int64_t* sizes) {
    sizes[0] = sizeof(Recurrence);
    sizes[1] = sizeof(RecurrenceGradient);
    sizes[2] = sizeof(Pairs);
    sizes[3] = sizeof(Candidates);
    sizes[4] = sizeof(CandidateGradient);
    sizes[5] = sizeof(LeftOut);
    sizes[6] = sizeof(Past);
}

}  // extern "C"

namespace {

void carry(const Recurrence& a, int64_t stream) {
    real* now = a.signal + stream * D;
    for (int64_t step = 0; step < a.steps; ++step) {
        int64_t at = stream * a.steps + step;
        if (a.restart[at]) std::memcpy(now, a.start, sizeof(real) * D);
        std::memcpy(a.before + at * D, now, sizeof(real) * D);
        const Step found = step_of(now, a.W, a.gain, a.node + (int64_t)a.token[at] * D);
        a.inverse[at] = found.inverse;
        for (int c = 0; c < VECS; ++c) {
            store(a.unit + at * D + c * LANES, found.unit[c]);
            store(a.z + at * D + c * LANES, found.z[c]);
            store(now + c * LANES, found.r[c]);
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

// What one share of the positions works with.
struct Share {
    std::vector<real> energy, row;       // by node: energies; log(p / q) of a row, without the b of its sources
    std::vector<real> log_ratio, lower;  // of one source, [its pairs]: log(1 + X), and log p of its parent
    std::vector<int32_t> seen;           // the nodes that came before a position
    std::vector<int32_t> times[3];       // by node: how often, and how often after the same one and two nodes
    std::vector<real> d_target, d_bias, d_repeat;
    double d_scale = 0, d_after[2] = {};
};

// Counts what came before a position: k, k' and k'' of `ops/recurrent.py`.
void look_back(const Past& past, Share& mine, int64_t at) {
    const int64_t length = past.before + past.steps, reach = past.reach[at];
    const int32_t* x = past.token + at / past.steps * length + past.before + at % past.steps;
    for (int32_t v : mine.seen)
        for (auto& times : mine.times) times[v] = 0;
    mine.seen.clear();
    for (int64_t back = reach; back > 0; --back) {
        if (!mine.times[0][x[-back]]++) mine.seen.push_back(x[-back]);
        if (x[-back] != x[0]) continue;
        const int32_t next = x[1 - back];
        ++mine.times[1][next];
        if (back < reach && x[-back - 1] == x[-1]) ++mine.times[2][next];
    }
}

// Where the pair of a source and a target is; -1: nowhere.
int64_t find(const Pairs& q, int64_t source, int32_t target) {
    int64_t low = q.first[source], high = q.first[source + 1];
    const int64_t end = high;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (q.target[middle] < target)
            low = middle + 1;
        else
            high = middle;
    }
    return low < end && q.target[low] == target ? low : -1;
}

// log(p / q) of the row of a source into mine.row, without the log b of all levels, which shift the whole row; of the
// counts without the piece of position `at`, if `out` is given. The target `goal` is computed in double precision.
void fill_row(const Pairs& q, Share& mine, int64_t source, int32_t goal, const LeftOut* out, int64_t at) {
    int64_t chain[MOST_NODES];
    int levels = 0;
    for (int64_t u = source; u >= 0; u = q.parent[u]) chain[levels++] = u;
    const int64_t piece = out ? out->piece[at] : 0;
    const int64_t* pairs = out ? out->pair + out->first[piece] : nullptr;
    const int64_t* end = out ? out->pair + out->first[piece + 1] : nullptr;
    const int64_t node_begin = out ? out->first_node[piece] : 0, node_end = out ? out->first_node[piece + 1] : 0;
    double p = std::exp((double)q.log_lower[goal]);  // of the goal
    for (int64_t i = node_begin; i < node_end; ++i) {
        mine.row[out->node[i]] = out->log_ratio[i];
        if (out->node[i] == goal) p *= out->ratio[i];
    }
    bool changed = node_begin < node_end;  // p of the parent is another for some target
    double log_left = 0;                   // of the levels so far
    for (int k = levels - 1; k >= 0; --k) {
        const int64_t u = chain[k], first = q.first[u], length = q.first[u + 1] - first, place = find(q, u, goal);
        const double* D = q.discount + 4 * (levels - 1 - k);
        auto kept = [D](int64_t count) { return count - D[count < 3 ? count : 3]; };
        const int32_t* others = q.target + first;
        const int64_t *lost = std::lower_bound(pairs, end, first), *stop = std::lower_bound(lost, end, first + length);
        auto less = [&](const int64_t* x) { return (int64_t)q.count[*x] - out->count[x - out->pair]; };
        int64_t total = q.total[u], count = place < 0 ? 0 : q.count[place];
        const double before = q.left[u] * total;
        double after = before, left = q.left[u];  // after: b times the total
        if (lost != stop) {
            for (const int64_t* x = lost; x != stop; ++x) {
                after += kept(q.count[*x]) - kept(less(x));
                total -= q.count[*x] - less(x);
                after -= q.count[*x] - less(x);
                if (*x == place) count = less(x);
            }
            left = total > 0 ? after / total : 1;
        }
        if (total > 0) p = kept(count) / total + left * p;
        const real* log_ratio = q.log_ratio + first;
        const bool few = k == levels - 1 && lost == stop && 8 * (node_end - node_begin) < length;
        if (!few && (changed || lost != stop)) {
            real* X = mine.log_ratio.data();
            if (k == levels - 1) {  // the parent's p is q, which few targets have another of
                const real by = total > 0 ? before / after : 0;
                for (int64_t i = 0; i < length; ++i) X[i] = q.ratio[first + i] * by;
                for (int64_t i = node_begin; i < node_end; ++i) {
                    const int64_t found = find(q, u, out->node[i]);
                    if (found >= 0) X[found - first] /= out->ratio[i];
                }
                for (const int64_t* x = lost; x != stop; ++x) {
                    const double all = kept(q.count[*x]);
                    X[*x - first] *= all > 0 ? kept(less(x)) / all : 0;
                }
            } else {
                real* lower = mine.lower.data();
                for (int64_t i = 0; i < length; ++i) lower[i] = q.log_lower[others[i]] + mine.row[others[i]];
                const real D1 = D[1], D2 = D[2], D3 = D[3];
                for (int64_t i = 0; i < length; ++i) {
                    const int32_t c = q.count[first + i];
                    X[i] = c - (c > 2 ? D3 : c == 2 ? D2 : c == 1 ? D1 : 0);
                }
                for (const int64_t* x = lost; x != stop; ++x) X[*x - first] = kept(less(x));
                const vec by = splat(total > 0 ? std::exp(-log_left) / after : 0);
                for (int64_t i = 0; i < length; i += LANES) store(X + i, load(X + i) * by / vexp(load(lower + i)));
            }
            int64_t i = 0;
            for (; i + LANES <= length; i += LANES) store(X + i, vlog(splat(1) + load(X + i)));
            for (; i < length; ++i) X[i] = std::log1p(X[i]);
            log_ratio = X;
            changed = true;
        }
        for (int64_t i = 0; i < length; ++i) mine.row[others[i]] += log_ratio[i];
        for (int64_t i = few ? node_begin : node_end; i < node_end; ++i) {
            const int64_t found = find(q, u, out->node[i]);
            if (found >= 0)
                mine.row[out->node[i]] += std::log1p(q.ratio[found] / out->ratio[i]) - q.log_ratio[found];
        }
        log_left += std::log(left);
    }
    mine.row[goal] = std::log(p) - log_left - (double)q.log_lower[goal];
}

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
// (-1: not scored). `loss` [positions] in nats. Counts are those without the piece of each position, if `out` is given.
// `rank` [positions] is the number of nodes that win against the target (of equals the first wins); null: not wanted.
// With a gradient also d_r [positions][D] and `g`, of weight * the sum of the losses.
void sifu_recurrent_contest(int64_t positions, const real* r, const int32_t* source, const int32_t* target,
                            const Candidates* a, const Pairs* pairs, const LeftOut* out, const Past* past, real weight,
                            real* loss, int32_t* rank, real* d_r, CandidateGradient* g, int64_t threads) {
    int64_t blocks = (positions + POSITIONS - 1) / POSITIONS, vecs = (a->nodes + LANES - 1) / LANES, n = vecs * LANES;
    // The target vectors LANES nodes at a time, element by element; nodes that fill up the last vector never win.
    std::vector<real> packed(n * D), rest(n, real(-1e30)), log_lower(n);
    for (int64_t v = 0; v < a->nodes; ++v) {
        for (int i = 0; i < D; ++i) packed[(v / LANES * D + i) * LANES + v % LANES] = a->target[v * D + i];
        rest[v] = a->bias[v] + a->scale * pairs->log_lower[v];
        log_lower[v] = pairs->log_lower[v];
    }
    std::vector<real> amount(past->before + 1);  // log(1 + k)
    for (int64_t times = 0; times <= past->before; ++times) amount[times] = std::log1p((double)times);
    std::vector<Share> shares(SHARES);
    parallel(SHARES, threads, [&](int64_t number) {
        Share& mine = shares[number];
        mine.energy.resize(POSITIONS * n);
        mine.row.resize(n);
        mine.log_ratio.resize(n + LANES);
        mine.lower.resize(n + LANES);
        for (auto& times : mine.times) times.assign(n, 0);
        if (g) {
            mine.d_target.assign(n * D, 0);
            mine.d_bias.assign(n, 0);
            mine.d_repeat.assign(2 * n, 0);
        }
        for (int64_t block = number; block < blocks; block += SHARES) {
            int64_t begin = block * POSITIONS, here = positions - begin < POSITIONS ? positions - begin : POSITIONS;
            alignas(64) real signal[POSITIONS * D] = {};
            std::memcpy(signal, r + begin * D, sizeof(real) * here * D);
            real* energy = mine.energy.data();
            for (int64_t k = 0; k < vecs; ++k) {
                const real* column = packed.data() + k * D * LANES;
                for (int p = 0; p < POSITIONS; ++p) store(energy + p * n + k * LANES, load(rest.data() + k * LANES));
                add_product<1>(POSITIONS, {signal, D, 1}, column, D, energy + k * LANES, LANES, n);
            }
            for (int64_t p = 0; p < here; ++p) {
                real* E = energy + p * n;
                int64_t at = begin + p, u = source[at];
                int32_t goal = target[at];
                if (goal < 0) {
                    std::memset(E, 0, sizeof(real) * n);
                    loss[at] = 0;
                    if (rank) rank[at] = 0;
                    continue;
                }
                std::memset(mine.row.data(), 0, sizeof(real) * n);
                fill_row(*pairs, mine, u, goal, out, at);
                for (int64_t w = pairs->added ? u : -1; w >= 0; w = pairs->parent[w])
                    for (int64_t i = pairs->first[w]; i < pairs->first[w + 1]; ++i) E[pairs->target[i]] += pairs->added[i];
                look_back(*past, mine, at);
                for (int32_t v : mine.seen) {
                    E[v] += a->repeat[2 * v] + a->repeat[2 * v + 1] * amount[mine.times[0][v] - 1];
                    for (int k : {0, 1}) E[v] += a->repeat_after[k] * amount[mine.times[k + 1][v]];
                }
                vec highest = splat(real(-1e30)), total = {}, scale = splat(a->scale);
                for (int64_t v = 0; v < n; v += LANES) {
                    vec e = load(E + v) + scale * load(&mine.row[v]);
                    store(E + v, e);
                    highest = where_less(highest, e, e, highest);
                }
                real top = highest[0], E_goal = E[goal];
                if (rank) {
                    int32_t above = 0;
                    for (int64_t v = 0; v < goal; ++v) above += E[v] >= E_goal;
                    for (int64_t v = goal + 1; v < a->nodes; ++v) above += E[v] > E_goal;
                    rank[at] = above;
                }
                for (int i = 1; i < LANES; ++i) top = highest[i] > top ? highest[i] : top;
                for (int64_t v = 0; v < n; v += LANES) {
                    vec e = vexp(load(E + v) - splat(top));
                    store(E + v, e);
                    total += e;
                }
                real Z = sum(total);
                loss[at] = top + std::log(Z) - E_goal;
                if (!g) continue;
                vec normalise = splat(weight / Z), d_scale = {};
                for (int64_t v = 0; v < n; v += LANES) {
                    vec d = load(E + v) * normalise;
                    store(E + v, d);
                    d_scale += d * (load(log_lower.data() + v) + load(&mine.row[v]));
                }
                E[goal] -= weight;
                mine.d_scale += (double)sum(d_scale) - (double)weight * (log_lower[goal] + mine.row[goal]);
                for (int32_t v : mine.seen) {
                    mine.d_repeat[2 * v] += E[v];
                    mine.d_repeat[2 * v + 1] += E[v] * amount[mine.times[0][v] - 1];
                    for (int k : {0, 1}) mine.d_after[k] += E[v] * amount[mine.times[k + 1][v]];
                }
            }
            if (!g) continue;
            std::memset(energy + here * n, 0, sizeof(real) * (POSITIONS - here) * n);
            std::memset(d_r + begin * D, 0, sizeof(real) * here * D);
            for (int64_t v = 0; v < a->nodes; v += NEAR) {
                int64_t count = a->nodes - v < NEAR ? a->nodes - v : NEAR;
                add_product(here, {energy + v, n, 1}, a->target + v * D, count, d_r + begin * D);
                add_product(count, {energy + v, 1, n}, signal, POSITIONS, mine.d_target.data() + v * D);
                for (int p = 0; p < POSITIONS; ++p)
                    for (int64_t i = v; i < v + count; ++i) mine.d_bias[i] += energy[p * n + i];
            }
        }
    });
    if (!g) return;
    constexpr int64_t PIECE = 256;  // nodes
    parallel((a->nodes + PIECE - 1) / PIECE, threads, [&](int64_t piece) {
        int64_t from = piece * PIECE, to = from + PIECE < a->nodes ? from + PIECE : a->nodes;
        for (int64_t v = from; v < to; ++v) g->bias[v] = shares[0].d_bias[v];
        for (int64_t i = 2 * from; i < 2 * to; ++i) g->repeat[i] = shares[0].d_repeat[i];
        for (int64_t i = from * D; i < to * D; ++i) g->target[i] = shares[0].d_target[i];
        for (int number = 1; number < SHARES; ++number) {
            for (int64_t v = from; v < to; ++v) g->bias[v] += shares[number].d_bias[v];
            for (int64_t i = 2 * from; i < 2 * to; ++i) g->repeat[i] += shares[number].d_repeat[i];
            for (int64_t i = from * D; i < to * D; ++i) g->target[i] += shares[number].d_target[i];
        }
    });
    double scale = 0, after[2] = {};
    for (const Share& one : shares) {
        scale += one.d_scale;
        for (int k : {0, 1}) after[k] += one.d_after[k];
    }
    g->scale = scale;
    for (int k : {0, 1}) g->repeat_after[k] = after[k];
}

}  // extern "C"
