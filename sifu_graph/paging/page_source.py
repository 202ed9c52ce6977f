"""Where the values of a page come from that no pool and no spill file holds: the store, or the initial values.

It knows pages and slots; it does not know frames, eviction or what is trained.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray
from sifu_store.layout import BIAS, WEIGHT

from sifu_graph.arrays import Bools, Floats, Ints, runs
from sifu_graph.ops.initial import EdgeInitializer

READERS = 4  # runs that are read in parallel; reading serially takes 1.5 times as long

PageReader = Callable[[str, int, int], NDArray[np.generic]]
"""(array name, first page, page after the last) -> the slots of those pages."""

Incoming = tuple[str, int, int, NDArray[np.generic] | None]
"""Array name, first page, page after the last, and the values of their slots; None: zeros."""


class PageSource:
    """Reads pages that the store holds, and generates those that were never trained.

    Parameters
    ----------
    initial
        Generates the values of edges that were never trained.
    slots
        Number of places of edges in the store.
    page_edges
        Slots of a page.
    stored : bool [pages]
        Pages that the store holds. None: no page.
    read
        Reads pages of the store.

    Attributes
    ----------
    kept
        Arrays that the store holds for its stored pages. All other arrays begin as zeros.
    """

    def __init__(
        self,
        initial: EdgeInitializer,
        *,
        slots: int,
        page_edges: int,
        stored: Bools | None = None,
        read: PageReader | None = None,
    ) -> None:
        self.initial, self.slots, self.page_edges, self.read = initial, slots, page_edges, read
        self.stored = np.zeros(-(-slots // page_edges), bool) if stored is None else stored
        self.kept: set[str] = {WEIGHT, BIAS}

    def pages(self, pages: Ints, names: Sequence[str], *, most: int, parallel: bool) -> Iterator[Incoming]:
        """The values of pages (int64 [k], ascending), array by array in runs of at most ``most`` pages.

        With ``parallel``, the next runs are read while the caller works on one.
        """
        stored = self.stored[pages]
        found = [(self._stored_values, run) for run in runs(pages[stored], most=most)]
        found += [(self._initial_values, run) for run in runs(pages[~stored], most=most)]
        todo = [(values, (name, *run)) for values, run in found for name in names]
        if len(found) < 2 or not parallel:
            for values, run in todo:
                yield (*run, values(*run))
            return
        with ThreadPoolExecutor(READERS, thread_name_prefix="sifu-reader") as readers:
            coming = deque(readers.submit(values, *run) for values, run in todo[:READERS])
            for (_, run), after in zip_longest(todo, todo[READERS:]):
                now = coming.popleft().result()
                if after is not None:
                    coming.append(readers.submit(after[0], *after[1]))
                yield (*run, now)

    def generated(self, name: str, slots: Ints) -> Floats | None:
        """The values [k, ...] of an array at these slots before any training; None: zeros."""
        if name == WEIGHT:
            return self.initial.weight(slots)
        return self.initial.bias(slots) if name == BIAS else None

    def _stored_values(self, name: str, first: int, stop: int) -> NDArray[np.generic] | None:
        return self.read(name, first, stop) if name in self.kept and self.read is not None else None

    def _initial_values(self, name: str, first: int, stop: int) -> NDArray[np.generic] | None:
        return self.generated(name, np.arange(first * self.page_edges, min(stop * self.page_edges, self.slots)))
