"""The closed-form start: before the first step, every edge learns from all contexts of the text at once.

A new graph is a bigram model: the bias of edge (u, v) says how often v follows u, and W = 0. What a context adds can be
counted too. For every position t of the text let S_t be the mix that reaches it, in a graph whose signals keep to the
direction of the node that they have reached. Under a normal model of the mixes of each edge, with one covariance C for
all (linear discriminant analysis: Fisher 1936), the energy that a context adds is linear in it::

    t_v   = m_v - m                                                    what the target is met in, after any source
    o_uv  = count_uv / (count_uv + kappa) (m_uv - m_u - t_v)           what the edge alone adds to it
    w_uv  = C^-1 (beta t_v + gamma o_uv)
    E(v | u, S) = energy at rest + w_uv . S - c_uv,    c_uv = w_uv . m_u + w_uv . (t_v + o_uv) / 2

with m_uv, m_u, m_v and m the mean mixes before the transition u -> v, before any from u, any to v, and all. As
W_uv = w_uv d_v^T, with d_v the direction of v, this is a graph like any other, and training continues from it. beta and
gamma, the weights of the means over many edges and of the means of one edge, are chosen on chunks that the means
leave out.

The directions come from the text as well: nodes before the same nodes (two steps on and more) point the same way (the
singular vectors of their positive pointwise mutual information, Levy & Goldberg 2014), so that a row that has met one
context knows its like. All entries are positive, where GELU is linear; the mix is centred, so that what they have
in common does not count.

It knows text as chunks, edges and their counts; it does not know steps, optimizers or commits.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import scipy.linalg
import scipy.sparse
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import svds
from sifu_store.durable import disk_errors
from sifu_store.layout import BIAS, WEIGHT
from torch import Tensor

from sifu_graph.arrays import Floats, Ints
from sifu_graph.config import SignalConfig
from sifu_graph.disk_arrays import DiskArrays
from sifu_graph.edge_index import EdgeIndex
from sifu_graph.model.parameters import Parameters
from sifu_graph.ops.functional import gelu, mixing_matrix, normalised
from sifu_graph.ops.initial import EdgeInitializer
from sifu_graph.ops.origins import BASE_ENERGY
from sifu_graph.ops.threads import one_thread
from sifu_graph.paging.device_pool import DevicePool
from sifu_graph.progress import SILENT, Stages
from sifu_graph.text.batches import chunk_table
from sifu_graph.text.encoded import Split
from sifu_graph.text.merged_counts import MergedCounts, run_of

KAPPA = 8.0
"""Transitions of an edge at which half of what it alone adds counts."""
STRENGTHS = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
"""Of which beta and gamma are chosen."""
RAISED = 15.0
"""Added to all energies: with all dimensions in use, GELU is linear only further up."""
LAGS = 3
"""Distances, from two steps on, at which nodes are looked at that follow."""
FOLLOWERS = 20_000_000
"""Pairs of a node and one that follows it, in the text, that are counted together."""
SPREAD = 0.4
"""Root mean square of a direction's entries about their mean, as a share of it."""
LEAST = 0.1
"""The least entry of a direction, as a share of the mean."""
RARE = 500.0
"""Occurrences at which a node's neighbours count half."""
RIDGE = 0.1
"""Added to the variance of every dimension of the mix, which is about 1."""
SMALL = 400
"""Nodes up to which all singular vectors are computed."""
LEFT_OUT = 32
"""One chunk in this number is left out, to choose beta on."""
JUDGED = 20_000
"""Positions of them that are looked at, at most."""
TOGETHER = 16
"""Positions of one source that are looked at together, for every beta and gamma."""
CHUNKS = 1024
"""Chunks that are held at a time: 4 MiB of mixes at 31 positions and d = 32."""
WRITTEN = 4
"""Pages whose edges are made at a time."""

