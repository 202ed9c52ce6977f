"""Repetition: what the document of a node has said before raises energies, node by node along one stream.

In the document of x_i, from at most `MOST_PAST` nodes before it, v comes k_v times before x_i, k'_v times after a node
x_i, and k''_v times after x_{i-1} x_i. This adds

    [k_v > 0] (f_v + m_v log k_v)  +  h_1 log(1 + k'_v)  +  h_2 log(1 + k''_v)

to the energy of v. `recurrent` says what f, m and h are, and counts the same in windows of streams
(`recurrent.repeated`). The module knows nodes; it does not know text or files, and does not import torch.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from sifu_graph.arrays import Doubles, Floats
from sifu_graph.text.streams import MOST_PAST

if TYPE_CHECKING:
    from torch import Tensor

Array = TypeVar("Array", "Tensor", Floats)

AMOUNT: list[float] = np.log1p(np.arange(MOST_PAST + 2)).tolist()
"""log(1 + k) of a number of times k."""
SILENT = -1
"""In the place of a node that does not count."""


def frequency_basis(log_lower: Doubles) -> Doubles:
    """(1, z_v, z_v^2) of every node, float64 [n, 3], from log q_v [n]."""
    z = 1.0 + log_lower / 10.0
    return np.stack([np.ones_like(z), z, z * z], axis=1)


def repeat_weights(own: Array, shared: Array, basis: Array) -> Array:
    """f and m of every node, [n, 2], from g [n, 2], G [2, 3] and `frequency_basis`: arrays of torch or of NumPy."""
    # no matrix product: its bits would depend on the number of threads
    found: Array = own + (basis[:, None] * shared).sum(-1)
    return found


class Repetition:
    """One stream: `start` and `carry` move to the next node, `energies` says what repetition adds after it.

    Parameters
    ----------
    weight
        f and m of every node, float32 [n, 2].
    after
        h, float32 [2].
    """

    def __init__(self, weight: Floats, after: Floats) -> None:
        self._weight: list[list[float]] = weight.tolist()
        self._after: list[float] = after.tolist()
        self._times = [0] * len(weight)  # k
        self._added = np.zeros(len(weight), np.float32)  # of the first term
        self._followed: dict[tuple[int, ...], dict[int, int]] = {}  # k' and k'', by one and by two nodes before
        self._path: deque[int] = deque()  # the nodes that count, and the current one
        self._current = SILENT

    def start(self, node: int, *, silent: bool = False) -> None:
        """Begins a document with this node. A silent node does not count for the nodes after it."""
        for passed in self._path:
            if passed != SILENT:
                self._times[passed] = 0
        self._added[:] = 0
        self._followed.clear()
        self._path.clear()
        self._path.append(SILENT if silent else node)
        self._current = node

    def carry(self, node: int, *, silent: bool = False) -> None:
        """Moves to the next node of the document."""
        path = self._path
        path.append(SILENT if silent else node)
        self._current = node
        self._count(path[-2], 1)
        self._count_after((path[-2],), path[-1], 1)
        if len(path) > 2:
            self._count_after((path[-3], path[-2]), path[-1], 1)
        if len(path) > MOST_PAST + 1:
            oldest = path.popleft()
            self._count(oldest, -1)
            self._count_after((oldest,), path[0], -1)
            self._count_after((oldest, path[0]), path[1], -1)

    def _count(self, node: int, more: int) -> None:
        if node != SILENT:
            times = self._times[node] = self._times[node] + more
            first, further = self._weight[node]
            self._added[node] = first + further * AMOUNT[times - 1] if times else 0.0

    def _count_after(self, before: tuple[int, ...], node: int, more: int) -> None:
        if node != SILENT and before[-1] != SILENT:
            times = self._followed.setdefault(before, {})
            times[node] = times.get(node, 0) + more
            if not times[node]:
                del times[node]
                if not times:
                    del self._followed[before]

    def add_to(self, energy: Floats) -> None:
        """Adds to the energies of all nodes after the current one, float32 [n]."""
        energy += self._added
        contexts = [(self._current,), *([(self._path[-2], self._current)] if len(self._path) > 1 else [])]
        for weight, before in zip(self._after, contexts, strict=False):
            for node, times in self._followed.get(before, {}).items():
                energy[node] += weight * AMOUNT[times]

    def energies(self) -> Floats:
        """What repetition adds to the energies of all nodes after the current one, float32 [n]."""
        found: Floats = np.zeros_like(self._added)
        self.add_to(found)
        return found
