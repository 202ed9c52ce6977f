"""The arrays that page together: their shapes, and the bytes of an edge and of a page.

It knows sizes; it does not know where a page is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from sifu_store.layout import PAGE_EDGES

from sifu_graph.arrays import PageId


@dataclass(frozen=True)
class PageLayout:
    """The arrays of a pool. A page holds ``page_edges`` consecutive slots of each of them.

    Parameters
    ----------
    shapes
        Shape of one edge, by array name.
    slots
        Number of slots. The last page may have fewer than ``page_edges``.
    page_edges
        Slots of a page.
    dtype
        Type of all arrays.
    """

    shapes: Mapping[str, tuple[int, ...]]
    slots: int
    page_edges: int = PAGE_EDGES
    dtype: torch.dtype = torch.float32

    @cached_property
    def pages(self) -> int:
        """Number of pages."""
        return -(-self.slots // self.page_edges)

    @cached_property
    def edge_bytes(self) -> dict[str, int]:
        """Bytes of one edge, by array name."""
        return {name: int(np.prod(shape)) * self.dtype.itemsize for name, shape in self.shapes.items()}

    @cached_property
    def page_bytes(self) -> int:
        """Bytes of one page of all arrays."""
        return self.page_edges * sum(self.edge_bytes.values())

    def slots_of(self, first: PageId, stop: PageId) -> slice:
        """The slots of the pages first .. stop - 1."""
        return slice(first * self.page_edges, min(stop * self.page_edges, self.slots))
