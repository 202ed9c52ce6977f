"""The edges of a graph in memory, by slot and by row: what a batch and a walk ask for, page by page as they need it.

The cache knows slots, rows and pages, not tokens. Where a page lies and which one has to go is `buffer_pool`; here the
pages of a batch's rows are made ready part by part, those of the next parts while one is worked on, single edges are
copied out and back wherever their page is, and decoding learns where a row lies.

Pages in the spill file are read, and in training written, **in that file**: a page comes from there into a frame
only if the corpus reads it more often than one that is in a frame.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from ctypes import c_int64
from dataclasses import dataclass
from itertools import pairwise
from threading import Event
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sifu_store.layout import BIAS, PAGE_EDGES, WEIGHT
from torch import Tensor

from sifu_graph.arrays import Ints, runs
from sifu_graph.edge_index import RowPlaces
from sifu_graph.kernels.native import Past
from sifu_graph.paging.buffer_pool import SHORT_RUN, BufferPool
from sifu_graph.paging.spill_file import pieces_of

PART_PAGES = 32  # pages of rows that one part of a batch meets, at most
LOADED_PAGES = 64  # of the scratch file that count as this process's memory at a time, about
PARTS_OF_WORK = 64  # a part is about so small a share of the batch's work, at most


class KnownRow(NamedTuple):
    """The places of a row, valid while `EdgePool.moves` equals ``moves``.

    ``pages`` is the number of its pages, ``away`` are those in the file, ``past`` is the number of edges on them."""

    moves: int
    row: RowPlaces
    pages: int
    away: Ints
    past: int


@dataclass(frozen=True, slots=True)
class Part:
    """Neighbouring rows that are worked on together: groups first .. stop - 1 of a plan, and their pages."""

    first: int
    stop: int
    pages: Ints


class EdgePool(BufferPool):
    """Every paged array of the graph, edge by edge. How to make one, and its budget: see `BufferPool`.

    Attributes
    ----------
    past
        The scratch file as the kernel knows it; None: every page has a frame, or gets one.
    """

    past: Past | None = None

    def _allocate(self) -> None:
        super()._allocate()
        self._edge_bytes = self.page_bytes({}) // self.page_edges
        self.past = None
        if self.scratch is not None:
            self.past = Past(self.scratch.fd, self.beyond, (c_int64 * 6)(*self.scratch.offsets[:6]))

    def _empty_tables(self) -> None:
        super()._empty_tables()
        self._least: tuple[int, float] | None = None  # see `_least_held`
        self._loaded = 0  # pages of the file that decoding may have read since it released them

    # ---- the rows of a batch, part by part

    def place(self, slots: Tensor) -> Tensor:
        """The places in the arrays of the slots of a part, whose pages are in memory or in the file."""
        if self.resident:
            return slots
        places = self._places(slots.numpy())  # not torch: its threads would wait for the pager's
        if self.scratch is not None:
            self.stats.streamed_bytes += int((places >= self.beyond).sum()) * self._edge_bytes
        return torch.from_numpy(places)

    def _places(self, slots: Ints) -> Ints:
        away = self.frame_of < 0
        ahead = np.where(away, self.beyond, (self.frame_of - np.arange(self.pages)) * self.page_edges)
        return slots + ahead[slots // self.page_edges]

    def parts(self, slot: Ints, first_edge: Ints, positions: Ints | int = 1) -> list[Part]:
        """Cuts the rows of a plan into parts of which two fit in memory, in the order in which to work on them.

        Everything is one part where nothing has to be brought in. Otherwise parts whose pages are here, or keep the
        processor busy, take turns with those whose pages must come: so the one is done while the other is waited for.

        Parameters
        ----------
        slot, first_edge
            The rows: group g from ``first_edge[g]`` on.
        positions
            Positions of each group: a group's work is as many contests of its row.
        """
        groups, page = len(first_edge) - 1, slot // self.page_edges
        if self.resident and not self.missing:
            return [Part(0, groups, met(page))]
        most = PART_PAGES if self.resident else min(PART_PAGES, self.frames // 2 - self.largest_row_pages - 1)
        turns = np.concatenate([[0], np.cumsum(page[1:] != page[:-1]), [0]])  # pages met before each edge
        work = np.concatenate([[0], np.cumsum(positions * np.diff(first_edge))])
        pages_of_part = turns[np.minimum(first_edge[:-1], len(slot))] // most
        work_of_part = work[:-1] // (work[-1] // PARTS_OF_WORK + 1)
        bounds = np.flatnonzero(np.diff(pages_of_part) + np.diff(work_of_part)) + 1
        cut = [0, *bounds.tolist(), groups]
        found = [Part(first, stop, met(page[first_edge[first] : first_edge[stop]])) for first, stop in pairwise(cut)]
        absent = np.array([int((self.frame_of[part.pages] < 0).sum()) for part in found])
        return [found[at] for at in in_turns(absent, np.diff(work[cut]))]

    def sweep(
        self, parts: Sequence[Part], *, upcoming: Ints | None = None, in_file: Sequence[str] = ()
    ) -> Iterator[Part]:
        """Makes the pages of one part after another ready, those of the next ones while one is worked on.

        Parameters
        ----------
        upcoming
            The pages of the next batch: while frames are free they are brought in too.
        in_file
            Arrays that are read, or written through `past`, in the spill file; none: every page
            comes into a frame.
        """
        in_file = in_file if self.scratch is not None else ()
        coming = self._coming(parts, upcoming, in_file) if self.prefetch and self.missing else None
        try:
            for part in parts:
                began = time.perf_counter()
                if coming is None:
                    self._make_ready(part.pages, in_file)
                else:
                    next(coming).result()
                self.stats.stall_s += time.perf_counter() - began
                yield part
                if in_file:
                    self._leave(part.pages, in_file)
        finally:
            if coming is not None:
                coming.close()

    def _coming(self, parts: Sequence[Part], upcoming: Ints | None, in_file: Sequence[str]) -> Generator[Future[None]]:
        """One part after another on its way, and behind it as many as half of the frames hold; in the file, fewer.

        Behind the last of them: the pages of the next batch.
        """
        if self._pager is None:
            self._pager = ThreadPoolExecutor(1, thread_name_prefix="sifu-pager")
        self._halt, asked, ahead = Event(), deque[Future[None]](), 0
        most = min(LOADED_PAGES, self.frames // 2) if in_file else self.frames // 2
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
            if self._pager is not None:  # closed meanwhile
                self._pager.submit(
                    int
                ).result()  # waits until its current job is done: it is the only other writer of the tables

    def _make_ready(self, pages: Ints, in_file: Sequence[str], *, pinned: Ints | None = None) -> None:
        """Brings the pages of a part into frames; with ``in_file`` those that are worth one, and reads the others.

        The pinned ones stay where they are, in a frame or in the file: a part is being worked on there.
        """
        if not in_file:
            self.bring(pages, pinned=pinned)
            return
        assert self.scratch is not None
        self.clock += 1
        self.last_use[pages] = self.clock
        absent = pages[self.frame_of[pages] < 0]
        self.stats.requests += len(pages)
        self.stats.hits += len(pages) - len(absent)
        self._place_pages(absent, pages, busy=pinned)
        away = pages[self.frame_of[pages] < 0]
        self.scratch.late.settle(away)
        self._load(away, in_file)

    def _leave(self, pages: Ints, in_file: Sequence[str]) -> None:
        """After the work on a part: counts what was read and written in the file.

        Raises
        ------
        DiskFullError
        """
        assert self.scratch is not None
        assert self.past is not None
        self.scratch.bytes_written_in_place += self.past.written
        error, self.past.written, self.past.error = self.past.error, 0, 0
        if error:
            self.scratch.failed_to_write(error)
        self._release(pages[self.frame_of[pages] < 0], in_file)

    def _load(self, pages: Ints, names: Sequence[str]) -> None:
        """Reads pages of arrays in the file, so that the work on them waits for nothing.

        Raises
        ------
        StoreDamagedError
            They cannot be read.
        """
        assert self.scratch is not None
        try:
            for first, stop in runs(pages, most=self.pages):
                for name in names:
                    self._memory[name].load(first * self.page_edges, stop * self.page_edges)
        except OSError as error:
            raise self.scratch.unreadable(error) from error

    def _release(self, pages: Ints, names: Sequence[str]) -> None:
        for first, stop in runs(pages, most=self.pages):
            for name in names:
                self._memory[name].release(first * self.page_edges, stop * self.page_edges)

    def _fill_free_frames(self, upcoming: Ints, halt: Event) -> None:
        for begin in range(0, len(upcoming), SHORT_RUN):
            some = np.sort(upcoming[begin : begin + SHORT_RUN])
            absent = some[(self.frame_of[some] < 0) & ~self.scratched[some]]  # where a part is at work nothing moves
            if halt.is_set() or not (self.resident or int((self.page_of < 0).sum()) >= SHORT_RUN):
                return
            if len(absent):
                self.bring(absent)

    # ---- single edges

    def stage(self, slots: Ints, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Copies of the values of these slots [k, ...], by array; a page moves only if the store alone holds it."""
        names = list(self.arrays) if names is None else list(names)
        if self.resident:
            self.require(slots)
            at = torch.from_numpy(slots)
            return {name: self.arrays[name][at] for name in names}
        out = {name: torch.zeros(len(slots), *self.arrays[name].shape[1:], dtype=self.dtype) for name in names}
        page = slots // self.page_edges
        away = self.frame_of[page] < 0
        self._stage_located(np.flatnonzero(~away | self.scratched[page]), slots, out)
        fresh = np.flatnonzero(away & ~self.scratched[page] & ~self.source.stored[page])
        for some in np.array_split(fresh, -(-len(fresh) // self.page_edges)) if len(fresh) else []:
            for name in out:
                if (values := self.source.generated(name, slots[some])) is not None:
                    out[name][some] = torch.from_numpy(values).to(self.dtype)
        unread = np.flatnonzero(away & ~self.scratched[page] & self.source.stored[page])
        for pages in self._handfuls(page[unread]):
            self._place_pages(pages, pages)
            self._stage_located(unread[np.isin(page[unread], pages)], slots, out)
        return out

    def unstage(self, slots: Ints, values: Mapping[str, Tensor]) -> None:
        """Puts values [k, ...] back, wherever their pages are now, and marks those as dirty."""
        page = slots // self.page_edges
        if self.resident:
            self.require(slots)
        held = np.flatnonzero(self.frame_of[page] >= 0)
        away = np.flatnonzero((self.frame_of[page] < 0) & self.scratched[page])
        absent = np.flatnonzero((self.frame_of[page] < 0) & ~self.scratched[page])
        self._put_held(held, slots, values)
        self._put_away(away, slots, values)
        for pages in self._handfuls(page[absent]):
            self.bring(pages)
            self._put_held(absent[np.isin(page[absent], pages)], slots, values)

    def get(self, name: str, slots: Ints) -> Tensor:
        """A copy of an array's values at these slots [k, ...]."""
        return self.stage(slots, [name])[name]

    def put(self, name: str, slots: Ints, values: Tensor) -> None:
        """Replaces an array's values at these slots, and marks their pages as dirty."""
        self.unstage(slots, {name: values})

    def _handfuls(self, page: Ints) -> Iterator[Ints]:
        """Pages in groups of at most half of the frames, those first that the corpus reads most often."""
        pages = np.unique(page)
        pages = pages[np.argsort(-self.reads[pages], kind="stable")]
        most = max(1, self.frames // 2)
        for begin in range(0, len(pages), most):
            yield np.sort(pages[begin : begin + most])

    def _stage_located(self, which: Ints, slots: Ints, out: Mapping[str, Tensor]) -> None:
        held = self.frame_of[slots[which] // self.page_edges] >= 0
        self._stage_held(which[held], slots, out)
        self._stage_away(which[~held], slots, out)

    def _stage_held(self, which: Ints, slots: Ints, out: Mapping[str, Tensor]) -> None:
        for some in pieces_of(which):
            at, into = torch.from_numpy(self._places(slots[some])), torch.from_numpy(some)
            for name, values in out.items():
                values[into] = self.arrays[name][at]

    def _put_held(self, which: Ints, slots: Ints, values: Mapping[str, Tensor]) -> None:
        if len(which):
            at, of = torch.from_numpy(self._places(slots[which])), torch.from_numpy(which)
            for name, value in values.items():
                self.arrays[name][at] = value[of].to(self.dtype)
            self.touch(np.unique(slots[which] // self.page_edges))

    def _put_away(self, which: Ints, slots: Ints, values: Mapping[str, Tensor]) -> None:
        if not len(which):
            return
        assert self.scratch is not None
        which = which[np.argsort(slots[which])]
        pieces, late = pieces_of(which), self.scratch.late

        def rows(name: str) -> Iterator[NDArray[np.generic]]:
            return (values[name][torch.from_numpy(some)].to(self.dtype).numpy() for some in pieces)

        if all(name in values for name in self.arrays):
            late.keep(slots[which], (rows(name) for name in self.arrays))
        else:
            late.settle()
            for array, name in enumerate(self.arrays):
                if name in values:
                    for some, new in zip(pieces, rows(name), strict=True):
                        self.scratch.transfer(self.scratch.edge_at(slots[some], array), new, write=True)
        self.dirty[slots[which] // self.page_edges] = True
        self.moves += 1  # a `KnownRow` must not read the old pages

    def _stage_away(self, which: Ints, slots: Ints, out: Mapping[str, Tensor]) -> None:
        for some in pieces_of(which):
            assert self.scratch is not None
            late = self.scratch.late
            found = late.find(slots[some])
            newer, older = some[found >= 0], some[found < 0]
            for array, name in enumerate(self.arrays):
                if name in out:
                    rows = np.empty((len(some), *out[name].shape[1:]), out[name].numpy().dtype)
                    self.scratch.transfer(self.scratch.edge_at(slots[older], array), rows[: len(older)], write=False)
                    late.read(found[found >= 0], array, rows[len(older) :])
                    out[name][torch.from_numpy(np.concatenate([older, newer]))] = torch.from_numpy(rows)

    # ---- which pages are worth a frame

    def _place_pages(self, absent: Ints, pages: Ints, *, busy: Ints | None = None) -> None:
        """Gives those of a row's or a part's absent pages a frame that are worth one; the file holds the others.

        The row's own pages leave no frame for it; the busy ones stay where they are.
        """
        if not len(absent):
            return
        if self.scratch is None:
            self._bring_uncounted(absent, pinned=pages)
            return
        pinned, rest, in_file = pages, absent, self.scratched[absent]
        if busy is not None:
            pinned, rest = np.union1d(pages, busy), absent[~(in_file & np.isin(absent, busy))]
        if len(rest) and self.reads[rest].max() > self._least_held():
            welcome = rest[np.argsort(-self.reads[rest], kind="stable")]
            held = self.page_of[self.page_of >= 0]
            rivals = np.full(self.frames - len(held), -1.0)  # of a free frame
            rivals = np.append(rivals, np.sort(self.reads[np.setdiff1d(held, pinned)]))[: len(welcome)]
            worth = self.reads[welcome[: len(rivals)]] > rivals  # falling against rising: the first ones are
            self._bring_uncounted(np.sort(welcome[: int(worth.sum())]), pinned=pinned)
        self.stats.past_frames += int((in_file & (self.frame_of[absent] < 0)).sum())
        unread = absent[(self.frame_of[absent] < 0) & ~in_file]
        if len(unread) and self._room():
            self._put_in_file(unread)
        else:
            self._bring_uncounted(unread, pinned=pinned)

    def _least_held(self) -> float:
        """How often the corpus reads that page in memory which it reads most rarely; below 0 while frames are free."""
        if self._least is None or self._least[0] != self.moves:
            full = bool((self.page_of >= 0).all())
            self._least = self.moves, float(self.reads[self.page_of].min()) if full else -1.0
        return self._least[1]

    def _bring_uncounted(self, pages: Ints, *, pinned: Ints) -> None:
        """Brings in pages whose requests were counted."""
        if len(pages):
            requests, hits = self.stats.requests, self.stats.hits
            self.bring(pages, pinned=pinned)
            self.stats.requests, self.stats.hits = requests, hits

    # ---- one row, for decoding

    def place_row(self, slots: Ints, known: KnownRow | None) -> KnownRow:
        """Where the edges of a row lie.

        A page is given a frame if one is free or held by a page that the corpus reads more rarely; any other is read
        in the file. ``known`` is the last answer for this row: it holds until a page moves.
        """
        if known is None or known.moves != self.moves:
            began = time.perf_counter()
            page = slots // self.page_edges
            pages = met(page)
            absent = pages[self.frame_of[pages] < 0]
            hits = len(pages) - len(absent)
            self._place_pages(absent, pages)
            if self.scratch is not None:
                self.scratch.late.settle()
            places = self._places(slots)
            row = RowPlaces(places, places.ctypes.data, len(places))
            away = pages[self.frame_of[pages] < 0]
            past = int((self.frame_of[page] < 0).sum()) if len(away) else 0
            known = KnownRow(self.moves, row, len(pages), away, past)
            self.stats.stall_s += time.perf_counter() - began
        else:
            hits = known.pages - len(known.away)
            self.stats.past_frames += len(known.away)
        self.stats.requests += known.pages
        self.stats.hits += hits
        if known.past:
            self.stats.streamed_bytes += known.past * self._edge_bytes
            self._load_few(known.away)
        return known

    def _load_few(self, pages: Ints) -> None:
        """Reads pages of the file for decoding; what was read before is let go now and then."""
        self._loaded += len(pages)
        if self._loaded > LOADED_PAGES:
            self._loaded = len(pages)
            for name in (WEIGHT, BIAS):
                self._memory[name].release(0, self.slots)
        self._load(pages, (WEIGHT, BIAS))

    def edge(self, slot: int) -> int:
        """The place of one edge."""
        page, at = divmod(slot, self.page_edges)
        frame = int(self.frame_of[page])
        if frame >= 0:
            return frame * self.page_edges + at
        pages = np.array([page])
        if not self.scratched[page]:
            self._place_pages(pages, pages)
            frame = int(self.frame_of[page])
            if frame >= 0:
                return frame * self.page_edges + at
        assert self.scratch is not None
        self.scratch.late.settle()
        self._load_few(pages)
        return self.beyond + slot


def met(page: Ints) -> Ints:
    """The pages among those of the edges of rows, ascending. A row is a few runs of slots."""
    return np.unique(page[np.flatnonzero(np.diff(page, prepend=-1))])


def in_turns(waiting: Ints, work: Ints) -> list[int]:
    """An order of parts in which waiting and work grow side by side, each [parts]; it begins with work."""
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


def row_pages(
    pages: int, source: Ints, slot: Ints, total: Ints, *, page_edges: int = PAGE_EDGES
) -> tuple[NDArray[np.float64], int]:
    """How often a token of the corpus reads each page, and the number of pages of the largest row.

    Parameters
    ----------
    source, slot
        Of every private edge, in the order of the index [edges].
    total
        Transitions out of every node [n].
    """
    if not len(slot):
        return np.zeros(pages), 1
    page = slot // page_edges
    turn = np.flatnonzero(np.append(True, (page[1:] != page[:-1]) | (source[1:] != source[:-1])))
    key = np.unique(page[turn] * len(total) + source[turn])
    page, source = np.divmod(key, len(total))
    weight = total[source] / max(1, int(total.sum()))
    reads = np.bincount(page, weights=weight, minlength=pages).astype(np.float64)
    return reads, int(np.bincount(source).max())
