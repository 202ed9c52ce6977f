"""Baselines on the same text from counts: unigram, and interpolated Kneser-Ney of order 2, 3 and 4.

Modified Kneser-Ney with three discounts a level (Chen & Goodman 1999, section 3), interpolated down to the uniform
distribution: for a history h and its shorter form h',

    p(w | h) = (c(h w) - D(c(h w))) / c(h .)  +  (sum of D over h .) / c(h .) * p(w | h')

where c counts occurrences at the highest order, and below it the different tokens before the n-gram. Each document is
padded at its start with marks that are never predicted, so that its first tokens have a history too. A history that
never occurred gives the probability of the shorter one.

The module knows node ids and documents. Memory: about 75 bytes for each distinct n-gram of the
highest order (1.0 GiB for 17.6 million tokens with 14.7 million of them).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sifu_graph.arrays import Doubles, Integers, Ints, Keys
from sifu_graph.text.encoded import Split
from sifu_graph.text.merged_counts import MergedCounts, run_of

Discounts = tuple[float, float, float]
"""Taken off n-grams that occurred once, twice, more often."""

ORDERS = (2, 3, 4)
BLOCK_TOKENS = 1 << 20


@dataclass(frozen=True, slots=True)
class Level:
    """The n-grams of one order with one kind of count.

    Attributes
    ----------
    keys, count
        uint64 and int64 [grams]: the n-grams, ascending, and their counts.
    discounts
        The discounts of counts of 1, 2, and 3 or more.
    histories, total
        uint64 and float64 [histories]: the histories, ascending, and the sum of the counts after each.
    left
        float64 [histories]: the probability that goes to the shorter history.
    """

    keys: Keys  # [grams], ascending
    count: Ints  # [grams]
    discounts: Discounts
    histories: Keys  # [histories], ascending
    total: Doubles  # [histories]
    left: Doubles  # [histories], share of the shorter history

    @classmethod
    def of(cls, keys: Keys, count: Ints, base: np.uint64) -> Level:
        """From sorted n-grams, uint64 [grams], and their counts, int64 [grams]."""
        discounts = estimate_discounts(count)
        history = keys // base
        first = np.flatnonzero(np.append(True, history[1:] != history[:-1]))
        total = np.add.reduceat(count, first).astype(np.float64)
        left = np.add.reduceat(discount_of(count, discounts), first) / total
        return cls(keys, count, discounts, history[first], total, left)

    def interpolated(self, keys: Keys, base: np.uint64, lower: Doubles) -> Doubles:
        """p of the last token of each n-gram, float64 [m].

        ``keys`` are the n-grams, uint64 [m]; ``lower`` is p by the shorter history, float64 [m].
        """
        count = _looked_up(self.keys, keys, self.count)
        at = np.searchsorted(self.histories, keys // base)
        at = np.minimum(at, len(self.histories) - 1)
        known = self.histories[at] == keys // base
        discounted = count - discount_of(count, self.discounts)
        return np.where(known, discounted / self.total[at] + self.left[at] * lower, lower)


def _looked_up(keys: Keys, wanted: Keys, values: Ints) -> Ints:
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)


class KneserNey:
    """All orders up to the highest, from one pass over a text.

    Parameters
    ----------
    split
        The training documents.
    n
        Number of nodes.
    orders
        The orders to compute. Those whose n-grams do not fit in 64 bits are left out (the attribute `orders` has the
        others): order 4 fits up to 65,535 nodes.
    """

    def __init__(self, split: Split, *, n: int, orders: Sequence[int] = ORDERS) -> None:
        self.n = n
        self.base = np.uint64(n + 1)
        self.orders = [order for order in sorted(orders) if (n + 1) ** order <= 2**64]
        keys, count = _count(split, n=n, order=max(self.orders, default=1))
        self._first: dict[int, Level] = {}  # counts of occurrences
        self._lower: dict[int, Level] = {}  # numbers of different tokens before
        for order in range(max(self.orders, default=1), 0, -1):
            if order in self.orders or order == 1:
                self._first[order] = Level.of(keys, count, self.base)
            if order == 1:
                break
            keys, count, before = _shortened(keys, count, modulus=np.uint64((n + 1) ** (order - 1)))
            self._lower[order - 1] = Level.of(keys, before, self.base)

    def probabilities(self, split: Split, places: Ints) -> Iterator[tuple[str, Doubles]]:
        """Yields (name, p of the token at each place, float64 [m]) for the unigram and every order.

        Parameters
        ----------
        split
            The documents that are predicted.
        places
            int64 [m], places in ``split.ids``, none of which is the first of its document.
        """
        top = max(self.orders, default=1)
        grams = _grams(split, places, n=self.n, order=top)
        seen = self._first[1]
        once = _looked_up(seen.keys, grams[1], seen.count) + 1
        yield "unigram", once / (float(seen.count.sum()) + self.n)
        p = np.full(len(places), 1.0 / self.n)
        for order in range(1, top + 1):
            if order in self.orders:
                yield f"kneser-ney-{order}", self._first[order].interpolated(grams[order], self.base, p)
            if order < top:
                p = self._lower[order].interpolated(grams[order], self.base, p)

    def nats(self, split: Split, places: Ints, *, without: int | None = None) -> dict[str, float]:
        """The sum of -log p (in nats) over the places, int64 [m], by the name of the model.

        Places of the node ``without`` are left out.
        """
        sums: dict[str, float] = {}
        if without is not None:
            places = places[split.ids[places] != without]
        for begin in range(0, len(places), BLOCK_TOKENS):
            for name, p in self.probabilities(split, places[begin : begin + BLOCK_TOKENS]):
                sums[name] = sums.get(name, 0.0) - float(np.log(p).sum())
        return sums


@dataclass(frozen=True, slots=True)
class Baseline:
    """The figures of a baseline on the text that the graph was evaluated on.

    ``bits_per_character`` is None where the text has no characters. ``known_perplexity`` leaves out unknown tokens.
    """

    name: str
    perplexity: float
    bits_per_token: float
    bits_per_character: float | None
    known_perplexity: float


def every_place(split: Split) -> Ints:
    """All places of a split except the first of each document, int64: the tokens that can be predicted."""
    return np.flatnonzero(~split.begins()[: split.tokens])


def baselines(
    sums: dict[str, float], known_sums: dict[str, float], *, tokens: int, known: int, characters: int | None
) -> list[Baseline]:
    """The figures of each model.

    Parameters
    ----------
    sums, known_sums
        The sum of nats of each model over all tokens, and over those that are known.
    tokens, known, characters
        Number of tokens, of those that are known, and of characters; None: the text has none.
    """
    made = []
    for name, nats in sums.items():
        bits = nats / math.log(2.0)
        made.append(
            Baseline(
                name=name,
                perplexity=math.exp(nats / tokens),
                bits_per_token=bits / tokens,
                bits_per_character=bits / characters if characters else None,
                known_perplexity=math.exp(known_sums.get(name, 0.0) / known) if known else math.nan,
            )
        )
    return made


# ---- counting


def _grams(split: Split, places: Ints, *, n: int, order: int) -> dict[int, Keys]:
    """The n-grams that end at these places, by their order, as numbers: the last token is the lowest digit."""
    start = split.offsets[np.searchsorted(split.offsets, places, side="right") - 1]
    base, digit = np.uint64(n + 1), np.uint64(1)
    key = np.zeros(len(places), np.uint64)
    grams: dict[int, Keys] = {}
    for back in range(order):
        at = places - back
        token = np.where(at >= start, np.asarray(split.ids[np.maximum(at, 0)]), n).astype(np.uint64)
        key = key + token * digit
        grams[back + 1] = key
        if back + 1 < order:
            digit = digit * base
    return grams


def _count(split: Split, *, n: int, order: int) -> tuple[Keys, Ints]:
    """All distinct n-grams of one order, ascending, and how often each occurs."""
    merged = MergedCounts(np.dtype(np.uint64))
    for begin in range(0, split.tokens, BLOCK_TOKENS):
        places = np.arange(begin, min(begin + BLOCK_TOKENS, split.tokens))
        low, high = np.searchsorted(split.offsets, [begin, places[-1] + 1])
        places = np.delete(places, split.offsets[low:high] - begin)
        merged.add(*run_of(_grams(split, places, n=n, order=order)[order]))
    found, total = merged.result()
    return found.astype(np.uint64), total


def _shortened(keys: Keys, count: Ints, *, modulus: np.uint64) -> tuple[Keys, Ints, Ints]:
    """The n-grams without their first token: keys, occurrences, and the number of different tokens before them."""
    suffix = keys % modulus
    order = np.argsort(suffix, kind="stable")
    suffix = suffix[order]
    first = np.flatnonzero(np.append(True, suffix[1:] != suffix[:-1]))
    occurrences: NDArray[Any] = np.add.reduceat(count[order], first)
    return suffix[first], occurrences, np.diff(first, append=len(keys))


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts of every node that the initial parameters are computed from.

    Attributes
    ----------
    total : int64 [n]
        Transitions out of u.
    discounted : float64 [n]
        Sum of the discounts of all distinct pairs out of u, private or not.
    predecessors : int64 [n]
        Distinct nodes before v.
    discounts
        The discounts of counts of 1, 2, and 3 or more.
    """

    total: Ints
    discounted: Doubles
    predecessors: Ints
    discounts: Discounts


def discount_of(count: Integers, discounts: Discounts) -> Doubles:
    """The discount of each count, float64 [k] for integers [k]: 0 for 0, the third discount for 3 and more."""
    return np.array([0.0, *discounts])[np.minimum(count, 3)]


def estimate_discounts(count: Ints) -> Discounts:
    """Modified Kneser-Ney discounts from the counts of all distinct pairs, int64 [pairs].

    Chen & Goodman 1999, equation 26; 0.5, 0.75 and 0.75 if there is too little text for an estimate.
    """
    n1, n2, n3, n4 = (int((count == c).sum()) for c in (1, 2, 3, 4))
    if min(n1, n2, n3, n4) == 0:  # too little text for an estimate
        return 0.5, 0.75, 0.75
    y = n1 / (n1 + 2 * n2)
    found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    d1, d2, d3 = (min(max(d, 0.1), c - 0.1) for d, c in zip(found, (1, 2, 3), strict=True))
    return d1, d2, d3
