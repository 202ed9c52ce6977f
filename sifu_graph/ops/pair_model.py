"""Counts of pairs as a model of the next token: interpolated Kneser-Ney of order 2, exact, with leave-one-out.

For a source u, a target v and counts c (Chen & Goodman 1999, section 3; D is the discount of a count)::

    p(v | u) = (c_uv - D(c_uv)) / c_u  +  b_u q_v        b_u = sum of D(c_uw) over w / c_u
    q_v      = (a_v - D'(a_v)) / a  +  (sum of D'(a_w) over w) / a / n

where a_v is the number of different sources before v, a their sum, D' the discounts of those numbers, and n the number
of nodes. A source that has no successor has the row q. In logarithms, with X_uv = (c_uv - D(c_uv)) / (c_u b_u q_v)::

    log p(v | u) = log b_u + log q_v + log(1 + X_uv)

A row is therefore log q, which all sources share, and log(1 + X) of the pairs that occur; log b_u shifts a whole row.

Leave-one-out is p with one occurrence of (u, t) taken out of c_uv and c_u, and, where it was the only one, out of a_t.
The discounts, a and the sum of D' stay: they are figures of the whole text. It multiplies every X_uv of the row by one
factor, which is 1 for counts of 4 and more, and changes X_ut and q_t.

The module knows counts; it does not know text, signals or files.
"""

from __future__ import annotations

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
        int32 [pairs], ascending within a source, and int64 [pairs], at least 1.
    discounts
        D of counts of 1, 2, and 3 or more.
    log_lower, log_less
        float64 [n]: log q_v, and log q_v with one predecessor less.
    """

    first: Ints
    target: Ids
    count: Ints
    discounts: Discounts
    log_lower: Doubles
    log_less: Doubles

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
        return cls(
            first=counts.row_start,
            target=counts.target,
            count=counts.count,
            discounts=estimate_discounts(counts.count),
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
    def total(self) -> Ints:
        """c_u, int64 [n]."""
        return np.diff(np.append(0, np.cumsum(self.count))[self.first])

    @cached_property
    def left(self) -> Doubles:
        """b_u, float64 [n]; 1 for a source that has no successor."""
        taken = np.bincount(self.source, discount_of(self.count, self.discounts), minlength=self.nodes)
        return np.where(self.total > 0, taken / np.maximum(self.total, 1), 1.0)

    @cached_property
    def ratio(self) -> Doubles:
        """X, float64 [pairs]."""
        kept = self.count - discount_of(self.count, self.discounts)
        return kept / (self.total * self.left)[self.source] / np.exp(self.log_lower)[self.target]

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
        taken = discount_of(count, self.discounts)
        total = count.sum(1, keepdims=True)
        left = np.where(total > 0, taken.sum(1, keepdims=True) / np.maximum(total, 1), 1.0)
        found: Doubles = np.log((count - taken) / np.maximum(total, 1) + left * np.exp(lower))
        return found

    def _pairs_of(self, source: Ints) -> tuple[Ints, Ints]:
        """The pairs of these sources: which of the sources, and which pair, int64 [k]."""
        size = np.diff(self.first)[source]
        return np.repeat(np.arange(len(source)), size), ranges(self.first[source], size)
