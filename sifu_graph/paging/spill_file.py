"""A file for pages that are evicted from memory before a commit: their bytes without conversion, array after array.

Every page has a fixed offset, whether it was written or not. After the pages, the file holds the newest values of
single edges (`PendingRows`) until their pages are read.

It knows offsets in the file; it does not know the contents of a page or why it is evicted. The file has no name: it is
unlinked after it is opened, so that the system frees it when the process ends in any way.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sifu_store.durable import disk_errors, reason_of
from sifu_store.errors import DiskFullError, OptionError, StoreDamagedError

from sifu_graph.arrays import PageId
from sifu_graph.kernels import native as kernel
from sifu_graph.paging.mapped_array import GRAIN, FileRows

AT_A_TIME = 2048  # edges that are copied in one piece: 8 MiB for d = 32
Buffers = Sequence[NDArray[np.generic] | None]


class SpillFile:
    """The pages of several arrays in a file.

    Parameters
    ----------
    folder
        Folder of the file. It is created if it is missing.
    edge_bytes
        Bytes of one edge, for every array. Methods name an array by its number in this sequence.
    pages, page_edges
        Number of pages, and of slots of a page.

    Attributes
    ----------
    offsets
        Offset of each array in the file, in bytes.
    late
        Values of edges that are newer than their pages in the file.
    bytes_read, bytes_written, bytes_written_in_place
        Bytes read and written by this class, and written by the kernel.

    Raises
    ------
    OptionError
        No file can be created there.
    """

    def __init__(self, folder: Path, edge_bytes: Sequence[int], *, pages: int, page_edges: int) -> None:
        self.folder, self.edge_bytes, self.pages, self.page_edges = folder, tuple(edge_bytes), pages, page_edges
        self.offsets, self.size_bytes = [], 0
        for size in edge_bytes:
            self.offsets.append(self.size_bytes)
            self.size_bytes += -(-pages * page_edges * size // GRAIN) * GRAIN
        self.bytes_read = self.bytes_written = 0
        self.bytes_written_in_place = 0  # by the kernel
        self.late = PendingRows(self)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.fd, name = tempfile.mkstemp(dir=folder, prefix="pages-")
            Path(name).unlink()
            os.ftruncate(self.fd, self.size_bytes)  # holes, until a page is written
        except OSError as error:
            raise OptionError(
                f"{folder}: pages that leave memory cannot be kept there: {reason_of(error, folder)}; "
                "name another folder in `scratch`"
            ) from error

    def close(self) -> None:
        """Frees the disk space."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def free_bytes(self) -> int:
        """Free space on the disk, in bytes."""
        found = os.statvfs(self.fd)
        return found.f_bavail * found.f_frsize

    def write(self, page: PageId, arrays: Buffers) -> None:
        """Writes a page: rows [page_edges, ...] of every array. None leaves an array unchanged.

        Raises
        ------
        DiskFullError
        """
        for number, array in enumerate(arrays):
            if array is not None:
                self.write_page(page, number, array)

    def write_page(self, page: PageId, number: int, array: NDArray[np.generic]) -> None:
        """Writes rows [page_edges, ...] of one array of a page.

        Raises
        ------
        DiskFullError
        """
        self.write_at(self._page_at(page, number), array)

    def read(self, page: PageId, arrays: Buffers) -> None:
        """Fills rows [page_edges, ...] of every array with a page; zeros if it was never written. None skips an array.

        Raises
        ------
        StoreDamagedError
            The system cannot read them.
        """
        for number, array in enumerate(arrays):
            if array is not None:
                self.read_at(self._page_at(page, number), array)

    def _page_at(self, page: PageId, array: int) -> int:
        return self.offsets[array] + page * self.page_edges * self.edge_bytes[array]

    @contextmanager
    def mapping(self) -> Iterator[None]:
        """Turns an `OSError` of the block, which maps the file into memory, into an `OptionError`."""
        try:
            yield
        except OSError as error:
            raise OptionError(
                f"{self.folder}: the file for pages that leave memory cannot be mapped ({error.strerror or error}); "
                "`scratch` names another folder"
            ) from error

    def behind(self, array: int) -> FileRows:
        """The rows of an array, one for each slot."""
        return FileRows(self.fd, self.offsets[array], self.pages * self.page_edges)

    def write_at(self, at: int, array: NDArray[np.generic]) -> None:
        """Writes the bytes of an array at an offset of the file.

        Raises
        ------
        DiskFullError
        """
        view = array.data.cast("B")
        with self.writing():
            while len(view):
                written = os.pwrite(self.fd, view, at)
                self.bytes_written += written
                view, at = view[written:], at + written

    def read_at(self, at: int, array: NDArray[np.generic]) -> None:
        """Fills an array with the bytes at an offset of the file; zeros beyond its end.

        Raises
        ------
        StoreDamagedError
            The system cannot read them.
        """
        view = array.data.cast("B")
        while len(view):
            try:
                found = os.preadv(self.fd, [view], at)
            except OSError as error:
                raise self.unreadable(error) from error
            if not found:
                view[:] = bytes(len(view))
                return
            self.bytes_read += found
            view, at = view[found:], at + found

    def writing(self) -> AbstractContextManager[None]:
        """Turns an `OSError` of the block, which writes to the file, into an error that names the folder."""
        return disk_errors(self.folder, "keeping pages that left memory")

    def unreadable(self, error: OSError) -> StoreDamagedError:
        """The error for an `OSError` of a read from the file."""
        return StoreDamagedError(f"{self.folder}: a page that left memory cannot be read back: {error.strerror}")

    def edge_at(self, slots: NDArray[np.int64], array: int) -> NDArray[np.int64]:
        """Offsets int64 [k] in the file of the slots [k] of one array."""
        return slots * self.edge_bytes[array] + self.offsets[array]

    def transfer(self, at: NDArray[np.int64], rows: NDArray[np.generic], *, write: bool) -> None:
        """Writes or fills rows [k, ...], each at its offset ``at`` [k] of the file.

        Raises
        ------
        DiskFullError, StoreDamagedError
            The system cannot write or read them.
        """
        library = kernel.load(32, torch.float32)  # any width: it moves bytes
        if library is None or not len(at):
            for row, where in enumerate(at.tolist()):
                (self.write_at if write else self.read_at)(where, rows[row : row + 1])
            return
        row_bytes = rows.nbytes // len(rows)
        memory = rows.ctypes.data + row_bytes * np.arange(len(rows))
        error = library.sifu_transfer(self.fd, len(at), at.ctypes.data, memory.ctypes.data, row_bytes, write)
        if write:
            self.bytes_written += rows.nbytes
            if error:
                self.failed_to_write(error)
        else:
            self.bytes_read += rows.nbytes
            if error:
                raise self.unreadable(OSError(error, os.strerror(error)))

    def failed_to_write(self, error: int) -> None:
        """Raises the error of a failed write, by the system's number of it.

        Raises
        ------
        DiskFullError
        """
        with self.writing():
            raise OSError(error, os.strerror(error))


