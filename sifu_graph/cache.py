"""The pages of a graph's edges in memory: all of them, or as many as a budget allows.

The cache knows pages, not tokens: which page lies in which frame, which changed, which is read next. A page comes
from the scratch file if it went there, else from the store, else it was never trained and is made by `Initial`.

Without a budget every page has a frame of its own, a place is a slot, and nothing is looked up. With one, the
**order of eviction** is: the page whose next use is farthest away goes first; among those that neither this batch
nor the next one uses, the one whose sources are rarest in the corpus; then the one that was used longest ago. A page
that changed goes to the scratch file, never to the store: only a commit writes there. Nothing here changes a result.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from threading import Event

import numpy as np
import torch
from numpy.typing import NDArray
from sifu_store.errors import HostMemoryError
from sifu_store.layout import PAGE_EDGES
from torch import Tensor

from sifu_graph.initial import Initial
from sifu_graph.kernel import Records
from sifu_graph.scratch import Scratch

WEIGHT, BIAS = "edges/weight", "edges/bias"
MAX_RUN = 64  # pages read or written in one piece, everything in memory: 128 MiB of weights
SHORT_RUN = 8  # the same under a budget
PART_PAGES = 64  # pages of rows that one part of a batch meets
NEVER = np.iinfo(np.int64).max

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
PageReader = Callable[[str, int, int], NDArray[np.generic]]
"""(array name, first page, page after the last) -> the slots of those pages."""


@dataclass(slots=True)
class CacheStats:
    """What the cache did. A request is one page that one part of a batch, or one row in decoding, asks for."""

    requests: int = 0
    hits: int = 0
    from_store: int = 0
    from_scratch: int = 0
    generated: int = 0
    evicted: int = 0
    streamed_bytes: int = 0
    store_bytes_read: int = 0
    store_bytes_written: int = 0
    scratch_bytes_read: int = 0
    scratch_bytes_written: int = 0
    stall_s: float = 0.0

    @property
    def hit_rate(self) -> float:
        """Share of the requests that found their page in memory."""
        return self.hits / self.requests if self.requests else 1.0


@dataclass(frozen=True, slots=True)
class Part:
    """Neighbouring rows that are worked on together: groups first .. stop - 1 of a plan, and the pages they lie on."""

    first: int
    stop: int
    pages: Ints


def reserve(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """Zeros that take memory only where they are touched, aligned to a page of memory."""
    size_bytes = int(np.prod(shape)) * dtype.itemsize
    if size_bytes == 0:
        return torch.zeros(shape, dtype=dtype)
    region = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0))
    if hasattr(mmap, "MADV_HUGEPAGE"):
        region.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(region, dtype=dtype).reshape(shape)


class EdgePool:
    """Every paged array of the graph, page by page.

    Parameters
    ----------
    initial
        Makes the pages that were never trained.
    slots
        Places of edges in the store.
    stored : bool [pages]
        Pages that the store holds; `read` reads them. None: none.
    rows
        Asked once a budget is set: how often a token of the corpus reads each page (float [pages]), and the number of
        pages that the largest row lies on. None: all the same, and one page.

    Attributes
    ----------
    arrays
        By name: ``edges/weight`` [places, d, d], ``edges/bias`` [places, d], and the optimizer's state in training.
    frame_of : int64 [pages]
        Where each page lies, or -1.
    dirty : bool [pages]
        Which pages differ from the store, wherever they are.
    """

    def __init__(
        self,
        initial: Initial,
        *,
        slots: int,
        stored: Bools | None = None,
        read: PageReader | None = None,
        rows: Callable[[], tuple[NDArray[np.float64], int]] | None = None,
        dtype: torch.dtype = torch.float32,
        page_edges: int = PAGE_EDGES,
    ) -> None:
        self.page_edges = page_edges
        self.initial, self.slots, self.read, self.dtype = initial, slots, read, dtype
        self.pages = -(-slots // self.page_edges)
        self.stored = np.zeros(self.pages, bool) if stored is None else stored
        self.rows = rows
        self.reads = np.zeros(self.pages)
        self.largest_row_pages = 1
        self.scratch: Scratch | None = None
        self.prefetch = True
        self._pager: ThreadPoolExecutor | None = None
        self._state: dict[str, tuple[int, ...]] = {}
        self.kept: set[str] = set()
        self._budget: tuple[int | None, Path | None] = (None, None)
        self.dirty: Bools
        self.frame_of: Ints
        self.missing: int
        self._allocate()

    # ---- how much memory, for which arrays

    def configure(
        self,
        *,
        state: Mapping[str, tuple[int, ...]] | None = None,
        kept: Sequence[str] = (),
        host_bytes: int | None = None,
        folder: Path | None = None,
    ) -> None:
        """Chooses the arrays that page together and the memory that they may take. Nothing may be dirty.

        Parameters
        ----------
        state
            Optimizer state: names, and shapes per edge. It is zero where the store holds none.
        kept
            Those of them that the store holds, for the pages that are stored.
        host_bytes
            Hard bound on the frames; None: every page has one.
        folder
            Where the scratch file goes; needed with a bound.

        Raises
        ------
        HostMemoryError
            The bound is below the least that works.
        """
        state = dict(state or {})
        if host_bytes is not None and self.rows is not None:
            self.reads, self.largest_row_pages = self.rows()
            self.rows = None
        if host_bytes is not None and host_bytes >= self.pages * self.page_bytes(state):
            host_bytes = None
        if (state, set(kept), (host_bytes, folder)) == (self._state, self.kept - {WEIGHT, BIAS}, self._budget):
            return
        assert not self.dirty.any(), "changes would be lost"
        weights = None
        if self.resident and host_bytes is None and not kept:  # what is in memory can stay
            weights = {name: self.arrays[name] for name in (WEIGHT, BIAS)}, self.frame_of, self.missing
        self.close()
        self._state, self._budget = state, (host_bytes, folder)
        self._allocate()
        self.kept |= set(kept)
        if weights is not None:
            self.arrays |= weights[0]
            self.frame_of, self.missing = weights[1:]

    def page_bytes(self, state: Mapping[str, tuple[int, ...]] | None = None) -> int:
        """Bytes of one page of all arrays."""
        return sum(self._page_bytes(self._shapes(self._state if state is None else state)))

    def _shapes(self, state: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        d = self.initial.width
        return {WEIGHT: (d, d), BIAS: (d,), **state}

    def _page_bytes(self, shapes: Mapping[str, tuple[int, ...]]) -> list[int]:
        return [self.page_edges * int(np.prod(shape)) * self.dtype.itemsize for shape in shapes.values()]

    def least_bytes(self, state: Mapping[str, tuple[int, ...]] | None = None) -> int:
        """The smallest budget that works: two parts of a batch, each of at least one row."""
        return min(self.pages, 2 * (self.largest_row_pages + 2)) * self.page_bytes(state)

    def _allocate(self) -> None:
        shapes = self._shapes(self._state)
        host_bytes, folder = self._budget
        self.resident = host_bytes is None
        if host_bytes is None:
            self.frames = self.pages
            places = self.slots
        else:
            if host_bytes < self.least_bytes():
                raise HostMemoryError(
                    f"{host_bytes / 2**20:.0f} MiB are left for the edges and the least that works is "
                    f"{self.least_bytes() / 2**20:.0f} MiB: allow more --host-memory, or train with a smaller --batch"
                )
            assert folder is not None
            self.frames = host_bytes // self.page_bytes()
            places = self.frames * self.page_edges
            self.scratch = Scratch(folder, self._page_bytes(shapes))
        self.arrays = {name: reserve((places, *shape), self.dtype) for name, shape in shapes.items()}
        self.frame_of = np.full(self.pages, -1)
        self.page_of = np.full(0 if self.resident else self.frames, -1)
        self.dirty = np.zeros(self.pages, bool)
        self.changed = np.zeros(self.pages, bool)  # in memory, and differs from where it came from
        self.scratched = np.zeros(self.pages, bool)  # the scratch file holds it (as it is, unless it `changed`)
        self.next_use = np.full(self.pages, NEVER)
        self.last_use = np.zeros(self.pages, np.int64)
        self.clock = 0
        self.missing = self.pages
        self.kept = {WEIGHT, BIAS}
        self.stats = CacheStats()

    def close(self) -> None:
        """Ends the background thread and gives the scratch file's space back."""
        if self._pager is not None:
            self._pager.shutdown(wait=True)
            self._pager = None
        if self.scratch is not None:
            self.scratch.close()
            self.scratch = None

    @property
    def W(self) -> Tensor:
        """[places, d, d]."""
        return self.arrays[WEIGHT]

    @property
    def b(self) -> Tensor:
        """[places, d]."""
        return self.arrays[BIAS]

    @property
    def frame_bytes(self) -> int:
        """Memory that the frames take when all of them are in use."""
        return self.frames * self.page_bytes()

    # ---- bringing pages in

    def require(self, slots: Ints) -> None:
        """Brings the pages of these slots into memory; under a budget they must fit."""
        if self.missing:
            wanted = np.zeros(self.pages, bool)
            wanted[slots // self.page_edges] = True
            self.bring(np.flatnonzero(wanted))

    def bring(self, pages: Ints, *, pinned: Ints | None = None) -> None:
        """Brings these pages (ascending) into memory; neither they nor the pinned ones are evicted for it."""
        self.clock += 1
        self.last_use[pages] = self.clock
        absent = pages[self.frame_of[pages] < 0]
        self.stats.requests += len(pages)
        self.stats.hits += len(pages) - len(absent)
        if not len(absent):
            return
        frames = absent if self.resident else self._free_frames(absent, pages, pinned)
        self._fill(absent, frames)
        self.frame_of[absent] = frames
        if not self.resident:
            self.page_of[frames] = absent
        self.missing -= len(absent)

    def _free_frames(self, absent: Ints, pages: Ints, pinned: Ints | None) -> Ints:
        free = np.flatnonzero(self.page_of < 0)[: len(absent)]
        needed = len(absent) - len(free)
        if needed:
            evictable = np.zeros(self.pages, bool)
            evictable[self.page_of[self.page_of >= 0]] = True
            evictable[pages] = False
            if pinned is not None:
                evictable[pinned] = False
            held = np.flatnonzero(evictable)
            assert len(held) >= needed, "more pages are pinned than there are frames"
            order = np.lexsort((self.last_use[held], self.reads[held], -self.next_use[held]))
            victims = np.sort(held[order[:needed]])
            free = np.concatenate([free, self.frame_of[victims]])
            self._evict(victims)
        return free

    def _evict(self, victims: Ints) -> None:
        assert self.scratch is not None
        for page in victims:
            # A clean page of the store is worth its place there too: reading the store checks and decodes.
            if self.changed[page] or (self.stored[page] and not self.scratched[page] and self._room()):
                self.scratch.write(int(page), self._views(int(self.frame_of[page])))
                self.scratched[page] = True
        self.page_of[self.frame_of[victims]] = -1
        self.frame_of[victims] = -1
        self.changed[victims] = False
        self.missing += len(victims)
        self.stats.evicted += len(victims)

    def _room(self) -> bool:
        """Whether the scratch file may grow by what it need not hold."""
        assert self.scratch is not None
        return self.scratch.free_bytes() > 2 * self.pages * self.page_bytes()

    def _views(self, frame: int) -> list[NDArray[np.generic]]:
        begin = frame * self.page_edges
        return [array[begin : begin + self.page_edges].numpy() for array in self.arrays.values()]

    def _fill(self, pages: Ints, frames: Ints) -> None:
        gone = self.scratched[pages]
        if gone.any():
            assert self.scratch is not None
            for page, frame in zip(pages[gone], frames[gone], strict=True):
                self.scratch.read(int(page), self._views(int(frame)))
        kept = self.stored[pages] & ~gone
        fresh = ~kept & ~gone
        self.stats.from_scratch += int(gone.sum())
        self.stats.from_store += int(kept.sum())
        self.stats.generated += int(fresh.sum())
        frame_at = dict(zip(pages.tolist(), frames.tolist(), strict=True))
        most = MAX_RUN if self.resident else SHORT_RUN
        for first, stop in runs(pages[kept], most=most):
            for name in self.arrays:
                values = self.read(name, first, stop) if name in self.kept and self.read is not None else None
                for page in range(first, stop):
                    begin = (page - first) * self.page_edges
                    self._set(name, frame_at[page], None if values is None else values[begin : begin + self.page_edges])
            self.stats.store_bytes_read += (stop - first) * self.page_bytes()
        for first, stop in runs(pages[fresh], most=most):
            slots = np.arange(first * self.page_edges, min(stop * self.page_edges, self.slots))
            made = {WEIGHT: self.initial.weight(slots), BIAS: self.initial.bias(slots)}
            for name in self.arrays:
                values = made.get(name)
                for page in range(first, stop):
                    begin = (page - first) * self.page_edges
                    self._set(name, frame_at[page], None if values is None else values[begin : begin + self.page_edges])

    def _set(self, name: str, frame: int, values: NDArray[np.generic] | None) -> None:
        """A page of one array; None: zeros. A frame that nobody used yet is zero already and stays untouched."""
        target = self.arrays[name].numpy()[frame * self.page_edges : (frame + 1) * self.page_edges]
        if values is not None:
            target[: len(values)] = values
        elif not self.resident:
            target[:] = 0

    # ---- the rows of a batch, part by part

    def place(self, slots: Tensor) -> Tensor:
        """Where these slots, whose pages are in memory, lie in the arrays."""
        if self.resident:
            return slots
        page = torch.div(slots, self.page_edges, rounding_mode="floor")
        return torch.from_numpy(self.frame_of)[page] * self.page_edges + (slots - page * self.page_edges)

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

    def touch(self, pages: Ints) -> None:
        """Says that these pages, which are in memory, are about to change."""
        self.dirty[pages] = True
        self.changed[pages] = True

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
        work = self.scratch.write_at if write else self.scratch.read_at
        record = (slots[which] // self.page_edges) * self.scratch.record_bytes
        for (name, array), offset in zip(self.arrays.items(), self.scratch.offsets, strict=True):
            if name in values:
                rows = values[name].view(len(slots), -1).numpy()
                at = record + offset + (slots[which] % self.page_edges) * (array[0].numel() * array.itemsize)
                for row, where in zip(which.tolist(), at.tolist(), strict=True):
                    work(where, rows[row])

    # ---- one row, for decoding

    def records(self) -> Records | None:
        """Where pages lie that left memory."""
        if self.scratch is None:
            return None
        return Records(self.scratch.fd, self.scratch.record_bytes, self.scratch.offsets[1], self.page_edges)

    def place_row(self, slots: Ints, *, past_frames: bool) -> Ints:
        """Where the edges of a row lie: places in the arrays, or ``~slot`` for those to be read from `records`.

        A page is given a frame if one is free or held by a page that the corpus reads more rarely; any other is read
        where it lies, past the frames (unless that cannot be done: then it gets one in any case).
        """
        page = slots // self.page_edges
        pages = np.unique(page)
        absent = pages[self.frame_of[pages] < 0]
        self.clock += 1
        self.last_use[pages] = self.clock
        self.stats.requests += len(pages)
        self.stats.hits += len(pages) - len(absent)
        if len(absent):
            began = time.perf_counter()
            self.stats.requests -= len(absent)  # `bring` counts those that it brings
            if past_frames:
                self._admit(absent, pages)
            else:
                self.bring(pages)
            left = int((self.frame_of[absent] < 0).sum())
            self.stats.requests += left
            self.stats.stall_s += time.perf_counter() - began
        frame = self.frame_of[page]
        places: Ints = np.where(frame >= 0, frame * self.page_edges + slots % self.page_edges, ~slots)
        self.stats.streamed_bytes += int((frame < 0).sum()) * sum(self._page_bytes(self._shapes({}))) // self.page_edges
        return places

    def _admit(self, absent: Ints, pages: Ints) -> None:
        free = int((self.page_of < 0).sum())
        unread = absent[~self.scratched[absent]]  # must come through a frame once
        rest = absent[self.scratched[absent]]
        welcome = rest[np.argsort(-self.reads[rest], kind="stable")]
        room = max(0, free - len(unread))
        held = self.page_of[self.page_of >= 0]
        held = np.sort(self.reads[np.setdiff1d(held, pages)])
        admitted = list(welcome[:room])
        for page, rarest in zip(welcome[room:], held[len(unread) :], strict=False):
            if self.reads[page] <= rarest:
                break
            admitted.append(page)
        self.bring(np.sort(np.concatenate([unread, np.array(admitted, np.int64)])), pinned=pages)

    # ---- what a commit writes

    def dirty_runs(self) -> list[tuple[int, int]]:
        """Runs of dirty pages, as (first, page after the last)."""
        return runs(np.flatnonzero(self.dirty), most=MAX_RUN if self.resident else SHORT_RUN)

    def values(self, name: str, first: int, stop: int) -> NDArray[np.float32]:
        """The slots of the pages first .. stop - 1 of an array, wherever they are."""
        begin, end = first * self.page_edges, min(stop * self.page_edges, self.slots)
        array = self.arrays[name]
        if self.resident:
            out: NDArray[np.float32] = array[begin:end].numpy()
            return out
        assert self.scratch is not None
        out = np.empty(((stop - first) * self.page_edges, *array.shape[1:]), array.numpy().dtype)
        for page in range(first, stop):
            piece = out[(page - first) * self.page_edges : (page - first + 1) * self.page_edges]
            frame = int(self.frame_of[page])
            if frame >= 0:
                piece[:] = array[frame * self.page_edges : (frame + 1) * self.page_edges].numpy()
            else:
                self.scratch.read(page, [piece if other == name else None for other in self.arrays])
        return out[: end - begin]

    def mark_stored(self) -> None:
        """Says that the store now holds every dirty page, of every array."""
        self.stored |= self.dirty
        self.stats.store_bytes_written += int(self.dirty.sum()) * self.page_bytes()
        self.scratched &= ~self.changed  # those are newer in memory, and in the store
        self.changed[:] = False
        self.dirty[:] = False
        self.kept = set(self.arrays)

    def report(self) -> dict[str, float | int]:
        """The figures of `CacheStats`, and the memory and disk space that the pools take."""
        stats = self.stats
        if self.scratch is not None:
            stats.scratch_bytes_read, stats.scratch_bytes_written = self.scratch.bytes_read, self.scratch.bytes_written
        written = stats.scratch_bytes_written + stats.store_bytes_written
        used = self.pages - self.missing
        return {
            "hit_rate": stats.hit_rate,
            **{name: getattr(stats, name) for name in stats.__slots__},
            "write_amplification": written / stats.store_bytes_written if stats.store_bytes_written else 0.0,
            "host_pool_bytes": self.frame_bytes,
            "host_used_bytes": used * self.page_bytes(),
        }


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


def runs(pages: Ints, *, most: int = MAX_RUN) -> list[tuple[int, int]]:
    """Sorted page numbers as runs (first, page after the last) of at most ``most`` pages."""
    if not len(pages):
        return []
    cuts = np.flatnonzero(np.diff(pages) != 1) + 1
    out: list[tuple[int, int]] = []
    for run in np.split(pages, cuts):
        first, last = int(run[0]), int(run[-1]) + 1
        out.extend((at, min(at + most, last)) for at in range(first, last, most))
    return out
