"""The edges of a graph as batches and walks use them, wherever the pool has its frames: `EdgePool` or `DevicePool`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence

import torch
from sifu_store.layout import BIAS, WEIGHT
from torch import Tensor

from sifu_graph.arrays import Ints, Slot
from sifu_graph.kernels.native import Past
from sifu_graph.paging.buffer_pool import BufferPool
from sifu_graph.paging.cache_stats import CacheStats
from sifu_graph.paging.page_layout import PageLayout
from sifu_graph.paging.page_table import PageTable
from sifu_graph.paging.row_pager import KnownRow, Part, RowPager


class Pool(ABC):
    """A buffer of frames and a pager of rows. Methods that are not abstract only call one of them.

    Attributes
    ----------
    buffer
        The frames.
    rows
        Makes rows ready.
    """

    buffer: BufferPool
    rows: RowPager

    @abstractmethod
    def stage(self, slots: Ints, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Copies of the values [k, ...] of slots [k], by array, on the pool's device. ``names`` None: all arrays."""

    @abstractmethod
    def unstage(self, slots: Ints, values: Mapping[str, Tensor]) -> None:
        """Writes values [k, ...] of the pool's device to slots [k], wherever their pages are, which become dirty."""

    def get(self, name: str, slots: Ints) -> Tensor:
        """A copy of an array's values [k, ...] at slots [k]."""
        return self.stage(slots, [name])[name]

    def put(self, name: str, slots: Ints, values: Tensor) -> None:
        """Replaces an array's values at slots [k] with values [k, ...]; their pages become dirty."""
        self.unstage(slots, {name: values})

    @abstractmethod
    def report(self) -> dict[str, float | int]:
        """The figures of `CacheStats`, and the memory and disk space that the pool takes."""

    @abstractmethod
    def close(self) -> None:
        """Frees the memory. What was not committed or written back is lost."""

    # ---- the frames

    @property
    def layout(self) -> PageLayout:
        """The arrays that page together."""
        return self.buffer.layout

    @property
    def table(self) -> PageTable:
        """Which page is in which frame."""
        return self.buffer.table

    @property
    def stats(self) -> CacheStats:
        """What the pool did since its memory was laid out."""
        return self.buffer.stats

    @property
    def arrays(self) -> dict[str, Tensor]:
        """By name, [places, ...]; see `BufferPool`. Empty in a closed pool."""
        return self.buffer.arrays

    @property
    def W(self) -> Tensor:
        """[places, d, d]."""
        return self.buffer.arrays[WEIGHT]

    @property
    def b(self) -> Tensor:
        """[places, d]."""
        return self.buffer.arrays[BIAS]

    @property
    def device(self) -> torch.device:
        """Where the arrays are."""
        return self.buffer.device

    @property
    def slots(self) -> int:
        """Number of slots."""
        return self.layout.slots

    @property
    def pages(self) -> int:
        """Number of pages."""
        return self.table.pages

    @property
    def page_edges(self) -> int:
        """Slots of a page."""
        return self.layout.page_edges

    @property
    def frames(self) -> int:
        """Number of frames."""
        return self.table.frames

    @property
    def frame_bytes(self) -> int:
        """Memory of the frames when all of them are in use."""
        return self.buffer.frame_bytes

    @property
    def resident(self) -> bool:
        """Every page has a frame of its own: a place in the arrays is a slot."""
        return self.table.resident

    @property
    def missing(self) -> int:
        """Number of pages without a frame; in a resident pool, pages that were not used yet."""
        return self.buffer.table.missing

    @property
    def past(self) -> Past | None:
        """The spill file as the kernel sees it. None: every page has, or gets, a frame."""
        return None if self.buffer.spilled is None else self.buffer.spilled.past

    @property
    def prefetch(self) -> bool:
        """Whether pages are loaded in the background."""
        return self.buffer.backing.prefetch

    @prefetch.setter
    def prefetch(self, on: bool) -> None:
        """Turns it on or off."""
        self.buffer.backing.prefetch = on

    def require(self, slots: Ints) -> None:
        """As `BufferPool.require`."""
        self.buffer.require(slots)

    def touch(self, pages: Ints) -> None:
        """As `PageTable.touch`."""
        self.buffer.table.touch(pages)

    # ---- rows

    def parts(self, slot: Ints, first_edge: Ints, positions: Ints | int = 1) -> list[Part]:
        """As `RowPager.parts`."""
        return self.rows.parts(slot, first_edge, positions)

    def sweep(
        self, parts: Sequence[Part], *, upcoming: Ints | None = None, in_file: Sequence[str] = ()
    ) -> Iterator[Part]:
        """As `RowPager.sweep`."""
        return self.rows.sweep(parts, upcoming=upcoming, in_file=in_file)

    def place(self, slots: Tensor) -> Tensor:
        """As `RowPager.place`."""
        return self.rows.place(slots)

    def place_row(self, slots: Ints, known: KnownRow | None) -> KnownRow:
        """As `RowPager.place_row`."""
        return self.rows.place_row(slots, known)

    def edge(self, slot: Slot) -> int:
        """As `RowPager.edge`."""
        return self.rows.edge(slot)
