// The contest of one batch, fused: energies, softmax, gradients and the optimizer's update in one sweep over the rows.
//
// It knows slots, positions and edges; it does not know tokens, text, files or Python. `contest.py` compiles it with
// -DREAL (float or double) and -DWIDTH (the width d of the signal), fills `Batch`, and calls the functions at the
// bottom. The reference that it is tested against is the torch path in `contest.py`.
//
// For an edge with weight W [d_in][d_out] (element [i][o] multiplies input i into output o) and bias b [d], and a
// position with mix S [d] and positional encoding P [d] (DESIGN, section 3):
//
//     z = S W + b + P;   y = GELU(z);   E = |y|_2;   p(edge) = exp(g E) / sum over all candidates of exp(g E')
//
// Work is cut into blocks of BLOCK edges of one row, numbered by the edge's rank in its row. Each sum has one fixed
// order (positions within an edge, edges within a block, blocks within a row), so that the result has the same bits
// for any number of threads and wherever in memory a row's edges lie.
//
// Energies are computed twice, before and after the softmax, and never stored: a position needs a few bytes per block
// of edges instead of d floats per edge.

#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "products.hpp"
#include "threads.hpp"

constexpr int BLOCK = 64;        // edges in a block of work
constexpr int64_t TILE = 96;     // positions whose energies are held at a time
constexpr int64_t CHUNK = 8192;  // edges in a sweep: their rows stay in the outer cache from the first pass to the second

// ---- one edge, up to SOME positions ------------------------------------------------------------------------------

constexpr int SOME = 48;  // positions: what they need stays in the inner cache, beside the edge's matrices

// z = S W + b + P
INLINE void preactivation(int64_t positions, const real* S, const real* W, const real* b, const real* pe,
                          const int64_t* pe_row, real* z) {
    for (int64_t n = 0; n < positions; ++n)
        for (int c = 0; c < VECS; ++c)
            store(z + n * D + c * LANES, load(b + c * LANES) + load(pe + pe_row[n] * D + c * LANES));
    add_product(positions, {S, D, 1}, W, D, z);
}

// Square roots of the sums of the parts of some positions, as `sum` and `std::sqrt` give them.
INLINE void lengths(int64_t positions, const part* squares, real* energy) {
    for (int64_t n = 0; n < positions; n += PART_LANES) {
        part at[PART_LANES];
        for (int k = 0; k < PART_LANES; ++k) at[k] = n + k < positions ? squares[n + k] : part{};
        transpose_tile(at);
        for (int half = PART_LANES / 2; half; half /= 2)
            for (int k = 0; k < half; ++k) at[k] += at[k + half];
        for (int k = 0; k < PART_LANES && n + k < positions; ++k) energy[n + k] = std::sqrt(at[0][k]);
    }
}

// The squares of GELU(z), as a vector whose lanes add up to E^2.
INLINE vec squares_of(const vec (&z)[VECS]) {
    vec square = {};
    for (int c = 0; c < VECS; ++c) {
        vec y = gelu(z[c]);
        square += y * y;
    }
    return square;
}

// E = |GELU(z)|
INLINE real energy_of(const vec (&z)[VECS]) { return std::sqrt(sum(squares_of(z))); }

INLINE void energies_of(int64_t positions, const real* z, real* energy) {
    part squares[SOME];
    for (int64_t n = 0; n < positions; ++n) {
        vec at[VECS];
        for (int c = 0; c < VECS; ++c) at[c] = load(z + n * D + c * LANES);
        squares[n] = sum_of_parts(squares_of(at));
    }
    lengths(positions, squares, energy);
}

// The same energies; z becomes GELU(z) GELU'(z), which is E times the gradient of E.
INLINE void energies_and_slopes(int64_t positions, real* z, real* energy) {
    part squares[SOME];
    for (int64_t n = 0; n < positions; ++n) {
        vec square = {};
        for (int c = 0; c < VECS; ++c) {
            vec at = load(z + n * D + c * LANES), cdf, pdf;
            phi(at, cdf, pdf);
            vec y = at * cdf;
            square += y * y;
            store(z + n * D + c * LANES, y * (cdf + at * pdf));
        }
        squares[n] = sum_of_parts(square);
    }
    lengths(positions, squares, energy);
}

