// Decoding in a graph whose edges share a base, several texts side by side: a step of the signal, the energies of all
// nodes, and the choice of the next one.
//
// It knows nodes, counts and probabilities; it does not know text or Python. `generation/base_walk.py` is the same
// in Python, for one text. Compiled with -DREAL and -DWIDTH.
//
// The energies of a text do not depend on the texts beside it, nor on the number of threads: every sum has one order.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>
#include <vector>

#include "products.hpp"
#include "step.hpp"
#include "threads.hpp"

constexpr int WIDE = 4;                 // vectors of nodes that are multiplied at a time
constexpr int COLUMN = WIDE * LANES;    // nodes of a block of target vectors
constexpr int64_t BLOCKS = 8;           // blocks of an item of a thread
constexpr int MOST_NODES = 8;           // in the name of a source
constexpr real NEVER = -INFINITY;

extern "C" {

// What all texts share. Arrays of sources are of the nodes, then the clones.
struct Model {
    int64_t nodes, clones;
    const real* W;             // [D][D]
    const real* gain;          // [D]
    const real* node;          // [nodes][D]
    const real* target;        // [nodes / COLUMN, rounded up][D][COLUMN], target vectors in blocks
    const real* bias;          // [nodes, a multiple of COLUMN], c
    const real* repeat;        // [nodes][2], f and m
    const real* repeat_after;  // [2], h
    const real* amount;        // [past + 1], log(1 + k)
    real scale;                // s
    const double* lower;       // [nodes], q
    const int64_t* first;      // [sources + 1], where the pairs of a source begin
    const int32_t* successor;  // [pairs], ascending within a source
    const void* count;         // [pairs]
    int64_t count_bytes;       // 4 or 8
    const int64_t* total;      // [sources]
    const double* left;        // [sources], b
    const double* added;       // [pairs], what an edge adds to its energy; null: nothing
    const int32_t* parent;     // [sources], -1: a node
    const int64_t* name;       // [clones], parent * nodes + oldest node, ascending
    const double* discount;    // [MOST_NODES][4], of counts 0, 1, 2, and 3 or more, by the nodes in a source's name
    const int32_t* banned;     // nodes that are never chosen
    int64_t bans;
};

// One text, and what is asked of it.
struct Text {
    real* signal;     // [D], after the current node
    int32_t* path;    // [2 * room], the nodes of the document so far; ~v: a node v that does not count as repetition
    int64_t room;     // nodes that are kept at least
    int64_t length;   // of the path
    int64_t source;   // of the current node
    real* energy;     // [nodes, a multiple of COLUMN]
    int64_t top_k;    // of the choice; 0: all
    double top_p;     // 1: all
    double temperature;
    double uniform;   // in [0, 1)
    int64_t chosen;   // result: the next node
};

void sifu_decoding_sizes(int64_t* sizes) {
    sizes[0] = sizeof(Model);
    sizes[1] = sizeof(Text);
    sizes[2] = COLUMN;
}

}  // extern "C"

namespace {

// What a thread works with: arrays by node.
struct Room {
    std::vector<double> p, bucket;
    std::vector<real> weight, sorted;
    std::vector<int32_t> times[3];  // how often in the document, and after the same one and two nodes
    std::vector<int32_t> seen;

