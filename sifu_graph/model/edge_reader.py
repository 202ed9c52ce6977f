"""Values of private edges without a pool: read from the store if their page was trained, else generated.

It knows slots and pages; it does not know what the values are used for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from sifu_store.layout import PAGE_EDGES, WEIGHT
from sifu_store.store import Store

from sifu_graph.arrays import Floats, Ints, distinct, runs
from sifu_graph.edge_index import EdgeIndex
from sifu_graph.ops.initial import EdgeInitializer

BLOCK_PAGES = 32
BLOCK_EDGES = BLOCK_PAGES * PAGE_EDGES
"""Edges of a block: 64 MiB of weights for d = 32, and 64 MiB more while they are read."""


def blocks(edges: int) -> Iterator[slice]:
    """Slices of at most `BLOCK_EDGES` that cover 0 .. edges - 1 of the sorted index."""
    return (slice(begin, min(begin + BLOCK_EDGES, edges)) for begin in range(0, edges, BLOCK_EDGES))


class EdgeReader:
    """Reads the parameters of edges by their slots, and keeps nothing in memory.

    Parameters
    ----------
    store
        Holds the trained pages.
    width
        d.
    initial
        Returns what generates the edges of all other pages. It is called once one of them is asked for.

    Attributes
    ----------
    pages_read
        Number of pages of weights that were read from the store.
    """

    def __init__(self, store: Store, width: int, initial: Callable[[], EdgeInitializer]) -> None:
        self.store, self.width, self.initial = store, width, initial
        self.stored = store.page_stored()
        self.pages_read = 0

    def generated(self, name: str, slots: Ints) -> Floats:
        """``edges/weight`` [k, d, d] or ``edges/bias`` [k, d] of slots [k] before any training, float32."""
        values, d = self.initial().values(name, slots), self.width
        return np.zeros((len(slots), d, d), np.float32) if values is None else values

    def read(self, name: str, slots: Ints) -> Floats:
        """``edges/weight`` [k, d, d] or ``edges/bias`` [k, d] of slots [k], float32.

        Raises
        ------
        StoreDamagedError
            A page cannot be read.
        """
        d = self.width
        out = np.zeros((len(slots), d, d) if name == WEIGHT else (len(slots), d), np.float32)
        page = slots // PAGE_EDGES
        stored = self.stored[page]
        for first, stop in runs(distinct(page[stored])):
            values = self.store.read_pages(name, first, stop)
            here = stored & (page >= first) & (page < stop)
            out[here] = values[slots[here] - first * PAGE_EDGES]
            self.pages_read += (stop - first) if name == WEIGHT else 0
        if not stored.all():
            out[~stored] = self.generated(name, slots[~stored])
        return out

    def blocks(self, name: str, index: EdgeIndex) -> Iterator[Floats]:
        """The values of all private edges, sorted by (u, v), block by block (see `blocks`); as `read`."""
        return (self.read(name, index.slots(block)) for block in blocks(index.edges))