Chunk = tuple[Ints, NDArray[np.int32]]
"""Tokens [B, length], padded with 0, and lengths [B]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextFit:
    """The strengths beta and gamma that were chosen, and the perplexity of the chunks left out before and after."""

    target_strength: float
    edge_strength: float
    before: float
    after: float
    positions: int
    seconds: float


def can_fit(config: SignalConfig, initial: EdgeInitializer) -> bool:
    """Whether the mathematics is such that the closed form holds: the preset `tuned` from counts, and its like."""
    return (
        initial.method == "counts"
        and initial.origins.energy_known
        and (config.normalise_mix, config.skip_current, config.first, config.mix_from) == (True, True, "biased", 1)
        and (config.positional, config.drive) == ("none", "chain")
    )


def count_contexts(
    parameters: Parameters,
    config: SignalConfig,
    text: Split,
    *,
    length: int,
    folder: Path | None = None,
    stages: Stages = SILENT,
) -> CountedContexts:
    """Computes the closed form of a graph that was never trained. Nothing changes before `CountedContexts.write`.

    Parameters
    ----------
    text, length
        The training text, and the tokens of a chunk.
    folder
        Where the means lie, 4 d bytes an edge, and the counts, if they are not to take memory; None: in memory.
    stages
        Of which it has five.
    """
    started = time.perf_counter()
    chunks = _Chunks.of(text, length=length)
    with one_thread():
        directions = node_directions(
            chunks,
            parameters.index.nodes,
            parameters.width,
            recency=config.recency,
            arrays=DiskArrays(folder),
            stages=stages,
        )
        mixes = _Mixes(parameters, config, directions)
        means = _Means.of(mixes, chunks, folder, stages)
        strengths, before, after, positions = _chosen_strengths(mixes, means, chunks, stages)
    fit = ContextFit(
        target_strength=strengths[0],
        edge_strength=strengths[1],
        before=before,
        after=after,
        positions=positions,
        seconds=time.perf_counter() - started,
    )
    return CountedContexts(mixes, means, fit)


@dataclass(frozen=True, slots=True)
class CountedContexts:
    """The closed form, before it is in the edges; ``fit`` are its figures."""

    mixes: _Mixes
    means: _Means
    fit: ContextFit

    def write(self, parameters: Parameters, stages: Stages = SILENT) -> ContextFit:
        """Sets every private edge, the default edge and the node biases, in place."""
        started = time.perf_counter()
        strengths = self.fit.target_strength, self.fit.edge_strength
        if any(strengths):
            with one_thread():
                _write(parameters, self.mixes, self.means, strengths, stages)
        if isinstance(parameters.tier, DevicePool):
            parameters.tier.forget()
        return replace(self.fit, seconds=self.fit.seconds + time.perf_counter() - started)


# ---- the text


@dataclass(frozen=True, slots=True)
class _Chunks:
    """The chunks that training sees, in the order of the text."""

    text: Split
    start: Ints
    size: NDArray[np.int32]
    length: int

    @classmethod
    def of(cls, text: Split, *, length: int) -> _Chunks:
        return cls(text, *chunk_table(text, length=length), length)

    def every(self, which: Ints | None = None) -> Iterator[Chunk]:
        """Tokens [B, length], padded with 0, and lengths [B]."""
        which = np.arange(len(self.start)) if which is None else which
        place = np.arange(self.length)
        for begin in range(0, len(which), CHUNKS):
            some = which[begin : begin + CHUNKS]
            present = place < self.size[some][:, None]
            at = np.where(present, self.start[some][:, None] + place, 0)
            yield np.where(present, self.text.ids[at], 0).astype(np.int64), self.size[some]

    def kept(self) -> Ints:
        """Those that the means are of."""
        return np.flatnonzero(np.arange(len(self.start)) % LEFT_OUT != LEFT_OUT - 1)

    def left_out(self) -> Ints:
        """Those that the strength is chosen on: as many as are looked at, from all of the text."""
        which = np.flatnonzero(np.arange(len(self.start)) % LEFT_OUT == LEFT_OUT - 1)
        some = max(1, JUDGED // max(1, self.length - 1))
        return which[:: max(1, len(which) // some)]


# ---- directions


def node_directions(
    chunks: _Chunks,
    nodes: int,
    width: int,
    *,
    recency: float = 0.0,
    arrays: DiskArrays | None = None,
    stages: Stages = SILENT,
) -> Floats:
    """Unit vectors of positive entries [n + 1, d]: alike where nodes are followed, two steps on or more, by the same.

    A node that much later weighs as much less as it does in the mix (``recency``). The last vector is that of the
    default edge: all entries the same, so that it says nothing in a centred mix.
    """
    matrix = _followers(chunks, nodes, recency, arrays, stages)
    stages.stage(f"computing the directions of {nodes:,} nodes")
    rank = min(width - 1, nodes - 1)
    row, column = np.asarray(matrix.sum(1)).ravel() + 1, np.asarray(matrix.sum(0)).ravel() + 1
    all_of_them, weight, sizes = matrix.sum(), matrix.data, np.diff(matrix.indptr)
    np.log(weight, out=weight)  # of which the pointwise mutual information becomes, in place
    weight += np.float32(np.log(all_of_them)) - np.log(column).astype(np.float32)[matrix.indices]
    weight -= np.repeat(np.log(row).astype(np.float32), sizes)
    np.maximum(weight, 0, out=weight)
    weight *= np.repeat((row / (row + RARE)).astype(np.float32), sizes)
    vectors = np.zeros((nodes, width - 1))
    if nodes <= SMALL:
        U, s, _ = np.linalg.svd(matrix.toarray())
        vectors[:, :rank] = U[:, :rank] * np.sqrt(s[:rank])
    elif matrix.count_nonzero():
        U, s, _ = svds(matrix, k=rank, v0=np.ones(nodes))
        vectors[:, :rank] = U * np.sqrt(s)
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = np.divide(vectors, norm, out=np.zeros_like(vectors), where=norm > 1e-9)
    entries = np.maximum(1 + SPREAD * np.sqrt(width) * vectors @ scipy.linalg.helmert(width), LEAST)
    entries = np.concatenate([entries, np.ones((1, width))])
    out: Floats = (entries / np.linalg.norm(entries, axis=1, keepdims=True)).astype(np.float32)
    return out


def _followers(
    chunks: _Chunks, nodes: int, recency: float, arrays: DiskArrays | None, stages: Stages
) -> scipy.sparse.csr_array:
    """How often each node stands two steps before each other one, or a few more, which weigh less [n, n]."""
    lags = range(2, min(2 + LAGS, chunks.length))
    blocks, bounds = [], _blocks(chunks, nodes)
    stage = stages.stage("counting which nodes follow others", (len(bounds) - 1) * len(chunks.start), "chunks")
    for first, stop in pairwise(bounds):
        merged = {lag: MergedCounts(np.dtype(np.int64), arrays) for lag in lags}
        for tokens, size in stage.track(chunks.every(), size=_chunk_count):
            for lag in lags:
                source, follower = tokens[:, :-lag], tokens[:, lag:]
                inside = (np.arange(lag, chunks.length) < size[:, None]) & (first <= source) & (source < stop)
                key = (source[inside] - first) * nodes + follower[inside]
                merged[lag].add(*run_of(key))
        shape = (stop - first, nodes)
        total = scipy.sparse.csr_array(shape, dtype=np.float32)
        for lag in lags:
            keys, count = merged.pop(lag).result()
            weighed = (np.exp(-recency * (lag - 2)) * count).astype(np.float32)
            place = tuple(x.astype(np.int32) for x in np.divmod(keys, nodes))
            total = total + scipy.sparse.csr_array((weighed, place), shape=shape)
        blocks.append(total)
    return scipy.sparse.vstack(blocks, format="csr")


def _chunk_count(chunk: Chunk) -> int:
    return len(chunk[1])


def _blocks(chunks: _Chunks, nodes: int) -> list[int]:
    """Bounds of neighbouring nodes whose followers can be counted together: 0, ..., n."""
    occurrences = np.zeros(nodes, np.int64)
    for tokens, _ in chunks.every():
        occurrences += np.bincount(tokens.ravel(), minlength=nodes)
    met = LAGS * np.cumsum(occurrences)
    inner = np.searchsorted(met, np.arange(FOLLOWERS, int(met[-1]), FOLLOWERS))
    return sorted({0, *inner.tolist(), nodes})


# ---- mixes


@dataclass(frozen=True, slots=True)
class _Positions:
    """The positions of some chunks but each chunk's first, whose mix says nothing but the node itself."""

    S: Tensor  # [T, d]
    source: Ints  # [T]
    target: Ints  # [T]
    place: Ints  # [T], of the edge in the index; -1: a default edge


