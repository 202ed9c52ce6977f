"""Pages in frames of memory: all of them, or as many as a budget allows; the others in a scratch file or the store.

This module knows which page is in which frame, which changed and which is read next; it does not know rows, text
or optimizers. A page is read from the spill file if it was written there, else it comes from its `PageSource`.

Without a budget every page has a frame of its own, a place is a slot, and nothing is looked up. With one, the
**order of eviction** is: the page whose sources are rarest in the corpus goes first; among equals, the one that was
used longest ago. A page that changed goes to the scratch file, never to the store: only a commit writes there. Pages
in that file can be read there too, at places past those of the frames. Nothing here changes a result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import numpy as np
import torch
from numpy.typing import NDArray
from sifu_store.durable import format_bytes
from sifu_store.errors import HostMemoryError
from sifu_store.layout import BIAS, PAGE_EDGES, WEIGHT
from torch import Tensor

from sifu_graph.arrays import MAX_RUN, Bools, Ints, runs
from sifu_graph.ops.initial import EdgeInitializer
from sifu_graph.paging.mapped_array import MappedArray
from sifu_graph.paging.page_source import READERS, Incoming, PageReader, PageSource
from sifu_graph.paging.spill_file import SpillFile, enough_space

SHORT_RUN = 8  # pages of a run under a budget


@dataclass(slots=True)
class CacheStats:
    """What the cache did. A request is one page that one part of a batch, or one row in decoding, asks for."""

    requests: int = 0
    hits: int = 0
    from_store: int = 0
    from_scratch: int = 0
    generated: int = 0
    past_frames: int = 0
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


class BufferPool:
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
        pages of the largest row. None: all the same, and one page.

    Attributes
    ----------
    arrays
        By name: ``edges/weight`` [places, d, d], ``edges/bias`` [places, d], and the optimizer's state in training.
        Under a budget places are those of the frames and, from ``beyond`` on, the slots of the scratch file, read-only.
    frame_of : int64 [pages]
        Where each page lies, or -1.
    dirty : bool [pages]
        Which pages differ from the store, wherever they are.
    page_reads, page_writes : int64 [pages]
        How often each page was brought into memory, and written to the scratch file or by a commit.
    """

    def __init__(
        self,
        initial: EdgeInitializer,
        *,
        slots: int,
        stored: Bools | None = None,
        read: PageReader | None = None,
        rows: Callable[[], tuple[NDArray[np.float64], int]] | None = None,
        dtype: torch.dtype = torch.float32,
        page_edges: int = PAGE_EDGES,
    ) -> None:
        self.page_edges = page_edges
        self.slots, self.dtype = slots, dtype
        self.pages = -(-slots // self.page_edges)
        self.source = PageSource(initial, slots=slots, page_edges=page_edges, stored=stored, read=read)
        self.rows = rows
        self.reads = np.zeros(self.pages)
        self.largest_row_pages = 1
        self.scratch: SpillFile | None = None
        self.prefetch = True
        self.device = torch.device("cpu")
        self.beyond = 0  # where there is a file: the place of slot 0 in it
        self._memory: dict[str, MappedArray] = {}
        self._pager: ThreadPoolExecutor | None = None
        self._halt = Event()  # for what the pager does without being asked
        self._state: dict[str, tuple[int, ...]] = {}
        self._budget: tuple[int | None, Path | None, int] = (None, None, 0)
        self.dirty: Bools
        self.frame_of: Ints
        self.missing: int
        self._allocate()
        self._laid_out = True  # as `_state` and `_budget` say

    # ---- how much memory, for which arrays

    def configure(
        self,
        *,
        state: Mapping[str, tuple[int, ...]] | None = None,
        kept: Sequence[str] = (),
        host_bytes: int | None = None,
        copied_bytes: int = 0,
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
            Hard bound on the frames and on the copies of single edges; None: every page has a frame.
        copied_bytes
            What the copies may take of it.
        folder
            Where the scratch file goes; needed with a bound.

        Raises
        ------
        HostMemoryError
            The bound is below the least that works.
        """
        state = dict(state or {})
        if host_bytes is not None:
            self.know_rows()
        if host_bytes is not None and host_bytes >= self.pages * self.page_bytes(state):
            host_bytes = None
        if host_bytes is not None:
            least_bytes = self.least_bytes(state) + copied_bytes
            if host_bytes < least_bytes:
                raise HostMemoryError(
                    f"`host_memory` is {format_bytes(host_bytes)}: the least that works here is "
                    f"{format_bytes(least_bytes)}, of which {format_bytes(copied_bytes)} depend on `batch`"
                )
            host_bytes -= copied_bytes
        budget = host_bytes, folder, copied_bytes
        if self._laid_out and (state, set(kept), budget) == (
            self._state,
            self.source.kept - {WEIGHT, BIAS},
            self._budget,
        ):
            return
        assert not self.dirty.any(), "changes would be lost"
        weights = None
        if self.resident and host_bytes is None and not kept:  # what is in memory can stay
            weights = {name: self.arrays[name] for name in (WEIGHT, BIAS)}, self.frame_of, self.missing
        self.close()
        self._state, self._budget, self._laid_out = state, budget, False
        try:
            self._allocate()
        except BaseException:
            self.close()
            raise
        self._laid_out = True
        self.source.kept |= set(kept)
        if weights is not None:
            self.arrays |= weights[0]
            self.frame_of, self.missing = weights[1:]

    def know_rows(self) -> tuple[NDArray[np.float64], int]:
        """How often a token of the corpus reads each page, and the number of pages of the largest row."""
        if self.rows is not None:
            self.reads, self.largest_row_pages = self.rows()
            self.rows = None
        return self.reads, self.largest_row_pages

    @property
    def initial(self) -> EdgeInitializer:
        """What generates the values of edges that were never trained."""
        return self.source.initial

    @property
    def state(self) -> dict[str, tuple[int, ...]]:
        """The optimizer's state that pages: names, and shapes per edge."""
        return self._state

    def page_bytes(self, state: Mapping[str, tuple[int, ...]] | None = None) -> int:
        """Bytes of one page of all arrays."""
        return sum(self._page_bytes(self._shapes(self._state if state is None else state)))

    def _shapes(self, state: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        d = self.source.initial.width
        return {WEIGHT: (d, d), BIAS: (d,), **state}

    def _page_bytes(self, shapes: Mapping[str, tuple[int, ...]]) -> list[int]:
        return [self.page_edges * int(np.prod(shape)) * self.dtype.itemsize for shape in shapes.values()]

    def least_bytes(self, state: Mapping[str, tuple[int, ...]] | None = None) -> int:
        """The smallest budget that works: two parts of a batch, each of at least one row."""
        self.know_rows()
        return min(self.pages, 2 * (self.largest_row_pages + 2)) * self.page_bytes(state)

    def _allocate(self) -> None:
        shapes = self._shapes(self._state)
        host_bytes, folder, copied_bytes = self._budget
        self.resident = host_bytes is None
        if host_bytes is None:
            self.frames = self.pages
            self._memory = {name: MappedArray(self.slots, shape, self.dtype) for name, shape in shapes.items()}
        else:
            assert folder is not None
            self.frames = host_bytes // self.page_bytes()
            edge_bytes = [size // self.page_edges for size in self._page_bytes(shapes)]
            scratch = self.scratch = SpillFile(folder, edge_bytes, pages=self.pages, page_edges=self.page_edges)
            if self._state:  # in training every page that goes must find room
                enough_space(scratch, self.pages * self.page_bytes() + copied_bytes)
            places = self.frames * self.page_edges
            with scratch.mapping():
                self._memory = {
                    name: MappedArray(places, shape, self.dtype, behind=scratch.behind(number))
                    for number, (name, shape) in enumerate(shapes.items())
                }
            self.beyond = next(iter(self._memory.values())).beyond
        self.arrays = {name: memory.rows for name, memory in self._memory.items()}
        self._empty_tables()

    def _empty_tables(self) -> None:
        self.frame_of = np.full(self.pages, -1)
        self.page_of = np.full(0 if self.resident else self.frames, -1)
        self.dirty = np.zeros(self.pages, bool)
        self.changed = np.zeros(self.pages, bool)  # in memory, and differs from where it came from
        self.scratched = np.zeros(
            self.pages, bool
        )  # a copy is in the file; current unless `changed` is set or updates are pending there
        self.last_use = np.zeros(self.pages, np.int64)
        self.clock = 0
        self.moves = 0  # grows when a page comes or goes
        self.missing = self.pages
        self.page_reads, self.page_writes = np.zeros(self.pages, np.int64), np.zeros(self.pages, np.int64)
        self.source.kept = {WEIGHT, BIAS}
        self.stats = CacheStats()

    def close(self) -> None:
        """Ends the background thread, and gives the memory and the scratch file's space back."""
        if self._pager is not None:
            self._halt.set()
            self._pager.shutdown(wait=True, cancel_futures=True)
            self._pager = None
        if self.scratch is not None:
            self.scratch.close()
            self.scratch = None
        self.arrays, self._memory = {}, {}  # now: a remaining reference to the pool must not keep gigabytes

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

    def bring(self, pages: Ints, *, pinned: Ints | None = None, fill: bool = True) -> None:
        """Brings these pages (ascending) into memory; neither they nor the pinned ones are evicted for it.

        Without ``fill`` they only get a frame: all of it is about to be written.
        """
        self.clock += 1
        self.last_use[pages] = self.clock
        absent = pages[self.frame_of[pages] < 0]
        if fill:
            self.stats.requests += len(pages)
            self.stats.hits += len(pages) - len(absent)
        if not len(absent):
            return
        frames = absent if self.resident else self._free_frames(absent, pages, pinned)
        if fill:
            self._fill(absent, frames)
            self.page_reads[absent] += 1
        self.frame_of[absent] = frames
        self.moves += 1
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
            order = np.lexsort((self.last_use[held], self.reads[held]))
            victims = np.sort(held[order[:needed]])
            free = np.concatenate([free, self.frame_of[victims]])
            self._evict(victims)
        return free

    def _evict(self, victims: Ints) -> None:
        assert self.scratch is not None
        for page in victims:
            # A clean page of the store is worth its place there too: reading the store checks and decodes.
            if self.changed[page] or (self.source.stored[page] and not self.scratched[page] and self._room()):
                self.scratch.write(int(page), self._views(int(self.frame_of[page])))
                self.scratched[page] = True
                self.page_writes[page] += 1
        self.page_of[self.frame_of[victims]] = -1
        self.frame_of[victims] = -1
        self.changed[victims] = False
        self.moves += 1  # at once: what is to come in their place may fail
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
        self.stats.from_scratch += int(gone.sum())
        frame_at = dict(zip(pages.tolist(), frames.tolist(), strict=True))
        for name, first, stop, values in self._incoming(pages[~gone]):
            for page in range(first, stop):
                self._set(name, frame_at[page], self._page_in(values, page - first))
        if gone.any():
            self._amend(pages[gone], frames[gone])  # last: whatever fails before leaves them waiting

    def _put_in_file(self, pages: Ints) -> None:
        """Writes pages that are neither in memory nor in the scratch file into that file."""
        assert self.scratch is not None
        numbers = {name: number for number, name in enumerate(self.arrays)}
        for name, first, stop, values in self._incoming(pages):
            array = self.arrays[name].numpy()
            for page in range(first, stop):
                rows = self._page_in(values, page - first)
                if rows is None:
                    rows = np.zeros((self.page_edges, *array.shape[1:]))
                self.scratch.write_page(page, numbers[name], np.asarray(rows, array.dtype))
        self.scratched[pages] = True
        self.page_writes[pages] += 1

    def _page_in(self, values: NDArray[np.generic] | None, page: int) -> NDArray[np.generic] | None:
        return None if values is None else values[page * self.page_edges : (page + 1) * self.page_edges]

    def _incoming(self, pages: Ints) -> Iterator[Incoming]:
        """The values of these pages from `source`, counted."""
        stored = int(self.source.stored[pages].sum())
        self.stats.from_store += stored
        self.stats.generated += len(pages) - stored
        self.stats.store_bytes_read += stored * self.page_bytes()
        most = (MAX_RUN if self.resident else SHORT_RUN * 2) // READERS
        return self.source.pages(pages, list(self.arrays), most=most, parallel=self.prefetch)

    def _amend(self, pages: Ints, frames: Ints) -> None:
        """Puts the newest values of single edges into their pages, which were read from the file."""
        assert self.scratch is not None
        late = self.scratch.late
        which = late.of_pages(pages)
        if not len(which):
            return
        page, at = np.divmod(late.slots[which], self.page_edges)
        place = frames[np.searchsorted(pages, page)] * self.page_edges + at
        for array, values in enumerate(self.arrays.values()):
            rows = np.empty((len(which), *values.shape[1:]), values.numpy().dtype)
            late.read(which, array, rows)
            values.numpy()[place] = rows
        late.joined(which)
        self.changed[page] = True

    def _set(self, name: str, frame: int, values: NDArray[np.generic] | None) -> None:
        """Writes a page of one array; None: zeros. A resident frame is written once and is zero before."""
        target = self.arrays[name].numpy()[frame * self.page_edges : (frame + 1) * self.page_edges]
        if values is not None:
            target[: len(values)] = values
        elif not self.resident:
            target[:] = 0

    def touch(self, pages: Ints) -> None:
        """Says that these pages are about to change, where they are: in memory or in the file."""
        self.dirty[pages] = True
        self.changed[pages] = self.frame_of[pages] >= 0

    # ---- what a commit writes

    def dirty_runs(self) -> list[tuple[int, int]]:
        """Runs of dirty pages, as (first, page after the last)."""
        if self.scratch is not None:
            self.scratch.late.settle()
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
        self.source.stored |= self.dirty
        self.stats.store_bytes_written += int(self.dirty.sum()) * self.page_bytes()
        self.page_writes += self.dirty
        self.scratched &= ~self.changed  # those are newer in memory, and in the store
        self.changed[:] = False
        self.dirty[:] = False
        self.source.kept = set(self.arrays)

    def report(self) -> dict[str, float | int]:
        """The figures of `CacheStats`, and the memory and disk space that the pools take."""
        stats = self.stats
        if self.scratch is not None:
            stats.scratch_bytes_read = self.scratch.bytes_read
            stats.scratch_bytes_written = self.scratch.bytes_written + self.scratch.bytes_written_in_place
        written = stats.scratch_bytes_written + stats.store_bytes_written
        used = self.pages - self.missing
        return {
            "hit_rate": stats.hit_rate,
            **{name: getattr(stats, name) for name in stats.__slots__},
            "write_amplification": written / stats.store_bytes_written if stats.store_bytes_written else 0.0,
            "host_pool_bytes": self.frame_bytes,
            "host_used_bytes": used * self.page_bytes(),
        }
