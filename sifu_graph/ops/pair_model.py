"""Counts as a model of the next token: interpolated Kneser-Ney, exact, with a piece of the text left out.

For a source u (a node or a clone), a target v and counts c (Chen & Goodman 1999, section 3; D is the discount of a
count, one D for each number of nodes in the name of a source)::

    p(v | u) = (c_uv - D(c_uv)) / c_u  +  b_u p(v | parent of u)       b_u = sum of D(c_uw) over w / c_u
    q_v      = (a_v - D'(a_v)) / a  +  (sum of D'(a_w) over w) / a / n

q stands for the parent of a node: a_v is the number of different sources before v, a their sum, D' the discounts of
those numbers, and n the number of nodes. A source that has no successor has the row of its parent. In logarithms, with
X_uv = (c_uv - D(c_uv)) / (c_u b_u p(v | parent of u))::

    log p(v | u) = log q_v  +  sum of log b_w + log(1 + X_wv) over w = u, its parent, ..., its node

A row is therefore log q, which all sources share, and log(1 + X) of the pairs that occur; log b_w shifts a whole row.
c_u, the sum of D after u, and q are figures of their own: an edit of a pair changes no other pair.

Leaving a piece of the text out is p with its occurrences taken out of all c_ut and c_u (`LeftOut`). Where a piece has
all occurrences of (u, t), the parent of u loses the one that it counts for (u, t), and so on; below a node, a_t loses
one for each such node. The discounts, a and the sum of D' stay: they are figures of the whole text. q without k > 1
predecessors is q without one, less (k - 1) / a, and at least q of a node without predecessors; that is exact where
three or more are left.

The module knows counts; it does not know text, signals or files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sifu_graph.arrays import Bools, Doubles, Ids, Integers, Ints, blocks, ranges
from sifu_graph.text.clone_tree import CloneTree
from sifu_graph.text.clones import CloneCounts
from sifu_graph.text.kneser_ney import Discounts, discount_of, estimate_discounts
from sifu_graph.text.pair_counts import PairCounts

BLOCK = 1 << 19
"""Pairs that are computed with at a time, where all are."""
KEPT = 1 << 21
"""Probabilities of rows of nodes that are kept, about: 16 MiB."""


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """What the counts lose where pieces of the text are left out: m pieces, each with some pairs and nodes.

    Attributes
    ----------
    first, pair, count
        int64 [m + 1], where the pairs of each piece begin; int64 [k], places in the table of pairs, ascending within a
        piece; int32 [k], what c loses, at most c.
    first_node, node, ratio
        int64 [m + 1], where the nodes of each piece begin; int32 [j], the nodes that lose predecessors; float64 [j], q
        without the piece over q.
    """

    first: Ints
    pair: Ints
    count: Ids
    first_node: Ints
    node: Ids
    ratio: Doubles

    def piece(self, number: int) -> LeftOut:
        """One of the pieces, alone."""
        pairs = slice(*self.first[number : number + 2].tolist())
        nodes = slice(*self.first_node[number : number + 2].tolist())
        return LeftOut(
            first=np.array([0, pairs.stop - pairs.start]),
            pair=self.pair[pairs],
            count=self.count[pairs],
            first_node=np.array([0, nodes.stop - nodes.start]),
            node=self.node[nodes],
            ratio=self.ratio[nodes],
        )

    @classmethod
    def joined(cls, pieces: Sequence[LeftOut]) -> LeftOut:
        """Single pieces, in their order."""

        def column(name: str) -> NDArray[Any]:
            return np.concatenate([getattr(piece, name) for piece in pieces])

        return cls(
            first=np.append(0, np.cumsum([len(piece.pair) for piece in pieces])),
            pair=column("pair"),
            count=column("count"),
            first_node=np.append(0, np.cumsum([len(piece.node) for piece in pieces])),
            node=column("node"),
            ratio=column("ratio"),
        )


@dataclass(frozen=True, kw_only=True)
class PairModel:
    """The model of the counts of a text, with m sources: n nodes, then the clones.

    Attributes
    ----------
    tree
        The clones.
    first
        int64 [m + 1]: where the pairs of each source begin.
    target, count
        int32 [pairs], ascending within a source, and int32 or int64 [pairs]; a pair that never occurred may be among
        them.
    total, discounted
        int64 [m] and float64 [m]: c_u, and the sum of D(c_uw) over w.
    discounts
        D of counts of 1, 2, and 3 or more, for nodes, for clones of two nodes, ...
    log_lower, log_less
        float64 [n]: log q_v, and log q_v with one predecessor less.
    added
        float64 [pairs]: what the edge of the pair adds to its energy, in nats; -inf: the pair is forbidden. It is no
        part of p. A clone has what its parent has, and its own. None: nothing.
    """

    tree: CloneTree
    first: Ints
    target: Ids
    count: Integers
    total: Ints
    discounted: Doubles
    discounts: tuple[Discounts, ...]
    log_lower: Doubles
    log_less: Doubles
    added: Doubles | None = None

    @classmethod
    def of(cls, counts: PairCounts, clones: CloneCounts | None = None) -> PairModel:
        """From the counts of all pairs of a text, and those of its clones."""
        n = counts.n
        predecessors = np.bincount(counts.target, minlength=n).astype(np.int64)
        lower = estimate_discounts(predecessors[predecessors > 0])
        total = max(int(predecessors.sum()), 1)
        taken = discount_of(predecessors, lower)
        floor = (taken.sum() / total if len(counts) else 1.0) / n
        less = np.maximum(predecessors - 1, 0)
        if clones is None:
            tree, first, target, count = CloneTree.empty(n), counts.row_start, counts.target, counts.count
        else:
            tree, first, target, count = clones.tree, clones.first, clones.target, clones.count
        discounts, occurrences, discounted = [], np.zeros(tree.sources, np.int64), np.zeros(tree.sources)
        for sources in tree.levels():
            discounts.append(estimate_discounts(count[first[sources.start] : first[sources.stop]]))
            for some in blocks(sources.stop, BLOCK // 16, start=sources.start):
                mine, size = count[first[some.start] : first[some.stop]], np.diff(first[some.start : some.stop + 1])
                at = np.repeat(np.arange(len(size)), size)
                occurrences[some] = np.bincount(at, mine, minlength=len(size))
                discounted[some] = np.bincount(at, discount_of(mine, discounts[-1]), minlength=len(size))
        return cls(
            tree=tree,
            first=first,
            target=target,
            count=count,
            total=occurrences,
            discounted=discounted,
            discounts=tuple(discounts),
            log_lower=np.log((predecessors - taken) / total + floor),
            log_less=np.log((less - discount_of(less, lower)) / total + floor),
        )

    @property
    def nodes(self) -> int:
        """n."""
        return len(self.log_lower)

    @cached_property
    def left(self) -> Doubles:
        """b_u, float64 [m]; 1 for a source that has no successor."""
        return np.where(self.total > 0, self.discounted / np.maximum(self.total, 1), 1.0)

    @cached_property
    def lower(self) -> Doubles:
        """q, float64 [n]."""
        return np.exp(self.log_lower)

    def sources_of(self, pair: Ints) -> Ints:
        """The sources of pairs, int64 [k]."""
        return np.searchsorted(self.first, pair, side="right") - 1

    def ratios(self) -> Iterator[tuple[slice, Doubles]]:
        """X of all pairs, in blocks."""
        p = np.empty(len(self.target))
        for sources in self.tree.levels():
            first, stop = int(self.first[sources.start]), int(self.first[sources.stop])
            for block in blocks(stop, BLOCK, start=first):  # the pairs of parents are done
                pair = np.arange(block.start, block.stop)
                source, target = self.sources_of(pair), self.target[block]
                ratio, p[block] = self._mixed(source, pair, self._lower(source, target, p))
                yield block, ratio

    def ratio_of(self, pair: Ints) -> Doubles:
        """X of some pairs, float64 [k]."""
        source = self.sources_of(pair)
        return self._mixed(source, pair, self._lower(source, self.target[pair]))[0]

    def log_p(self, pair: Ints) -> Doubles:
        """log p of some pairs, float64 [k]."""
        source = self.sources_of(pair)
        return np.log(self._mixed(source, pair, self._lower(source, self.target[pair]))[1])

    def added_to(self, pair: Ints) -> Doubles:
        """What the edges of pairs and of their sources' ancestors add to their energies, float64 [k]."""
        found, source, target = np.zeros(len(pair)), self.sources_of(pair), self.target[pair]
        if self.added is not None:
            for here, level in self._levels(source):
                at = self.find(level, target[here])
                found[here] += np.where(at >= 0, self.added[at], 0.0)
        return found

    def row(self, source: int) -> Doubles:
        """p of every node after a source, float64 [n], to be read. Those of some nodes are kept for the next time."""
        found = self._kept.get(source)
        if found is None:
            parent = int(self.tree.parents[source])
            found = self.left[source] * (self.lower if parent < 0 else self.row(parent))
            pairs = slice(int(self.first[source]), int(self.first[source + 1]))
            count, discounts = self.count[pairs], self.discounts[int(self.tree.depth[source])]
            found[self.target[pairs]] += (count - discount_of(count, discounts)) / max(int(self.total[source]), 1)
            if parent < 0:
                if len(self._kept) * self.nodes >= KEPT:
                    self._kept.clear()
                self._kept[source] = found
        return found

    @cached_property
    def _kept(self) -> dict[int, Doubles]:
        return {}

    def _mixed(self, source: Ints, pair: Ints, lower: Doubles) -> tuple[Doubles, Doubles]:
        """X and p(v | u), float64 [k] each, of pairs (-1: none) of these sources; ``lower``: p(v | parent of u)."""
        count = np.where(pair >= 0, self.count[pair], 0)
        kept = (count - discount_at(count, self.tree.depth[source], self.discounts)) / np.maximum(self.total[source], 1)
        rest = self.left[source] * lower
        return kept / rest, kept + rest

    def _lower(self, source: Ints, target: Integers, p: Doubles | None = None) -> Doubles:
        """p(v | parent of u) of single pairs, float64 [k]. ``p``: that of all pairs of parents, if it is known."""
        parent = self.tree.parents[source].astype(np.int64)
        found, inner = self.lower[target], np.flatnonzero(parent >= 0)
        if not len(inner):
            return found
        above, goal = parent[inner], target[inner]
        pair = self.find(above, goal)
        if p is not None and (pair >= 0).all():
            found[inner] = p[pair]
        else:
            found[inner] = self._mixed(above, pair, self._lower(above, goal))[1]
        return found

    def find(self, source: Ints, target: Integers) -> Ints:
        """The places of pairs, int64 [k]; -1 where the table does not have one."""
        return find_pairs(self.first, self.target, source, target)

    def chain(self, source: int) -> list[int]:
        """A source, its parent, ..., its node."""
        found = [source]
        while (parent := int(self.tree.parents[found[-1]])) >= 0:
            found.append(parent)
        return found

    def with_edges(self, edges: Ints, nats: Doubles, forbidden: Ints) -> PairModel:
        """The same p, with what edges add to their energies in place of what they added.

        ``edges`` and ``forbidden`` are pairs as u * n + v, int64 [k], each once, where u is a node or a clone; ``nats``
        are float64 of the edges, -inf for one that is forbidden.
        """
        adds = nats != 0
        keys = np.concatenate([edges[adds], forbidden])
        nats = np.concatenate([nats[adds], np.full(len(forbidden), -np.inf)])
        if not len(keys):
            return self if self.added is None else dataclasses.replace(self, added=None)
        order = np.argsort(keys)
        nats, (source, goal) = nats[order], np.divmod(keys[order], self.nodes)
        place, known = lower_bounds(self.first, self.target, source, goal)
        new = np.flatnonzero(~known)
        added = np.zeros(len(self.target) + len(new))
        added[place + np.cumsum(~known) - ~known] = nats
        more = np.bincount(source[new] + 1, minlength=len(self.first))
        return dataclasses.replace(
            self,
            first=self.first + np.cumsum(more),
            target=np.insert(self.target, place[new], goal[new]),
            count=np.insert(self.count, place[new], 0),
            added=added,
        )

    @cached_property
    def _bans(self) -> bool:
        """Whether a pair is forbidden."""
        return self.added is not None and bool(np.isneginf(self.added).any())

    def is_banned(self, source: Integers, target: Integers) -> Bools:
        """Whether pairs are forbidden after a source or after one of its ancestors, bool of their shape."""
        found = np.zeros(source.shape, bool)
        if not self._bans:
            return found
        assert self.added is not None
        at = source.astype(np.int64).ravel()
        for here, level in self._levels(at):
            pair = self.find(level, target.ravel()[here])
            found.ravel()[here] |= (pair >= 0) & np.isneginf(self.added[pair])
        return found

    def with_edge(self, source: int, target: int, nats: float) -> PairModel:
        """The same p; the edge of a source adds ``nats`` more to its energy, rounded as in a store. -inf: forbidden."""
        pair = int(self.find(np.array([source]), np.array([target]))[0])
        added = np.zeros(len(self.target)) if self.added is None else self.added
        if pair >= 0:
            added = added.copy()
            added[pair] = np.float32(added[pair] + nats)
            return dataclasses.replace(self, added=added)
        begin, end = self.first[source : source + 2].tolist()
        place = begin + int(np.searchsorted(self.target[begin:end], target))
        return dataclasses.replace(
            self,
            first=self.first + (np.arange(len(self.first)) > source),
            target=np.insert(self.target, place, target),
            count=np.insert(self.count, place, 0),
            added=np.insert(added, place, np.float32(nats)),
        )

    def without_edge(self, source: int, target: int) -> PairModel:
        """The same p; the edge of a source adds nothing to its energy. The model itself, if it adds nothing now."""
        pair = int(self.find(np.array([source]), np.array([target]))[0])
        if self.added is None or pair < 0 or not self.added[pair]:
            return self
        added = self.added.copy()
        added[pair] = 0.0
        return dataclasses.replace(self, added=added)

    def without_node(self, node: int) -> PairModel:
        """Without a node, its pairs and its clones; the ids after it decrease. Nothing else changes."""
        tree, place = self.tree.without(np.arange(self.nodes) == node)
        source = place[np.repeat(np.arange(self.tree.sources), np.diff(self.first))]
        target = place[self.target]
        kept = (source >= 0) & (target >= 0)
        source, target = source[kept], target[kept]
        others = place >= 0
        return dataclasses.replace(
            self,
            tree=tree,
            first=np.searchsorted(source, np.arange(tree.sources + 1)).astype(np.int64),
            target=target.astype(np.int32),
            count=self.count[kept],
            total=self.total[others],
            discounted=self.discounted[others],
            log_lower=self.log_lower[others[: self.nodes]],
            log_less=self.log_less[others[: self.nodes]],
            added=None if self.added is None else self.added[kept],
        )

    def added_rows(self, source: Ints) -> Doubles:
        """`added` of every node after these sources, float64 [k, n] for int64 [k]."""
        found = np.zeros((len(source), self.nodes))
        if self.added is not None:
            for here, at in self._levels(source):
                row, pair = self._pairs_of(at)
                found[here[row], self.target[pair]] += self.added[pair]
        return found

    def rows(self, source: Ints) -> Doubles:
        """log p of every node after these sources, float64 [k, n] for int64 [k]."""
        return np.log(np.stack([self.row(at) for at in source.tolist()]))

    def left_out(self, piece: Ints, source: Ints, target: Integers, *, pieces: int) -> LeftOut:
        """What the counts lose where pieces are left out.

        ``piece``, ``source`` and ``target`` are int64 [k] of all occurrences in the pieces, which are numbered from 0.
        Occurrences that the table does not have are passed over.
        """
        size, depth = max(1, len(self.target)), self.tree.depth[source]
        taken, gone = [], (np.empty(0, np.int64),) * 3  # of the level below: their parents lose one for each
        for level in range(int(depth.max(initial=0)), -1, -1):
            here = depth == level
            at, u, v = (np.concatenate([x[here], y]) for x, y in zip((piece, source, target), gone, strict=True))
            pair = self.find(u, v)
            keys, lost = np.unique((at * size + pair)[pair >= 0], return_counts=True)
            at, pair = np.divmod(keys, size)
            lost = np.minimum(lost, self.count[pair])
            taken.append((keys[lost > 0], lost[lost > 0]))
            last = (lost > 0) & (lost == self.count[pair])
            gone = at[last], self.tree.parents[self.sources_of(pair[last])].astype(np.int64), self.target[pair[last]]
        keys, lost = (np.concatenate(column) for column in zip(*taken, strict=True))
        order = np.argsort(keys)
        nodes, less = np.unique(gone[0] * self.nodes + gone[2], return_counts=True)
        node = nodes % self.nodes
        return LeftOut(
            first=np.searchsorted(keys[order], np.arange(pieces + 1) * size),
            pair=keys[order] % size,
            count=lost[order].astype(np.int32),
            first_node=np.searchsorted(nodes, np.arange(pieces + 1) * self.nodes),
            node=node.astype(np.int32),
            ratio=self._lower_without(node, less) / self.lower[node],
        )

    def _lower_without(self, node: Ints, less: Ints) -> Doubles:
        """q of nodes without some of their predecessors, float64 [k]; ``less`` is at least 1."""
        without = np.exp(self.log_less)
        step = float((self.lower - without).max())  # 1 / a: that of a node with many predecessors
        found: Doubles = np.maximum(without[node] - (less - 1) * step, without.min())
        return found

    def rows_without(self, source: Ints, piece: Ints, out: LeftOut) -> Doubles:
        """As `rows`, each without a piece of the text, float64 [k, n] for int64 [k] each."""
        p = np.tile(self.lower, (len(source), 1))
        lost = [slice(*out.first[number : number + 2].tolist()) for number in piece]
        for k, number in enumerate(piece):
            nodes = slice(*out.first_node[number : number + 2].tolist())
            p[k, out.node[nodes]] *= out.ratio[nodes]
        for here, at in self._levels(source):
            depth = self.tree.depth[at][:, None]
            row, pair = self._pairs_of(at)
            whole = np.zeros((len(at), self.nodes), np.int64)
            whole[row, self.target[pair]] = self.count[pair]
            count = whole.copy()
            for k, (u, mine) in enumerate(zip(at, (lost[x] for x in here), strict=True)):
                own = self.sources_of(out.pair[mine]) == u
                count[k, self.target[out.pair[mine][own]]] -= out.count[mine][own]
            taken = discount_at(count, np.broadcast_to(depth, count.shape), self.discounts)
            changed = taken - discount_at(whole, np.broadcast_to(depth, count.shape), self.discounts)
            total = self.total[at] - (whole - count).sum(1)
            discounted = self.discounted[at] + changed.sum(1)
            left = np.where(total > 0, discounted / np.maximum(total, 1), 1.0)
            p[here] = (count - taken) / np.maximum(total, 1)[:, None] + left[:, None] * p[here]
        found: Doubles = np.log(p)
        return found

    def _levels(self, source: Ints) -> list[tuple[Ints, Ints]]:
        """The nodes of sources, then their ancestors of two nodes, ..., the sources last.

        Each entry is (which of the sources have an ancestor of this depth, these ancestors), int64 [k] each.
        """
        depth = self.tree.depth[source]
        found = []
        for k in range(1 + int(depth.max(initial=0))):
            here = np.flatnonzero(depth >= k)
            at, above = source[here], depth[here] - k
            while (up := above > 0).any():
                at = np.where(up, self.tree.parents[at], at)
                above = above - up
            found.append((here, at.astype(np.int64)))
        return found

    def _pairs_of(self, source: Ints) -> tuple[Ints, Ints]:
        """The pairs of these sources: which of the sources, and which pair, int64 [k]."""
        size = np.diff(self.first)[source]
        return np.repeat(np.arange(len(source)), size), ranges(self.first[source], size)


