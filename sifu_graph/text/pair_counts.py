"""Counts of pairs: how often each node follows each other node, and which ordered pairs become private edges.

Memory is bounded by the number of distinct pairs (and one block of tokens), never by n * n; with `DiskArrays` by a few
blocks. The module knows node ids and documents; it does not know text or parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from sifu_store.errors import OptionError

from sifu_graph.arrays import Bools, Ids, Integers, Ints, bincount
from sifu_graph.arrays import blocks as array_blocks
from sifu_graph.disk_arrays import DiskArrays
from sifu_graph.progress import SILENT, Stages
from sifu_graph.text.encoded import Split, TokenFile
from sifu_graph.text.merged_counts import MergedCounts, run_of

BLOCK_TOKENS = 4 << 20


@dataclass(frozen=True, kw_only=True)
class PairCounts:
    """The distinct ordered pairs of a text, sorted by (source, target).

    Attributes
    ----------
    n
        Number of nodes.
    source, target
        int32 [pairs]; they and ``count`` may be maps of files.
    count
        int64 [pairs], at least 1 each.
    node_count
        int64 [n]: how often each node occurs (as source or not).
    """

    n: int
    source: Ids
    target: Ids
    count: Ints
    node_count: Ints

    def __len__(self) -> int:
        return len(self.count)

    @cached_property
    def total(self) -> int:
        """Occurrences of all pairs."""
        return int(self.count.sum())

    @cached_property
    def row_start(self) -> Ints:
        """Where the pairs of each source begin, int64 [n + 1]."""
        return np.searchsorted(self.source, np.arange(self.n + 1)).astype(np.int64)

    @cached_property
    def row_distinct(self) -> Ints:
        """How many different targets follow each source, int64 [n]."""
        return np.diff(self.row_start)

    @cached_property
    def row_total(self) -> Ints:
        """How often each node is a source, int64 [n]."""
        return bincount(self.source, self.n, self.count).astype(np.int64)

    @cached_property
    def by_count(self) -> tuple[Ints, Ints]:
        """The different counts, the greatest first, and how many pairs have each, int64 [k] both."""
        return counts_of_counts(self.count)

    def pairs_for(self, share: float) -> int:
        """How many of the most frequent pairs make up this share of all their occurrences."""
        count, pairs = self.by_count
        reached = np.cumsum(count * pairs)
        at = int(np.searchsorted(reached, share * reached[-1]))
        above = int(reached[at - 1]) if at else 0
        return int(pairs[:at].sum()) + max(1, math.ceil((share * int(reached[-1]) - above) / int(count[at])))


def count_pairs(
    tokens: TokenFile | Split | Iterable[Integers],
    *,
    n: int,
    block_tokens: int = BLOCK_TOKENS,
    arrays: DiskArrays | None = None,
    stages: Stages = SILENT,
) -> PairCounts:
    """Count every ordered pair of neighbours inside the documents.

    Parameters
    ----------
    tokens
        A token file (its training part is counted), one part of it, or one array [tokens] for each document.
    n
        Number of nodes; every id is below it.
    block_tokens
        Tokens that are sorted at a time. The result does not depend on it.
    arrays
        Where the counts are. None: in memory.
    stages
        The counting is a stage, of a file or a part of it.

    Returns
    -------
    PairCounts
    """
    if isinstance(tokens, TokenFile):
        tokens = tokens.train
    if isinstance(tokens, Split):
        stage = stages.stage(f"counting the pairs of {tokens.tokens:,} tokens", tokens.tokens, "tokens")
        blocks = stage.track(_blocks_of_split(tokens, size=block_tokens), size=lambda block: block[2])
    else:
        blocks = _blocks_of(tokens, size=block_tokens)
    # n * n keys fit; the narrow ones sort twice as fast
    key_type: np.dtype[np.integer[Any]] = np.dtype(np.uint32) if n <= 1 << 16 else np.dtype(np.int64)
    node_count = np.zeros(n, dtype=np.int64)
    arrays = DiskArrays() if arrays is None else arrays
    merged = MergedCounts(key_type, arrays)
    for ids, inside, counted in blocks:
        node_count += np.bincount(ids[:counted], minlength=n)
        keys = (ids[:-1].astype(key_type) * n + ids[1:].astype(key_type))[inside]
        merged.add(*run_of(keys))
    keys, count = merged.result()
    source, target = arrays.zeros(len(keys), np.int32), arrays.zeros(len(keys), np.int32)
    for block in array_blocks(len(keys)):
        source[block], target[block] = np.divmod(keys[block], n)
    return PairCounts(n=n, source=source, target=target, count=count, node_count=node_count)


# A block: ids, which neighbours (ids[i], ids[i + 1]) belong to one document, and how many of the ids to count as
# nodes (the last one is shared with the next block).
_Block = tuple[Integers, Bools, int]


def _blocks_of_split(split: Split, *, size: int) -> Iterator[_Block]:
    for begin in range(0, split.tokens, size):
        end = min(begin + size, split.tokens)
        ids = np.asarray(split.ids[begin : end + 1])
        yield ids, ~split.begins(begin + 1, begin + len(ids)), end - begin


def _blocks_of(documents: Iterable[Integers], size: int) -> Iterator[_Block]:
    held: list[Integers] = []
    tokens = 0
    for document in documents:
        held.append(np.asarray(document))
        tokens += len(document)
        if tokens >= size:
            yield from _blocks_of_split(Split.from_arrays(held), size=size)
            held, tokens = [], 0
    yield from _blocks_of_split(Split.from_arrays(held), size=size)


def select_private(counts: PairCounts, *, sparsify: float, min_count: int = 1) -> Bools:
    """Choose the private edges: the most frequent pairs, ties by source, then target.

    Parameters
    ----------
    counts
        All pairs that occur.
    sparsify
        At most this share of all n * n ordered pairs becomes private (0 to 1). The budget is
        floor(sparsify * n * n), computed from the decimal number that `sparsify` prints as.
    min_count
        Pairs that occur less often stay default.

    Returns
    -------
    mask : bool [pairs]
        True for a private pair.
    """
    if not 0 <= sparsify <= 1:
        raise OptionError(f"`sparsify` is {sparsify}; expected a number from 0 to 1")
    if min_count < 1:
        raise OptionError(f"the least count is {min_count}; expected at least 1")
    budget = math.floor(Fraction(repr(float(sparsify))) * counts.n * counts.n)
    mask: Bools = counts.count >= min_count
    if int(mask.sum()) <= budget:
        return mask
    return most_frequent(counts.count, budget, counts.by_count)


def most_frequent(count: Integers, most: int, by_count: tuple[Ints, Ints] | None = None) -> Bools:
    """The ``most`` pairs with the greatest counts, of equal ones the first: bool [pairs].

    ``count`` is [pairs], ``by_count`` what `by_count` returns of it. There are at least ``most`` pairs.
    """
    if not most:
        return np.zeros(len(count), bool)
    different, pairs = counts_of_counts(count) if by_count is None else by_count
    fitting = np.cumsum(pairs)
    at = int(np.searchsorted(fitting, most))  # the count of the last pair that still fits
    mask: Bools = count > different[at]
    left = most - (int(fitting[at - 1]) if at else 0)
    for block in array_blocks(len(count)):
        equal = np.flatnonzero(count[block] == different[at])[:left]
        mask[block.start + equal] = True
        left -= len(equal)
    return mask


def counts_of_counts(count: Integers) -> tuple[Ints, Ints]:
    """The different counts of [pairs], the greatest first, and how many pairs have each, int64 [k] both."""
    merged = MergedCounts(np.dtype(np.int64))
    for block in array_blocks(len(count)):
        merged.add(*run_of(count[block].astype(np.int64)))
    different, pairs = merged.result()
    return different[::-1].astype(np.int64), pairs[::-1]


def coverage(counts: PairCounts, mask: Bools) -> float:
    """The share (0 to 1) of all pair occurrences that the chosen pairs, bool [pairs], cover; 0 without pairs."""
    return float(counts.count.sum(where=mask)) / counts.total if counts.total else 0.0
