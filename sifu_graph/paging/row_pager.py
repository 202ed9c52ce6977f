"""Makes rows of the graph ready: for a batch part by part, in the background; for decoding one at a time.

Rows are read, and in training written, in the spill file where their page has no frame: a page comes from there into a
frame only if the corpus reads it more often than one that is in a frame. It knows slots, rows and pages; it does not
know tokens, or where pages come from.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from threading import Event
from typing import NamedTuple

import numpy as np
import torch
from sifu_store.layout import BIAS, WEIGHT
from torch import Tensor

from sifu_graph.arrays import Ints, Slot, distinct
from sifu_graph.edge_index import RowPlaces
from sifu_graph.paging.buffer_pool import BufferPool
from sifu_graph.paging.page_source import SHORT_RUN
from sifu_graph.paging.spilled_pages import LOADED_PAGES

PART_PAGES = 32  # pages of rows that one part of a batch meets, at most
PARTS_OF_WORK = 64  # a part has at most about 1 / PARTS_OF_WORK of the batch's work


class KnownRow(NamedTuple):
    """Cached places of a row. Valid while `PageTable.moves` equals ``moves``."""

    moves: int
    row: RowPlaces
    pages: int  # number of pages of the row
    away: Ints  # those of them in the spill file
    past: int  # edges of the row on those


@dataclass(frozen=True, slots=True)
class Part:
    """Consecutive rows that are worked on together: groups first .. stop - 1 of a plan, and their pages (ascending)."""

    first: int
    stop: int
    pages: Ints


class RowPager:
    """Brings the pages of rows into the frames of a pool.

    Parameters
    ----------
    largest_row_pages
        Number of pages of the largest row.
    """

    def __init__(self, buffer: BufferPool, *, largest_row_pages: int = 1) -> None:
        self.buffer, self.largest_row_pages = buffer, largest_row_pages
        edge_bytes = buffer.layout.edge_bytes
        self._row_bytes = edge_bytes[WEIGHT] + edge_bytes[BIAS]  # of an edge that is read
        self._pager: ThreadPoolExecutor | None = None
        self._halt = Event()  # stops loading for the next batch

    def close(self) -> None:
        """Ends the background thread."""
        if self._pager is not None:
            self._halt.set()
            self._pager.shutdown(wait=True, cancel_futures=True)
            self._pager = None

    # ---- the rows of a batch, part by part

    def place(self, slots: Tensor) -> Tensor:
        """Places int64 [k] in the arrays of the slots [k] of a part, whose pages are in frames or in the spill file."""
        buffer = self.buffer
        if buffer.table.resident:
            return slots
        places = buffer.places(slots.numpy())  # not torch: its threads would wait for those of the pager
        if buffer.spilled is not None:
            buffer.stats.streamed_bytes += int((places >= buffer.spilled.beyond).sum()) * self._row_bytes
        return torch.from_numpy(places)

    def parts(self, slot: Ints, first_edge: Ints, positions: Ints | int = 1) -> list[Part]:
        """Cuts the rows of a plan into parts of which two fit in memory, in the order in which to work on them.

        If every page has a frame, everything is one part. Otherwise parts with much work and few absent pages
        alternate with the others, so that the work hides the loading.

        Parameters
        ----------
        slot : int64 [edges]
            The slots of the rows, row after row.
        first_edge : int64 [groups + 1]
            Group g has the slots ``first_edge[g] : first_edge[g + 1]``.
        positions : int64 [groups]
            Positions of each group: the work of a group is that number times the edges of its row.
        """
        table = self.buffer.table
        groups, page = len(first_edge) - 1, slot // self.buffer.layout.page_edges
        if table.resident and not table.missing:
            return [Part(0, groups, met(page))]
        most = PART_PAGES if table.resident else min(PART_PAGES, table.frames // 2 - self.largest_row_pages - 1)
        turns = np.concatenate([[0], np.cumsum(page[1:] != page[:-1]), [0]])  # pages met before each edge
        work = np.concatenate([[0], np.cumsum(positions * np.diff(first_edge))])
        pages_of_part = turns[np.minimum(first_edge[:-1], len(slot))] // most
        work_of_part = work[:-1] // (work[-1] // PARTS_OF_WORK + 1)
        bounds = np.flatnonzero(np.diff(pages_of_part) + np.diff(work_of_part)) + 1
        cut = [0, *bounds.tolist(), groups]
        found = [Part(first, stop, met(page[first_edge[first] : first_edge[stop]])) for first, stop in pairwise(cut)]
        absent = np.array([len(table.absent(part.pages)) for part in found])
        return [found[at] for at in in_turns(absent, np.diff(work[cut]))]

    def sweep(
        self, parts: Sequence[Part], *, upcoming: Ints | None = None, in_file: Sequence[str] = ()
    ) -> Iterator[Part]:
        """Makes the pages of the parts ready, one part after the other, and loads the next parts in the background.

        Parameters
        ----------
        upcoming : int64 [k]
            The pages of the next batch: they are loaded too while frames are empty.
        in_file
            Names of arrays that are read, or written through `SpilledPages.past`, in the spill file. Empty: every
            page is brought into a frame.

        Raises
        ------
        StoreDamagedError
            A page cannot be read.
        DiskFullError
            The spill file cannot grow.
        """
        buffer = self.buffer
        in_file = in_file if buffer.spilled is not None else ()
        prefetch = buffer.backing.prefetch and buffer.table.missing
        coming = self._coming(parts, upcoming, in_file) if prefetch else None
        try:
            for part in parts:
                buffer.backing.mark()
                began = time.perf_counter()
                if coming is None:
                    self._make_ready(part.pages, in_file)
                else:
                    next(coming).result()
                buffer.stats.stall_s += time.perf_counter() - began
                yield part
                if in_file:
                    assert buffer.spilled is not None
                    buffer.spilled.finish(buffer.table.absent(part.pages), in_file)
        finally:
            if coming is not None:
                coming.close()

    def _coming(self, parts: Sequence[Part], upcoming: Ints | None, in_file: Sequence[str]) -> Generator[Future[None]]:
        """The loading of one part after the other, as futures.

        Behind a part, parts with as many pages as half of the frames (in the file, fewer) are loaded; behind the last
        one, the pages of the next batch.
        """
        if self._pager is None:
            self._pager = ThreadPoolExecutor(1, thread_name_prefix="sifu-pager")
        self._halt, asked, ahead = Event(), deque[Future[None]](), 0
        half = self.buffer.table.frames // 2
        most = min(LOADED_PAGES, half) if in_file else half
        try:
            for at, part in enumerate(parts):
                for following in parts[at + len(asked) :]:
                    if len(asked) > 1 and ahead + len(following.pages) > most:
                        break
                    pinned = np.concatenate([part.pages[:0], *(one.pages for one in parts[at : at + len(asked)])])
                    asked.append(self._pager.submit(self._make_ready, following.pages, in_file, pinned=pinned))
                    ahead += len(following.pages)
                    if following is parts[-1] and upcoming is not None:
                        self._pager.submit(self._fill_free_frames, upcoming, self._halt)
                yield asked.popleft()
                ahead -= len(part.pages)
        finally:
            self._halt.set()
            for future in asked:
                future.cancel()
            if self._pager is not None:  # not closed in between
                self._pager.submit(int).result()  # waits for the running job: it is the other writer of the page table

    def _make_ready(self, pages: Ints, in_file: Sequence[str], *, pinned: Ints | None = None) -> None:
        """Brings the pages of a part into frames; with ``in_file`` those that are worth one, and reads the others.

        The pinned pages stay where they are, in a frame or in the file: they are in use.
        """
        buffer = self.buffer
        if not in_file:
            buffer.bring(pages, pinned=pinned)
            return
        assert buffer.spilled is not None
        absent = buffer.table.use(pages)
        buffer.stats.request(len(pages), absent=len(absent))
        buffer.admit(absent, pages, busy=pinned)
        buffer.spilled.prepare(buffer.table.absent(pages), in_file)

    def _fill_free_frames(self, upcoming: Ints, halt: Event) -> None:
        table, spilled = self.buffer.table, self.buffer.spilled
        for begin in range(0, len(upcoming), SHORT_RUN):
            absent = table.absent(np.sort(upcoming[begin : begin + SHORT_RUN]))
            if spilled is not None:
                absent = absent[~spilled.in_file[absent]]  # a part may be at work in the file
            if halt.is_set() or not (table.resident or len(table.free_frames(SHORT_RUN)) == SHORT_RUN):
                return
            if len(absent):
                self.buffer.bring(absent)

    # ---- one row, for decoding

    def place_row(self, slots: Ints, known: KnownRow | None) -> KnownRow:
        """Places of the edges of a row.

        A page gets a frame if one is empty or has a page that the corpus reads more rarely; the others are read in the
        spill file.

        Parameters
        ----------
        slots : int64 [k]
            The slots of the row.
        known
            The last result for this row, or None.

        Raises
        ------
        StoreDamagedError
            A page cannot be read.
        DiskFullError
            The spill file cannot grow.
        """
        buffer, table = self.buffer, self.buffer.table
        spilled, stats = buffer.spilled, buffer.stats
        if known is None or known.moves != table.moves:
            began = time.perf_counter()
            page = slots // buffer.layout.page_edges
            pages = met(page)
            absent = table.absent(pages)
            stats.request(len(pages), absent=len(absent))
            buffer.admit(absent, pages)
            if spilled is not None:
                spilled.settle()
            places = buffer.places(slots)
            row = RowPlaces(places, places.ctypes.data, len(places))
            away = table.absent(pages)
            past = int((table.frame_of[page] < 0).sum()) if len(away) else 0
            known = KnownRow(table.moves, row, len(pages), away, past)
            stats.stall_s += time.perf_counter() - began
        else:
            stats.request(known.pages, absent=len(known.away))
            stats.past_frames += len(known.away)
        if known.past:
            assert spilled is not None
            stats.streamed_bytes += known.past * self._row_bytes
            spilled.prepare_row(known.away)
        return known

    def edge(self, slot: Slot) -> int:
        """The place of one edge in the arrays."""
        buffer, spilled = self.buffer, self.buffer.spilled
        page, at = divmod(slot, buffer.layout.page_edges)
        frame = int(buffer.table.frame_of[page])
        if frame < 0 and (spilled is None or not spilled.in_file[page]):
            pages = np.array([page])
            buffer.admit(pages, pages)
            frame = int(buffer.table.frame_of[page])
        if frame >= 0:
            return frame * buffer.layout.page_edges + at
        assert spilled is not None
        spilled.settle()
        spilled.prepare_row(np.array([page]))
        return spilled.beyond + slot


def met(page: Ints) -> Ints:
    """The distinct pages of the edges [k] of rows, ascending; fast for rows of a few runs of slots."""
    return distinct(page[np.flatnonzero(np.diff(page, prepend=-1))])


def in_turns(waiting: Ints, work: Ints) -> list[int]:
    """An order of parts in which the sums of waiting [parts] and work [parts] grow in proportion; work comes first."""
    by_share = np.argsort(waiting / (work + 1), kind="stable")
    order, first, last = [], 0, len(work) - 1
    waited = worked = 0
    all_waiting, all_work = int(waiting.sum()), int(work.sum())
    while first <= last:
        behind = waited * all_work < worked * all_waiting
        at = int(by_share[last if behind else first])
        first, last = first + (not behind), last - behind
        waited, worked = waited + int(waiting[at]), worked + int(work[at])
        order.append(at)
    return order
