"""Everything of a graph that can be trained, and its index.

It knows edges, their places and the small arrays; it does not know how pages come and go (`cache`), signals, text or
the formulas of optimizers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sifu_graph.edge_index import EdgeIndex
from sifu_graph.paging.device_pool import DevicePool
from sifu_graph.paging.edge_pool import EdgePool


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
    tier: DevicePool | None = None  # pages on a device, over ``edges``; None: batches are computed where they are

    @property
    def working(self) -> EdgePool:
        """The pool that batches and walks are computed on."""
        return self.edges if self.tier is None else self.tier

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