// z += x times one row of W. With bfloat16, two parts of z are in turn the lanes of even and of odd numbers
// (`to_order_of`), so that a row is widened by one operation for each part.
INLINE void add_row(vec x, const real* W, vec (&z)[VECS]) {
    for (int c = 0; c < VECS; ++c) z[c] += x * load(W + c * LANES);
}
INLINE void to_order_of(const real*, vec (&)[VECS]) {}
INLINE void from_order_of(const real*, vec (&)[VECS]) {}

#ifndef REAL_IS_DOUBLE
constexpr bool IN_TURN = PARTS % 2 == 0;
INLINE void add_row(vec x, const bfloat16* W, vec (&z)[VECS]) {
    for (int c = 0; c < VECS; ++c) {
        if constexpr (IN_TURN)
            for (int k = 0; k < PARTS; k += 2) {
                uint_part two = *(const loose_words*)(W + c * LANES + k * PART_LANES);
                z[c].p[k] += x.p[k] * (part)(two << 16);
                z[c].p[k + 1] += x.p[k] * (part)(two & 0xffff0000);
            }
        else
            z[c] += x * load(W + c * LANES);
    }
}
INLINE void to_order_of(const bfloat16*, vec (&z)[VECS]) {
    if constexpr (IN_TURN)
        for (int c = 0; c < VECS; ++c)
            for (int k = 0; k < PARTS; k += 2) part_lanes_by_turn(z[c].p[k], z[c].p[k + 1]);
}
INLINE void from_order_of(const bfloat16*, vec (&z)[VECS]) {
    if constexpr (IN_TURN)
        for (int c = 0; c < VECS; ++c)
            for (int k = 0; k < PARTS; k += 2) part_lanes_in_order(z[c].p[k], z[c].p[k + 1]);
}
#endif

// One position, ABREAST edges at once: as many streams from memory, which is what decoding waits for. Meanwhile the
// edges at `place` + ABREAST are asked for, if there are `more`.
constexpr int ABREAST = 4;  // eight were no faster
template <typename Stored>
INLINE void energies_abreast(const real* S, const Stored* W, const real* b, const real* pe, const int64_t* place,
                                    bool more, real* energy) {
    vec z[ABREAST][VECS];
    const Stored *at[ABREAST], *next[ABREAST];
    for (int n = 0; n < ABREAST; ++n) {
        at[n] = W + place[n] * D * D;
        next[n] = more ? W + place[n + ABREAST] * D * D : at[n];
        for (int c = 0; c < VECS; ++c) z[n][c] = load(b + place[n] * D + c * LANES) + load(pe + c * LANES);
    }
    for (int n = 0; n < ABREAST; ++n) to_order_of(W, z[n]);
    for (int i = 0; i < D; ++i) {
        vec x = splat(S[i]);
        for (int n = 0; n < ABREAST; ++n) {
            for (int c = 0; c < VECS; ++c)
                if (c * LANES * sizeof(Stored) % 64 == 0) __builtin_prefetch(next[n] + i * D + c * LANES);
            add_row(x, at[n] + i * D, z[n]);
        }
    }
    for (int n = 0; n < ABREAST; ++n) from_order_of(W, z[n]);
    for (int n = 0; n < ABREAST; ++n) energy[n] = energy_of(z[n]);
}

// A matrix as reals.
INLINE const real* widened(const real* W, real*) { return W; }

template <typename Stored>
INLINE const real* widened(const Stored* W, real* out) {
    for (int i = 0; i < D * D; i += LANES) store(out + i, load(W + i));
    return out;
}

// What `sifu_energies` says, for any type of W.
template <typename Stored>
void energies_of_row(const real* S, const real* pe, const Stored* W, const real* b, const int64_t* place, int64_t edges,
                     const real* default_W, const real* default_b, real* energy, int64_t threads, real sign,
                     int64_t* best) {
    static const int64_t first_row = 0;
    constexpr int64_t SHARE = 64;
    parallel((edges + SHARE) / SHARE, threads, [&](int64_t share) {
        int64_t e = share * SHARE, last = (share + 1) * SHARE < edges ? (share + 1) * SHARE : edges;
        for (; e + ABREAST <= last; e += ABREAST)
            energies_abreast(S, W, b, pe, place + e, e + 2 * ABREAST <= last, energy + e);
        alignas(64) real z[D], own[D * D];
        for (; e < last; ++e) {
            preactivation(1, S, widened(W + place[e] * D * D, own), b + place[e] * D, pe, &first_row, z);
            energies_of(1, z, energy + e);
        }
        if ((share + 1) * SHARE > edges) {
            preactivation(1, S, default_W, default_b, pe, &first_row, z);
            energies_of(1, z, energy + edges);
        }
    });
    *best = -1;
    real high = 0;
    for (int64_t e = 0; e < edges; ++e) {
        if (*best >= 0 && !(sign * energy[e] > high)) continue;
        *best = e;
        high = sign * energy[e];
    }
}

