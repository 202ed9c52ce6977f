"""Clones: nodes split by what came before them, the contexts that are worth it, and their counts.

A *context* is a run of nodes; a *clone* of u is u after a context, so that its name is a run of two or more nodes that
ends in u. The set of clones is closed under dropping the oldest node: what remains is the parent, a clone or u itself.
The *source* of a place in a text is the longest name in the set that the text up to there ends with, within the
document. Sources are numbered: n nodes, then the clones, parents before children.

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

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise

import numpy as np

from sifu_graph.arrays import Bools, Doubles, Floats, Ids, Integers, Ints
from sifu_graph.text.encoded import Split
from sifu_graph.text.kneser_ney import BLOCK_TOKENS, discount_of, estimate_discounts
from sifu_graph.text.pair_counts import MergedCounts, PairCounts

MOST_NODES = 3
"""Of the name of a clone."""
SPREADS = 5
KINDS = SPREADS * 64
"""Of contexts of one length: see `_kind`."""


@dataclass(frozen=True, kw_only=True)
class CloneTree:
    """Which clones there are.

    Attributes
    ----------
    nodes
        n.
    parent
        int32 [C]: the source of each clone's parent.
    token
        int32 [C]: the oldest node of its name. The clones are sorted by (parent, token).
    """

    nodes: int
    parent: Ids
    token: Ids

    @classmethod
    def empty(cls, nodes: int) -> CloneTree:
        """No clones."""
        none = np.empty(0, np.int32)
        return cls(nodes=nodes, parent=none, token=none)

    def __len__(self) -> int:
        return len(self.parent)

    @property
    def sources(self) -> int:
        """Nodes and clones together."""
        return self.nodes + len(self)

    @cached_property
    def parents(self) -> Ids:
        """The parent of each source, int32 [sources]; -1 for a node."""
        return np.concatenate([np.full(self.nodes, -1, np.int32), self.parent])

    @cached_property
    def depth(self) -> Ints:
        """How many nodes come before the last one in the name of each source, int64 [sources]."""
        found, at = np.zeros(self.sources, np.int64), self.parents
        while (inside := at >= 0).any():
            found += inside
            at = np.where(inside, self.parents[at], -1)
        return found

    @cached_property
    def node(self) -> Ints:
        """The node of each source, the last one of its name, int64 [sources]."""
        found, parents = np.arange(self.sources), self.parents
        while (inside := found >= self.nodes).any():
            found = np.where(inside, parents[found], found)
        return found

    @cached_property
    def _keys(self) -> Ints:
        return self.parent.astype(np.int64) * self.nodes + self.token

    def without(self, gone: Bools) -> tuple[CloneTree, Ints]:
        """Without some nodes, bool [n], and without the clones that have one of them in their names.

        Also the new number of each source, int64 [sources]; -1 for those that are gone.
        """
        out = np.concatenate([gone, gone[self.token]])
        for depth in range(1, 1 + int(self.depth.max(initial=0))):
            here = np.flatnonzero(self.depth == depth)
            out[here] |= out[self.parents[here]]
        return self._those(~out)

    def best(self, worth: Floats, most: int) -> Bools:
        """Which clones are among the ``most`` of greatest worth [C], with the parents that they need: bool [C]."""
        rank = np.empty(self.sources, np.int64)
        rank[: self.nodes] = -1
        rank[self.nodes + np.argsort(-worth, kind="stable")] = np.arange(len(self))
        for depth in range(int(self.depth.max(initial=0)), 1, -1):
            here = np.flatnonzero(self.depth == depth)
            np.minimum.at(rank, self.parents[here], rank[here])
        own = rank[self.nodes :]
        found: Bools = own < np.sort(np.append(own, len(self)))[min(most, len(self))]
        return found

    def kept(self, kept: Bools) -> tuple[CloneTree, Ints]:
        """With some clones alone, bool [C], and the new number of each source, int64 [sources]; -1: it is gone."""
        return self._those(np.concatenate([np.ones(self.nodes, bool), kept]))

    def _those(self, stay: Bools) -> tuple[CloneTree, Ints]:
        """The sources in a mask, bool [sources], with the nodes of their names; and the new numbers, -1 for others."""
        place = np.where(stay, np.cumsum(stay) - 1, -1)
        kept = stay[self.nodes :]
        nodes = int(stay[: self.nodes].sum())
        return self._of(nodes, place[self.parent[kept]], place[self.token[kept]]), place

    def with_more_nodes(self, more: int) -> tuple[CloneTree, Ints]:
        """With nodes at the end of the others, and the new number of each source, int64 [sources]."""
        place = np.arange(self.sources)
        place[self.nodes :] += more
        return self._of(self.nodes + more, place[self.parent], self.token), place

    def merged(self, node: int, into: int) -> tuple[CloneTree, Ints]:
        """With ``into`` in place of a node, which remains; and the new number of each source, int64 [sources]."""
        every = np.arange(self.sources)
        every[node] = into
        return self.numbered(self.nodes, every[self.parent], every[self.token], first=every[: self.nodes])

    def copied(self, node: int, other: int) -> tuple[CloneTree, Ints, Ints]:
        """With a copy of each clone that has a node in its name, with ``other``, which has no clone, in its place.

        Also the new numbers of all sources, int64 [sources], and of their copies; -1: it has none.
        """
        double = np.full(self.sources, -1)
        double[node] = other
        parents, tokens, total = [self.parent], [self.token], self.sources
        for depth in range(1, 1 + int(self.depth.max(initial=0))):
            here = np.flatnonzero(self.depth == depth)
            parent, token = self.parents[here], self.token[here - self.nodes]
            here, parent, token = (x[(double[parent] >= 0) | (token == node)] for x in (here, parent, token))
            double[here] = total + np.arange(len(here))
            parents.append(np.where(double[parent] >= 0, double[parent], parent))
            tokens.append(np.where(token == node, other, token))
            total += len(here)
        tree, place = self.numbered(self.nodes, np.concatenate(parents), np.concatenate(tokens))
        return tree, place[: self.sources], np.where(double >= 0, place[double], -1)

    @classmethod
    def numbered(
        cls, nodes: int, parent: Integers, token: Integers, *, first: Ints | None = None
    ) -> tuple[CloneTree, Ints]:
        """Clones in any order, [C]; those of one name become one.

        Also the number of each source, int64 [nodes + C]; ``first``: those of the nodes.
        """
        listed = cls._of(nodes, parent, token)
        place = np.arange(listed.sources)
        if first is not None:
            place[:nodes] = first
        parents, tokens, total = [], [], nodes
        for depth in range(1, 1 + int(listed.depth.max(initial=0))):
            here = np.flatnonzero(listed.depth == depth)
            keys, found = np.unique(place[listed.parents[here]] * nodes + token[here - nodes], return_inverse=True)
            place[here] = total + found
            parents.append(keys // nodes)
            tokens.append(keys % nodes)
            total += len(keys)
        none = np.empty(0, np.int64)
        return cls._of(nodes, np.concatenate([none, *parents]), np.concatenate([none, *tokens])), place

    @classmethod
    def _of(cls, nodes: int, parent: Integers, token: Integers) -> CloneTree:
        return cls(nodes=nodes, parent=parent.astype(np.int32), token=token.astype(np.int32))

    def name(self, source: int) -> list[int]:
        """The nodes of the name of a source, the oldest first."""
        found = []
        while source >= self.nodes:
            found.append(int(self.token[source - self.nodes]))
            source = int(self.parent[source - self.nodes])
        return [*found, source]

    def child(self, source: Ints, token: Integers) -> Ints:
        """The clones of sources after one more node, int64 [k]; -1 where there is none."""
        if not len(self):
            return np.full(len(source), -1)
        wanted = source * self.nodes + token
        at = np.minimum(np.searchsorted(self._keys, wanted), len(self) - 1)
        return np.where(self._keys[at] == wanted, self.nodes + at, -1)

    def source_of(self, nodes: Sequence[int]) -> int:
        """The source at the end of a document so far, at least one node."""
        source = int(nodes[-1])
        for token in reversed(nodes[:-1]):
            found = int(self.child(np.array([source]), np.array([token]))[0])
            if found < 0:
                break
            source = found
        return source

    def sources_at(self, ids: Integers, begins: Bools, at: Ints) -> Ints:
        """The sources of places of a text, int64 of the shape of ``at``.

        Parameters
        ----------
        ids
            The nodes, [tokens].
        begins
            bool [tokens]: the place begins a document.
        at
            The places.
        """
        place = at.flatten()  # a copy: it moves
        source = ids[place].astype(np.int64)
        going = np.arange(len(place)) if len(self) else np.empty(0, np.int64)
        while len(going):
            going = going[~begins[place[going]]]
            place[going] -= 1
            found = self.child(source[going], ids[place[going]].astype(np.int64))
            going = going[found >= 0]
            source[going] = found[found >= 0]
        return source.reshape(at.shape)


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
        begins = np.zeros(split.tokens + 1, bool)
        begins[split.offsets] = True
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
    n = counts.n
    levels = [_Grams(n, counts.source.astype(np.int64) * n + counts.target, counts.count)]
    for nodes in range(2, MOST_NODES + 1):
        if n ** (nodes + 1) < 2**63:  # its n-grams are numbered
            levels.append(_Grams.of(split, n, nodes + 1))
    gains = _gains(levels)
    masks = _best(levels, gains, clones=clones, least_gain=least_gain)
    return _counted(levels, masks, gains)


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


def _best(levels: list[_Grams], gains: list[Doubles], *, clones: int, least_gain: float) -> list[Bools]:
    """Which distinct contexts of two nodes, of three nodes, ... have a clone, bool [contexts]."""
    if not gains:
        return []
    every, n = np.concatenate(gains), levels[0].n
    order = np.argsort(-every, kind="stable")
    rank = np.empty(len(every), np.int64)
    rank[order] = np.arange(len(every))
    ranks = np.split(np.where(every > least_gain, rank, len(every)), np.cumsum([len(gain) for gain in gains])[:-1])
    for k in range(len(ranks) - 1, 0, -1):  # a clone brings its parent along
        parents = np.searchsorted(levels[k].contexts, levels[k + 1].contexts % n ** (k + 1))
        np.minimum.at(ranks[k - 1], parents, ranks[k])
    last = np.sort(np.concatenate([*ranks, [len(every)]]))[min(clones, len(every))]
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