    void fit(const Model& m) {
        if ((int64_t)p.size() == m.nodes + COLUMN) return;
        p.assign(m.nodes + COLUMN, 1);
        weight.resize(m.nodes + COLUMN);
        for (auto& some : times) some.assign(m.nodes, 0);
    }
};

Room& room_of(const Model& m) {
    static thread_local Room room;
    room.fit(m);
    return room;
}

int64_t padded(const Model& m) { return (m.nodes + COLUMN - 1) / COLUMN * COLUMN; }

int32_t node_of(int32_t entry) { return entry < 0 ? ~entry : entry; }

// The source at the end of a path: the longest name of a clone that it ends with, or its last node.
int64_t source_of(const Model& m, const int32_t* path, int64_t length) {
    int64_t source = node_of(path[length - 1]);
    for (int64_t at = length - 2; at >= 0; --at) {
        const int64_t wanted = source * m.nodes + node_of(path[at]);
        const int64_t* found = std::lower_bound(m.name, m.name + m.clones, wanted);
        if (found == m.name + m.clones || *found != wanted) break;
        source = m.nodes + (found - m.name);
    }
    return source;
}

// p of the row of a source into room.p.
void fill_row(const Model& m, int64_t source, Room& room) {
    int64_t chain[MOST_NODES];
    int levels = 0;
    for (int64_t u = source; u >= 0; u = m.parent[u]) chain[levels++] = u;
    double left[MOST_NODES + 1] = {1};  // the b of the sources below each level, multiplied
    for (int k = 0; k < levels; ++k) left[k + 1] = left[k] * m.left[chain[k]];
    double* p = room.p.data();
    for (int64_t v = 0; v < m.nodes; ++v) p[v] = m.lower[v] * left[levels];
    for (int k = levels - 1; k >= 0; --k) {
        const int64_t u = chain[k];
        const double one = left[k] / std::max<int64_t>(m.total[u], 1);
        const double* D = m.discount + 4 * (levels - 1 - k);
        auto add = [&](auto* count) {
            for (int64_t i = m.first[u]; i < m.first[u + 1]; ++i) {
                const int64_t c = count[i];
                p[m.successor[i]] += (c - D[c < 3 ? c : 3]) * one;
            }
        };
        m.count_bytes == 4 ? add((const int32_t*)m.count) : add((const int64_t*)m.count);
    }
}

bool same(int32_t a, int32_t b) { return a == b || (a < 0 && b < 0); }

// What repetition adds, into E: `ops/repetition.py` has the equation.
void add_repetition(const Model& m, const Text& text, Room& room, real* E) {
    const int64_t reach = std::min(text.length, text.room) - 1;
    const int32_t* now = text.path + text.length - 1;
    const int32_t current = node_of(*now);
    for (int64_t back = reach; back > 0; --back) {
        const int32_t v = now[-back], next = now[1 - back];
        if (v < 0) continue;
        if (!room.times[0][v]++) room.seen.push_back(v);
        if (v != current || next < 0) continue;
        if (!room.times[1][next]++) room.seen.push_back(next);
        if (back < reach && same(now[-back - 1], now[-1])) ++room.times[2][next];
    }
    for (int32_t v : room.seen) {
        int32_t& k = room.times[0][v];
        if (k) E[v] += m.repeat[2 * v] + m.repeat[2 * v + 1] * m.amount[k - 1];
        for (int which : {0, 1}) {
            int32_t& after = room.times[which + 1][v];
            if (after) E[v] += m.repeat_after[which] * m.amount[after];
            after = 0;
        }
        k = 0;
    }
    room.seen.clear();
}

// Adds what depends on the path to the energies of a text, which are r t_v + c_v so far.
void add_path(const Model& m, Text& text, Room& room) {
    real* E = text.energy;
    fill_row(m, text.source, room);
    const double* p = room.p.data();
    alignas(64) real some[LANES];
    for (int64_t v = 0; v < m.nodes; v += LANES) {
        for (int i = 0; i < LANES; ++i) some[i] = (real)p[v + i];
        store(E + v, load(E + v) + splat(m.scale) * vlog(load(some)));
    }
    for (int64_t u = m.added ? text.source : -1; u >= 0; u = m.parent[u])
        for (int64_t i = m.first[u]; i < m.first[u + 1]; ++i) E[m.successor[i]] += (real)m.added[i];
    add_repetition(m, text, room, E);
}

// Weights from 0 to 1 in buckets, 16 for each power of 2; the number of a greater weight is not less.
int64_t bucket_of(real weight) {
    std::conditional_t<sizeof(real) == 4, uint32_t, uint64_t> bits;
    std::memcpy(&bits, &weight, sizeof bits);
    return bits >> (sizeof(real) == 4 ? 19 : 48);
}

// The greatest weight such that `value` of it and of all that are not less adds up to `goal`; weights below `floor` are
// left out. 0: there is none.
template <typename Value>
real least_kept(const Model& m, double goal, real floor, Room& room, Value value) {
    constexpr int TURNS = 4;  // sums of a bucket, in turns: many weights are in the same one, and an addition waits
    const real* weight = room.weight.data();
    const int64_t last = bucket_of(1);
    room.bucket.assign(TURNS * (last + 1), 0);
    double* bucket = room.bucket.data();
    for (int64_t v = 0; v < m.nodes; ++v) {  // without a branch, which no processor would foresee
        const real counted = weight[v] < floor ? 0 : weight[v];
        bucket[TURNS * bucket_of(counted) + v % TURNS] += value(counted);
    }
    double running = 0;
    int64_t b = last;
    for (; b > 0; --b) {
        const double here = bucket[TURNS * b] + bucket[TURNS * b + 1] + bucket[TURNS * b + 2] + bucket[TURNS * b + 3];
        if (running + here >= goal) break;
        running += here;
    }
    room.sorted.clear();
    for (int64_t v = 0; v < m.nodes; ++v)
        if (bucket_of(weight[v]) == b) room.sorted.push_back(weight[v]);
    std::sort(room.sorted.begin(), room.sorted.end(), std::greater<real>());
    for (real found : room.sorted)
        if ((running += value(found)) >= goal) return found;
    return 0;
}

// Keeps the k greatest weights, of equals the first.
void keep_greatest(const Model& m, int64_t k, Room& room) {
    if (k >= m.nodes) return;
    real* weight = room.weight.data();
    const real least = least_kept(m, k, 0, room, [](real) { return 1.0; });
    int64_t equal = k;
    for (int64_t v = 0; v < m.nodes; ++v) equal -= weight[v] > least;
    for (int64_t v = 0; v < m.nodes; ++v)
        if (weight[v] < least || (weight[v] == least && equal-- <= 0)) weight[v] = 0;
}

double sum_of(const real* weight, int64_t n) {
    double total = 0;
    for (int64_t v = 0; v < n; v += LANES) total += sum(load(weight + v));
    return total;
}

// Keeps the fewest greatest that add up to a share of all, and those that equal the last of them.
void keep_share(const Model& m, double share, int64_t n, Room& room) {
    real* weight = room.weight.data();
    const double total = sum_of(weight, n), goal = share * total;
    const real floor = (total - goal) / m.nodes;  // weights below it add up to less than what may be missing
    const real least = least_kept(m, goal, floor, room, [](real w) { return (double)w; });
    for (int64_t v = 0; v < m.nodes; ++v) weight[v] = weight[v] < least ? 0 : weight[v];
}

// The next node, by the energies of a text.
int64_t choice(const Model& m, Text& text, Room& room) {
    const int64_t n = padded(m);
    real* weight = room.weight.data();
    std::memcpy(weight, text.energy, sizeof(real) * m.nodes);
    for (int64_t v = m.nodes; v < n; ++v) weight[v] = NEVER;
    for (int64_t i = 0; i < m.bans; ++i) weight[m.banned[i]] = NEVER;
    vec highest = splat(NEVER);
    for (int64_t v = 0; v < n; v += LANES) {
        vec e = load(weight + v);
        highest = where_less(highest, e, e, highest);
    }
    real top = highest[0];
    for (int i = 1; i < LANES; ++i) top = std::max(top, (real)highest[i]);
    const int64_t best = std::max<int64_t>(0, std::min(m.nodes - 1, std::find(weight, weight + m.nodes, top) - weight));
    if (text.temperature == 0 || text.top_k == 1 || !(top > NEVER)) return best;
    const vec sharpness = splat((real)std::min(1 / text.temperature, 1e30)), far = splat(real(-87));
    for (int64_t v = 0; v < n; v += LANES) {
        vec x = (load(weight + v) - splat(top)) * sharpness;
        store(weight + v, where_less(x, far, vec{}, vexp(x)));
    }
    if (text.top_k > 0) keep_greatest(m, text.top_k, room);
    if (text.top_p < 1) keep_share(m, text.top_p, n, room);
    double left = text.uniform * sum_of(weight, n);
    for (int64_t v = 0; v < n; v += LANES) {
        const double here = sum(load(weight + v));
        if (left >= here) {
            left -= here;
            continue;
        }
        for (int i = 0; i < LANES; ++i)
            if (weight[v + i] > 0 && (left -= weight[v + i]) < 0) return v + i;
    }
    for (int64_t v = m.nodes - 1; v >= 0; --v)  // by rounding
        if (weight[v] > 0) return v;
    return best;
}

}  // namespace

