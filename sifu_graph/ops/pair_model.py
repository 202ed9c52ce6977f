"""Counts of pairs as a model of the next token: interpolated Kneser-Ney of order 2, exact, with leave-one-out.

For a source u, a target v and counts c (Chen & Goodman 1999, section 3; D is the discount of a count)::

    p(v | u) = (c_uv - D(c_uv)) / c_u  +  b_u q_v        b_u = sum of D(c_uw) over w / c_u
    q_v      = (a_v - D'(a_v)) / a  +  (sum of D'(a_w) over w) / a / n

where a_v is the number of different sources before v, a their sum, D' the discounts of those numbers, and n the number
of nodes. A source that has no successor has the row q. In logarithms, with X_uv = (c_uv - D(c_uv)) / (c_u b_u q_v)::

    log p(v | u) = log b_u + log q_v + log(1 + X_uv)

A row is therefore log q, which all sources share, and log(1 + X) of the pairs that occur; log b_u shifts a whole row.
c_u, the sum of D after u, and q are figures of their own: an edit of a pair changes no other pair.

Leave-one-out is p with one occurrence of (u, t) taken out of c_uv and c_u, and, where it was the only one, out of a_t.
The discounts, a and the sum of D' stay: they are figures of the whole text. It multiplies every X_uv of the row by one
factor, which is 1 for counts of 4 and more, and changes X_ut and q_t.

The module knows counts; it does not know text, signals or files.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sifu_graph.arrays import Doubles, Ids, Ints, ranges
from sifu_graph.text.kneser_ney import Discounts, discount_of, estimate_discounts
from sifu_graph.text.pair_counts import PairCounts


@dataclass(frozen=True, kw_only=True)
class PairModel:
    """The model of the counts of a text.

    Attributes
    ----------
    first
        int64 [n + 1]: where the pairs of each source begin.
    target, count
        int32 [pairs], ascending within a source, and int64 [pairs]; a pair that never occurred may be among them.
    total, discounted
        int64 [n] and float64 [n]: c_u, and the sum of D(c_uw) over w.
    discounts
        D of counts of 1, 2, and 3 or more.
    log_lower, log_less
        float64 [n]: log q_v, and log q_v with one predecessor less.
    added
        float64 [pairs]: what the edge of the pair adds to its energy, in nats; -inf: the pair is forbidden. It is no
        part of p. None: nothing.
    """

    first: Ints
    target: Ids
    count: Ints
    total: Ints
    discounted: Doubles
    discounts: Discounts
    log_lower: Doubles
    log_less: Doubles
    added: Doubles | None = None

    @classmethod
    def of(cls, counts: PairCounts) -> PairModel:
        """From the counts of all pairs of a text."""
        n = counts.n
        predecessors = np.bincount(counts.target, minlength=n).astype(np.int64)
        lower = estimate_discounts(predecessors[predecessors > 0])
        total = max(int(predecessors.sum()), 1)
        taken = discount_of(predecessors, lower)
        floor = (taken.sum() / total if len(counts) else 1.0) / n
        less = np.maximum(predecessors - 1, 0)
        discounts = estimate_discounts(counts.count)
        return cls(
            first=counts.row_start,
            target=counts.target,
            count=counts.count,
            total=counts.row_total,
            discounted=np.bincount(counts.source, discount_of(counts.count, discounts), minlength=n).astype(np.float64),
            discounts=discounts,
            log_lower=np.log((predecessors - taken) / total + floor),
            log_less=np.log((less - discount_of(less, lower)) / total + floor),
        )

    @property
    def nodes(self) -> int:
        """n."""
        return len(self.log_lower)

    @cached_property
    def source(self) -> Ints:
        """int64 [pairs]."""
        return np.repeat(np.arange(self.nodes), np.diff(self.first))

    @cached_property
    def keys(self) -> Ints:
        """u * n + v of each pair, int64 [pairs], ascending."""
        return self.source * self.nodes + self.target

    @cached_property
    def left(self) -> Doubles:
        """b_u, float64 [n]; 1 for a source that has no successor."""
        return np.where(self.total > 0, self.discounted / np.maximum(self.total, 1), 1.0)

    @cached_property
    def ratio(self) -> Doubles:
        """X, float64 [pairs]."""
        kept = self.count - discount_of(self.count, self.discounts)
        return kept / (np.maximum(self.total, 1) * self.left)[self.source] / np.exp(self.log_lower)[self.target]

    def with_edges(self, edges: Ints, nats: Doubles, forbidden: Ints) -> PairModel:
        """The same p, with what edges add to their energies.

        ``edges`` and ``forbidden`` are pairs as u * n + v, int64 [k], each once; ``nats`` are float64 of the edges.
        """
        adds = nats != 0
        keys = np.concatenate([edges[adds], forbidden])
        nats = np.concatenate([nats[adds], np.full(len(forbidden), -np.inf)])
        if not len(keys):
            return self
        mine = self.keys
        every = np.union1d(mine, keys)
        count, added = np.zeros(len(every), np.int64), np.zeros(len(every))
        count[np.searchsorted(every, mine)] = self.count
        added[np.searchsorted(every, keys)] = nats
        first = np.searchsorted(every, np.arange(self.nodes + 1) * self.nodes).astype(np.int64)
        target = (every % self.nodes).astype(np.int32)
        return dataclasses.replace(self, first=first, target=target, count=count, added=added)

    def without_edge(self, source: int, target: int) -> PairModel:
        """The same p; the edge adds nothing to its energy."""
        if self.added is None:
            return self
        mine = self.keys == source * self.nodes + target
        return dataclasses.replace(self, added=np.where(mine, 0.0, self.added))

    def without_node(self, node: int) -> PairModel:
        """Without a node and its pairs; the ids after it decrease by one. Nothing else changes."""
        kept = (self.source != node) & (self.target != node)
        source, target = self.source[kept], self.target[kept]
        others = np.arange(self.nodes) != node
        return dataclasses.replace(
            self,
            first=np.searchsorted(source - (source > node), np.arange(self.nodes)).astype(np.int64),
            target=(target - (target > node)).astype(np.int32),
            count=self.count[kept],
            total=self.total[others],
            discounted=self.discounted[others],
            log_lower=self.log_lower[others],
            log_less=self.log_less[others],
            added=None if self.added is None else self.added[kept],
        )

    def added_rows(self, source: Ints) -> Doubles:
        """`added` of every node after these sources, float64 [k, n] for int64 [k]."""
        found = np.zeros((len(source), self.nodes))
        if self.added is not None:
            row, pair = self._pairs_of(source)
            found[row, self.target[pair]] = self.added[pair]
        return found

    def rows(self, source: Ints) -> Doubles:
        """log p of every node after these sources, float64 [k, n] for int64 [k]."""
        found = np.log(self.left[source])[:, None] + self.log_lower
        row, pair = self._pairs_of(source)
        found[row, self.target[pair]] += np.log1p(self.ratio[pair])
        return found

    def rows_without(self, source: Ints, target: Ints) -> Doubles:
        """As `rows`, each without one occurrence of its own pair, float64 [k, n].

        ``source`` and ``target`` are int64 [k]. A pair that never occurred changes nothing.
        """
        here = np.arange(len(source))
        row, pair = self._pairs_of(source)
        count = np.zeros((len(source), self.nodes), np.int64)
        count[row, self.target[pair]] = self.count[pair]
        mine = count[here, target]
        occurs = mine > 0
        count[here, target] -= occurs
        lower = np.tile(self.log_lower, (len(source), 1))
        lower[here, target] = np.where(mine == 1, self.log_less[target], self.log_lower[target])
        changed = discount_of(mine - occurs, self.discounts) - discount_of(mine, self.discounts)
        discounted = (self.discounted[source] + changed)[:, None]
        total = (self.total[source] - occurs)[:, None]
        left = np.where(total > 0, discounted / np.maximum(total, 1), 1.0)
        found: Doubles = np.log(
            (count - discount_of(count, self.discounts)) / np.maximum(total, 1) + left * np.exp(lower)
        )
        return found

    def _pairs_of(self, source: Ints) -> tuple[Ints, Ints]:
        """The pairs of these sources: which of the sources, and which pair, int64 [k]."""
        size = np.diff(self.first)[source]
        return np.repeat(np.arange(len(source)), size), ranges(self.first[source], size)
