"""The (u, v) index of a graph: which edges are private, and in which slot each is stored.

The module knows nodes, ranks and slots; it does not know parameters or text. Rows are sorted by target; an edge's
*rank* is its place in its row, its *slot* the place of its parameters in the store.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sifu_graph.arrays import Ints, Slot

Integers = NDArray[np.integer[Any]] | np.integer[Any]


@dataclass(frozen=True, slots=True)
class EdgeIndex:
    """The private edges of n nodes, sorted by (u, v).

    Attributes
    ----------
    row_start : int64 [n + 1]
        Row u is ``row_start[u] : row_start[u + 1]`` of the arrays below.
    target : int32 [edges]
    slot : int64 [edges]
    count : int64 [edges]
        How often the pair occurred in the corpus that the graph was built from.
    keys : int64 [edges]
        u * n + v, ascending.
    forbidden : int64 [pairs]
        Keys of the pairs that are never chosen, ascending. None of them is private.
    by_frequency : int64 [n] or None
        The nodes, most frequent first (the special ones before them): the order in which default edges are opened.
        None: in the order of their numbers.
    """

    nodes: int
    row_start: Ints
    target: NDArray[np.int32]
    slot: Ints
    count: Ints
    keys: Ints
    forbidden: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    by_frequency: Ints | None = None

    @classmethod
    def from_slots(
        cls,
        nodes: int,
        source: NDArray[np.int32],
        target: NDArray[np.int32],
        count: Ints,
        *,
        forbidden: NDArray[np.int32] | None = None,
        node_count: Ints | None = None,
    ) -> EdgeIndex:
        """From the arrays of the store, in which a slot with target -1 is free.

        Parameters
        ----------
        nodes
            n.
        source, target
            int32 [slots].
        count
            int64 [slots].
        forbidden
            int32 [pairs, 2]: pairs that are never chosen.
        node_count
            int64 [n], the occurrences of each node. None: the nodes are ordered by frequency.
        """
        slot = np.flatnonzero(target >= 0)
        keys = source[slot].astype(np.int64) * nodes + target[slot]
        if (keys[1:] < keys[:-1]).any():  # after edits
            order = np.argsort(keys, kind="stable")
            slot, keys = slot[order], keys[order]
        row_start = np.searchsorted(keys, np.arange(nodes + 1, dtype=np.int64) * nodes)
        pairs = np.empty((0, 2), np.int64) if forbidden is None else forbidden.astype(np.int64)
        never: Ints = np.sort(pairs[:, 0] * nodes + pairs[:, 1])
        by_frequency = None if node_count is None else _by_frequency(node_count)
        return cls(nodes, row_start, target[slot], slot, count[slot], keys, never, by_frequency)

    @property
    def edges(self) -> int:
        """Number of private edges."""
        return len(self.keys)

    def sources(self) -> Ints:
        """u of every private edge, int64 [edges]."""
        return np.repeat(np.arange(self.nodes), self.row_sizes())

    def row_sizes(self) -> Ints:
        """Number of private edges out of every node, int64 [n]."""
        return np.diff(self.row_start)

    def text_row(self, total: Ints) -> float:
        """Private edges of a token's row, on average over a text with these transitions out of each node, int64 [n]."""
        return float((self.row_sizes() * (total / max(1, total.sum()))).sum())

    def defaults(self) -> Ints:
        """Number of default edges out of every node that can be chosen, int64 [n]."""
        out: Ints = self.nodes - self.row_sizes() - np.bincount(self.forbidden // self.nodes, minlength=self.nodes)
        return out

    def is_forbidden(self, source: Integers, target: Integers) -> NDArray[np.bool_]:
        """Which of the pairs (integers [k]) are never chosen, bool [k]."""
        if not len(self.forbidden):
            return np.zeros(np.broadcast(source, target).shape, bool)
        return np.isin(np.asarray(source, dtype=np.int64) * self.nodes + target, self.forbidden)

    def forbidden_after(self, node: int) -> Ints:
        """The nodes that are never chosen after this one, int64, ascending."""
        if not len(self.forbidden):
            return self.forbidden
        first, stop = np.searchsorted(self.forbidden, [node * self.nodes, (node + 1) * self.nodes])
        return self.forbidden[first:stop] - node * self.nodes

    def find(self, source: Ints, target: Ints) -> Ints:
        """The place of each pair (int64 [k]) in the sorted arrays, int64 [k]; -1 for a default edge."""
        keys = np.asarray(source, dtype=np.int64) * self.nodes + target
        place = np.searchsorted(self.keys, keys)
        found = place < self.edges
        found[found] = self.keys[place[found]] == keys[found]
        result: Ints = np.where(found, place, -1)
        return result

    def slot_of(self, source: int, target: int) -> Slot | None:
        """The slot of one edge, or None for a default edge."""
        row = self.row(source)
        place = row.start + int(np.searchsorted(self.target[row], target))
        return Slot(int(self.slot[place])) if place < row.stop and self.target[place] == target else None

    def row(self, node: int) -> slice:
        """The row of a node as a slice of the sorted arrays."""
        return slice(int(self.row_start[node]), int(self.row_start[node + 1]))


def _by_frequency(count: Ints) -> Ints | None:
    """The special nodes, then the others by falling count; None where that is their own order."""
    special = 2  # unknown and separator come first, whatever their counts
    rest = special + np.argsort(-count[special:], kind="stable")
    order: Ints = np.concatenate([np.arange(min(special, len(count)), dtype=np.int64), rest])
    identity = bool((order == np.arange(len(count))).all())
    return None if identity else order


class RowPlaces(NamedTuple):
    """Where the private edges of one row are stored."""

    places: Ints  # [k], contiguous
    pointer: int  # address of the first place; NumPy takes longer to return it than the contest of a small row takes
    edges: int  # k


def stored_parameters(nodes: int, edges: int, width: int, *, base: bool = False) -> int:
    """Number of stored parameters: private edges, the default edge and the node biases.

    ``base``: all edges share one; a private edge has an energy alone.
    """
    if base:
        return edges + base_parameters(nodes, width)
    return (edges + 1) * (width * width + width) + nodes * width


def base_parameters(nodes: int, width: int) -> int:
    """Number of parameters that all edges share: W, gain, start, scale, G and h, and for each node e, n, c and g."""
    return width * width + 2 * width + 9 + nodes * (2 * width + 3)


def dense_parameters(nodes: int, width: int, *, base: bool = False) -> int:
    """n * n * (d * d + d): every ordered pair with parameters of its own (paper, section 4).

    ``base``: all edges share one, and every ordered pair has an energy of its own.
    """
    if base:
        return stored_parameters(nodes, nodes * nodes, width, base=True)
    return nodes * nodes * (width * width + width)


def private_edge_budget(ratio: float, nodes: int) -> int:
    """Number of private edges that a share of all n * n pairs allows, rounded down.

    The share is read as the decimal number that it prints as.
    """
    return math.floor(Fraction(repr(float(ratio))) * nodes * nodes)