extern "C" {

// Moves a text to a node; at the beginning the path is empty. `silent`: the node does not move the signal, and does
// not count as repetition.
void sifu_decoding_carry(const Model* m, Text* text, int32_t node, int64_t silent) {
    if (text->length == 2 * text->room) {
        std::memmove(text->path, text->path + text->room, sizeof(int32_t) * text->room);
        text->length = text->room;
    }
    text->path[text->length++] = silent ? ~node : node;
    text->source = source_of(*m, text->path, text->length);
    if (silent) return;
    const Step found = step_of(text->signal, m->W, m->gain, m->node + (int64_t)node * D);
    for (int c = 0; c < VECS; ++c) store(text->signal + c * LANES, found.r[c]);
}

// What repetition adds to the energies of all nodes, into `out` [nodes], which is 0.
void sifu_decoding_repetition(const Model* m, const Text* text, real* out) {
    add_repetition(*m, *text, room_of(*m), out);
}

// The energies of texts after their nodes, and, where `choose` is not 0, their next nodes.
void sifu_decoding_contest(const Model* m, Text* const* texts, int64_t count, int64_t choose, int64_t threads) {
    const int64_t n = padded(*m), columns = n / COLUMN, items = (columns + BLOCKS - 1) / BLOCKS;
    static thread_local std::vector<real> signals, energy;
    signals.resize(count * D);
    if (count > 1) energy.resize(count * n);
    for (int64_t k = 0; k < count; ++k) std::memcpy(&signals[k * D], texts[k]->signal, sizeof(real) * D);
    const real* r = signals.data();
    real* E = count > 1 ? energy.data() : texts[0]->energy;
    parallel(items, threads, [&](int64_t item) {
        const int64_t stop = std::min(columns, (item + 1) * BLOCKS);
        for (int64_t k = item * BLOCKS; k < stop; ++k) {
            for (int64_t text = 0; text < count; ++text)
                std::memcpy(E + text * n + k * COLUMN, m->bias + k * COLUMN, sizeof(real) * COLUMN);
            add_product<WIDE>(count, {r, D, 1}, m->target + k * D * COLUMN, D, E + k * COLUMN, COLUMN, n);
        }
    });
    parallel(count, threads, [&](int64_t k) {
        if (count > 1) std::memcpy(texts[k]->energy, E + k * n, sizeof(real) * n);
        Room& room = room_of(*m);
        add_path(*m, *texts[k], room);
        if (choose) texts[k]->chosen = choice(*m, *texts[k], room);
    });
}

}  // extern "C"