def discount_at(count: Integers, depth: Ints, discounts: tuple[Discounts, ...]) -> Doubles:
    """The discount of each count of sources of these depths, float64 of their shape."""
    return np.array([(0.0, *level) for level in discounts])[depth, np.minimum(count, 3)]


def find_pairs(first: Ints, table: Integers, source: Ints, target: Integers) -> Ints:
    """The places of pairs in a table, int64 [k]; -1 where it does not have one.

    ``first``, int64 [sources + 1]: where the pairs of each source begin; ``table`` [pairs]: their targets, ascending.
    """
    place, here = lower_bounds(first, table, source, target)
    return np.where(here, place, -1)


def lower_bounds(first: Ints, table: Integers, source: Ints, target: Integers) -> tuple[Ints, Bools]:
    """As `find_pairs`: the places where pairs are or would be inserted, int64 [k], and whether they are there."""
    if not len(table):
        return np.zeros(len(source), np.int64), np.zeros(len(source), bool)
    low, end = first[source], first[source + 1]
    high = end
    for _ in range(int((end - low).max(initial=0)).bit_length()):  # one more bit of every place
        middle = (low + high) // 2
        after = (middle < high) & (table[np.minimum(middle, len(table) - 1)] < target)
        low, high = np.where(after, middle + 1, low), np.where(after, high, middle)
    return low, (low < end) & (table[np.minimum(low, len(table) - 1)] == target)
