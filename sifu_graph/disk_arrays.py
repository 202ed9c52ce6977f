"""Arrays that may be larger than memory: files without names in a folder, mapped; and blocks of work in threads.

It knows files and lengths; it does not know what the arrays hold.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from sifu_store.durable import disk_errors

from sifu_graph.arrays import blocks
from sifu_graph.pools import pool

SMALL_BYTES = 1 << 24
"""Arrays of up to this size are in memory."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class DiskArrays:
    """Makes arrays. The system frees their files when the arrays are no longer used, or the process ends in any way.

    Parameters
    ----------
    folder
        Folder of the files, made when it is needed. None: all arrays are in memory.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    def zeros(self, length: int, dtype: Any, width: int | None = None) -> NDArray[Any]:
        """An array of zeros [length], or [length, width].

        Raises
        ------
        DiskFullError, StoreError
            The folder has no room for it, or cannot be written.
        """
        shape = (length,) if width is None else (length, width)
        size_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        if self.folder is None or size_bytes <= SMALL_BYTES:
            return np.zeros(shape, dtype)
        with disk_errors(self.folder, "counting"):
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder) as file:
                if hasattr(os, "posix_fallocate"):  # a write to a map cannot report a full disk: the process would end
                    os.posix_fallocate(file.fileno(), 0, size_bytes)
                else:
                    file.truncate(size_bytes)
                return np.asarray(np.memmap(file, dtype=dtype, mode="r+", shape=shape))

    def stored(self, values: NDArray[Any]) -> NDArray[Any]:
        """A copy of an array [k]; one that is small is returned."""
        if self.folder is None or values.nbytes <= SMALL_BYTES:
            return values
        found = self.zeros(len(values), values.dtype)
        found[:] = values
        return found

    def filled(self, length: int, like: NDArray[Any], read: Callable[[slice], NDArray[Any]]) -> NDArray[Any]:
        """An array [length, ...] with the type and the other axis of ``like``, read block by block."""
        found = self.zeros(length, like.dtype, *like.shape[1:])
        for block in blocks(length):
            found[block] = read(block)
        return found

    def chosen(self, values: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[Any]:
        """``values[mask]``, for ``values`` [k] and ``mask`` bool [k]."""
        found, size = self.zeros(int(mask.sum()), values.dtype), 0
        for block in blocks(len(values)):
            some = values[block][mask[block]]
            found[size : size + len(some)] = some
            size += len(some)
        return found


def in_order(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """The results of a function of each item, in order; a few at a time are computed side by side."""
    threads = _threads()
    with pool(threads) as ahead:
        waiting: deque[Future[_Result]] = deque()
        for item in items:
            waiting.append(ahead.submit(function, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _threads() -> int:
    """The cores, or OMP_NUM_THREADS if that is less."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores(), int(asked)) if asked.isdigit() and int(asked) else cores()
