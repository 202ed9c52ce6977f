"""A file of pages that left memory before the next commit: raw, as they lay there, one record a page.

It knows records and offsets; it does not know what is in a page or why it had to go. The file has no name: it is
unlinked as soon as it is open, so that nothing is left behind however the process ends.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sifu_store.durable import disk_errors
from sifu_store.errors import DiskFullError, OptionError, StoreDamagedError

from sifu_graph import kernel

ALIGNMENT = 4096
Buffers = Sequence[NDArray[np.generic] | None]


class Scratch:
    """Records of the pages of several arrays; a record holds one page of each.

    Parameters
    ----------
    folder
        Where the file lies. It is made if it is not there.
    page_bytes
        Bytes of one page of every array.

    Raises
    ------
    OptionError
        No file can be made there.
    """

    def __init__(self, folder: Path, page_bytes: Sequence[int]) -> None:
        self.folder = folder
        self.offsets = [0, *np.cumsum(page_bytes).tolist()]
        self.record_bytes = -(-self.offsets.pop() // ALIGNMENT) * ALIGNMENT
        self.bytes_read = self.bytes_written = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.fd, name = tempfile.mkstemp(dir=folder, prefix="pages-")
            Path(name).unlink()
        except OSError as error:
            raise OptionError(
                f"{folder}: pages that leave memory cannot be kept there ({error.strerror or error}): "
                "name another folder with --scratch"
            ) from error

    def close(self) -> None:
        """Gives the disk space back."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def free_bytes(self) -> int:
        """Space left on the disk."""
        found = os.statvfs(self.fd)
        return found.f_bavail * found.f_frsize

    def write(self, page: int, arrays: Buffers) -> None:
        """The record of a page. None leaves that array's part as it is; what was never written reads as zeros.

        Raises
        ------
        DiskFullError
        """
        for array, offset in zip(arrays, self.offsets, strict=True):
            if array is not None:
                self.write_at(page * self.record_bytes + offset, array)

    def read(self, page: int, arrays: Buffers) -> None:
        """The reverse."""
        for array, offset in zip(arrays, self.offsets, strict=True):
            if array is not None:
                self.read_at(page * self.record_bytes + offset, array)

    def write_at(self, at: int, array: NDArray[np.generic]) -> None:
        """Bytes at an offset of the file."""
        view = array.data.cast("B")
        with disk_errors(self.folder, "keeping pages that left memory"):
            while len(view):
                written = os.pwrite(self.fd, view, at)
                self.bytes_written += written
                view, at = view[written:], at + written

    def read_at(self, at: int, array: NDArray[np.generic]) -> None:
        """Bytes from an offset of the file; zeros beyond its end."""
        view = array.data.cast("B")
        while len(view):
            try:
                found = os.preadv(self.fd, [view], at)
            except OSError as error:
                raise StoreDamagedError(
                    f"{self.folder}: a page that left memory cannot be read back: {error}"
                ) from error
            if not found:
                view[:] = bytes(len(view))
                return
            self.bytes_read += found
            view, at = view[found:], at + found

    def transfer(self, at: NDArray[np.int64], rows: NDArray[np.generic], *, write: bool) -> None:
        """Rows [k, ...] of an array, each to or from an offset of the file [k]."""
        library = kernel.load(32, torch.float32)  # any width: it moves bytes
        if library is None or not len(at):
            for where, row in zip(at.tolist(), rows, strict=True):
                (self.write_at if write else self.read_at)(where, np.atleast_1d(row))
            return
        row_bytes = rows.nbytes // len(rows)
        memory = rows.ctypes.data + row_bytes * np.arange(len(rows))
        error = library.sifu_transfer(self.fd, len(at), at.ctypes.data, memory.ctypes.data, row_bytes, write)
        if write:
            self.bytes_written += rows.nbytes
            with disk_errors(self.folder, "keeping pages that left memory"):
                if error:
                    raise OSError(error, os.strerror(error))
        else:
            self.bytes_read += rows.nbytes
            if error:
                raise StoreDamagedError(f"{self.folder}: a page that left memory cannot be read: {os.strerror(error)}")


def enough_space(scratch: Scratch, needed_bytes: int) -> None:
    """Refuses a run whose pages may not find room.

    Raises
    ------
    DiskFullError
    """
    free = scratch.free_bytes()
    if free < needed_bytes:
        raise DiskFullError(
            f"{scratch.folder}: pages that leave memory may take {needed_bytes / 2**30:.1f} GiB there and "
            f"{free / 2**30:.1f} GiB are free: name another folder with --scratch, or allow more --host-memory"
        )
