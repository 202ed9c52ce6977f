"""The parameters of a graph in memory: pools of edges whose pages appear on first touch, and the small rest.

It knows slots, pages and arrays; it does not know signals, text or optimizers' formulas. A page that was trained
before is read from the store; any other is made by `Initial`. Pools are reserved as address space at once and take
memory only where they are touched.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from sifu_store.layout import PAGE_EDGES
from torch import Tensor

from sifu_graph.index import EdgeIndex
from sifu_graph.initial import Initial

WEIGHT, BIAS = "edges/weight", "edges/bias"

PageReader = Callable[[str, int, int], NDArray[np.generic]]
"""(array name, first page, page after the last) -> the slots of those pages."""


def reserve(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """Zeros that take memory only where they are touched, aligned to a page of memory."""
    size_bytes = int(np.prod(shape)) * dtype.itemsize
    if size_bytes == 0:
        return torch.zeros(shape, dtype=dtype)
    region = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0))
    if hasattr(mmap, "MADV_HUGEPAGE"):
        region.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(region, dtype=dtype).reshape(shape)


@dataclass(slots=True)
class EdgePool:
    """Every paged array of the graph, slot by slot.

    Attributes
    ----------
    arrays
        By name: ``edges/weight`` [slots, d, d], ``edges/bias`` [slots, d], and the optimizer's state in training.
    loaded, dirty : bool [pages]
        Which pages are in memory, and which of them differ from the store.
    """

    slots: int
    arrays: dict[str, Tensor]
    loaded: NDArray[np.bool_]
    dirty: NDArray[np.bool_]
    stored: NDArray[np.bool_]
    initial: Initial
    read: PageReader | None
    kept: set[str] = field(default_factory=lambda: {WEIGHT, BIAS})
    """Arrays that the store holds for the pages that are stored; the others begin as zeros."""

    @classmethod
    def create(
        cls,
        initial: Initial,
        *,
        slots: int,
        stored: NDArray[np.bool_] | None = None,
        read: PageReader | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> EdgePool:
        """For ``slots`` edges, of which the pages ``stored`` come from ``read`` and the others from ``initial``."""
        pages = -(-slots // PAGE_EDGES)
        d = initial.width
        arrays = {WEIGHT: reserve((slots, d, d), dtype), BIAS: reserve((slots, d), dtype)}
        none = np.zeros(pages, bool)
        return cls(slots, arrays, none, none.copy(), none.copy() if stored is None else stored, initial, read)

    @property
    def W(self) -> Tensor:
        """[slots, d, d]."""
        return self.arrays[WEIGHT]

    @property
    def b(self) -> Tensor:
        """[slots, d]."""
        return self.arrays[BIAS]

    @property
    def pages(self) -> int:
        """Number of pages."""
        return len(self.loaded)

    def add_state(self, name: str, trailing: tuple[int, ...], *, in_store: bool) -> Tensor:
        """An array of optimizer state, zero where the store holds none. Pages in memory are filled at once."""
        array = self.arrays[name] = reserve((self.slots, *trailing), self.W.dtype)
        if in_store:
            self.kept.add(name)
            for first, stop in runs(np.flatnonzero(self.loaded & self.stored)):
                self._fill(name, first, stop)
        return array

    def drop_state(self) -> None:
        """Forgets all optimizer state."""
        self.arrays = {name: self.arrays[name] for name in (WEIGHT, BIAS)}
        self.kept = {WEIGHT, BIAS}

    def mark_stored(self) -> None:
        """Says that the store now holds every dirty page, of every array."""
        self.stored |= self.dirty
        self.dirty[:] = False
        self.kept = set(self.arrays)

    def require(self, slots: NDArray[np.int64]) -> None:
        """Brings the pages of these slots into memory."""
        if not self.loaded.all():
            wanted = np.zeros(self.pages, bool)
            wanted[slots // PAGE_EDGES] = True
            self.require_pages(np.flatnonzero(wanted & ~self.loaded))

    def require_pages(self, pages: NDArray[np.int64]) -> None:
        """Brings these pages, none of which is in memory, into memory."""
        for first, stop in runs(pages[self.stored[pages]]):
            for name in self.kept:
                self._fill(name, first, stop)
        for first, stop in runs(pages[~self.stored[pages]]):
            slots = np.arange(first * PAGE_EDGES, min(stop * PAGE_EDGES, self.slots))
            weight = self.initial.weight(slots)
            if weight is not None:
                self.W[slots[0] : slots[-1] + 1] = torch.from_numpy(weight)
            self.b[slots[0] : slots[-1] + 1] = torch.from_numpy(self.initial.bias(slots))
        self.loaded[pages] = True

    def _fill(self, name: str, first: int, stop: int) -> None:
        assert self.read is not None
        values = self.read(name, first, stop)
        begin = first * PAGE_EDGES
        self.arrays[name][begin : begin + len(values)] = torch.from_numpy(np.asarray(values))

    def get(self, name: str, slots: NDArray[np.int64]) -> Tensor:
        """A copy of an array's values at these slots [k, ...]."""
        self.require(slots)
        return self.arrays[name][torch.from_numpy(slots)]

    def put(self, name: str, slots: NDArray[np.int64], values: Tensor) -> None:
        """Replaces an array's values at these slots, and marks their pages as dirty."""
        self.require(slots)
        self.mark_dirty(slots)
        self.arrays[name][torch.from_numpy(slots)] = values

    def mark_dirty(self, slots: NDArray[np.int64]) -> None:
        """Says that these slots are about to change."""
        self.dirty[slots // PAGE_EDGES] = True

    def dirty_runs(self) -> list[tuple[int, int]]:
        """Runs of dirty pages, as (first, page after the last)."""
        return runs(np.flatnonzero(self.dirty))

    def values(self, name: str, first: int, stop: int) -> NDArray[np.float32]:
        """The slots of the pages first .. stop - 1 of an array, without a copy."""
        begin, end = first * PAGE_EDGES, min(stop * PAGE_EDGES, self.slots)
        out: NDArray[np.float32] = self.arrays[name][begin:end].numpy()
        return out


MAX_RUN = 64  # pages read or written in one piece: 128 MiB of weights


def runs(pages: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Sorted page numbers as runs (first, page after the last) of at most `MAX_RUN` pages."""
    if not len(pages):
        return []
    cuts = np.flatnonzero(np.diff(pages) != 1) + 1
    out: list[tuple[int, int]] = []
    for run in np.split(pages, cuts):
        first, last = int(run[0]), int(run[-1]) + 1
        out.extend((at, min(at + MAX_RUN, last)) for at in range(first, last, MAX_RUN))
    return out


@dataclass(slots=True)
class Parameters:
    """Everything that can be trained, and the index.

    The small arrays are named as in the store: ``default/weight`` [d, d], ``default/bias`` [d], ``nodes/bias``
    [n, d], ``signal/alpha`` [K], ``signal/scale`` [1].
    """

    index: EdgeIndex
    edges: EdgePool
    r_0: Tensor  # [d]
    small: dict[str, Tensor]
    state: dict[str, Tensor] = field(default_factory=dict)  # optimizer state of the small arrays
    usage: NDArray[np.int64] | None = None  # [slots], how often training met each edge; None: not recorded

    def note_usage(self, slots: NDArray[np.int64]) -> None:
        """Counts the edges that a step's text took, given by their slots (-1: a default edge)."""
        if self.usage is not None:
            used, times = np.unique(slots[slots >= 0], return_counts=True)
            self.usage[used] += times

    @property
    def default_W(self) -> Tensor:
        """[d, d]."""
        return self.small["default/weight"]

    @property
    def default_b(self) -> Tensor:
        """[d]."""
        return self.small["default/bias"]

    @property
    def node_bias(self) -> Tensor:
        """[n, d]."""
        return self.small["nodes/bias"]

    @property
    def alpha(self) -> Tensor:
        """[K]."""
        return self.small["signal/alpha"]

    @property
    def scale(self) -> Tensor:
        """[1]."""
        return self.small["signal/scale"]

    @property
    def width(self) -> int:
        """d."""
        return self.r_0.shape[0]

    def path_edges(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """W [B, d, d] and b [B, d] of edges given by their slots, -1: the default edge."""
        private = slots >= 0
        at = slots.clamp_min(0)
        if self.edges.slots == 0:
            return self.default_W.expand(len(slots), -1, -1), self.default_b.expand(len(slots), -1)
        W = torch.where(private[:, None, None], self.edges.W[at], self.default_W)
        return W, torch.where(private[:, None], self.edges.b[at], self.default_b)
