"""Distinct keys with their counts, from sorted runs, as external sorting does it.

It knows integers; it does not know what they number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sifu_graph.arrays import BLOCK, Integers, Ints, is_first
from sifu_graph.disk_arrays import DiskArrays, in_order

Run = tuple[Integers, Ints]
"""Sorted distinct keys [k] and the count of each [k]."""


def run_of(keys: Integers) -> Run:
    """The distinct keys among some, ascending, and how often each occurs. ``keys`` [k] are sorted in place."""
    keys.sort()
    first = np.flatnonzero(is_first(keys))
    return keys[first], np.diff(first, append=len(keys))


class MergedCounts:
    """Sorted runs, merged when together they have as many keys as what was merged before.

    Parameters
    ----------
    key_type
        Type of the keys.
    arrays
        Where the runs are. None: in memory.
    """

    def __init__(self, key_type: np.dtype[np.integer[Any]], arrays: DiskArrays | None = None) -> None:
        self._arrays = DiskArrays() if arrays is None else arrays
        self._merged: Run = np.empty(0, key_type), np.empty(0, np.int64)
        self._runs: list[Run] = []

    def add(self, keys: Integers, count: Ints) -> None:
        """Adds sorted distinct keys [k] and the count of each [k]."""
        self._runs.append((self._arrays.stored(keys), self._arrays.stored(count)))
        if sum(len(run[0]) for run in self._runs) >= len(self._merged[0]) and len(self._runs) > 1:
            self._merge()

    def result(self) -> Run:
        """All keys, sorted and distinct [k], and their counts, int64 [k]."""
        if self._runs:
            self._merge()
        return self._merged

    def _merge(self) -> None:
        runs = [run for run in (self._merged, *self._runs) if len(run[0])]
        most = sum(len(keys) for keys, _ in runs)
        keys = self._arrays.zeros(most, self._merged[0].dtype)
        count, size = self._arrays.zeros(most, np.int64), 0
        for part, total in in_order(_sum, _parts(runs)):
            keys[size : size + len(part)], count[size : size + len(part)] = part, total
            size += len(part)
        self._merged, self._runs = (keys[:size], count[:size]), []


def _parts(runs: Sequence[Run]) -> Iterator[list[Run]]:
    """Cuts runs at the same keys, so that each part has about `BLOCK` of them."""
    if not runs:
        return
    step = max(1, BLOCK // (2 * len(runs)))  # between two samples, a run has fewer keys than this
    samples = np.sort(np.concatenate([keys[step::step] for keys, _ in runs]))
    pivots = samples[len(runs) - 1 :: len(runs)]
    cuts = [[0, *np.searchsorted(keys, pivots).tolist(), len(keys)] for keys, _ in runs]
    for k in range(len(pivots) + 1):
        yield [
            (keys[at[k] : at[k + 1]], count[at[k] : at[k + 1]]) for (keys, count), at in zip(runs, cuts, strict=True)
        ]


def _sum(runs: list[Run]) -> Run:
    """One run of several."""
    every = np.concatenate([keys for keys, _ in runs])
    every.sort()
    every = every[is_first(every)]
    total = np.zeros(len(every), np.int64)
    for keys, count in runs:
        total[np.searchsorted(every, keys)] += count
    return every, total