// ---- the batch ---------------------------------------------------------------------------------------------------

extern "C" {

// Positions are sorted by source; a group is the positions of one source and the candidates of its row.
struct Batch {
    int64_t groups;
    const int64_t* first_position;  // [groups + 1]
    const int64_t* first_edge;      // [groups + 1], in the concatenation of all rows
    const int64_t* place;           // [edges], where an edge's parameters lie in W and b
    const real* S;                  // [positions][D]
    const real* pe;                 // [...][D]
    const int64_t* pe_row;          // [positions], rows of pe
    const real* default_energy;     // [positions]
    const real* log_defaults;       // [groups], log of the number of default candidates
    const int64_t* target;          // [positions], rank in the row, or -1: a default edge
    const real* W;                  // [slots][D][D]
    const real* b;                  // [slots][D]
    real scale;                     // g
    real weight;                    // of one position in the loss
    // results
    real* logsumexp;      // [positions]
    real* target_energy;  // [positions]; that of the default edge where target = -1
    int64_t* best;        // [positions], rank of the greatest energy, or -1: a default edge
};

// The file behind the frames: a place from `beyond` on is readable there as any other, but new values are written to
// the file. An array begins at its offset; rows lie there in the order of places.
struct Past {
    int64_t file, beyond;
    int64_t offset[6];  // of W, b and what the optimizer keeps, in the order of `Update`
    // results
    int64_t written;  // bytes
    int64_t error;    // the last one's number
};

// What happens to the gradient of an edge: written to row gradient_row[edge] of dW and db where that is >= 0,
// otherwise consumed by the optimizer at once (`kind`; none: dropped).
struct Update {
    int64_t kind;                 // 0 none, 1 row-wise AdaGrad, 2 AdamW
    const int64_t* gradient_row;  // [edges]
    real* dW;                     // [...][D][D]
    real* db;                     // [...][D]
    real* dS;                     // [positions][D]
    real* dscale;                 // [groups]
    real lr, beta1, beta2, eps, weight_decay, clip;
    real correction1, correction2;  // 1 - beta^t
    real* m_W;                      // [slots][D][D] (AdamW)
    real* v_W;
    real* m_b;  // [slots][D]
    real* v_b;
    real* v_edge;  // [slots] (row-wise AdaGrad)
    Past* past;  // null: every place is in memory
};

}  // extern "C"

INLINE void adamw(real* w, const real* g, real* m, real* v, int64_t size, real factor, const Update& u) {
    vec keep = splat(1 - u.lr * u.weight_decay), rate = splat(u.lr / u.correction1);
    vec root2 = splat(1 / std::sqrt(u.correction2));
    for (int64_t i = 0; i < size; i += LANES) {
        vec grad = load(g + i) * splat(factor);
        vec mean = load(m + i) * splat(u.beta1) + grad * splat(1 - u.beta1);
        vec square = load(v + i) * splat(u.beta2) + grad * grad * splat(1 - u.beta2);
        vec root;
        for (int lane = 0; lane < LANES; ++lane) root[lane] = std::sqrt(square[lane]);
        store(m + i, mean);
        store(v + i, square);
        store(w + i, load(w + i) * keep - rate * mean / (root * root2 + splat(u.eps)));
    }
}

INLINE void scaled_step(real* w, const real* g, int64_t size, real rate, real keep) {
    for (int64_t i = 0; i < size; i += LANES) store(w + i, load(w + i) * splat(keep) - load(g + i) * splat(rate));
}

