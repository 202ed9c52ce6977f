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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np

from sifu_graph.arrays import BLOCK, Bools, Doubles, Floats, Ids, Integers, Ints, blocks
from sifu_graph.disk_arrays import DiskArrays, in_order
from sifu_graph.progress import SILENT, Stage, Stages
from sifu_graph.text.clone_tree import CloneTree
from sifu_graph.text.encoded import Split
from sifu_graph.text.kneser_ney import BLOCK_TOKENS, discount_of, estimate_discounts
from sifu_graph.text.merged_counts import MergedCounts, run_of
from sifu_graph.text.ngrams import NGrams
from sifu_graph.text.pair_counts import PairCounts

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


@dataclass(frozen=True, slots=True)
class Occurrences:
    """How often targets occur after sources.

    Attributes
    ----------
    source, target
        int32 [k].
    count
        int64 [k].
    """

    source: Ids
    target: Ids
    count: Ints

    @classmethod
    def joined(cls, parts: Sequence[tuple[Integers, Integers, Ints]]) -> Occurrences:
        """From parts: source, target and count, [k], of each."""
        parts = [*parts, (np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.int64))]
        source, target, count = zip(*parts, strict=True)
        first, second = (np.concatenate(side, dtype=np.int32, casting="same_kind") for side in (source, target))
        return cls(first, second, np.concatenate(count))


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
    new
        All occurrences after each new clone, ascending.
    known
        All occurrences of a text that the graph has not counted, each at its source among those that the graph has.
    """

    parent: Ints
    token: Ints
    gain: Floats
    new: Occurrences
    known: Occurrences


def choose(
    split: Split,
    counts: PairCounts,
    *,
    clones: int,
    least_gain: float = 0.0,
    arrays: DiskArrays | None = None,
    stages: Stages = SILENT,
) -> CloneCounts:
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
    arrays
        Where the n-grams of the text are. None: in memory.
    stages
        Counting, and computing what the contexts gain, are stages.
    """
    arrays = DiskArrays() if arrays is None else arrays
    levels = _levels(split, counts, arrays, stages)
    gains = _gains(levels, arrays, stages)
    stages.stage(f"choosing at most {clones:,} clones")
    masks = _best(levels, gains, arrays, clones=clones, least_gain=least_gain)
    return _counted(levels, masks, gains, arrays)


