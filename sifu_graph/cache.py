"""The edges of a graph in memory, by slot and by row: what a batch and a walk ask for, page by page as they need it.

The cache knows slots, rows and pages, not tokens. Where a page lies and which one has to go is `pages`; here the
pages of a batch's rows are brought in part by part, the next part's while this one is worked on, single edges are
copied out and back wherever their page is, and decoding learns where a row lies.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from threading import Event
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sifu_store.layout import PAGE_EDGES
from torch import Tensor

from sifu_graph.kernel import Records
from sifu_graph.pages import BIAS, NEVER, SHORT_RUN, WEIGHT, Ints, PagePool

PART_PAGES = 64  # pages of rows that one part of a batch meets


class RowPlaces(NamedTuple):
    """Where the private edges of one row lie: places in the pools, or ``~slot`` in the records of a file."""

    places: Ints  # [k], contiguous
    pointer: int  # its address: asking an array for it takes longer than a small row's contest
    edges: int  # k


class KnownRow(NamedTuple):
    """Where a row lay when so many pages had moved; how many pages it has, how many in frames, and edges past them."""

    moves: int
    row: RowPlaces
    pages: int
    held: int
    past: int


@dataclass(frozen=True, slots=True)
class Part:
    """Neighbouring rows that are worked on together: groups first .. stop - 1 of a plan, and the pages they lie on."""

    first: int
    stop: int
    pages: Ints


class EdgePool(PagePool):
    """Every paged array of the graph, edge by edge. How to make one, and its budget: see `PagePool`."""

    def _allocate(self) -> None:
        super()._allocate()
        self._edge_bytes = self.page_bytes({}) // self.page_edges

    def _empty_tables(self) -> None:
        super()._empty_tables()
        self._least: tuple[int, float] | None = None  # see `_least_held`

    # ---- the rows of a batch, part by part

    def place(self, slots: Tensor) -> Tensor:
        """Where these slots, whose pages are in memory, lie in the arrays."""
        if self.resident:
            return slots
        page, at = np.divmod(slots.numpy(), self.page_edges)  # not torch: its threads would wait for the pager's
        return torch.from_numpy(self.frame_of[page] * self.page_edges + at)

    def parts(self, slot: Ints, first_edge: Ints) -> list[Part]:
        """Cuts the rows of a plan (``slot``, group g from ``first_edge[g]`` on) into parts that fit in memory twice.

        Everything is one part where nothing has to be brought in.
        """
        groups = len(first_edge) - 1
        if self.resident and not self.missing:
            return [Part(0, groups, np.empty(0, np.int64))]
        page = slot // self.page_edges
        most = PART_PAGES if self.resident else min(PART_PAGES, self.frames // 2 - self.largest_row_pages - 1)
        turns = np.concatenate([[0], np.cumsum(page[1:] != page[:-1]), [0]])  # pages met before each edge
        part_of = turns[np.minimum(first_edge[:-1], len(slot))] // most
        bounds = [0, *(np.flatnonzero(np.diff(part_of)) + 1).tolist(), groups]
        return [
            Part(first, stop, np.unique(page[first_edge[first] : first_edge[stop]])) for first, stop in pairwise(bounds)
        ]

    def sweep(self, parts: Sequence[Part], *, upcoming: Ints | None = None) -> Iterator[Part]:
        """Brings the pages of one part after another into memory, those of the next while this one is worked on.

        ``upcoming``: the pages of the next batch, in its order. They count in the order of eviction, and while frames
        are free they are brought in too.
        """
        after = np.full(self.pages, NEVER)
        if upcoming is not None:
            after[upcoming] = len(parts) + np.arange(len(upcoming))
        self.next_use = after.copy()
        for at in reversed(range(len(parts))):
            self.next_use[parts[at].pages] = at
        halt = Event()
        coming: Future[None] | None = None
        try:
            for at, part in enumerate(parts):
                began = time.perf_counter()
                halt.set()
                if coming is None:
                    self.bring(part.pages)
                else:
                    coming.result()
                self.stats.stall_s += time.perf_counter() - began
                if at:
                    done = parts[at - 1].pages
                    self.next_use[done] = after[done]
                coming, halt = None, Event()
                following = parts[at + 1].pages if at + 1 < len(parts) else None
                if self.prefetch and self.missing:
                    coming = self._in_background(following, part.pages, upcoming, halt)
                yield part
        finally:
            halt.set()
            if self._pager is not None:
                self._pager.submit(int).result()  # whatever it was at: nobody else may touch the tables before

    def _in_background(self, following: Ints | None, pinned: Ints, upcoming: Ints | None, halt: Event) -> Future[None]:
        """Brings in the pages of the following part; then, until it is halted, those of the next batch."""
        if self._pager is None:
            self._pager = ThreadPoolExecutor(1, thread_name_prefix="sifu-pager")
        first = self._pager.submit(self.bring, np.empty(0, np.int64) if following is None else following, pinned=pinned)
        if upcoming is not None:
            self._pager.submit(self._fill_free_frames, upcoming, halt)
        return first

    def _fill_free_frames(self, upcoming: Ints, halt: Event) -> None:
        for begin in range(0, len(upcoming), SHORT_RUN):
            some = np.sort(upcoming[begin : begin + SHORT_RUN])
            absent = some[self.frame_of[some] < 0]
            if halt.is_set() or not (self.resident or int((self.page_of < 0).sum()) >= SHORT_RUN):
                return
            if len(absent):
                self.bring(absent)

    def mark_dirty(self, slots: Ints) -> None:
        """The same, by slots."""
        self.touch(np.unique(slots // self.page_edges))

    # ---- single edges

    def stage(self, slots: Ints, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Copies of the values of these slots [k, ...], by array; no page moves for it unless the store holds it."""
        names = list(self.arrays) if names is None else list(names)
        if self.resident:
            self.require(slots)
            at = torch.from_numpy(slots)
            return {name: self.arrays[name][at] for name in names}
        out = {name: torch.zeros(len(slots), *self.arrays[name].shape[1:], dtype=self.dtype) for name in names}
        page = slots // self.page_edges
        self._stage_held(np.flatnonzero(self.frame_of[page] >= 0), slots, out)
        away = self.frame_of[page] < 0
        scratched = np.flatnonzero(away & self.scratched[page])
        self._each_in_scratch(scratched, slots, out, write=False)
        fresh = np.flatnonzero(away & ~self.scratched[page] & ~self.stored[page])
        for some in np.array_split(fresh, -(-len(fresh) // self.page_edges)) if len(fresh) else []:
            made = {WEIGHT: self.initial.weight(slots[some]), BIAS: self.initial.bias(slots[some])}
            for name, values in made.items():
                if name in out and values is not None:
                    out[name][some] = torch.from_numpy(values).to(self.dtype)
        unread = np.flatnonzero(away & ~self.scratched[page] & self.stored[page])
        for pages in self._handfuls(page[unread]):
            self.bring(pages)
            self._stage_held(unread[np.isin(page[unread], pages)], slots, out)
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
        self._each_in_scratch(away, slots, values, write=True)
        self.dirty[page[away]] = True
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
        pages = np.unique(page)
        most = max(1, self.frames // 2)
        for begin in range(0, len(pages), most):
            yield pages[begin : begin + most]

    def _stage_held(self, which: Ints, slots: Ints, out: Mapping[str, Tensor]) -> None:
        if len(which):
            at, into = self.place(torch.from_numpy(slots[which])), torch.from_numpy(which)
            for name, values in out.items():
                values[into] = self.arrays[name][at]

    def _put_held(self, which: Ints, slots: Ints, values: Mapping[str, Tensor]) -> None:
        if len(which):
            at, of = self.place(torch.from_numpy(slots[which])), torch.from_numpy(which)
            for name, value in values.items():
                self.arrays[name][at] = value[of].to(self.dtype)
            self.touch(np.unique(slots[which] // self.page_edges))

    def _each_in_scratch(self, which: Ints, slots: Ints, values: Mapping[str, Tensor], *, write: bool) -> None:
        if not len(which):
            return
        assert self.scratch is not None
        page, at_page = np.divmod(slots[which], self.page_edges)
        of = torch.from_numpy(which)
        for (name, array), offset in zip(self.arrays.items(), self.scratch.offsets, strict=True):
            if name in values:
                at = page * self.scratch.record_bytes + offset + at_page * (array[0].numel() * array.itemsize)
                rows = values[name][of].numpy()
                self.scratch.transfer(at, rows, write=write)
                if not write:
                    values[name][of] = torch.from_numpy(rows)

    # ---- one row, for decoding

    def records(self) -> Records | None:
        """Where pages lie that left memory."""
        if self.scratch is None:
            return None
        return Records(self.scratch.fd, self.scratch.record_bytes, self.scratch.offsets[1], self.page_edges)

    def place_row(self, slots: Ints, known: KnownRow | None, *, past_frames: bool) -> KnownRow:
        """Where the edges of a row lie: places in the arrays, or ``~slot`` for those to be read from `records`.

        A page is given a frame if one is free or held by a page that the corpus reads more rarely; any other is read
        where it lies, past the frames (unless that cannot be done: then it gets one in any case). ``known`` is the
        last answer for this row: it holds until a page moves.
        """
        if known is None or known.moves != self.moves:
            began = time.perf_counter()
            page, at = np.divmod(slots, self.page_edges)
            pages = np.unique(page[np.flatnonzero(np.diff(page, prepend=-1))])  # a row is a few runs of slots
            absent = pages[self.frame_of[pages] < 0]
            if past_frames:
                self._admit(absent, pages)
            elif len(absent):
                self._bring_uncounted(pages, pinned=pages)
            frame = self.frame_of[page]
            places = np.where(frame >= 0, frame * self.page_edges + at, ~slots)
            row = RowPlaces(places, places.ctypes.data, len(places))
            held = int((self.frame_of[pages] >= 0).sum())
            known = KnownRow(self.moves, row, len(pages), held, int((frame < 0).sum()))
            hits = len(pages) - len(absent)
            self.stats.stall_s += time.perf_counter() - began
        else:
            hits = known.held
        self.stats.requests += known.pages
        self.stats.hits += hits
        self.stats.streamed_bytes += known.past * self._edge_bytes
        return known

    def _admit(self, absent: Ints, pages: Ints) -> None:
        """Brings in those of a row's pages that are worth a frame, or have never been in memory."""
        if not len(absent):
            return
        unread = absent[~self.scratched[absent]]
        if not len(unread) and self.reads[absent].max() <= self._least_held():
            return
        rest = absent[self.scratched[absent]]
        welcome = rest[np.argsort(-self.reads[rest], kind="stable")]
        held = self.page_of[self.page_of >= 0]
        free = self.frames - len(held)
        rarest = np.sort(self.reads[np.setdiff1d(held, pages)])[max(0, len(unread) - free) :]
        room = max(0, free - len(unread))
        admitted = welcome[:room].tolist()
        for page, rival in zip(welcome[room:].tolist(), rarest, strict=False):
            if self.reads[page] <= rival:
                break
            admitted.append(page)
        if len(unread) or admitted:
            self._bring_uncounted(np.sort(np.concatenate([unread, np.array(admitted, np.int64)])), pinned=pages)

    def _least_held(self) -> float:
        """How often the corpus reads that page in memory which it reads most rarely; below 0 while frames are free."""
        if self._least is None or self._least[0] != self.moves:
            full = bool((self.page_of >= 0).all())
            self._least = self.moves, float(self.reads[self.page_of].min()) if full else -1.0
        return self._least[1]

    def _bring_uncounted(self, pages: Ints, *, pinned: Ints) -> None:
        """Brings in pages whose requests the row has counted."""
        requests, hits = self.stats.requests, self.stats.hits
        self.bring(pages, pinned=pinned)
        self.stats.requests, self.stats.hits = requests, hits

    def edge(self, slot: int, W: NDArray[np.generic], b: NDArray[np.generic]) -> int:
        """The place of one edge, or -1 after a copy of it was put into ``W`` [d, d] and ``b`` [d]."""
        page, at = divmod(slot, self.page_edges)
        frame = int(self.frame_of[page])
        if frame >= 0:
            return frame * self.page_edges + at
        if self.scratch is not None and self.scratched[page]:
            record = page * self.scratch.record_bytes
            self.scratch.read_at(record + at * W.nbytes, W)
            self.scratch.read_at(record + self.scratch.offsets[1] + at * b.nbytes, b)
        else:
            values = self.stage(np.array([slot]), (WEIGHT, BIAS))
            W[:], b[:] = values[WEIGHT][0].numpy(), values[BIAS][0].numpy()
        return -1


def row_pages(
    pages: int, source: Ints, slot: Ints, total: Ints, *, page_edges: int = PAGE_EDGES
) -> tuple[NDArray[np.float64], int]:
    """How often a token of the corpus reads each page, and how many pages the largest row lies on.

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