static void update_edge(real* W, real* b, const real* dW, const real* db, int64_t slot, const Update& u) {
    vec squares[VECS] = {}, square = {};
    for (int64_t i = 0; i < D; ++i)
        for (int c = 0; c < VECS; ++c) squares[c] += load(dW + i * D + c * LANES) * load(dW + i * D + c * LANES);
    for (int c = 0; c < VECS; ++c) square += squares[c] + load(db + c * LANES) * load(db + c * LANES);
    real norm2 = sum(square);
    real factor = u.clip > 0 && norm2 > u.clip * u.clip ? u.clip / std::sqrt(norm2) : real(1);
    if (u.kind == 1) {
        real v = u.beta2 * u.v_edge[slot] + (u.beta2 < 1 ? 1 - u.beta2 : real(1)) * factor * factor * norm2;
        u.v_edge[slot] = v;
        real rate = u.lr * factor / (std::sqrt(v) + u.eps), keep = 1 - u.lr * u.weight_decay;
        scaled_step(W, dW, D * D, rate, keep);
        scaled_step(b, db, D, rate, keep);
    } else if (u.kind == 2) {
        adamw(W, dW, u.m_W + slot * D * D, u.v_W + slot * D * D, D * D, factor, u);
        adamw(b, db, u.m_b + slot * D, u.v_b + slot * D, D, factor, u);
    }
}

namespace {

// What the backward pass of one edge reads and fills.
struct Edge {
    const real* W;      // [D][D]
    const real* W_t;    // [D][D], transposed
    const real* b;      // [D]
    int64_t rank;       // in its row
    real scale, weight;  // g, and the weight of one position in the loss
    real* dW;           // [D][D], summed over positions
    real* db;           // [D]
    real dscale;
};

// Of at most SOME positions.
void backward_of(Edge& edge, int64_t positions, const real* S, const real* pe, const int64_t* pe_row,
                 const int64_t* target, const real* logsumexp, real* dS) {
    alignas(64) real dz[SOME * D], energy[SOME] = {}, normaliser[SOME] = {}, hit[SOME] = {}, factor[SOME];
    preactivation(positions, S, edge.W, edge.b, pe, pe_row, dz);
    energies_and_slopes(positions, dz, energy);
    for (int64_t n = 0; n < positions; ++n) {
        normaliser[n] = logsumexp[n];
        hit[n] = target[n] == edge.rank ? real(1) : real(0);
    }
    for (int64_t n = 0; n < positions; n += LANES) {
        vec E = load(energy + n);
        vec dlogit = splat(edge.weight) * (vexp(splat(edge.scale) * E - load(normaliser + n)) - load(hit + n));
        store(factor + n, where_less(vec{}, E, splat(edge.scale) * dlogit / E, vec{}));
        for (int64_t k = 0; k < LANES && n + k < positions; ++k) edge.dscale += dlogit[k] * energy[n + k];
    }
    vec db[VECS];
    for (int c = 0; c < VECS; ++c) db[c] = load(edge.db + c * LANES);
    for (int64_t n = 0; n < positions; ++n)
        for (int c = 0; c < VECS; ++c) {
            vec at = splat(factor[n]) * load(dz + n * D + c * LANES);
            store(dz + n * D + c * LANES, at);
            db[c] += at;
        }
    for (int c = 0; c < VECS; ++c) store(edge.db + c * LANES, db[c]);
    add_product(positions, {dz, D, 1}, edge.W_t, D, dS);  // dS[n] += dz[n] W^T
    add_product(D, {S, 1, D}, dz, positions, edge.dW);    // dW += S^T dz
}

struct Item {  // a block of edges of one group
    int64_t group, first, last;  // ranks
    int64_t scratch;             // where its positions lie in the scratch arrays
};

// Writes all bytes, or returns the error's number.
int64_t write_all(int64_t file, const char* next, int64_t left, int64_t at) {
    while (left) {
        int64_t put = pwrite((int)file, next, left, at);
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) return put < 0 ? errno : ENOSPC;
        next += put;
        at += put;
        left -= put;
    }
    return 0;
}

// New values of edges past the frames. Neighbours gather in a buffer, 1 MiB of weights at most, and go into the file
// together, while what was read of it is still in the processor's cache.
constexpr int64_t RUN = D * D * (int64_t)sizeof(real) < (1 << 20) ? (1 << 20) / (D * D * (int64_t)sizeof(real)) : 1;
class Outgoing {
    struct Array {
        const real* from;
        int64_t size;  // of an edge
        std::vector<real> rows;
    };
    Array arrays[6] = {};
    int64_t used = 0, first = 0, count = 0;
    Update update;  // with the buffers in place of what the optimizer keeps

