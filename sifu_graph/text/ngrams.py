"""The n-grams of a text: how often each occurs, the contexts, and what leads from each to the order below.

An n-gram is a run of nodes within a document; its *context* is all of its nodes but the last. N-grams are numbered in
ascending order of their nodes, the oldest first, and so are contexts. Memory is bounded by a few blocks, whatever the
length of the text: everything else is in `DiskArrays`.

The module knows node ids and documents; it does not know clones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from sifu_graph.arrays import BLOCK, Integers, Ints, blocks, find_sorted, ranges
from sifu_graph.disk_arrays import DiskArrays, in_order
from sifu_graph.progress import SILENT, Stages
from sifu_graph.text.encoded import Split
from sifu_graph.text.merged_counts import MergedCounts, Run, run_of
from sifu_graph.text.pair_counts import PairCounts

BLOCK_TOKENS = 1 << 21
"""Tokens whose n-grams are sorted at a time."""


@dataclass(frozen=True, kw_only=True)
class NGrams:
    """The distinct n-grams of one order.

    Attributes
    ----------
    nodes, order
        The number of nodes, and of nodes of an n-gram.
    keys
        int64 [grams], ascending: the nodes as digits of base ``nodes``, the oldest first.
    count
        int64 [grams]: occurrences.
    first
        int64 [contexts + 1]: where the n-grams of each context begin.
    context
        [grams]: the context of each n-gram.
    shorter
        [grams]: the number of each n-gram without its oldest node in the order below; empty for pairs.
    """

    nodes: int
    order: int
    keys: Ints
    count: Ints
    first: Ints
    context: Integers
    shorter: Integers

    @classmethod
    def of_pairs(cls, counts: PairCounts, arrays: DiskArrays) -> NGrams:
        """The n-grams of two nodes."""
        keys = arrays.zeros(len(counts), np.int64)
        np.multiply(counts.source, counts.n, out=keys, dtype=np.int64)
        keys += counts.target
        return cls._of(counts.n, 2, (keys, counts.count), np.empty(0, np.int32), arrays)

    @classmethod
    def of(cls, split: Split, below: NGrams, arrays: DiskArrays, stages: Stages = SILENT) -> NGrams:
        """Counts the n-grams of a text that have one node more than those ``below``."""
        stage = stages.stage(f"counting the runs of {below.order + 1} tokens", split.tokens, "tokens")
        merged = MergedCounts(np.dtype(np.int64), arrays)
        run = partial(_run, split, below.nodes, below.order + 1)
        for keys, count in in_order(run, range(0, split.tokens, BLOCK_TOKENS)):
            merged.add(keys, count)
            stage.advance(BLOCK_TOKENS)
        every, total = merged.result()
        shorter, modulus = arrays.zeros(len(every), _index_type(len(below.keys))), below.nodes**below.order

        def place(block: slice) -> Ints:
            return find_sorted(below.keys, every[block] % modulus)

        size = len(every)
        stage = stages.stage(f"linking the runs of {below.order + 1} tokens", size, "runs")
        for block, found in zip(blocks(size), in_order(place, blocks(size)), strict=True):
            shorter[block] = found
            stage.advance(len(found))
        return cls._of(below.nodes, below.order + 1, (every, total), shorter, arrays)

    @classmethod
    def _of(cls, nodes: int, order: int, run: Run, shorter: Integers, arrays: DiskArrays) -> NGrams:
        keys, count = run
        context = arrays.zeros(len(keys), _index_type(len(keys)))
        first = arrays.zeros(len(keys) + 1, np.int64)
        contexts, last = 0, -1
        for block in blocks(len(keys)):
            mine = keys[block] // nodes
            new = np.diff(mine, prepend=last) != 0
            context[block] = contexts - 1 + np.cumsum(new)
            starts = block.start + np.flatnonzero(new)
            first[contexts : contexts + len(starts)] = starts
            contexts, last = contexts + len(starts), int(mine[-1])
        first[contexts] = len(keys)
        return cls(
            nodes=nodes,
            order=order,
            keys=keys.astype(np.int64, copy=False),
            count=count,
            first=first[: contexts + 1],
            context=context,
            shorter=shorter,
        )

    @property
    def contexts(self) -> int:
        """The number of distinct contexts."""
        return len(self.first) - 1

    def nodes_of(self, contexts: slice | Ints) -> Ints:
        """The nodes of contexts as digits, int64 [k]."""
        return self.keys[self.first[:-1][contexts]] // self.nodes

    def shorter_of(self, below: NGrams, contexts: slice | Ints) -> Integers:
        """Contexts without their oldest nodes, in the numbers of the order below, [k]."""
        return below.context[self.shorter[self.first[:-1][contexts]]]

    def sizes(self, contexts: Ints) -> Ints:
        """The number of n-grams of contexts, int64 [k]."""
        return self.first[contexts + 1] - self.first[contexts]

    def grams_of(self, contexts: Ints) -> Ints:
        """The n-grams of contexts, one context after another, int64 [n-grams]."""
        return ranges(self.first[contexts], self.sizes(contexts))

    def by_context(self) -> Iterator[tuple[slice, slice]]:
        """Some contexts and their n-grams at a time."""
        begin = 0
        while begin < self.contexts:
            end = int(np.searchsorted(self.first, self.first[begin] + BLOCK))
            end = min(max(end, begin + 1), self.contexts)
            yield slice(begin, end), slice(int(self.first[begin]), int(self.first[end]))
            begin = end


def _run(split: Split, nodes: int, order: int, begin: int) -> Run:
    """The n-grams that begin in a block of tokens."""
    ids = np.asarray(split.ids[begin : begin + BLOCK_TOKENS + order - 1]).astype(np.int64)
    size = max(0, len(ids) - order + 1)
    begins = split.begins(begin, begin + len(ids))
    key, inside = np.zeros(size, np.int64), np.ones(size, bool)
    for k in range(order):
        key = key * nodes + ids[k : k + size]
        if k:
            inside &= ~begins[k : k + size]
    return run_of(key[inside])


def _index_type(length: int) -> np.dtype[Any]:
    """Of numbers below a length."""
    return np.dtype(np.int32 if length < 1 << 31 else np.int64)
