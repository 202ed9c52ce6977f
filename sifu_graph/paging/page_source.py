"""Pages that have no newer values than those of the last commit: read from the store, or generated if never trained.

This is the one place of the pools that decides between stored and generated values. It does not know frames or the
spill file.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray
from sifu_store.layout import BIAS, WEIGHT
from torch import Tensor

from sifu_graph.arrays import MAX_RUN, Bools, Ints, PageId, runs
from sifu_graph.ops.initial import EdgeInitializer
from sifu_graph.paging.cache_stats import CacheStats
from sifu_graph.paging.page_layout import PageLayout
from sifu_graph.pools import pool

SHORT_RUN = 8  # pages read or written in one piece under a budget; `MAX_RUN` without one
READERS = 4  # threads that read pieces of a run: one thread takes half as long again

Values = NDArray[np.generic]
PageReader = Callable[[str, PageId, PageId], Values]
"""(array name, first page, page after the last) -> the values of the slots of those pages."""


class PageSource:
    """Pages from the store or the initializer. It is the backing of a pool that holds every page.

    Parameters
    ----------
    layout
        The arrays that page together.
    initial
        Generates the pages that were never trained.
    stored : bool [pages]
        Pages that the store holds.
    read
        Reads pages of the store. None: the store holds none.
    kept
        Names of the arrays that the store holds for the stored pages; the others are zero there.
    resident
        Every page has a frame, which is zero before its first use.
    prefetch
        Read a run in several threads.
    """

    def __init__(
        self,
        layout: PageLayout,
        initial: EdgeInitializer,
        *,
        stored: Bools,
        read: PageReader | None,
        kept: set[str],
        resident: bool,
        stats: CacheStats,
        prefetch: bool,
    ) -> None:
        self.layout, self.initial, self.stored, self.read, self.kept = layout, initial, stored, read, kept
        self.resident, self.stats, self.prefetch = resident, stats, prefetch

    def mark(self) -> None:
        """As `Backing.mark`: nothing to do, the work in memory is synchronous."""

    def load(self, pages: Ints, frames: Ints, arrays: Mapping[str, Tensor]) -> Ints:
        """As `Backing.load`."""
        edges = self.layout.page_edges
        frame_at = dict(zip(pages.tolist(), frames.tolist(), strict=True))
        for name, page, values in self.incoming(pages):
            frame = frame_at[page]
            target = arrays[name].numpy()[frame * edges : (frame + 1) * edges]
            if values is not None:
                target[: len(values)] = values
            elif not self.resident:
                target[:] = 0
        return pages[:0]

    def save(self, pages: Ints, frames: Ints, arrays: Mapping[str, Tensor], *, changed: Bools) -> Ints:
        """As `Backing.save`: never called, since a resident pool evicts no page."""
        raise AssertionError("a resident pool evicts no page")

    def incoming(self, pages: Ints) -> Iterator[tuple[str, PageId, Values | None]]:
        """Values [page_edges, ...] of pages (ascending), array by array, run by run; None: zeros.

        The last page of a graph may have fewer rows. Later runs are read while earlier ones are used.

        Raises
        ------
        StoreDamagedError
            A page cannot be read.
        """
        edges = self.layout.page_edges
        for name, first, stop, values in self._incoming_runs(pages):
            for k in range(stop - first):
                yield name, PageId(first + k), None if values is None else values[k * edges : (k + 1) * edges]

    def _incoming_runs(self, pages: Ints) -> Iterator[tuple[str, PageId, PageId, Values | None]]:
        stored = self.stored[pages]
        self.stats.from_store += int(stored.sum())
        self.stats.generated += int((~stored).sum())
        self.stats.store_bytes_read += int(stored.sum()) * self.layout.page_bytes
        most = (MAX_RUN if self.resident else SHORT_RUN * 2) // READERS
        found = [(self._read_stored, run) for run in runs(pages[stored], most=most)]
        found += [(self._generate, run) for run in runs(pages[~stored], most=most)]
        todo = [(values, (name, *run)) for values, run in found for name in self.layout.shapes]
        if len(found) < 2 or not self.prefetch:
            for values, run in todo:
                yield (*run, values(*run))
            return
        with pool(READERS, name="sifu-reader") as readers:
            coming = deque(readers.submit(values, *run) for values, run in todo[:READERS])
            for (_, run), after in zip_longest(todo, todo[READERS:]):
                now = coming.popleft().result()
                if after is not None:
                    coming.append(readers.submit(after[0], *after[1]))
                yield (*run, now)

    def _read_stored(self, name: str, first: PageId, stop: PageId) -> Values | None:
        return self.read(name, first, stop) if name in self.kept and self.read is not None else None

    def _generate(self, name: str, first: PageId, stop: PageId) -> Values | None:
        some = self.layout.slots_of(first, stop)
        return self.generated(name, np.arange(some.start, some.stop))

    def generated(self, name: str, slots: Ints) -> Values | None:
        """Values [k, ...] of an array at slots [k] that were never trained; None: zeros."""
        return self.initial.values(name, slots) if name in (WEIGHT, BIAS) else None

    def mark_stored(self, pages: Bools) -> None:
        """Notes that the store holds these pages [pages] of every array."""
        self.stored |= pages
        self.stats.store_bytes_written += int(pages.sum()) * self.layout.page_bytes
        self.kept = set(self.layout.shapes)