    void hold(int64_t at, const real* from, int64_t size) {
        arrays[at].from = from;
        arrays[at].size = size;
        arrays[at].rows.resize(RUN * size);
        used = at + 1;
    }
    real* rows(int64_t at) { return arrays[at].rows.data(); }

    void copy(int64_t place) {
        for (int64_t a = 0; a < used; ++a) {
            int64_t size = arrays[a].size;
            std::memcpy(rows(a) + count * size, arrays[a].from + place * size, size * sizeof(real));
        }
    }

   public:
    void begin(const Batch& batch, const Update& u) {
        update = u;
        hold(0, batch.W, D * D);
        hold(1, batch.b, D);
        if (u.kind == 1) {
            hold(2, u.v_edge, 1);
            update.v_edge = rows(2);
        } else if (u.kind == 2) {
            hold(2, u.m_W, D * D);
            hold(3, u.v_W, D * D);
            hold(4, u.m_b, D);
            hold(5, u.v_b, D);
            update.m_W = rows(2);
            update.v_W = rows(3);
            update.m_b = rows(4);
            update.v_b = rows(5);
        }
        count = 0;
    }

    void take(int64_t place, const real* dW, const real* db) {
        if (count == RUN || (count && place != first + count)) flush();
        if (!count) first = place;
        copy(place);
        update_edge(rows(0) + count * D * D, rows(1) + count * D, dW, db, count, update);
        ++count;
    }

    // An edge that stays as it is, between neighbours: one long piece costs the system less than two short ones.
    void pass(int64_t place) {
        if (!count || count == RUN || place != first + count) return;
        copy(place);
        ++count;
    }

    void flush() {
        Past& past = *update.past;
        for (int64_t a = 0; a < used && count; ++a) {
            int64_t bytes = arrays[a].size * sizeof(real);
            int64_t at = past.offset[a] + (first - past.beyond) * bytes;
            int64_t error = write_all(past.file, (const char*)rows(a), count * bytes, at);
            if (error) __atomic_store_n(&past.error, error, __ATOMIC_RELAXED);
            __atomic_fetch_add(&past.written, count * bytes, __ATOMIC_RELAXED);
        }
        count = 0;
    }
};

struct Sweep {
    const Batch& batch;
    std::vector<Item> items;
    std::vector<int64_t> first_item;           // of each group in the sweep
    std::vector<real> peak, total, dS, dscale;  // per item and position
    std::vector<int64_t> peak_rank;
    int64_t first_group = 0, last_group = 0;

    explicit Sweep(const Batch& b) : batch(b) {}

    int64_t size(int64_t g) const { return batch.first_position[g + 1] - batch.first_position[g]; }
    int64_t edges(int64_t g) const { return batch.first_edge[g + 1] - batch.first_edge[g]; }
    int64_t groups() const { return last_group - first_group; }

    // The groups from `first` on whose rows fit together in one sweep (at least one).
    void plan(int64_t first) {
        items.clear();
        first_item.assign(1, 0);
        first_group = last_group = first;
        int64_t held = 0, scratch = 0;
        while (last_group < batch.groups && (last_group == first || held + edges(last_group) <= CHUNK)) {
            int64_t g = last_group++;
            held += edges(g);
            for (int64_t e = 0; e < edges(g); e += BLOCK) {
                items.push_back({g, e, e + BLOCK < edges(g) ? e + BLOCK : edges(g), scratch});
                scratch += size(g);
            }
            first_item.push_back((int64_t)items.size());
        }
        peak.resize(scratch);
        total.resize(scratch);
        peak_rank.resize(scratch);
    }

    const real* weight(int64_t edge) const { return batch.W + batch.place[edge] * D * D; }
    const real* bias(int64_t edge) const { return batch.b + batch.place[edge] * D; }

