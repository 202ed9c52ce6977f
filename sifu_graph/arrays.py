"""Aliases of array types, types of ids, and functions of integer arrays that many modules need.

It knows numpy only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NewType

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 20
"""Elements of an array that are computed with at a time, where not all are."""
MAX_RUN = 64  # pages read or written in one piece, everything in memory: 128 MiB of weights

Slot = NewType("Slot", int)
"""Number of an edge in the store. Its place in memory is another number (`PageTable.places`)."""
PageId = NewType("PageId", int)
"""Number of a page: its first slot is ``page * PAGE_EDGES``."""

Ids = NDArray[np.int32]
Ints = NDArray[np.int64]
Integers = NDArray[np.integer[Any]]
Keys = NDArray[np.uint64]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Bools = NDArray[np.bool_]


def ranges(starts: Ints, sizes: Ints) -> Ints:
    """The concatenation of ``arange(start, start + size)`` over the pairs, int64 [sum of sizes]."""
    ends = np.cumsum(sizes)
    total = int(ends[-1]) if len(ends) else 0
    out: Ints = np.arange(total, dtype=np.int64) + np.repeat(starts - (ends - sizes), sizes)
    return out


def is_first(values: Integers) -> Bools:
    """Which values differ from the one before."""
    first = np.ones(len(values), dtype=bool)
    np.not_equal(values[1:], values[:-1], out=first[1:])
    return first


def distinct(values: Ints) -> Ints:
    """The distinct values, ascending. From version 2.3 on, `numpy.unique` hashes: 5 to 50 times as slow here."""
    ordered = np.sort(values)
    return ordered[is_first(ordered)]


def find_sorted(keys: Integers, wanted: Integers) -> Ints:
    """As `numpy.searchsorted`, int64 [k]: where ``wanted`` would be among ascending keys.

    They are looked up in ascending order. In any other order each look-up among millions of keys waits for memory: 1.9
    microseconds, where sorting and looking up take 0.3.
    """
    order = np.argsort(wanted)
    found = np.empty(len(wanted), np.int64)
    found[order] = np.searchsorted(keys, wanted[order])
    return found


def blocks(stop: int, size: int | None = None, *, start: int = 0) -> Iterator[slice]:
    """The places from ``start`` to before ``stop``, in blocks of a size; None: of `BLOCK`."""
    size = BLOCK if size is None else size
    return (slice(begin, min(begin + size, stop)) for begin in range(start, stop, size))


def bincount(values: Integers, n: int, weights: Integers | Doubles | None = None) -> Doubles:
    """As `numpy.bincount` with ``minlength`` n, float64 [n], of arrays that may be larger than memory."""
    out = np.zeros(n)
    for block in blocks(len(values)):
        out += np.bincount(values[block], None if weights is None else weights[block], minlength=n)
    return out


def runs(pages: Ints, *, most: int = MAX_RUN) -> list[tuple[PageId, PageId]]:
    """Sorted page numbers, int64 [k], as runs (first, page after the last) of at most ``most`` pages."""
    if not len(pages):
        return []
    cuts = np.flatnonzero(np.diff(pages) != 1) + 1
    out: list[tuple[PageId, PageId]] = []
    for run in np.split(pages, cuts):
        first, last = int(run[0]), int(run[-1]) + 1
        out.extend((PageId(at), PageId(min(at + most, last))) for at in range(first, last, most))
    return out
