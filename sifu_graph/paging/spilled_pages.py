"""The pages of a pool under a budget that have no frame: in the spill file from their first eviction or first use on.

The file is mapped into memory behind the frames, read-only. Rows are read there, and in training written there by the
kernel (`past`); values of single edges that are newer than their page wait in the file until the page is read
(`PendingRows`). It does not know which page gets a frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ctypes import c_int64

import numpy as np
import torch
from numpy.typing import NDArray
from sifu_store.layout import BIAS, WEIGHT
from torch import Tensor

from sifu_graph.arrays import Bools, Ints, PageId, runs
from sifu_graph.kernels.native import Past
from sifu_graph.paging.cache_stats import CacheStats
from sifu_graph.paging.mapped_array import MappedArray
from sifu_graph.paging.page_source import PageSource, Values
from sifu_graph.paging.spill_file import SpillFile, pieces_of

LOADED_PAGES = 64  # of the spill file that count as this process's memory at a time, about


class SpilledPages:
    """Pages in the spill file, and those in the store or not trained yet, that have no frame.

    Parameters
    ----------
    source
        Where pages come from that are not in the file.
    file
        The spill file, with the arrays of ``source.layout`` in their order.
    memory
        By array name: the frames, and behind them the rows of ``file``.

    Attributes
    ----------
    in_file : bool [pages]
        Pages that have a copy in the file. It is current, except for changes in a frame and for pending rows.
    beyond
        Place of slot 0 of the file in the arrays.
    past
        The file as the kernel sees it.
    """

    def __init__(
        self, source: PageSource, file: SpillFile, memory: Mapping[str, MappedArray], *, stats: CacheStats
    ) -> None:
        self.source, self.file, self.memory, self.stats = source, file, memory, stats
        self.layout = source.layout
        self.in_file = np.zeros(self.layout.pages, bool)
        self.beyond = next(iter(memory.values())).beyond
        self.past = Past(file.fd, self.beyond, (c_int64 * 6)(*file.offsets[:6]))
        self._loaded = 0  # pages of the file that decoding may have touched since the last release

    @property
    def prefetch(self) -> bool:
        """As `Backing.prefetch`."""
        return self.source.prefetch

    @prefetch.setter
    def prefetch(self, on: bool) -> None:
        """Turns it on or off."""
        self.source.prefetch = on

    def close(self) -> None:
        """Frees the disk space and the address space."""
        self.file.close()
        self.memory = {}

    # ---- whole pages, for `BufferPool`

    def mark(self) -> None:
        """As `Backing.mark`: nothing to do, the work in memory is synchronous."""

    def load(self, pages: Ints, frames: Ints, arrays: Mapping[str, Tensor]) -> Ints:
        """As `Backing.load`: from the file, else from the source. Pending rows join their pages."""
        gone = self.in_file[pages]
        for page, frame in zip(pages[gone].tolist(), frames[gone].tolist(), strict=True):
            self.file.read(PageId(page), self._views(frame, arrays))
        self.stats.from_scratch += int(gone.sum())
        self.source.load(pages[~gone], frames[~gone], arrays)
        return self._join(pages[gone], frames[gone], arrays)  # last: if anything before fails, the rows stay pending

    def save(self, pages: Ints, frames: Ints, arrays: Mapping[str, Tensor], *, changed: Bools) -> Ints:
        """As `Backing.save`: writes pages that changed, and, while there is space, pages of the store.

        Reading a page from the file is faster than from the store, which checks and decodes it.
        """
        written = []
        for page, frame, differs in zip(pages.tolist(), frames.tolist(), changed.tolist(), strict=True):
            if differs or (self.source.stored[page] and not self.in_file[page] and self.has_space()):
                self.file.write(PageId(page), self._views(frame, arrays))
                self.in_file[page] = True
                written.append(page)
        return np.array(written, np.int64)

    def has_space(self) -> bool:
        """Whether the file may hold pages that could be read elsewhere."""
        return self.file.free_bytes() > 2 * self.layout.pages * self.layout.page_bytes

    def fetch(self, pages: Ints) -> None:
        """Writes pages [k] (ascending) that are neither in a frame nor in the file into the file."""
        numbers = {name: number for number, name in enumerate(self.layout.shapes)}
        dtype = torch.empty(0, dtype=self.layout.dtype).numpy().dtype
        for name, page, values in self.source.incoming(pages):
            if values is None:
                values = np.zeros((self.layout.page_edges, *self.layout.shapes[name]))
            self.file.write_page(page, numbers[name], np.asarray(values, dtype))
        self.in_file[pages] = True

    def mark_stored(self, changed: Bools) -> None:
        """After a commit: drops the copies of pages [pages] that changed in their frame."""
        self.in_file &= ~changed

    def _views(self, frame: int, arrays: Mapping[str, Tensor]) -> list[Values]:
        begin = frame * self.layout.page_edges
        return [array[begin : begin + self.layout.page_edges].numpy() for array in arrays.values()]

    def _join(self, pages: Ints, frames: Ints, arrays: Mapping[str, Tensor]) -> Ints:
        """Puts the pending rows of pages (ascending), which were just read, into their frames. Returns their pages."""
        late = self.file.late
        which = late.of_pages(pages)
        if not len(which):
            return which
        page, at = np.divmod(late.slots[which], self.layout.page_edges)
        place = frames[np.searchsorted(pages, page)] * self.layout.page_edges + at
        for number, values in enumerate(arrays.values()):
            rows = np.empty((len(which), *values.shape[1:]), values.numpy().dtype)
            late.read(which, number, rows)
            values.numpy()[place] = rows
        late.joined(which)
        joined: Ints = page
        return joined

    # ---- rows that are read and written in the file

    def prepare(self, pages: Ints, names: Sequence[str]) -> None:
        """Reads arrays of pages [k] in the file into the system's cache, so that the work on them does not wait.

        Raises
        ------
        StoreDamagedError
            They cannot be read.
        DiskFullError
            Pending rows cannot be written into their pages.
        """
        self.settle(pages)
        self._load(pages, names)

    def settle(self, pages: Ints | None = None) -> None:
        """Writes the pending rows of pages [k] (None: of all) into their pages in the file, so that it is current.

        Raises
        ------
        DiskFullError
        """
        self.file.late.settle(pages)

    def prepare_row(self, pages: Ints) -> None:
        """As `prepare`, for one row in decoding. Every `LOADED_PAGES` pages it releases the memory of earlier ones."""
        self._loaded += len(pages)
        if self._loaded > LOADED_PAGES:
            self._loaded = len(pages)
            for name in (WEIGHT, BIAS):
                self.memory[name].release(0, self.layout.slots)
        self._load(pages, (WEIGHT, BIAS))

    def finish(self, pages: Ints, names: Sequence[str]) -> None:
        """After the work on pages [k] in the file: counts what the kernel wrote, and releases the memory.

        Raises
        ------
        DiskFullError
        """
        self.file.bytes_written_in_place += self.past.written
        error, self.past.written, self.past.error = self.past.error, 0, 0
        if error:
            self.file.failed_to_write(error)
        for memory, first, stop in self._mapped(pages, names):
            memory.release(first, stop)

    def _load(self, pages: Ints, names: Sequence[str]) -> None:
        try:
            for memory, first, stop in self._mapped(pages, names):
                memory.load(first, stop)
        except OSError as error:
            raise self.file.unreadable(error) from error

    def _mapped(self, pages: Ints, names: Sequence[str]) -> Iterator[tuple[MappedArray, int, int]]:
        edges = self.layout.page_edges
        for first, stop in runs(pages, most=self.layout.pages):
            for name in names:
                yield self.memory[name], first * edges, stop * edges

    # ---- single edges

    def read_edges(self, which: Ints, slots: Ints, out: Mapping[str, Tensor]) -> None:
        """Fills rows ``which`` [k] of ``out`` ([m, ...] by array) with the edges ``slots[which]`` of the file."""
        late = self.file.late
        for some in pieces_of(which):
            found = late.find(slots[some])
            newer, older = some[found >= 0], some[found < 0]
            for number, name in enumerate(self.layout.shapes):
                if name in out:
                    rows = np.empty((len(some), *out[name].shape[1:]), out[name].numpy().dtype)
                    self.file.transfer(self.file.edge_at(slots[older], number), rows[: len(older)], write=False)
                    late.read(found[found >= 0], number, rows[len(older) :])
                    out[name][torch.from_numpy(np.concatenate([older, newer]))] = torch.from_numpy(rows)

    def write_edges(self, which: Ints, slots: Ints, values: Mapping[str, Tensor]) -> None:
        """Writes rows ``which`` [k] of ``values`` ([m, ...] by array) to the edges ``slots[which]`` of the file.

        Values of all arrays become pending rows; values of some arrays are written into their pages.

        Raises
        ------
        DiskFullError
        """
        which = which[np.argsort(slots[which])]
        pieces, late = pieces_of(which), self.file.late

        def rows(name: str) -> Iterator[NDArray[np.generic]]:
            """One array's rows, piece by piece."""
            return (values[name][torch.from_numpy(some)].to(self.layout.dtype).numpy() for some in pieces)

        if all(name in values for name in self.layout.shapes):
            late.keep(slots[which], (rows(name) for name in self.layout.shapes))
            return
        late.settle()
        for number, name in enumerate(self.layout.shapes):
            if name in values:
                for some, new in zip(pieces, rows(name), strict=True):
                    self.file.transfer(self.file.edge_at(slots[some], number), new, write=True)

    def read_page(self, name: str, page: PageId, rows: Values) -> None:
        """Fills rows [page_edges, ...] with one array of a page in the file."""
        self.file.read(page, [rows if other == name else None for other in self.layout.shapes])

    def count_bytes(self) -> None:
        """Brings the file's counters in the statistics up to date."""
        self.stats.scratch_bytes_read = self.file.bytes_read
        self.stats.scratch_bytes_written = self.file.bytes_written + self.file.bytes_written_in_place
