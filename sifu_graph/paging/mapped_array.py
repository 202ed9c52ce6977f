"""Arrays whose first rows are in memory and whose last rows are those of a file, read-only, with one index.

It knows rows and bytes of address space; it does not know pages of edges.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys
from typing import NamedTuple

import numpy as np
import torch

GRAIN = mmap.ALLOCATIONGRANULARITY  # a mapping of a file begins at a multiple of it, in bytes
_FIXED = 0x10  # MAP_FIXED, on Linux and macOS
_NORESERVE: int = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)
"""Python before 3.12 has no name for it. Without it, Linux refuses to map more than the memory of the machine."""
_POPULATE_READ = 22  # MADV_POPULATE_READ, Linux 5.14


class FileRows(NamedTuple):
    """``rows`` rows of the file ``fd``, from byte ``offset`` (a multiple of `GRAIN`) on."""

    fd: int
    offset: int
    rows: int


class MappedArray:
    """An array [rows, ...] whose first rows are private memory, in huge pages, and whose last rows are a file's.

    The memory is zero at first, and allocated by the system on first use. A write to the rows of the file ends the
    process (SIGSEGV).

    Parameters
    ----------
    held
        Rows in memory.
    shape
        Shape of one row.
    dtype
        Type of the array.
    behind
        The file's rows; None: there are none.

    Attributes
    ----------
    rows : [rows, ...]
        The array.
    beyond
        Index of the file's first row: ``held``, rounded up to a multiple of `GRAIN`.

    Raises
    ------
    OSError
        The file cannot be mapped.
    """

    def __init__(
        self,
        held: int,
        shape: tuple[int, ...],
        dtype: torch.dtype = torch.float32,
        *,
        behind: FileRows | None = None,
    ) -> None:
        self._row_bytes = int(np.prod(shape)) * dtype.itemsize
        self.beyond = -(-held // GRAIN) * GRAIN if behind is not None else held
        rows = self.beyond + (behind.rows if behind is not None else 0)
        self._memory: mmap.mmap | None = None
        if rows * self._row_bytes == 0:
            self.rows = torch.zeros(rows, *shape, dtype=dtype)
            return
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE
        self._memory = mmap.mmap(-1, rows * self._row_bytes, flags=flags)
        if hasattr(mmap, "MADV_HUGEPAGE") and held:
            self._memory.madvise(mmap.MADV_HUGEPAGE, 0, held * self._row_bytes)
        self.rows = torch.frombuffer(self._memory, dtype=dtype).reshape(rows, *shape)
        if behind is not None and behind.rows:
            _map(self.rows.data_ptr() + self.beyond * self._row_bytes, behind.rows * self._row_bytes, behind)

    def load(self, first: int, stop: int) -> None:
        """Reads rows first .. stop - 1 of the file into the system's cache, so that later use does not wait.

        Raises
        ------
        OSError
            They cannot be read.
        """
        try:
            self._advise(_POPULATE_READ, first, stop)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS):  # an older system reads them on first use
                raise

    def release(self, first: int, stop: int) -> None:
        """Lets the system stop counting rows first .. stop - 1 of the file as memory of this process."""
        self._advise(mmap.MADV_DONTNEED, first, stop)

    def _advise(self, what: int, first: int, stop: int) -> None:
        if self._memory is not None and stop > first:
            begin = (self.beyond + first) * self._row_bytes // GRAIN * GRAIN
            self._memory.madvise(what, begin, (self.beyond + stop) * self._row_bytes - begin)


def _map(address: int, size_bytes: int, file: FileRows) -> None:
    """Maps bytes of a file, read-only, at an address that is mapped already."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
    found = libc.mmap(address, size_bytes, mmap.PROT_READ, mmap.MAP_SHARED | _FIXED, file.fd, file.offset)
    if found != address:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