class _Mixes:
    """What reaches each position, in a graph of these directions whose weights are zero."""

    def __init__(self, parameters: Parameters, config: SignalConfig, directions: Floats) -> None:
        self.index: EdgeIndex = parameters.index
        self.config, self.directions = config, torch.from_numpy(directions)
        self.alpha, self.scale = parameters.alpha, float(parameters.scale)
        self.energy = parameters.edges.initial.energies(self.index.slots()) + np.float32(RAISED)
        self.default = BASE_ENERGY + RAISED

    def each(self, chunks: Iterator[Chunk]) -> Iterator[_Positions]:
        """The positions of every group of chunks."""
        return map(self._positions, chunks)

    def _positions(self, chunk: Chunk) -> _Positions:
        tokens, size = chunk
        source, target = tokens[:, :-1], tokens[:, 1:]
        place = self.index.find(source.ravel(), target.ravel()).reshape(source.shape)
        private = place >= 0
        energy = np.where(private, self.energy[np.maximum(place, 0)] if len(self.energy) else 0.0, self.default)
        energy = np.concatenate([np.full((len(tokens), 1), self.default), energy[:, :-1]], 1)  # of the edge to x_i
        reached = np.where(
            np.concatenate([np.ones((len(tokens), 1), bool), private[:, :-1]], 1), source, self.index.nodes
        )
        r = self.directions[reached] * torch.from_numpy(energy.astype(np.float32))[..., None]  # [B, I, d]
        A = mixing_matrix(self.config, self.alpha, r.shape[1])
        S = normalised(A @ r)
        real = np.arange(1, tokens.shape[1]) < size[:, None]
        real[:, 0] = False
        if self.config.reset_after is not None:
            real &= np.arange(real.shape[1]) < self.config.reset_after
        return _Positions(S[torch.from_numpy(real)], source[real], target[real], place[real])


