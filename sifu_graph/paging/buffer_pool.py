"""Frames that hold pages: all of them, or as many as a budget allows.

A pool has a page table (`page_table`), the arrays of its frames, and a *backing*, where pages come from and go to: the
store and the initializer (`PageSource`), the spill file before them (`SpilledPages`), or the pool of the tier below
(`device_pool`). It does not know rows, text or optimizers. Nothing here changes a result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sifu_graph.arrays import Bools, Ints, distinct
from sifu_graph.paging.cache_stats import CacheStats
from sifu_graph.paging.page_layout import PageLayout
from sifu_graph.paging.page_table import PageTable
from sifu_graph.paging.spilled_pages import SpilledPages


class Backing(Protocol):
    """Where the pages of a pool come from and go to."""

    prefetch: bool  # pages are loaded in the background

    def mark(self) -> None:
        """Lets pages be moved that the work launched so far uses, once that work is done."""

    def load(self, pages: Ints, frames: Ints, arrays: Mapping[str, Tensor]) -> Ints:
        """Fills frames [k] with pages [k] (ascending). Returns the pages that differ from their copy in the backing.

        Raises
        ------
        StoreDamagedError
            A page cannot be read.
        """

    def save(self, pages: Ints, frames: Ints, arrays: Mapping[str, Tensor], *, changed: Bools) -> Ints:
        """Before pages [k] (ascending) lose their frames [k]: saves those that ``changed`` [k]. Returns those written.

        Raises
        ------
        DiskFullError
        """


class BufferPool:
    """The frames of a pool.

    Parameters
    ----------
    layout
        The arrays that page together.
    table
        Which page is in which frame.
    arrays
        By name: ``edges/weight`` [places, d, d], ``edges/bias`` [places, d], and the optimizer's state in training.
        Frame f has the places from ``f * page_edges`` on; a resident pool has a place for every slot.
    backing
        Where pages come from and go to.
    stats
        Counters of the pool; those of the backing in memory are the same object.
    device
        Where the arrays are.
    spilled
        The backing, if rows can be read in the spill file: their places are ``spilled.beyond + slot``.
    """

    def __init__(
        self,
        layout: PageLayout,
        table: PageTable,
        arrays: dict[str, Tensor],
        backing: Backing,
        *,
        stats: CacheStats,
        device: torch.device,
        spilled: SpilledPages | None = None,
    ) -> None:
        self.layout, self.table, self.arrays, self.backing = layout, table, arrays, backing
        self.stats, self.device, self.spilled = stats, device, spilled

    def close(self) -> None:
        """Drops the arrays, so that their memory is freed while other objects still refer to the pool."""
        self.arrays = {}

    @property
    def frame_bytes(self) -> int:
        """Memory of the frames when all of them are in use."""
        return self.table.frames * self.layout.page_bytes

    @property
    def used_bytes(self) -> int:
        """Memory of the frames in use."""
        return (self.table.pages - self.table.missing) * self.layout.page_bytes

    def require(self, slots: Ints) -> None:
        """Brings the pages of slots [k] into frames; under a budget they must fit. Raises what `bring` raises."""
        table = self.table
        if table.missing:
            self.backing.mark()
            wanted = np.zeros(table.pages, bool)
            wanted[slots // self.layout.page_edges] = True
            self.bring(np.flatnonzero(wanted))

    def bring(self, pages: Ints, *, pinned: Ints | None = None, fill: bool = True, counted: bool = True) -> None:
        """Brings pages [k] (ascending) into frames; neither they nor the pinned ones are evicted for it.

        Parameters
        ----------
        fill
            False: the pages get a frame whose values are not set, since all of them are about to be written.
        counted
            Counts the pages as requests.

        Raises
        ------
        StoreDamagedError
            A page cannot be read.
        DiskFullError
            A page that is evicted cannot be saved.
        """
        table = self.table
        absent = table.use(pages)
        if fill and counted:
            self.stats.request(len(pages), absent=len(absent))
        if not len(absent):
            return
        frames = absent if table.resident else self._free_frames(absent, pages, pinned)
        if fill:
            table.changed[self.backing.load(absent, frames, self.arrays)] = True
            table.page_reads[absent] += 1
        table.assign(absent, frames)

    def _free_frames(self, absent: Ints, pages: Ints, pinned: Ints | None) -> Ints:
        table = self.table
        free = table.free_frames(len(absent))
        if len(free) == len(absent):
            return free
        victims = table.victims(len(absent) - len(free), used=pages, pinned=pinned)
        frames = table.frame_of[victims]
        written = self.backing.save(victims, frames, self.arrays, changed=table.changed[victims])
        table.page_writes[written] += 1
        table.release(victims)  # before anything is loaded, which may fail
        self.stats.evicted += len(victims)
        return np.concatenate([free, frames])

    def admit(self, absent: Ints, pages: Ints, *, busy: Ints | None = None) -> None:
        """Gives a frame to those absent pages of a row or a part that are worth one; the file holds the others.

        Without a spill file all of them get a frame. No request is counted.

        Parameters
        ----------
        pages
            All pages of the row or the part: they keep their frames.
        busy
            Pages that stay where they are, in a frame or in the file.

        Raises
        ------
        StoreDamagedError, DiskFullError
            As `bring`.
        """
        if not len(absent):
            return
        self.backing.mark()
        spilled, table = self.spilled, self.table
        if spilled is None:
            self.bring(absent, pinned=pages, counted=False)
            return
        pinned, rest, in_file = pages, absent, spilled.in_file[absent]
        if busy is not None:
            pinned, rest = distinct(np.concatenate([pages, busy])), absent[~(in_file & np.isin(absent, busy))]
        self.bring(table.worth_a_frame(rest, pinned=pinned), pinned=pinned, counted=False)
        away = table.frame_of[absent] < 0
        self.stats.past_frames += int((in_file & away).sum())
        unread = absent[away & ~in_file]
        if len(unread) and spilled.has_space():
            spilled.fetch(unread)
            table.page_writes[unread] += 1
        else:
            self.bring(unread, pinned=pinned, counted=False)

    def places(self, slots: Ints) -> Ints:
        """Places [k] of slots [k], whose pages are in frames or in the spill file."""
        beyond = 0 if self.spilled is None else self.spilled.beyond
        return self.table.places(slots, self.layout.page_edges, beyond)