def choose_more(
    split: Split,
    counts: PairCounts,
    tree: CloneTree,
    *,
    clones: int | None,
    least_gain: float = 0.0,
    counted: bool,
    arrays: DiskArrays | None = None,
    stages: Stages = SILENT,
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
    arrays, stages
        As of `choose`.
    """
    arrays = DiskArrays() if arrays is None else arrays
    n, levels = counts.n, _levels(split, counts, arrays, stages)
    gains = _gains(levels, arrays, stages)
    stages.stage("choosing clones")
    numbers = _numbers(levels, tree, arrays)
    most = sum(map(len, gains)) if clones is None else clones
    masks = _best(levels, gains, arrays, clones=most, least_gain=least_gain, numbers=numbers)
    none = np.empty(0, np.int64)
    known = Occurrences.joined([] if counted else _occurrences(levels, numbers, arrays))
    total, columns, occurrences = tree.sources, [(none, none, np.empty(0))], []
    for k, (mask, gain) in enumerate(zip(masks, gains, strict=True), 1):
        level, number = levels[k], numbers[k]
        new = np.flatnonzero(mask)
        new = new[number[new] < 0]
        above = numbers[k - 1][level.shorter_of(levels[k - 1], new)]
        columns.append((above.astype(np.int64), level.nodes_of(new) // n**k, gain[new]))
        number[new] = total + np.arange(len(new))
        grams, every = level.grams_of(new), np.repeat(total + np.arange(len(new)), level.sizes(new))
        occurrences.append((every.astype(np.int32), level.keys[grams] % n, level.count[grams]))
        total += len(new)
    parent, token, gain = (np.concatenate(column) for column in zip(*columns, strict=True))
    new_occurrences = Occurrences.joined(occurrences)
    return MoreClones(parent=parent, token=token, gain=gain.astype(np.float32), new=new_occurrences, known=known)


def with_occurrences(more: MoreClones, tree: CloneTree, texts: Sequence[Split]) -> MoreClones:
    """The same new clones, with their occurrences in further texts; ``tree`` has the clones without them."""
    if not texts:
        return more
    n, first = tree.nodes, tree.sources
    grown, place = tree.with_clones(more.parent, more.token)
    listed = np.empty(grown.sources, np.int64)  # the number in `more` of each source
    listed[place] = np.arange(grown.sources)
    merged = MergedCounts(np.dtype(np.int64))
    merged.add(more.new.source.astype(np.int64) * n + more.new.target, more.new.count)
    for split in texts:
        begins = split.begins()
        for begin in range(0, split.tokens, BLOCK_TOKENS):
            at = begin + np.flatnonzero(~begins[begin + 1 : begin + 1 + BLOCK_TOKENS])
            source, target = grown.sources_at(split.ids, begins, at), np.asarray(split.ids)[at + 1]
            while len(source := source[new := listed[source] >= first]):
                target = target[new]
                merged.add(*run_of(listed[source] * n + target))
                source = grown.parents[source].astype(np.int64)
    keys, count = merged.result()
    return dataclasses.replace(more, new=Occurrences.joined([(*np.divmod(keys, n), count)]))


def _levels(split: Split, counts: PairCounts, arrays: DiskArrays, stages: Stages) -> list[NGrams]:
    """The pairs of a text, its n-grams of three nodes, ...: as many as can be numbered, up to `MOST_NODES` + 1."""
    levels = [NGrams.of_pairs(counts, arrays)]
    for nodes in range(3, MOST_NODES + 2):
        if counts.n**nodes < 2**63:
            levels.append(NGrams.of(split, levels[-1], arrays, stages))
    return levels


def _numbers(levels: list[NGrams], tree: CloneTree, arrays: DiskArrays) -> list[Ids]:
    """The source of each distinct context of one node, of two nodes, ..., int32 [contexts]; -1: it has no clone."""
    found: list[Ids] = [levels[0].nodes_of(slice(None)).astype(np.int32)]
    for below, level in pairwise(levels):
        number = arrays.zeros(level.contexts, np.int32)
        for contexts, _ in level.by_context():
            shorter = found[-1][level.shorter_of(below, contexts)].astype(np.int64)
            oldest = level.nodes_of(contexts) // tree.nodes ** (below.order - 1)
            number[contexts] = np.where(shorter >= 0, tree.child(np.maximum(shorter, 0), oldest), -1)
        found.append(number)
    return found


def _occurrences(levels: list[NGrams], numbers: list[Ids], arrays: DiskArrays) -> list[tuple[Ids, Ids, Ints]]:
    """Source, target and count of all occurrences at the longest context that has a source, in parts."""
    n, less, found = levels[0].nodes, arrays.zeros(len(levels[-1].keys), np.int64), []
    for k in range(len(levels) - 1, -1, -1):
        level = levels[k]
        longer, less = less, arrays.zeros(len(levels[k - 1].keys) if k else 0, np.int64)
        for grams in blocks(len(level.keys)):
            source, count = numbers[k][level.context[grams]].astype(np.int64), level.count[grams]
            here = np.flatnonzero(source >= 0)
            if k:
                np.add.at(less, level.shorter[grams][here], count[here])
            here = here[count[here] > longer[grams][here]]
            target = (level.keys[grams][here] % n).astype(np.int32)
            found.append((source[here].astype(np.int32), target, (count - longer[grams])[here]))
    return found


def _gains(levels: list[NGrams], arrays: DiskArrays, stages: Stages) -> list[Doubles]:
    """What each distinct context of two nodes, of three nodes, ... is expected to gain, float64 [contexts]."""
    n = levels[0].nodes
    unigram = np.bincount(levels[0].keys % n, minlength=n) + 0.5
    share = unigram / unigram.sum()
    # The last order has gains, but gives no probabilities to another one.
    todo = sum(len(level.keys) for level in (*levels[:-1], *levels[1:]))
    stage = stages.stage("computing what each context gains", todo, "runs")
    p = _probabilities(levels[0], lambda grams: share[levels[0].keys[grams] % n], arrays, stage)
    found = []
    for level in levels[1:]:
        lower = partial(_lower, level, p)
        found.append(_gain(level, lower, arrays, stage))
        if level is not levels[-1]:
            p = _probabilities(level, lower, arrays, stage)
    return found


def _lower(level: NGrams, p: Doubles, grams: slice) -> Doubles:
    """p of n-grams by their shorter contexts, float64 [k]; ``p``: of those of the order below, float64 [grams]."""
    found: Doubles = p[level.shorter[grams]]
    return found


def _probabilities(level: NGrams, lower: Callable[[slice], Doubles], arrays: DiskArrays, stage: Stage) -> Doubles:
    """p of the target of each n-gram, float64 [grams]; ``lower`` gives p by the shorter context of n-grams."""
    discounts, p = estimate_discounts(level.count), arrays.zeros(len(level.keys), np.float64)

    def of(block: tuple[slice, slice]) -> tuple[slice, Doubles]:
        contexts, grams = block
        group, count = level.context[grams] - contexts.start, level.count[grams]
        taken = discount_of(count, discounts)
        total, left = np.bincount(group, count)[group], np.bincount(group, taken)[group]
        return grams, (count - taken + left * lower(grams)) / total

    for grams, found in in_order(of, level.by_context()):
        p[grams] = found
        stage.advance(len(found))
    return p


def _gain(level: NGrams, lower: Callable[[slice], Doubles], arrays: DiskArrays, stage: Stage) -> Doubles:
    """The gain of each context, float64 [contexts]. See the module's docstring."""
    discounts = estimate_discounts(level.count)
    kind, size = arrays.zeros(level.contexts, np.int16), arrays.zeros(level.contexts, np.float64)
    gained, alike, done = np.zeros(KINDS), np.zeros(KINDS), stage.done

    def of(block: tuple[slice, slice]) -> tuple[slice, Ints, Ints, Doubles]:
        contexts, grams = block
        group, count, before = level.context[grams] - contexts.start, level.count[grams], lower(grams)
        totals, targets = np.bincount(group, count).astype(np.int64), np.bincount(group)
        some = totals[group] > 1
        group, count, before = group[some], count[some], before[some]
        taken, less = discount_of(count, discounts), discount_of(count - 1, discounts)
        left = np.bincount(group, taken, minlength=len(totals))[group] - taken + less
        without = (count - 1 - less + left * before) / (totals[group] - 1)
        like = _kind(totals[group] - 1, targets[group] - (count == 1))
        gain = np.bincount(like, count * np.log(without / before), minlength=KINDS).astype(np.float64)
        return contexts, totals, _kind(totals, targets), gain

    for contexts, totals, kinds, gain in in_order(of, level.by_context()):
        kind[contexts], size[contexts] = kinds, totals
        alike += np.bincount(kinds, totals, minlength=KINDS)
        gained += gain
        stage.at(done + int(level.first[contexts.stop]))
    each = gained / np.maximum(alike, 1)
    for block in blocks(len(size)):
        size[block] *= each[kind[block]]
    return size


def _kind(total: Ints, targets: Ints) -> Ints:
    """The kinds of contexts with these occurrences and different targets, int64 [k], from 0 to `KINDS` - 1.

    Occurrences: 1, 2, 3, 4, up to 8, up to 16, ... Targets: one, or up to 1/4, 1/2, 3/4 or all of the occurrences.
    """
    size = np.where(total <= 4, total - 1, np.ceil(np.log2(total)) + 1).astype(np.int64)
    return SPREADS * size + np.where(targets == 1, 0, -(-4 * targets // total))


def _best(
    levels: list[NGrams],
    gains: list[Doubles],
    arrays: DiskArrays,
    *,
    clones: int,
    least_gain: float,
    numbers: list[Ids] | None = None,
) -> list[Bools]:
    """Which distinct contexts of two nodes, of three nodes, ... have a clone, bool [contexts].

    Those that have a source among ``numbers``, and at most this number of others. A context is worth the greatest gain
    of those that end in it, so that a clone brings its parent along; of equals, the shorter ones are chosen first, then
    those of smaller nodes.
    """
    worth = [arrays.zeros(len(gain), np.float64) for gain in gains]
    for k, (mine, gain) in enumerate(zip(worth, gains, strict=True), 1):
        for block in blocks(len(gain)):
            mine[block] = np.where(gain[block] > least_gain, gain[block], -np.inf)
            if numbers is not None:
                mine[block][numbers[k][block] >= 0] = np.inf
                clones += int(np.isposinf(mine[block]).sum())
    for k in range(len(worth) - 1, 0, -1):
        for block in blocks(len(worth[k])):
            np.maximum.at(worth[k - 1], levels[k + 1].shorter_of(levels[k], block), worth[k][block])
    least, equals = _threshold(worth, clones)
    masks = []
    for mine in worth:
        mask = arrays.zeros(len(mine), np.bool_)
        for block in blocks(len(mine)):
            mask[block] = mine[block] > least
            some = np.flatnonzero(mine[block] == least)[:equals]
            mask[block][some] = True
            equals -= len(some)
        masks.append(mask)
    return masks


def _threshold(worth: list[Doubles], most: int) -> tuple[float, int]:
    """The smallest worth among the ``most`` that are worth most, and how many of those have just that."""
    kept = np.empty(0)
    for mine in worth:
        for block in blocks(len(mine)):
            kept = np.concatenate([kept, mine[block][mine[block] > -np.inf]])
            if len(kept) > most:
                kept = np.sort(kept)[len(kept) - most :]
    least = float(kept.min(initial=np.inf))
    return least, int((kept == least).sum())


def _counted(levels: list[NGrams], masks: list[Bools], gains: list[Doubles], arrays: DiskArrays) -> CloneCounts:
    """The clones numbered, and the counts of all sources."""
    n = levels[0].nodes
    none = np.empty(0, np.int32)
    parents, tokens, kept_gains, total = [none], [none], [np.empty(0)], n
    chosen = [np.arange(levels[0].contexts)]  # the contexts that have a source, in the order of their sources
    number = levels[0].nodes_of(slice(None)).astype(np.int32)
    for (below, level), mask, gain in zip(pairwise(levels), masks, gains, strict=True):
        new = np.flatnonzero(mask)
        parent = number[level.shorter_of(below, new)]
        token = level.nodes_of(new) // n ** (below.order - 1)
        order = np.lexsort((token, parent))
        new = new[order]
        number = arrays.zeros(level.contexts, np.int32)
        number[new] = total + np.arange(len(new))
        chosen.append(new)
        parents.append(parent[order])
        tokens.append(token[order].astype(np.int32))
        kept_gains.append(gain[new])
        total += len(new)
    taken = _taken(levels, masks, arrays)
    sizes = [np.zeros(n, np.int64)]
    sizes[0][levels[0].nodes_of(slice(None))] = np.diff(levels[0].first)
    sizes += [level.sizes(new) for level, new in zip(levels[1:], chosen[1:], strict=True)]
    first = np.append(0, np.cumsum(np.concatenate(sizes)))
    target, count, done = np.empty(int(first[-1]), np.int32), np.empty(int(first[-1]), np.int64), 0
    for level, new, lost in zip(levels, chosen, taken, strict=True):
        for block in blocks(len(new), BLOCK // 16):
            grams = level.grams_of(new[block])
            here = slice(done, done + len(grams))
            target[here], count[here] = level.keys[grams] % n, level.count[grams] - lost[grams]
            done = here.stop
    return CloneCounts(
        tree=CloneTree(nodes=n, parent=np.concatenate(parents), token=np.concatenate(tokens)),
        first=first,
        target=target,
        count=count,
        gain=np.concatenate(kept_gains).astype(np.float32),
    )


def _taken(levels: list[NGrams], masks: list[Bools], arrays: DiskArrays) -> list[Ints]:
    """What the clones after each n-gram's context take from its count, int64 [grams] for each order.

    What a clone takes, its parent counts once for each target.
    """
    found = [arrays.zeros(len(level.keys), np.int64) for level in levels]
    for k, mask in enumerate(masks, 1):
        for grams in blocks(len(levels[k].keys)):
            count = levels[k].count[grams]
            many = np.flatnonzero(mask[levels[k].context[grams]] & (count > 1))
            np.add.at(found[k - 1], levels[k].shorter[grams][many], count[many] - 1)
    return found