@dataclass(frozen=True, slots=True)
class _Means:
    """What the mixes before every edge, out of every source and into every target have in common."""

    own: Tensor  # [edges, d], o_uv
    target: Tensor  # [n, d], t_v
    source: Tensor  # [n, d], m_u
    inverse: Tensor  # [d, d], C^-1

    @classmethod
    def of(cls, mixes: _Mixes, chunks: _Chunks, folder: Path | None, stages: Stages) -> _Means:
        index, width = mixes.index, mixes.directions.shape[1]
        total, count = _zeros((index.edges, width), folder), np.zeros(index.edges, np.float32)
        out_of, into = np.zeros((index.nodes, width)), np.zeros((index.nodes, width))
        left, arrived = np.zeros(index.nodes), np.zeros(index.nodes)
        second = np.zeros((width, width))
        kept = chunks.kept()
        stage = stages.stage("counting the contexts of every edge", len(kept), "chunks")
        for found in mixes.each(stage.track(chunks.every(kept), size=_chunk_count)):
            S = found.S.numpy()
            second += (S.T @ S).astype(np.float64)
            private = found.place >= 0
            places, sums, times = _summed(S[private], found.place[private])
            total[places] += sums
            count[places] += times
            for key, sums_of, times_of in ((found.source, out_of, left), (found.target, into, arrived)):
                nodes, sums, times = _summed(S, key)
                sums_of[nodes] += sums
                times_of[nodes] += times
        m_u = out_of / np.maximum(left, 1)[:, None]
        m = out_of.sum(0) / max(1.0, left.sum())
        t_v = into / np.maximum(arrived, 1)[:, None] - np.where(arrived > 0, 1.0, 0.0)[:, None] * m
        within = (second - (m_u * left[:, None]).T @ m_u) / max(1.0, left.sum())
        source = np.repeat(np.arange(index.nodes), index.row_sizes())
        own = torch.from_numpy(total)
        for part in np.array_split(np.arange(index.edges), max(1, index.edges // 65536)):  # in place: it is large
            expected = torch.from_numpy(m_u[source[part]] + t_v[index.target[part]])
            n_uv = torch.from_numpy(count[part])[:, None]
            own[part] = ((own[part] - n_uv * expected) / (n_uv + KAPPA)).to(own.dtype)
        inverse = np.linalg.inv(within + RIDGE * np.eye(width))
        return cls(own, *(torch.from_numpy(x).float() for x in (t_v, m_u, inverse)))


def _zeros(shape: tuple[int, int], folder: Path | None) -> Floats:
    """In memory, or in a file without a name."""
    if folder is None or not shape[0]:
        return np.zeros(shape, np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    with disk_errors(folder, "counting contexts"), tempfile.TemporaryFile(dir=folder) as file:
        return np.memmap(file, np.float32, "w+", shape=shape)


def _summed(S: Floats, key: Ints) -> tuple[Ints, Floats, Ints]:
    """The sums of the rows [T, d] that have the same key: the keys, their sums and how many each has."""
    order = np.argsort(key, kind="stable")
    keys, first, times = np.unique(key[order], return_index=True, return_counts=True)
    ones = scipy.sparse.csr_array(
        (np.ones(len(key), np.float32), order, np.append(first, len(key))), shape=(len(keys), len(key))
    )
    return keys, ones @ S, times


# ---- how far, and into the edges


def _chosen_strengths(
    mixes: _Mixes, means: _Means, chunks: _Chunks, stages: Stages
) -> tuple[tuple[float, float], float, float, int]:
    """beta and gamma, the perplexity without and with them, and how many positions that was asked of."""
    pairs = torch.cartesian_prod(torch.tensor(STRENGTHS), torch.tensor(STRENGTHS))
    judge = _Judge(mixes, means, pairs, torch.log(torch.from_numpy(mixes.index.defaults()).double()).float())
    losses, positions = torch.zeros(len(pairs), dtype=torch.float64), 0
    some = chunks.left_out()
    total = int(np.maximum(chunks.size[some] - 2, 0).sum())  # neither the first position nor the last token
    stage = stages.stage("choosing the strengths of the contexts", total, "positions")
    for found in mixes.each(chunks.every(some)):
        order = np.argsort(found.source, kind="stable")
        sources, first = np.unique(found.source[order], return_index=True)
        rows = zip(sources.tolist(), np.split(order, first[1:]), strict=True)
        for row in rows:
            for loss in judge.losses(found, row):
                losses += loss
            stage.advance(len(row[1]))
        positions += len(order)
    best = int(losses.argmin())
    perplexity = torch.exp(losses / max(1, positions)).tolist()
    chosen = STRENGTHS[best // len(STRENGTHS)], STRENGTHS[best % len(STRENGTHS)]
    return chosen, perplexity[0], perplexity[best], positions


@dataclass(frozen=True, slots=True)
class _Judge:
    """The loss of every pair of strengths."""

    mixes: _Mixes
    means: _Means
    pairs: Tensor  # [P, 2], beta and gamma
    log_defaults: Tensor  # [n], log of the number of default edges of each node

    def losses(self, found: _Positions, row: tuple[int, Ints]) -> list[Tensor]:
        """The summed losses in nats, float64 [P], of the positions of one source, ``row``: the node
        and its positions. A term for each `TOGETHER` of them."""
        u, of_u = row
        index, mixes, means = self.mixes.index, self.mixes, self.means
        beta, gamma = self.pairs[:, :1, None], self.pairs[:, 1:, None]
        edges = index.row(u)
        own, target = means.own[edges], means.target[index.target[edges]]
        w = torch.cat([target, own]) @ means.inverse
        half = 0.5 * (w.view(2, -1, w.shape[1]) * (target + own)).sum(2)
        rest = mixes.scale * torch.from_numpy(mixes.energy[edges] - mixes.default)
        terms = []
        for here in np.array_split(of_u, -(-len(of_u) // TOGETHER)):
            along = ((found.S[here] - means.source[u]) @ w.T).view(len(here), 2, -1)
            of_target, of_own = (mixes.scale * (along - half)).unbind(1)
            # Of every pair of strengths, position and candidate; those of the default edges are 0.
            logits = torch.nn.functional.pad(rest + beta * of_target + gamma * of_own, (0, 1))
            place = torch.from_numpy(np.where(found.place[here] >= 0, found.place[here] - edges.start, -1))
            reached = logits.gather(2, (place % logits.shape[2]).expand(len(self.pairs), -1)[..., None])[..., 0]
            logits[..., -1] = self.log_defaults[u]
            terms.append((logits.logsumexp(2) - reached).double().sum(1))
        return terms


def _write(
    parameters: Parameters, mixes: _Mixes, means: _Means, strengths: tuple[float, float], stages: Stages
) -> None:
    """Every edge and the small parameters."""
    beta, gamma = strengths
    index, pool, directions = parameters.index, parameters.edges, mixes.directions
    source = np.repeat(np.arange(index.nodes), index.row_sizes())
    slot = index.slots()
    order = np.argsort(slot, kind="stable")  # page after page
    stage = stages.stage(f"computing {index.edges:,} edges", index.edges, "edges")
    for begin in range(0, index.edges, WRITTEN * pool.page_edges):
        some = order[begin : begin + WRITTEN * pool.page_edges]
        own, target = means.own[some], means.target[index.target[some]]
        w = (beta * target + gamma * own) @ means.inverse
        c = (w * (means.source[source[some]] + 0.5 * (target + own))).sum(1)
        along = directions[index.target[some]]
        rest = torch.from_numpy(mixes.energy[some]) - c
        pool.put(WEIGHT, slot[some], w[:, :, None] * along[:, None, :])
        pool.put(BIAS, slot[some], _with_energy(along, rest.clamp_min(0.5)))
        stage.advance(len(some))
    parameters.default_b.copy_(_with_energy(directions[-1:], torch.full((1,), mixes.default))[0])
    parameters.node_bias.copy_(mixes.default * directions[:-1] - parameters.r_0)


def _with_energy(direction: Tensor, energy: Tensor) -> Tensor:
    """Biases [k, d] along these directions [k, d] that have these energies [k] at rest."""
    size = energy.clone()
    for _ in range(4):
        size = size * energy / gelu(size[:, None] * direction).norm(dim=1).clamp_min(1e-6)
    return size[:, None] * direction
