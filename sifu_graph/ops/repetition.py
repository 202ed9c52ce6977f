"""Repetition: what the document of a node has said before raises energies, node by node along one stream.

In the document of x_i, from at most `MOST_PAST` nodes before it, v comes k_v times before x_i, k'_v times after a node
x_i, and k''_v times after x_{i-1} x_i. This adds

    [k_v > 0] (f_v + m_v log k_v)  +  h_1 log(1 + k'_v)  +  h_2 log(1 + k''_v)

to the energy of v. `recurrent` says what f, m and h are, and counts the same in windows of streams
(`recurrent.repeated`). The module knows nodes; it does not know text or files.
"""

from __future__ import annotations

import numpy as np

from sifu_graph.arrays import Floats, Ids
from sifu_graph.text.streams import MOST_PAST

AMOUNT: Floats = np.log1p(np.arange(MOST_PAST + 2)).astype(np.float32)
"""log(1 + k) of a number of times k."""


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
        self._first, self._more = weight.T.copy()
        self._after = after
        self._times = np.zeros(len(weight), np.int64)  # k
        self._added = np.zeros(len(weight), np.float32)  # of the first term
        self._path: Ids = np.empty(2 * MOST_PAST + 2, np.int32)  # the nodes of the document; -1: a silent one
        self._length, self._current = 0, -1

    def start(self, node: int, *, silent: bool = False) -> None:
        """Begins a document with this node. A silent node counts as none when it has passed."""
        self._times[:] = 0
        self._added[:] = 0
        self._length = 0
        self._append(node, silent=silent)

    def carry(self, node: int, *, silent: bool = False) -> None:
        """Moves to the next node of the document."""
        self._count(int(self._path[self._length - 1]), 1)
        if self._length > MOST_PAST:
            self._count(int(self._path[self._length - 1 - MOST_PAST]), -1)
        if self._length == len(self._path):
            self._path[:MOST_PAST] = self._path[-MOST_PAST:]
            self._length = MOST_PAST
        self._append(node, silent=silent)

    def _append(self, node: int, *, silent: bool) -> None:
        self._path[self._length] = -1 if silent else node
        self._length += 1
        self._current = node

    def _count(self, node: int, more: int) -> None:
        if node >= 0:
            self._times[node] += more
            times = int(self._times[node])
            self._added[node] = self._first[node] + self._more[node] * AMOUNT[times - 1] if times else 0.0

    def add_to(self, energy: Floats) -> None:
        """Adds to the energies of all nodes after the current one, float32 [n]."""
        energy += self._added
        path = self._path[max(0, self._length - 1 - MOST_PAST) : self._length]
        after = np.flatnonzero(path[:-1] == self._current) + 1
        if not len(after):
            return
        longer = after[after > 1]
        for weight, places in zip(self._after, (after, longer[path[longer - 2] == path[-2]]), strict=True):
            nodes, times = np.unique(path[places], return_counts=True)
            energy[nodes[nodes >= 0]] += weight * AMOUNT[times[nodes >= 0]]

    def energies(self) -> Floats:
        """What repetition adds to the energies of all nodes after the current one, float32 [n]."""
        found: Floats = np.zeros(len(self._times), np.float32)
        self.add_to(found)
        return found