class PendingRows:
    """Values of single edges that are newer than their pages in the file: rows of every array, side by side.

    Their pages have no frame. If they were written into their pages, the disk would write many times their size: the
    system tracks changes in pieces of up to megabytes, and writes those again. They stay after the pages until their
    page is read, or is needed in the file; then they join it.

    Parameters
    ----------
    scratch
        The file.

    Attributes
    ----------
    slots : int64 [k]
        The edges, ascending.
    waiting : bool [k]
        Those of them that have not joined their page yet.
    """

    def __init__(self, scratch: SpillFile) -> None:
        self._scratch = scratch
        self._offsets: list[int] = []
        self.slots, self.waiting = np.empty(0, np.int64), np.empty(0, bool)

    def keep(self, slots: NDArray[np.int64], arrays: Iterable[Iterable[NDArray[np.generic]]]) -> None:
        """Keeps values of the slots [k] (ascending): rows of every array, in pieces. Earlier rows join their pages.

        Raises
        ------
        DiskFullError
        """
        self.settle()
        self._offsets, at = [], self._scratch.size_bytes
        for pieces in arrays:
            self._offsets.append(at)
            for rows in pieces:
                self._scratch.write_at(at, rows)
                at += rows.nbytes
        self.slots, self.waiting = slots, np.ones(len(slots), bool)

    def find(self, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """Number of the pending row of each of the slots [m], or -1."""
        if not self.waiting.any():
            return np.full(len(slots), -1)
        at = np.minimum(np.searchsorted(self.slots, slots), len(self.slots) - 1)
        return np.where((self.slots[at] == slots) & self.waiting[at], at, -1)

    def of_pages(self, pages: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of the pending rows of these pages."""
        page = self.slots // self._scratch.page_edges
        return np.flatnonzero(self.waiting & np.isin(page, pages))

    def read(self, which: NDArray[np.int64], array: int, rows: NDArray[np.generic]) -> None:
        """Fills rows [m, ...] of one array with the pending rows of these numbers [m].

        Raises
        ------
        StoreDamagedError
            The system cannot read them.
        """
        if len(which):
            at = self._offsets[array] + which * self._scratch.edge_bytes[array]
            self._scratch.transfer(at, rows, write=False)

    def joined(self, which: NDArray[np.int64]) -> None:
        """Notes that the pending rows of these numbers are in their pages, in memory."""
        self.waiting[which] = False

    def settle(self, pages: NDArray[np.int64] | None = None) -> None:
        """Writes the pending rows of these pages (None: of all) into their pages in the file, so that it is current.

        Raises
        ------
        DiskFullError
        """
        if not self.waiting.any():
            return
        for some in pieces_of(np.flatnonzero(self.waiting) if pages is None else self.of_pages(pages)):
            for array, row_bytes in enumerate(self._scratch.edge_bytes):
                rows = np.empty((len(some), row_bytes), np.uint8)
                self.read(some, array, rows)
                self._scratch.transfer(self._scratch.edge_at(self.slots[some], array), rows, write=True)
            self.joined(some)


def pieces_of(which: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The numbers [k] in pieces of at most `AT_A_TIME`, so that a copy of the values of a piece is small."""
    return [which[begin : begin + AT_A_TIME] for begin in range(0, len(which), AT_A_TIME)]


def enough_space(scratch: SpillFile, needed_bytes: int) -> None:
    """Checks that the disk has space for the pages of a run.

    Raises
    ------
    DiskFullError
    """
    free = scratch.free_bytes()
    if free < needed_bytes:
        raise DiskFullError(
            f"{scratch.folder}: pages that leave memory may take {needed_bytes / 2**30:.1f} GiB there and "
            f"{free / 2**30:.1f} GiB are free: name another folder in `scratch`, or raise `host_memory`"
        )
