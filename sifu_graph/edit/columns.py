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
)
from sifu_store.store import Store

from sifu_graph.model.io import read_usage

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


def columns_of_edges(store: Store) -> Table:
    """The columns of the edges [slots, ...]: those of the store, `VALUE` and `ROW`."""

    def read(name: str) -> NDArray[Any]:
        if name == USAGE:
            return read_usage(store)
        if name not in (VALUE, ROW):
            return store.read(name)
        stored = np.repeat(store.page_stored(), PAGE_EDGES)[: store.slots] & (store.read(SOURCE) >= 0)
        if name == ROW:
            return np.where(stored, np.arange(len(stored)), -1)
        return np.where(stored, EdgeValue.STORED, EdgeValue.GENERATED).astype(np.int8)

    return Table(read, lambda: FREE, FREE.__contains__)
