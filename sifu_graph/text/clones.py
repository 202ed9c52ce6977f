"""Which contexts of a text have a clone (`clone_tree`), and the counts of all sources.

Counts are those of Kneser-Ney: a clone has the occurrences of its targets, and its parent counts each distinct pair of
clone and target once. With all contexts of a length the model is interpolated Kneser-Ney of the order above it.

A context is chosen by what contexts like it gain over their parents, in nats over the text. Contexts are alike when
they have the same length, about the same number of occurrences and about the same share of different targets
(`_kind`). Each occurrence is left out of the counts that predict it, and what it gains counts for the contexts that are
like what is left (D: the discounts; N, N_c: the occurrences of the pair and of the context)::

    gain(c) = sum of log( p'(v | c') / p(v | parent) ) over all occurrences (c', v), where c' without it is like c,
              x occurrences of c / occurrences of all contexts like c
    p'(v | c) = (N - 1 - D(N - 1)) / (N_c - 1)  +  b' p(v | parent)       b' = (sum of D - D(N) + D(N - 1)) / (N_c - 1)

So contexts that occur once are judged by those that occur twice (Good & Turing). No context is judged by its own
targets: those that happen to predict their own text well predict new text less well than training would learn.

The module knows node ids and documents; it does not know text, signals or files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise

import numpy as np

from sifu_graph.arrays import Bools, Doubles, Floats, Ids, Ints
from sifu_graph.text.clone_tree import CloneTree
from sifu_graph.text.encoded import Split
from sifu_graph.text.kneser_ney import BLOCK_TOKENS, discount_of, estimate_discounts
from sifu_graph.text.pair_counts import MergedCounts, PairCounts

MOST_NODES = 3
"""Of the name of a clone."""
SPREADS = 5
KINDS = SPREADS * 64
"""Of contexts of one length: see `_kind`."""


@dataclass(frozen=True, kw_only=True)
class CloneCounts:
    """The counts of all sources: the pairs of the nodes, then those of the clones.

    Attributes
    ----------
    tree
        The clones.
    first, target, count
        int64 [sources + 1], int32 and int64 [pairs]: where the pairs of each source begin, and the pairs.
    gain
        What each clone is expected to gain over its parent, in nats over a text of this size, float32 [C].
    """

    tree: CloneTree
    first: Ints
    target: Ids
    count: Ints
    gain: Floats


@dataclass(frozen=True, kw_only=True)
class MoreClones:
    """What a text has for a graph with clones: contexts that get clones, and its occurrences.

    Attributes
    ----------
    parent, token
        int64 [C]: the parent and the oldest node of each new clone. The new clones are numbered from the number of
        sources on, parents before children.
    gain
        float32 [C]: nats over the text.
    source, target, count
        int64 [k]: all occurrences of targets after each new clone.
    known_source, known_target, known_count
        int64 [j]: all occurrences of a new text, each at its source among those that the graph has.
    """

    parent: Ints
    token: Ints
    gain: Floats
    source: Ints
    target: Ints
    count: Ints
    known_source: Ints
    known_target: Ints
    known_count: Ints


@dataclass(frozen=True)
class _Grams:
    """The distinct n-grams of one order, ascending; a context is all nodes of an n-gram but the last.

    Attributes
    ----------
    n
        The base of the digits.
    keys
        int64 [grams]: the nodes as digits of base n, the oldest first.
    count
        int64 [grams]: occurrences.
    """

    n: int
    keys: Ints
    count: Ints

    @classmethod
    def of(cls, split: Split, n: int, order: int) -> _Grams:
        """Counts the n-grams of a text that lie within documents."""
        begins = split.begins()
        merged = MergedCounts(np.dtype(np.int64))
        for first in range(0, split.tokens, BLOCK_TOKENS):
            ids = np.asarray(split.ids[first : first + BLOCK_TOKENS + order - 1]).astype(np.int64)
            size = len(ids) - order + 1
            if size < 1:
                break
            key, inside = np.zeros(size, np.int64), np.ones(size, bool)
            for k in range(order):
                key = key * n + ids[k : k + size]
                if k:
                    inside &= ~begins[first + k : first + k + size]
            merged.add(*np.unique(key[inside], return_counts=True))
        keys, count = merged.result()
        return cls(n, keys.astype(np.int64, copy=False), count)

    @cached_property
    def first(self) -> Ints:
        """Where each distinct context begins, and the number of n-grams, int64 [contexts + 1]."""
        new = np.ones(len(self.keys), bool)
        for begin in range(1, len(self.keys), BLOCK_TOKENS):
            context = self.keys[begin - 1 : begin + BLOCK_TOKENS] // self.n
            new[begin : begin + BLOCK_TOKENS] = context[1:] != context[:-1]
        return np.append(np.flatnonzero(new), len(self.keys))

    @property
    def contexts(self) -> Ints:
        """The distinct contexts, ascending, int64 [contexts]."""
        return self.keys[self.first[:-1]] // self.n

    def groups(self, contexts: slice) -> Ints:
        """The context of each n-gram of some contexts, numbered from 0, int64 [their n-grams]."""
        sizes = np.diff(self.first[contexts.start : contexts.stop + 1])
        return np.repeat(np.arange(len(sizes)), sizes)

    def blocks(self) -> Iterator[tuple[slice, slice]]:
        """Some contexts and their n-grams at a time."""
        begin, last = 0, len(self.first) - 1
        while begin < last:
            end = int(np.searchsorted(self.first, self.first[begin] + BLOCK_TOKENS))
            end = min(max(end, begin + 1), last)
            yield slice(begin, end), slice(int(self.first[begin]), int(self.first[end]))
            begin = end


def choose(split: Split, counts: PairCounts, *, clones: int, least_gain: float = 0.0) -> CloneCounts:
    """The clones of greatest gain of a text, and the counts of all sources.

    Parameters
    ----------
    split
        The documents.
    counts
        Its pairs.
    clones
        At most this number, the parents that they need among them.
    least_gain
        Nats; contexts that are expected to gain this or less are not made. -inf: all contexts.
    """
    levels = _levels(split, counts)
    gains = _gains(levels)
    masks = _best(levels, gains, clones=clones, least_gain=least_gain)
    return _counted(levels, masks, gains)


def choose_more(
    split: Split, counts: PairCounts, tree: CloneTree, *, clones: int | None, least_gain: float = 0.0, counted: bool
) -> MoreClones:
    """The contexts of a text of greatest gain that have no clone yet, and the occurrences of the text.

    Parameters
    ----------
    split
        The documents.
    counts
        Its pairs.
    tree
        The clones that there are.
    clones
        At most this number of new ones, the parents that they need among them. None: any number.
    least_gain
        As of `choose`.
    counted
        The graph has counted the text.
    """
    n, levels = counts.n, _levels(split, counts)
    gains, numbers = _gains(levels), _numbers(levels, tree)
    found = [number >= 0 for number in numbers[1:]]
    masks = _best(
        levels, gains, clones=sum(map(len, gains)) if clones is None else clones, least_gain=least_gain, known=found
    )
    known = _occurrences(levels, numbers) if not counted else (np.empty(0, np.int64),) * 3
    none = np.empty(0, np.int64)
    total, columns, occurrences = tree.sources, [(none, none, np.empty(0))], [(none, none, none)]
    for k, (mask, gain) in enumerate(zip(masks, gains, strict=True), 1):
        level, number = levels[k], numbers[k]
        new = np.flatnonzero(mask & (number < 0))
        token, shorter = np.divmod(level.contexts[new], n**k)
        above = numbers[k - 1][np.searchsorted(levels[k - 1].contexts, shorter)]
        columns.append((above.astype(np.int64), token, gain[new]))
        number[new] = total + np.arange(len(new))
        every = np.repeat(number, np.diff(level.first))
        grams = np.flatnonzero(every >= total)
        occurrences.append((every[grams].astype(np.int64), level.keys[grams] % n, level.count[grams]))
        total += len(new)
    parent, token, gain = (np.concatenate(column) for column in zip(*columns, strict=True))
    source, target, count = (np.concatenate(column) for column in zip(*occurrences, strict=True))
    return MoreClones(
        parent=parent,
        token=token,
        gain=gain.astype(np.float32),
        source=source,
        target=target,
        count=count,
        known_source=known[0],
        known_target=known[1],
        known_count=known[2],
    )


def with_occurrences(more: MoreClones, tree: CloneTree, texts: Sequence[Split]) -> MoreClones:
    """The same new clones, with their occurrences in further texts; ``tree`` has the clones without them."""
    if not texts:
        return more
    n, first = tree.nodes, tree.sources
    grown, place = tree.with_clones(more.parent, more.token)
    listed = np.empty(grown.sources, np.int64)  # the number in `more` of each source
    listed[place] = np.arange(grown.sources)
    merged = MergedCounts(np.dtype(np.int64))
    order = np.argsort(more.source * n + more.target)
    merged.add((more.source * n + more.target)[order], more.count[order])
    for split in texts:
        begins = split.begins()
        for begin in range(0, split.tokens, BLOCK_TOKENS):
            at = begin + np.flatnonzero(~begins[begin + 1 : begin + 1 + BLOCK_TOKENS])
            source, target = grown.sources_at(split.ids, begins, at), np.asarray(split.ids)[at + 1]
            while len(source := source[new := listed[source] >= first]):
                target = target[new]
                merged.add(*np.unique(listed[source] * n + target, return_counts=True))
                source = grown.parents[source].astype(np.int64)
    keys, count = merged.result()
    source, target = (side.astype(np.int64) for side in np.divmod(keys, n))
    return dataclasses.replace(more, source=source, target=target, count=count)


def _levels(split: Split, counts: PairCounts) -> list[_Grams]:
    """The pairs of a text, its n-grams of three nodes, ...: as many as can be numbered, up to `MOST_NODES` + 1."""
    n = counts.n
    levels = [_Grams(n, counts.source.astype(np.int64) * n + counts.target, counts.count)]
    for nodes in range(2, MOST_NODES + 1):
        if n ** (nodes + 1) < 2**63:
            levels.append(_Grams.of(split, n, nodes + 1))
    return levels


def _numbers(levels: list[_Grams], tree: CloneTree) -> list[Ids]:
    """The source of each distinct context of one node, of two nodes, ..., int32 [contexts]; -1: it has no clone."""
    found = [levels[0].contexts.astype(np.int32)]
    for k, (below, level) in enumerate(pairwise(levels), 1):
        shorter, number = below.contexts, np.empty(len(level.first) - 1, np.int32)
        for contexts, _ in level.blocks():
            token, rest = np.divmod(level.keys[level.first[contexts]] // tree.nodes, tree.nodes**k)
            number[contexts] = tree.child(found[-1][np.searchsorted(shorter, rest)].astype(np.int64), token)
        found.append(number)
    return found


def _occurrences(levels: list[_Grams], numbers: list[Ids]) -> tuple[Ints, Ints, Ints]:
    """Source, target and count, int64 [k], of all occurrences at the longest context that has a source."""
    n, longer, found = levels[0].n, (np.empty(0, np.int64), np.empty(0, np.int64)), []
    for k in range(len(levels) - 1, -1, -1):
        level, source = levels[k], np.repeat(numbers[k].astype(np.int64), np.diff(levels[k].first))
        less = np.bincount(np.searchsorted(level.keys, longer[0]), longer[1], minlength=len(source))
        left, here = level.count - less.astype(np.int64), source >= 0
        longer = level.keys[here] % n ** (k + 1), level.count[here]
        here &= left > 0
        found.append((source[here], level.keys[here] % n, left[here]))
    source, target, count = (np.concatenate(column) for column in zip(*found, strict=True))
    return source, target, count


def _gains(levels: list[_Grams]) -> list[Doubles]:
    """What each distinct context of two nodes, of three nodes, ... is expected to gain, float64 [contexts]."""
    n = levels[0].n
    unigram = np.bincount(levels[0].keys % n, minlength=n) + 0.5
    p = _probabilities(levels[0], lambda keys: (unigram / unigram.sum())[keys % n])
    found = []
    for nodes, (below, level) in enumerate(pairwise(levels), 2):
        lower = partial(_below, below, p, n**nodes)
        found.append(_gain(level, lower))
        if nodes < len(levels):
            p = _probabilities(level, lower)
    return found


def _below(level: _Grams, p: Doubles, modulus: int, keys: Ints) -> Doubles:
    """p of n-grams, float64 [k], by their shorter contexts: of those of the order below, float64 [grams]."""
    found: Doubles = p[np.searchsorted(level.keys, keys % modulus)]
    return found


def _probabilities(level: _Grams, lower: Callable[[Ints], Doubles]) -> Doubles:
    """p of the target of each n-gram, float64 [grams]; ``lower`` gives p by the shorter context of n-grams."""
    discounts, p = estimate_discounts(level.count), np.empty(len(level.keys))
    for contexts, grams in level.blocks():
        group, count = level.groups(contexts), level.count[grams]
        taken = discount_of(count, discounts)
        total, left = np.bincount(group, count)[group], np.bincount(group, taken)[group]
        p[grams] = (count - taken + left * lower(level.keys[grams])) / total
    return p


def _gain(level: _Grams, lower: Callable[[Ints], Doubles]) -> Doubles:
    """The gain of each context, float64 [contexts]. See the module's docstring."""
    discounts, kind = estimate_discounts(level.count), np.empty(len(level.first) - 1, np.int64)
    size, gained, alike = np.empty(len(kind)), np.zeros(KINDS), np.zeros(KINDS)
    for contexts, grams in level.blocks():
        group, count, before = level.groups(contexts), level.count[grams], lower(level.keys[grams])
        totals, targets = np.bincount(group, count).astype(np.int64), np.bincount(group)
        kind[contexts] = _kind(totals, targets)
        size[contexts] = totals
        alike += np.bincount(kind[contexts], totals, minlength=KINDS)
        some = totals[group] > 1
        group, count, before = group[some], count[some], before[some]
        taken, less = discount_of(count, discounts), discount_of(count - 1, discounts)
        left = np.bincount(group, taken, minlength=len(totals))[group] - taken + less
        without = (count - 1 - less + left * before) / (totals[group] - 1)
        like = _kind(totals[group] - 1, targets[group] - (count == 1))
        gained += np.bincount(like, count * np.log(without / before), minlength=KINDS)
    return size * (gained / np.maximum(alike, 1))[kind]