    void forward(const Item& item, real* energy_out) {
        int64_t begin = batch.first_position[item.group], end = batch.first_position[item.group + 1];
        int64_t edge0 = batch.first_edge[item.group], width = edges(item.group);
        alignas(64) real energy[BLOCK * TILE] = {}, z[SOME * D];
        for (int64_t t = begin; t < end; t += TILE) {
            int64_t stop = t + TILE < end ? t + TILE : end;
            for (int64_t e = item.first; e < item.last; ++e) {
                const real *W = weight(edge0 + e), *b = bias(edge0 + e);
                real* out = energy + (e - item.first) * TILE;
                for (int64_t n = t; n < stop; n += SOME) {
                    int64_t positions = stop - n < SOME ? stop - n : SOME;
                    preactivation(positions, batch.S + n * D, W, b, batch.pe, batch.pe_row + n, z);
                    energies_of(positions, z, out + (n - t));
                }
            }
            int64_t count = item.last - item.first;
            for (int64_t n = t; n < stop; n += LANES) {
                const real* columns = energy + (n - t);
                vec high = load(columns), top = {}, s = {};
                for (int64_t e = 1; e < count; ++e) {
                    vec E = load(columns + e * TILE);
                    top = where_less(high, E, splat((real)e), top);
                    high = where_less(high, E, E, high);
                }
                for (int64_t e = 0; e < count; ++e) {
                    vec x = splat(batch.scale) * (load(columns + e * TILE) - high);
                    s += where_less(x, splat(-80), vec{}, vexp(x));
                }
                for (int64_t k = 0; k < LANES && n + k < stop; ++k) {
                    int64_t at = item.scratch + (n + k - begin), goal = batch.target[n + k];
                    peak[at] = high[k];
                    total[at] = s[k];
                    peak_rank[at] = item.first + (int64_t)top[k];
                    if (goal >= item.first && goal < item.last)
                        batch.target_energy[n + k] = columns[(goal - item.first) * TILE + k];
                }
            }
            if (energy_out)
                for (int64_t n = t; n < stop; ++n)
                    for (int64_t e = 0; e < count; ++e)
                        energy_out[(n - begin) * width + item.first + e] = energy[e * TILE + (n - t)];
        }
    }

    void merge(int64_t g) {
        int64_t begin = batch.first_position[g], end = batch.first_position[g + 1];
        int64_t from = first_item[g - first_group], to = first_item[g - first_group + 1];
        bool defaults = std::isfinite(batch.log_defaults[g]);
        for (int64_t n = begin; n < end; ++n) {
            real high = defaults ? batch.default_energy[n] : real(0);
            int64_t best = -1;
            for (int64_t k = from; k < to; ++k) {
                int64_t at = items[k].scratch + (n - begin);
                if (peak[at] > high || (best < 0 && !defaults)) {
                    high = peak[at];
                    best = peak_rank[at];
                }
            }
            real s = defaults ? std::exp(batch.scale * (batch.default_energy[n] - high) + batch.log_defaults[g]) : real(0);
            for (int64_t k = from; k < to; ++k) {
                int64_t at = items[k].scratch + (n - begin);
                s += total[at] * std::exp(batch.scale * (peak[at] - high));
            }
            batch.logsumexp[n] = batch.scale * high + std::log(s);
            batch.best[n] = best;
            if (batch.target[n] < 0) batch.target_energy[n] = batch.default_energy[n];
        }
    }

    void backward(const Item& item, const Update& u, Outgoing& outgoing) {
        int64_t begin = batch.first_position[item.group], end = batch.first_position[item.group + 1];
        int64_t edge0 = batch.first_edge[item.group];
        real* ds = dS.data() + item.scratch * D;
        std::memset(ds, 0, sizeof(real) * D * (end - begin));
        alignas(64) real W_t[D * D], dW[D * D], db[D];
        Edge edge{nullptr, W_t, nullptr, 0, batch.scale, batch.weight, dW, db, 0};
        for (int64_t e = item.first; e < item.last; ++e) {
            int64_t place = batch.place[edge0 + e];
            edge.W = batch.W + place * D * D;
            edge.b = batch.b + place * D;
            edge.rank = e;
            transpose(edge.W, W_t);
            std::memset(dW, 0, sizeof dW);
            std::memset(db, 0, sizeof db);
            for (int64_t n = begin; n < end; n += SOME)
                backward_of(edge, end - n < SOME ? end - n : SOME, batch.S + n * D, batch.pe, batch.pe_row + n,
                            batch.target + n, batch.logsumexp + n, ds + (n - begin) * D);
            int64_t row = u.gradient_row[edge0 + e];
            if (row >= 0) {
                std::memcpy(u.dW + row * D * D, dW, sizeof dW);
                std::memcpy(u.db + row * D, db, sizeof db);
                if (u.past) outgoing.pass(place);
            } else if (u.kind && u.past && place >= u.past->beyond) {
                outgoing.take(place, dW, db);
            } else if (u.kind) {
                update_edge(const_cast<real*>(edge.W), const_cast<real*>(edge.b), dW, db, place, u);
            }
        }
        dscale[&item - items.data()] = edge.dscale;
    }

