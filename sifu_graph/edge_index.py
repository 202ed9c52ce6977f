"""The (u, v) index of a graph: which edges are private, and in which slot each is stored.

The module knows nodes, ranks and slots; it does not know parameters or text. Rows are sorted by target; an edge's
*place* is its number in the order of the rows, its *rank* its number in its row, its *slot* the place of its parameters
in the store.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sifu_graph.arrays import BLOCK, Integers, Ints, Slot


@dataclass(frozen=True, slots=True)
class EdgeIndex:
    """The private edges of n nodes, sorted by (u, v). The arrays may be maps of files (`model.index_file`).

    Attributes
    ----------
    row_start : int64 [n + 1]
        Row u is ``row_start[u] : row_start[u + 1]`` of the arrays below.
    target : int32 [edges]
    count : int32 or int64 [edges]
        How often the pair occurred in the corpus that the graph was built from.
    moved : int32 or int64 [edges], or None
        The slot of each edge, where edits moved some; None: the slot of an edge is its place. Read it with `slots`.
    forbidden : int64 [pairs]
        Keys u * n + v of the pairs that are never chosen, ascending. None of them is private.
    by_frequency : int64 [n] or None
        The nodes, most frequent first (the special ones before them): the order in which default edges are opened.
        None: in the order of their numbers.
    """

    nodes: int
    row_start: Ints
    target: NDArray[np.int32]
    count: Integers
    moved: Integers | None = None
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
        moved = None if len(slot) == len(target) and is_range(slot) else slot
        if moved is not None:
            target, count = target[slot], count[slot]
        return cls(nodes, row_start, target, count, moved, forbidden_keys(nodes, forbidden), by_frequency(node_count))

    @property
    def edges(self) -> int:
        """Number of private edges."""
        return len(self.target)

    def sources(self) -> Ints:
        """u of every private edge, int64 [edges]."""
        return np.repeat(np.arange(self.nodes), self.row_sizes())

    def sources_of(self, places: Ints) -> Ints:
        """u of edges by their places, int64 [k]."""
        return np.searchsorted(self.row_start, places, side="right") - 1

    def places_of(self, rows: slice) -> slice:
        """The edges of consecutive rows, as a slice of the sorted arrays."""
        first, stop, _ = rows.indices(self.nodes)
        return slice(int(self.row_start[first]), int(self.row_start[stop]))

    def row_blocks(self) -> Iterator[slice]:
        """Consecutive rows, together all, in blocks of at most `BLOCK` edges or of one row."""
        first = 0
        while first < self.nodes:
            stop = int(np.searchsorted(self.row_start, self.row_start[first] + BLOCK, side="right")) - 1
            stop = min(max(stop, first + 1), self.nodes)
            yield slice(first, stop)
            first = stop

    def row_sizes(self) -> Ints:
        """Number of private edges out of every node, int64 [n]."""
        return np.diff(self.row_start)

    def largest_rows(self, rows: int) -> int:
        """Number of private edges of the largest rows together."""
        return int(np.sort(self.row_sizes())[::-1][:rows].sum())

    def text_row(self, total: Ints) -> float:
        """Private edges of a token's row, on average over a text with these transitions out of each node, int64 [n]."""
        return float((self.row_sizes() * (total / max(1, total.sum()))).sum())

    def defaults(self) -> Ints:
        """Number of default edges out of every node that can be chosen, int64 [n]."""
        out: Ints = self.nodes - self.row_sizes() - np.bincount(self.forbidden // self.nodes, minlength=self.nodes)
        return out

    def is_forbidden(self, source: Integers | np.integer[Any], target: Integers | np.integer[Any]) -> NDArray[np.bool_]:
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
        """The place of each pair (int64 [k]) in the sorted arrays, int64 [k]; -1 for a default edge.

        A binary search in the row of each source, all of them in step.
        """
        source, target = np.asarray(source, dtype=np.int64), np.asarray(target, dtype=np.int64)
        low, high = self.row_start[source], self.row_start[source + 1]
        for _ in range(int((high - low).max(initial=0)).bit_length()):
            middle = (low + high) >> 1  # of an empty range: its end, which may be that of the array
            below = (low < high) & (self.target[np.minimum(middle, self.edges - 1)] < target)
            low, high = np.where(below, middle + 1, low), np.where(below, high, middle)
        found = low < self.row_start[source + 1]
        found[found] = self.target[low[found]] == target[found]
        result: Ints = np.where(found, low, -1)
        return result

    def keys(self, places: slice = slice(None)) -> Ints:
        """u * n + v of consecutive edges, ascending, int64 [k]."""
        first, stop, _ = places.indices(self.edges)
        rows = np.searchsorted(self.row_start, [first, stop])
        low, high = max(0, int(rows[0]) - 1), min(self.nodes, int(rows[1]))
        bounds = np.clip(self.row_start[low : high + 1], first, stop)
        source = np.repeat(np.arange(low, high, dtype=np.int64), np.diff(bounds))
        keys: Ints = source * self.nodes + self.target[first:stop]
        return keys

    def slots(self, places: slice | Ints = slice(None)) -> Ints:
        """The slots of edges by their places, int64 [k]."""
        if self.moved is not None:
            return self.moved[places].astype(np.int64, copy=False)
        if isinstance(places, slice):
            return np.arange(*places.indices(self.edges), dtype=np.int64)
        return np.asarray(places, dtype=np.int64)

    def slot_of(self, source: int, target: int) -> Slot | None:
        """The slot of one edge, or None for a default edge."""
        row = self.row(source)
        place = row.start + int(np.searchsorted(self.target[row], target))
        if place == row.stop or self.target[place] != target:
            return None
        return Slot(place if self.moved is None else int(self.moved[place]))

    def row(self, node: int) -> slice:
        """The row of a node as a slice of the sorted arrays."""
        return slice(int(self.row_start[node]), int(self.row_start[node + 1]))


def by_frequency(count: Ints | None) -> Ints | None:
    """The special nodes, then the others by falling count, int64 [n]; None where that is their own order."""
    if count is None:
        return None
    special = 2  # unknown and separator come first, whatever their counts
    rest = special + np.argsort(-count[special:], kind="stable")
    order: Ints = np.concatenate([np.arange(min(special, len(count)), dtype=np.int64), rest])
    return None if is_range(order) else order


def forbidden_keys(nodes: int, pairs: NDArray[np.int32] | None) -> Ints:
    """The keys u * n + v of pairs [k, 2], ascending, int64 [k]; None: there are none."""
    u, v = np.empty((2, 0), np.int64) if pairs is None else pairs.T.astype(np.int64)
    return np.sort(u * nodes + v)


def is_range(values: Integers) -> bool:
    """Whether the values are 0, 1, 2, ... ."""
    return bool((values == np.arange(len(values))).all())


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
