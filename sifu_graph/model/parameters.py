"""Everything of a graph that can be trained, and its index.

It knows edges, their places and the small arrays; it does not know where pages are (`edge_pool`), signals, text or the
formulas of optimizers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sifu_store.layout import BIAS, REPEAT_VERSION, USAGE, WEIGHT
from sifu_store.store import Store
from torch import Tensor

from sifu_graph.arrays import Ints
from sifu_graph.config import SignalConfig, initial_signal
from sifu_graph.disk_arrays import DiskArrays
from sifu_graph.edge_index import EdgeIndex
from sifu_graph.model.base import Base
from sifu_graph.model.index_file import is_large
from sifu_graph.model.io import (
    INDEX,
    PAIRS,
    SOURCES,
    read_index,
    read_initial,
    read_pairs,
    read_usage,
    small_array,
    small_names,
)
from sifu_graph.ops.contest import ContestBackend
from sifu_graph.ops.contest_bfloat16 import Bfloat16Contest
from sifu_graph.ops.contest_native import cpu_contest
from sifu_graph.paging.bfloat16_pool import Bfloat16Pool
from sifu_graph.paging.device_pool import DevicePool
from sifu_graph.paging.edge_pool import EdgePool, row_pages
from sifu_graph.paging.pool import Pool
from sifu_graph.progress import SILENT, Stages
from sifu_graph.settings import GraphSettings


@dataclass(slots=True)
class Usage:
    """How often training met each edge; read when training begins."""

    read: Callable[[], Ints]
    counts: Ints | None = None  # [slots]; None: nothing was noted

    def note(self, slots: Ints) -> None:
        """Counts edges, int64 [k]."""
        if self.counts is None:
            self.counts = self.read()
        used, times = np.unique(slots, return_counts=True)
        self.counts[used] += times


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
    usage: Usage | None = None  # how often training met each edge; None: not recorded
    tier: DevicePool | Bfloat16Pool | None = None  # over ``edges``: pages on a device or rounded; None: neither
    base: Base | None = None  # what all edges share; None: each edge stands alone

    @property
    def working(self) -> Pool:
        """The pool that batches and walks use."""
        return self.edges if self.tier is None else self.tier

    @property
    def backend(self) -> ContestBackend:
        """Computes the contests, on the device of `working`."""
        return cpu_contest(self.width, self.r_0.dtype) if self.tier is None else self.tier.grouped

    def hold_bfloat16(self, host_bytes: int | None) -> None:
        """Lets batches and walks use copies of the edges with W in bfloat16, unless they do already.

        ``host_bytes``: memory that the copies may take; None: what is free.
        """
        if self.tier is None:
            self.tier = Bfloat16Pool(self.edges, Bfloat16Contest(self.width, self.r_0.dtype), host_bytes=host_bytes)

    def note_usage(self, slots: NDArray[np.int64]) -> None:
        """Counts the edges that the text of a step took: slots int64 [k], -1 for a default edge."""
        if self.usage is not None:
            self.usage.note(slots[slots >= 0])

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


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a snapshot before it is read.

    Attributes
    ----------
    parameters
        Those of another snapshot of the same graph. What is the same is shared: neither may be changed in place.
    differs
        The names of the arrays of the store that may differ.
    """

    parameters: Parameters
    differs: frozenset[str]

    def has(self, *names: str) -> bool:
        """Whether all these arrays are the same."""
        return self.differs.isdisjoint(names)


def read_parameters(
    current: Callable[[], Store],
    config: SignalConfig,
    settings: GraphSettings,
    known: Known | None = None,
    folder: Callable[[], Path] | None = None,
) -> Parameters:
    """The parameters of the graph in a store.

    Pages of edges are read when a batch or a walk needs them.

    Parameters
    ----------
    current
        Returns the store to read from: a session exchanges its store for another view of the same snapshot.
    config, settings
        The signal, and the settings of that snapshot.
    known
        What is not read again.
    folder
        Returns where tables are that training changes and that are too large for memory. None: in memory.

    Raises
    ------
    StoreDamagedError
        A table cannot be read.
    """
    store = current()
    before = None if known is None else known.parameters
    if before and known and known.has(*INDEX) and not is_large(store.slots):
        index, files = before.index, None
    else:
        index, files = read_index(store, settings)
    stored = store.page_stored()

    def rows() -> tuple[NDArray[np.float64], int]:
        """As `EdgePool` needs it."""
        return row_pages(len(stored), index, current().read("rows/total"))

    edges = EdgePool(
        read_initial(store, config, index, files, settings),
        slots=store.slots,
        stored=stored,
        read=lambda *run: current().read_pages(*run),
        rows=rows,
    )
    r_0 = torch.from_numpy(initial_signal(config, settings["width"], settings["initial"]["seed"]))
    small = {
        name: before.small[name]
        if before and known and known.has(name)
        else torch.from_numpy(small_array(store, name).copy())
        for name in small_names(config)
    }
    base = None
    if config.base:
        shared = before.base if before and known and known.has(*PAIRS, *SOURCES) else None
        pairs = read_pairs(store, index, settings, None if shared is None else shared.pairs)
        base = Base.of(small, pairs)
    usage = Usage(lambda: read_usage(current(), DiskArrays(None if folder is None else folder())))
    return Parameters(index, edges, r_0, small, usage=usage, base=base)


def write_parameters(store: Store, parameters: Parameters, stages: Stages = SILENT) -> int:
    """Writes the small arrays and the dirty pages into the store's next commit. Returns the number of pages.

    The pages stay dirty until `EdgePool.mark_stored`, after the commit.
    """
    pool = parameters.edges
    if parameters.base is not None:
        store.require_version(REPEAT_VERSION)
    for name, value in parameters.small.items():
        store.write(name, value.numpy())
    for name, value in parameters.state.items():
        store.write(name, value.numpy())
    if parameters.usage is not None and parameters.usage.counts is not None:
        store.write(USAGE, parameters.usage.counts)
    for name, array in pool.arrays.items():
        if name not in (WEIGHT, BIAS):
            store.create_paged(name, tuple(array.shape[1:]), np.float32)
    written, runs = 0, list(pool.dirty_runs())
    stage = stages.stage("writing the parameters", sum(stop - first for first, stop in runs), "pages")
    for first, stop in runs:
        for name in pool.arrays:
            store.write_pages(name, first, pool.values(name, first, stop))
        store.mark_stored(np.arange(first, stop))
        written += stop - first
        stage.at(written)
    return written


def finite(values: Tensor | NDArray[np.float32]) -> bool:
    """Whether no value is NaN or infinite."""
    return bool(torch.isfinite(torch.as_tensor(values)).all())
