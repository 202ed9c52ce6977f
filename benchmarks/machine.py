"""The limits of the machine: how fast it multiplies matrices and how fast it reads memory.

It knows nothing of graphs. Every figure is the best of several tries: a limit that a busy moment lowered would
flatter whatever is compared with it.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

from sifu_graph.paging.mapped_array import MappedArray

MATRIX = 2048  # rows and columns of the square matrices
READ_BYTES = 1 << 30  # far more than the caches hold
TRIES = 5


def processor() -> str:
    """The processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def busy() -> float:
    """Processes that wanted a core in the last minute; above `cores`, figures are not to be trusted."""
    return os.getloadavg()[0]


def best_s(work: Callable[[], object], *, tries: int = TRIES) -> float:
    """The shortest of several runs, in seconds, after one that does not count."""
    work()
    times = []
    for _ in range(tries):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def matrix_flops() -> float:
    """Floating point operations a second of float32 matrix products."""
    a, b = torch.randn(2, MATRIX, MATRIX)
    out = torch.empty(MATRIX, MATRIX)
    return 2.0 * MATRIX**3 / best_s(lambda: torch.mm(a, b, out=out), tries=2 * TRIES)


def bandwidth() -> dict[str, float]:
    """Bytes a second of reading (``read``) and of copying (``copy``: read plus written)."""
    reader = Reader()
    half = reader.memory.shape[0] // 2
    copy = READ_BYTES / best_s(lambda: reader.memory[:half].copy_(reader.memory[half : 2 * half]))
    return {"read": reader.best, "copy": copy}


class Reader:
    """Reads memory as fast as it can be read: the best way of three, found when it is made.

    Attributes
    ----------
    best : float
        Bytes a second, the best of several tries.
    """

    def __init__(self) -> None:
        width = 1024
        memory = MappedArray(READ_BYTES // 4 // width, (width,)).rows  # in huge pages, as the graph's parameters
        self.memory = memory
        memory.fill_(1e-3)
        vector, out = torch.ones(width), torch.empty(memory.shape[0])
        ways: list[Callable[[], object]] = [memory.sum, memory.amax, lambda: torch.mv(memory, vector, out=out)]
        shortest, _, self._way = min((best_s(way), at, way) for at, way in enumerate(ways))
        self.best = READ_BYTES / shortest

    def now(self) -> float:
        """Bytes a second of one try."""
        start = time.perf_counter()
        self._way()
        found = READ_BYTES / (time.perf_counter() - start)
        self.best = max(self.best, found)
        return found
