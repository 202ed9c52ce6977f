"""The memory of this process that no file stands behind: how much it is, and how freed memory goes back to the system.

It knows the process; it does not know graphs.
"""

from __future__ import annotations

import ctypes
import functools
import re
import sys
from pathlib import Path

import psutil

STATUS = Path("/proc/self/status")
MAPPED_BYTES = 1 << 20
"""Blocks of at least this size go back to the system when they are freed (`bound_freed_memory`)."""
_M_MMAP_THRESHOLD = -3  # of mallopt, in malloc.h


def anonymous_bytes() -> int:
    """Memory of the process that is in no file: on Linux, RssAnon and RssShmem; elsewhere, all that is resident."""
    if not STATUS.exists():
        resident: int = psutil.Process().memory_info().rss
        return resident
    found = re.findall(r"^(?:RssAnon|RssShmem):\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    return 1024 * sum(map(int, found))


def peak_bytes() -> int:
    """The most memory that this process ever held."""
    try:
        import resource
    except ImportError:  # not on Windows
        return int(psutil.Process().memory_info().rss)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def mapped_bytes() -> int:
    """Resident memory of the process that a file stands behind: libraries and memory maps; 0 where it is not told."""
    resident: int = psutil.Process().memory_info().rss
    return max(0, resident - anonymous_bytes())


def bound_freed_memory() -> None:
    """From now on large blocks that are freed go back to the system at once; those freed before go back now.

    The GNU allocator otherwise keeps freed blocks of up to 32 MiB: on a graph of 4,000 nodes up to 150 MiB in all.
    """
    library = _gnu_library()
    if library is not None:
        library.mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES)
        library.malloc_trim(0)


@functools.cache
def _gnu_library() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") and hasattr(library, "mallopt") else None
