"""The columns of a working copy, which are read when they are first needed.

The module knows their names and types, and which of them may have been changed; it does not know what they mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sifu_store.layout import (
    COUNT,
    ENERGY,
    KEY,
    LOG_LESS,
    LOG_LOWER,
    ORIGIN,
    PAGE_EDGES,
    PAIR_DISCOUNTED,
    PAIR_TOTAL,
    REPEAT,
    SOURCE,
    TARGET,
    TARGET_BIAS,
    TARGET_VECTOR,
    USAGE,
    page_count,
)
from sifu_store.store import Store

from sifu_graph.arrays import Bools, Ints, blocks
from sifu_graph.disk_arrays import DiskArrays
from sifu_graph.edge_index import EdgeIndex
from sifu_graph.model.index_file import is_large
from sifu_graph.model.io import read_column, read_usage
from sifu_graph.sorted_edges import sorted_edges

Columns = dict[str, NDArray[Any]]

_OF_NODES = (
    *(KEY, "nodes/count", "nodes/bias", "nodes/predecessors", "rows/total", "rows/distinct", "rows/discounted"),
    *(TARGET_VECTOR, TARGET_BIAS, REPEAT, LOG_LOWER, LOG_LESS, PAIR_TOTAL, PAIR_DISCOUNTED),
)
_STATE_OF_NODES = tuple(f"optimizer/{name}/" for name in _OF_NODES)


class EdgeValue(IntEnum):
    """Where the parameters and the optimizer state of an edge are (see `working_copy`)."""

    STORED = 0
    GENERATED = 1
    NEW = 2


VALUE, ROW = "value", "row"
"""Columns of the table of edges that the store does not have."""

FREE: dict[str, tuple[Any, int]] = {
    SOURCE: (np.int32, -1),
    TARGET: (np.int32, -1),
    COUNT: (np.int64, 0),
    USAGE: (np.int64, 0),
    ORIGIN: (np.int32, -1),
    ENERGY: (np.float32, 0),
    VALUE: (np.int8, EdgeValue.GENERATED),
    ROW: (np.int64, -1),
}
"""The dtype of each column, and its value in a free slot."""


class Table(Mapping[str, NDArray[Any]]):
    """Columns by their names. Who takes one by ``table[name]`` may change it, so it is written; `peek` is for reading.

    Parameters
    ----------
    read
        Reads a column.
    names
        The names of all columns. It is called where they are listed.
    has
        Whether there is a column of a name.
    """

    def __init__(
        self,
        read: Callable[[str], NDArray[Any]],
        names: Callable[[], Iterable[str]],
        has: Callable[[str], bool],
    ) -> None:
        self._read, self._names, self._has = read, names, has
        self._columns: Columns = {}
        self._taken = set[str]()

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self._columns or self._has(name))

    def peek(self, name: str) -> NDArray[Any]:
        """A column, [n, ...] or [slots, ...], to be read."""
        if name not in self:
            raise KeyError(name)
        if name not in self._columns:
            self._columns[name] = self._read(name)
        return self._columns[name]

    def __getitem__(self, name: str) -> NDArray[Any]:
        found = self.peek(name)
        self._taken.add(name)
        return found

    def __setitem__(self, name: str, column: NDArray[Any]) -> None:
        self._columns[name] = column
        self._taken.add(name)

    def __iter__(self) -> Iterator[str]:
        return iter({**dict.fromkeys(self._names()), **self._columns})

    def __len__(self) -> int:
        return len(list(iter(self)))

    def changed(self) -> Columns:
        """The columns that may differ from those that were read."""
        return {name: self._columns[name] for name in self._columns if name in self._taken}


def columns_of_nodes(store: Store) -> Table:
    """The columns of the nodes [n, ...], with the optimizer's state of those that are trained."""

    def known(name: str) -> bool:
        return name in _OF_NODES or name.startswith(_STATE_OF_NODES)

    found = Table(store.read, lambda: filter(known, store.names()), lambda name: known(name) and store.has(name))
    if not store.has(KEY):
        found[KEY] = np.arange(store.shape("nodes/count")[0], dtype=np.int32)
    return found


class EdgeColumns(Table):
    """The columns of the edges [slots, ...]: those of the store, `VALUE` and `ROW`.

    Parameters
    ----------
    store
        The snapshot.
    arrays
        Where the columns are.
    """

    def __init__(self, store: Store, arrays: DiskArrays) -> None:
        super().__init__(self._column, lambda: FREE, FREE.__contains__)
        self._store, self._arrays = store, arrays

    def _column(self, name: str) -> NDArray[Any]:
        store = self._store
        if name == USAGE:
            return read_usage(store, self._arrays)
        if name not in (VALUE, ROW):
            return read_column(store, name, self._arrays)
        stored = np.repeat(store.page_stored(), PAGE_EDGES)
        found = self._arrays.zeros(store.slots, FREE[name][0])
        for block in blocks(store.slots):
            own = stored[block] & (store.read_rows(SOURCE, block) >= 0)
            if name == ROW:
                found[block] = np.where(own, np.arange(block.start, block.stop), -1)
            else:
                found[block] = np.where(own, EdgeValue.STORED, EdgeValue.GENERATED)
        return found

    @property
    def slots(self) -> int:
        """Number of slots, free ones included."""
        return len(self.peek(SOURCE))

    def index(self, nodes: int) -> EdgeIndex:
        """The index of the edges, without forbidden pairs and the order of nodes."""
        if not is_large(self.slots):
            return EdgeIndex.from_slots(nodes, self.peek(SOURCE), self.peek(TARGET), self.peek(COUNT))
        return sorted_edges(
            nodes,
            self.slots,
            lambda name, block: self.peek(name)[block],
            lambda _, kind, length: self._arrays.zeros(length, kind),
        )

    def extend(self, more: int) -> None:
        """Adds free slots at the end."""
        if not more:
            return
        for name, (_, free) in FREE.items():
            column = self.peek(name)
            found = self._arrays.zeros(len(column) + more, column.dtype, *column.shape[1:])
            for block in blocks(len(column)):
                found[block] = column[block]
            found[len(column) :] = free
            self[name] = found

    def pages_with(self, slots: Bools) -> Bools:
        """Which pages hold one of these slots: bool [slots] -> bool [pages]."""
        padded = np.zeros(page_count(self.slots) * PAGE_EDGES, bool)
        padded[: self.slots] = slots
        return np.asarray(padded.reshape(-1, PAGE_EDGES).any(axis=1))

    def page_values(self) -> Bools:
        """Which pages hold an edge whose parameters are not generated, bool [pages]."""
        return self.pages_with((self.peek(SOURCE) >= 0) & (self.peek(VALUE) != EdgeValue.GENERATED))

    def pages_to_write(self) -> Ints:
        """The pages that differ from those of the store, int64, ascending."""
        if VALUE not in self.changed():
            return np.empty(0, np.int64)
        value, row = self.peek(VALUE), self.peek(ROW)
        differs: Bools = self.peek(SOURCE) >= 0
        for block in blocks(self.slots):
            same = (value[block] == EdgeValue.STORED) & (row[block] == np.arange(block.start, block.stop))
            differs[block] &= ~same
        return np.flatnonzero(self.page_values() & self.pages_with(differs))
