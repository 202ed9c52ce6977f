"""What an untrained edge is generated from: its origin, two keys of nodes, and its energy, by slot.

After a build both follow from the index and the counts (`CountedOrigins`); the first edit stores them
(`StoredOrigins`), so that no later change of the index changes them. It knows indices and counts; it does not know
stores, or how values are generated (`initial`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from sifu_graph.arrays import Bools, Floats, Ids, Ints
from sifu_graph.disk_arrays import DiskArrays
from sifu_graph.edge_index import EdgeIndex
from sifu_graph.text.kneser_ney import Counts, discount_of

BASE_ENERGY = 10.0
"""Energy of the default edge at the start: high enough for GELU to be linear where an edge's bias points."""
BLOCK = 64
"""Rows whose energies are computed at a time, where not all are asked for."""


class Origins(Protocol):
    """The origins and energies of the edges of a graph."""

    @property
    def energy_known(self) -> bool:
        """Whether every edge has an energy; if not, the values of some come from the hash."""

    def keys(self, slots: Ints) -> Ids:
        """The keys of u and v of these slots, int32 [k, 2]; anything in a free slot."""

    def energies(self, slots: Ints) -> Floats:
        """The energies that these edges are generated with, float32 [k]; NaN: their values come from the hash."""


@dataclass(frozen=True, slots=True)
class StoredOrigins:
    """Origins and energies as arrays."""

    origin: NDArray[np.int32]  # [slots, 2]; -1 in a free slot
    energy: Floats  # [slots]

    @property
    def energy_known(self) -> bool:
        """As `Origins.energy_known`."""
        return not np.isnan(self.energy).any()

    def keys(self, slots: Ints) -> Ids:
        """As `Origins.keys`."""
        return np.maximum(self.origin[slots], 0)

    def energies(self, slots: Ints) -> Floats:
        """As `Origins.energies`."""
        found: Floats = self.energy[slots]
        return found


@dataclass(frozen=True, slots=True)
class CountedOrigins:
    """After a build from counts: u and v themselves, and energies from the counts. No edge was moved.

    The energies are computed on first use, in blocks of rows.
    """

    index: EdgeIndex
    counts: Counts
    _energy: Floats = field(init=False)  # [edges]
    _known: Bools = field(init=False)  # by block
    energy_known: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "_energy", np.zeros(self.index.edges, np.float32))
        object.__setattr__(self, "_known", np.zeros(-(-self.index.nodes // BLOCK), bool))

    def keys(self, slots: Ints) -> Ids:
        """As `Origins.keys`."""
        return _ends(self.index, slots)

    def energies(self, slots: Ints) -> Floats:
        """As `Origins.energies`. Two threads may ask at once: they write the same."""
        index = self.index
        for block in np.unique(index.sources_of(slots) // BLOCK).tolist():
            if not self._known[block]:
                rows = slice(block * BLOCK, min((block + 1) * BLOCK, index.nodes))
                self._energy[index.places_of(rows)] = energies_of_rows(index, self.counts, rows)
                self._known[block] = True
        found: Floats = self._energy[slots]
        return found


@dataclass(frozen=True, slots=True)
class IndexOrigins:
    """After a build: u and v themselves, and energies [edges]; None: values come from the hash. No edge was moved."""

    index: EdgeIndex
    energy: Floats | None

    @property
    def energy_known(self) -> bool:
        """As `Origins.energy_known`."""
        return self.energy is not None

    def keys(self, slots: Ints) -> Ids:
        """As `Origins.keys`."""
        return _ends(self.index, slots)

    def energies(self, slots: Ints) -> Floats:
        """As `Origins.energies`."""
        if self.energy is None:
            return np.full(len(slots), np.nan, np.float32)
        found: Floats = self.energy[slots]
        return found


def origins_of_build(
    method: Literal["counts", "uniform"], index: EdgeIndex, counts: Counts, *, slots: int, energy: Floats | None = None
) -> Origins:
    """The origins of a graph that was not edited, with this number of slots.

    ``energy``: the energies if they are known, float32 [edges].
    """
    if index.moved is not None:  # of another program: the rows are not in the order of the slots
        origin = np.full((slots, 2), -1, np.int32)
        origin[index.moved, 0], origin[index.moved, 1] = index.sources(), index.target
        return StoredOrigins(origin, initial_energies(method, index, counts, slots))
    if method == "counts" and energy is None:
        return CountedOrigins(index, counts)
    return IndexOrigins(index, energy)


def initial_energies(
    method: Literal["counts", "uniform"],
    index: EdgeIndex,
    counts: Counts,
    slots: int,
    arrays: DiskArrays | None = None,
) -> Floats:
    """The energies that edges are generated with after the build [slots]; NaN: their values come from the hash.

    ``arrays`` says where they are. None: in memory.
    """
    energy = (DiskArrays() if arrays is None else arrays).zeros(slots, np.float32)
    if method == "uniform":
        energy[:] = np.nan
        return energy
    for rows in index.row_blocks():
        energy[index.slots(index.places_of(rows))] = energies_of_rows(index, counts, rows)
    return energy


def energies_of_rows(index: EdgeIndex, counts: Counts, rows: slice) -> Floats:
    """``BASE_ENERGY + log(p(v | u) / share of one default edge of u)`` of the private edges of consecutive rows, in
    index order, float32 [edges]. A row's values depend on no other row."""
    sizes, edges = index.row_sizes()[rows], index.places_of(rows)
    count, total = index.count[edges], np.maximum(counts.total[rows], 1).astype(np.float64)
    continuation = counts.predecessors / max(1, int(counts.predecessors.sum()))
    p = (count - discount_of(count, counts.discounts)) / np.repeat(total, sizes)
    p += np.repeat(counts.discounted[rows] / total, sizes) * continuation[index.target[edges]]
    p = np.maximum(p, 1e-9)
    source = np.repeat(np.arange(len(sizes)), sizes)
    left = 1.0 - np.bincount(source, weights=p, minlength=len(sizes))
    share = np.maximum(left / np.maximum(index.nodes - sizes, 1), 1e-9)
    return BASE_ENERGY + np.log(p / share[source]).astype(np.float32)


def _ends(index: EdgeIndex, slots: Ints) -> Ids:
    """u and v of edges whose slot is their place, int32 [k, 2]."""
    return np.stack([index.sources_of(slots), index.target[slots]], axis=1).astype(np.int32)