    void reduce(int64_t g, const Update& u) {
        int64_t begin = batch.first_position[g], end = batch.first_position[g + 1];
        for (int64_t k = first_item[g - first_group]; k < first_item[g - first_group + 1]; ++k) {
            const real* part = dS.data() + items[k].scratch * D;
            for (int64_t i = 0; i < (end - begin) * D; i += LANES)
                store(u.dS + begin * D + i, load(u.dS + begin * D + i) + load(part + i));
            u.dscale[g] += dscale[k];
        }
    }
};

// Reads bytes of a file; what lies beyond its end is zero.
bool read_all(int64_t file, char* next, int64_t left, int64_t at) {
    while (left) {
        int64_t found = pread((int)file, next, left, at);
        if (found < 0 && errno == EINTR) continue;
        if (found < 0) return false;
        if (!found) {
            std::memset(next, 0, left);
            return true;
        }
        next += found;
        at += found;
        left -= found;
    }
    return true;
}

}  // namespace

extern "C" {

// The sizes in bytes of the structs that callers fill: `kernels/native.py` compares them with its own.
void sifu_sizes(int64_t* sizes) {
    sizes[0] = sizeof(Batch);
    sizes[1] = sizeof(Update);
    sizes[2] = sizeof(Past);
}

// Energies, log-normaliser and winner of every position. `energy` may be null; otherwise it holds the energies of
// the whole row for every position, group after group: [positions of the group][edges of its row].
void sifu_forward(const Batch* batch, real* energy, int64_t threads) {
    Sweep sweep(*batch);
    std::vector<int64_t> offset(batch->groups + 1, 0);
    for (int64_t g = 0; g < batch->groups; ++g) offset[g + 1] = offset[g] + sweep.size(g) * sweep.edges(g);
    for (int64_t g = 0; g < batch->groups; g = sweep.last_group) {
        sweep.plan(g);
        int64_t items = (int64_t)sweep.items.size();
        parallel(items, threads, [&](int64_t k) {
            sweep.forward(sweep.items[k], energy ? energy + offset[sweep.items[k].group] : nullptr);
        });
        parallel(sweep.groups(), threads, [&](int64_t h) { sweep.merge(sweep.first_group + h); });
    }
}

// The same, then the gradients of  weight * sum over positions of -log p(target)  and the optimizer's update.
// The caller adds what the default edge contributes to dS.
void sifu_train(const Batch* batch, const Update* update, int64_t threads) {
    Sweep sweep(*batch);
    const int64_t *begin = batch->first_position, *end = begin + batch->groups;
    std::memset(update->dS + *begin * D, 0, sizeof(real) * D * (*end - *begin));
    std::memset(update->dscale, 0, sizeof(real) * batch->groups);
    for (int64_t g = 0; g < batch->groups; g = sweep.last_group) {
        sweep.plan(g);
        int64_t items = (int64_t)sweep.items.size();
        sweep.dS.resize(sweep.peak.size() * D);
        sweep.dscale.resize(items);
        parallel(items, threads, [&](int64_t k) { sweep.forward(sweep.items[k], nullptr); });
        parallel(sweep.groups(), threads, [&](int64_t h) { sweep.merge(sweep.first_group + h); });
        int64_t unit = update->past && RUN > BLOCK ? RUN / BLOCK : 1;
        parallel((items + unit - 1) / unit, threads, [&](int64_t some) {
            static thread_local Outgoing outgoing;
            if (update->past) outgoing.begin(*batch, *update);
            for (int64_t k = some * unit; k < items && k < (some + 1) * unit; ++k)
                sweep.backward(sweep.items[k], *update, outgoing);
            if (update->past) outgoing.flush();
        });
        parallel(sweep.groups(), threads, [&](int64_t h) { sweep.reduce(sweep.first_group + h, *update); });
    }
}

// The update of single edges whose gradients were gathered elsewhere (row i of dW and db belongs to slot[i]).
void sifu_update(int64_t edges, const int64_t* slot, real* W, real* b, const Update* update, int64_t threads) {
    constexpr int64_t SHARE = 64;
    parallel((edges + SHARE - 1) / SHARE, threads, [&](int64_t share) {
        for (int64_t i = share * SHARE; i < edges && i < (share + 1) * SHARE; ++i)
            update_edge(W + slot[i] * D * D, b + slot[i] * D, update->dW + i * D * D, update->db + i * D, slot[i], *update);
    });
}

// Reads (or writes) pieces of `bytes` bytes of a file: piece i lies at at[i] there and at memory[i] here. Returns 0, or
// the error's number.
int64_t sifu_transfer(int64_t file, int64_t pieces, const int64_t* at, char* const* memory, int64_t bytes, int64_t write) {
    for (int64_t i = 0; i < pieces; ++i) {
        if (!write) {
            if (!read_all(file, memory[i], bytes, at[i])) return errno;
            continue;
        }
        int64_t error = write_all(file, memory[i], bytes, at[i]);
        if (error) return error;
    }
    return 0;
}

// The energies of `edges` private edges for one position, and after them that of the default edge: decoding. `best`
// becomes the first edge of the greatest sign * energy (-1: none).
void sifu_energies(const real* S, const real* pe, const real* W, const real* b, const int64_t* place, int64_t edges,
                   const real* default_W, const real* default_b, real* energy, int64_t threads, real sign, int64_t* best) {
    energies_of_row(S, pe, W, b, place, edges, default_W, default_b, energy, threads, sign, best);
}

#ifndef REAL_IS_DOUBLE
// The same of rows whose W are bfloat16.
void sifu_energies_bfloat16(const real* S, const real* pe, const bfloat16* W, const real* b, const int64_t* place,
                            int64_t edges, const real* default_W, const real* default_b, real* energy, int64_t threads,
                            real sign, int64_t* best) {
    energies_of_row(S, pe, W, b, place, edges, default_W, default_b, energy, threads, sign, best);
}
#endif

// One step of `signals` signals, each along an edge of its own (a place in W and b, or -1: the default edge):
// z = drive W + b + P and GELU(z) go to `out`, [5][signals][D]. Then their mix takes in the signals that they were
// (`taken` 1) or have become (2), as rows 2 to 4 of `out`: weighted' = keep * weighted + fresh * r, raw = weighted' / total,
// and, if `normalise`, raw without its mean over the width and divided by its root mean square. `pe` may be null.
void sifu_carry(int64_t signals, const real* drive, const real* W, const real* b, const int64_t* place,
                const real* default_W, const real* default_b, const real* pe, real* out, int64_t taken, const real* r,
                const real* weighted, real keep, real fresh, real total, int64_t normalise, real eps) {
    static const real zeros[D] = {};
    static const int64_t first_row = 0;
    FlushDenormals flush;
    real *z_out = out, *r_out = out + signals * D, *weighted_out = out + 2 * signals * D;
    real *raw_out = out + 3 * signals * D, *mix_out = out + 4 * signals * D;
    const real* added = taken == 1 ? r : r_out;
    for (int64_t n = 0; n < signals; ++n) {
        bool own = place[n] >= 0;
        preactivation(1, drive + n * D, own ? W + place[n] * D * D : default_W, own ? b + place[n] * D : default_b,
                      pe ? pe : zeros, &first_row, z_out + n * D);
        for (int c = 0; c < VECS; ++c) store(r_out + n * D + c * LANES, gelu(load(z_out + n * D + c * LANES)));
        if (!taken) continue;
        vec mean = {}, square = {}, S[VECS];
        for (int c = 0; c < VECS; ++c) {
            int64_t at = n * D + c * LANES;
            vec w = splat(keep) * load(weighted + at) + splat(fresh) * load(added + at);
            S[c] = w / splat(total);
            store(weighted_out + at, w);
            store(raw_out + at, S[c]);
            mean += S[c];
        }
        if (!normalise) continue;
        mean = splat(sum(mean) / D);
        for (int c = 0; c < VECS; ++c) square += (S[c] - mean) * (S[c] - mean);
        vec inverse = splat(1 / std::sqrt(sum(square) / D + eps));
        for (int c = 0; c < VECS; ++c) store(mix_out + n * D + c * LANES, (S[c] - mean) * inverse);
    }
}

}  // extern "C"