def _kind(total: Ints, targets: Ints) -> Ints:
    """The kinds of contexts with these occurrences and different targets, int64 [k], from 0 to `KINDS` - 1.

    Occurrences: 1, 2, 3, 4, up to 8, up to 16, ... Targets: one, or up to 1/4, 1/2, 3/4 or all of the occurrences.
    """
    size = np.where(total <= 4, total - 1, np.ceil(np.log2(total)) + 1).astype(np.int64)
    return SPREADS * size + np.where(targets == 1, 0, -(-4 * targets // total))


def _best(
    levels: list[_Grams], gains: list[Doubles], *, clones: int, least_gain: float, known: list[Bools] | None = None
) -> list[Bools]:
    """Which distinct contexts of two nodes, of three nodes, ... have a clone, bool [contexts].

    Those that are ``known`` to have one, and at most this number of others.
    """
    if not gains:
        return []
    every, n = np.concatenate(gains), levels[0].n
    had = np.zeros(len(every), bool) if known is None else np.concatenate(known)
    order = np.argsort(-every, kind="stable")
    rank = np.empty(len(every), np.int64)
    rank[order] = np.arange(len(every))
    rank[every <= least_gain] = len(every)
    rank[had] = -1
    ranks = np.split(rank, np.cumsum([len(gain) for gain in gains])[:-1])
    for k in range(len(ranks) - 1, 0, -1):  # a clone brings its parent along
        parents = np.searchsorted(levels[k].contexts, levels[k + 1].contexts % n ** (k + 1))
        np.minimum.at(ranks[k - 1], parents, ranks[k])
    last = np.sort(np.concatenate([*ranks, [len(every)]]))[min(clones + int(had.sum()), len(every))]
    return [found < last for found in ranks]


def _counted(levels: list[_Grams], masks: list[Bools], gains: list[Doubles]) -> CloneCounts:
    """The clones numbered, and the counts of all sources."""
    n = levels[0].n
    none = np.empty(0, np.int32)
    parents, tokens = [none], [none]
    numbers = [levels[0].contexts.astype(np.int32)]  # the source of each context; -1: none
    kept_gains, total = [np.empty(0)], n
    for nodes, (level, mask, gain) in enumerate(zip(levels[1:], masks, gains, strict=True), 2):
        token, shorter = np.divmod(level.contexts[mask], n ** (nodes - 1))
        below = numbers[nodes - 2]
        parent = below[np.searchsorted(levels[nodes - 2].contexts, shorter)]
        order = np.lexsort((token, parent))
        number = np.full(len(mask), -1, np.int32)
        number[np.flatnonzero(mask)[order]] = total + np.arange(len(order))
        numbers.append(number)
        parents.append(parent[order])
        tokens.append(token[order].astype(np.int32))
        kept_gains.append(gain[mask][order])
        total += len(order)
    lost = np.empty(0, np.int64), np.empty(0, np.int64)  # what a clone takes, its parent counts once for each target
    size, targets, counts = np.zeros(total, np.int64), [], []
    while levels:  # the last level first; its n-grams are not needed after that
        level = levels.pop()
        source = np.repeat(numbers[len(levels)], np.diff(level.first))
        less = np.bincount(np.searchsorted(level.keys, lost[0]), lost[1], minlength=len(source))
        many = np.flatnonzero((source >= 0) & (level.count > 1))
        lost = level.keys[many] % n ** (len(levels) + 1), level.count[many] - 1
        kept = np.flatnonzero(source >= 0)
        source, target = source[kept], (level.keys[kept] % n).astype(np.int32)
        order = np.lexsort((target, source))
        size += np.bincount(source, minlength=total)
        targets.append(target[order])
        counts.append((level.count[kept] - less[kept].astype(np.int64))[order])
    tree = CloneTree(nodes=n, parent=np.concatenate(parents), token=np.concatenate(tokens))
    return CloneCounts(
        tree=tree,
        first=np.append(0, np.cumsum(size)),
        target=np.concatenate(targets[::-1]),
        count=np.concatenate(counts[::-1]),
        gain=np.concatenate(kept_gains).astype(np.float32),
    )
