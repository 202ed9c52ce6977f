"""Provenance: which commit last changed an edge or a node.

The history is walked from the newest commit backwards. Icechunk's difference between two snapshots names the written
chunks, so values are compared only where the page of the edge is among them. This module knows commits, slots and
pages; not the names of nodes or the meaning of values.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np

from sifu_store.history import Commit, Writes
from sifu_store.layout import BASE_VERSION, BIAS, ENERGY, FORBIDDEN, PAGE_EDGES, SOURCE, STORED, TARGET, WEIGHT
from sifu_store.reading import StoreReader

VOCABULARY, NODE_BIAS = "nodes/vocabulary", "nodes/bias"


class _Snapshot:
    """The nodes and edges of one snapshot. Each array is read once, when it is first needed."""

    def __init__(self, store: StoreReader, snapshot: str) -> None:
        self._store, self._snapshot = store, snapshot

    @cached_property
    def _reader(self) -> StoreReader:
        return self._store.view(self._snapshot)

    @cached_property
    def vocabulary(self) -> list[Any]:
        """The node objects of the vocabulary, by node number."""
        found: list[Any] = self._reader.read_json(VOCABULARY)
        return found

    @cached_property
    def _pairs(self) -> tuple[np.ndarray, np.ndarray]:
        return self._reader.read(SOURCE), self._reader.read(TARGET)

    @cached_property
    def _forbidden(self) -> np.ndarray:
        return self._reader.read(FORBIDDEN) if self._reader.has(FORBIDDEN) else np.empty((0, 2), np.int32)

    def forbids(self, source: int, target: int) -> bool:
        """Whether an edge is never chosen."""
        return bool((self._forbidden == (source, target)).all(axis=1).any())

    @cached_property
    def _stored(self) -> np.ndarray:
        return self._reader.read(STORED)

    @cached_property
    def has_base(self) -> bool:
        """Whether the edges share a base; then their energies are parameters."""
        return self._reader.format_version >= BASE_VERSION

    @cached_property
    def _energies(self) -> np.ndarray | None:
        return self._reader.read(ENERGY) if self._reader.has(ENERGY) else None

    def energy(self, slot: int) -> float | None:
        """What an edge is generated with; None: it is not stored."""
        return None if self._energies is None else float(self._energies[slot])

    @cached_property
    def node_bias(self) -> np.ndarray:
        """float32 [n, d]."""
        return self._reader.read(NODE_BIAS)

    def node(self, entry: Any) -> int | None:
        """The number of a node object; None if it is not in the vocabulary."""
        return self.vocabulary.index(entry) if entry in self.vocabulary else None

    def slot(self, source: int, target: int) -> int | None:
        """The slot of an edge; None: it is a default edge."""
        sources, targets = self._pairs
        found = np.flatnonzero((sources == source) & (targets == target))
        return int(found[0]) if len(found) else None

    def stored(self, slot: int) -> bool:
        """Whether the page of a slot is stored."""
        return bool(self._stored[slot // PAGE_EDGES])

    def edge(self, slot: int) -> tuple[np.ndarray, np.ndarray]:
        """W [d, d] and b [d] of a slot in a stored page."""
        page, row = divmod(slot, PAGE_EDGES)
        weight, bias = (self._reader.read_page(name, page)[row] for name in (WEIGHT, BIAS))
        return weight, bias


def edge_changed(
    store: StoreReader, source: int, target: int, slot: int | None, generated: tuple[np.ndarray, np.ndarray] | None
) -> Commit | None:
    """The commit that gave edge (source, target) its current values.

    Parameters
    ----------
    store
        Open at the snapshot where the walk starts.
    source, target
        Numbers of the nodes in that snapshot.
    slot
        The edge's slot in that snapshot; None: it is a default edge.
    generated
        W [d, d] and b [d] of the edge while its page is not stored.

    Returns
    -------
    Commit or None
        None: the edge did not change since the oldest commit that is kept.
    """
    here = slot
    for newer, older, writes in _steps(store):
        if older is None:
            return newer
        if writes is not None and not writes.arrays & {SOURCE, TARGET, VOCABULARY, ENERGY, FORBIDDEN}:
            page = None if here is None else here // PAGE_EDGES
            if page is None or not any(page in writes.chunks.get(name, ()) for name in (WEIGHT, BIAS)):
                continue
        now, before = _Snapshot(store, newer.snapshot), _Snapshot(store, older.snapshot)
        forbidden = now.forbids(source, target)
        if writes is None or VOCABULARY in writes.arrays:
            was_source, was_target = (before.node(now.vocabulary[node]) for node in (source, target))
            if was_source is None or was_target is None:
                return newer  # this commit added or renamed one of the nodes
            source, target = was_source, was_target
        there = before.slot(source, target)
        if (here is None) != (there is None) or forbidden != before.forbids(source, target):
            return newer
        if here is not None and there is not None and not _same(now, here, before, there, generated):
            return newer
        here = there
    return None


def commits_before(store: StoreReader, arrays: set[str]) -> Iterator[tuple[Commit, bool]]:
    """The commit before each one that may have written some arrays, newest first, in the history of a snapshot.

    Parameters
    ----------
    store
        Open at that snapshot.
    arrays
        Names of arrays.

    Yields
    ------
    tuple of (Commit, bool)
        The commit before, and whether it is directly before: no commit between them was deleted.
    """
    for _, older, writes in _steps(store):
        if older is not None and (writes is None or writes.arrays & arrays):
            yield older, writes is not None


def rows_changed(store: StoreReader, node: int, pages: np.ndarray) -> tuple[Commit | None, Commit | None]:
    """The commits that last changed the bias of a node and last wrote a page of its row.

    Parameters
    ----------
    store
        Open at the snapshot where the walk starts.
    node
        Number of the node.
    pages
        int64 [k], the indices of the pages that hold its row.

    Returns
    -------
    tuple of (Commit or None)
        None: no change since the oldest commit that is kept.
    """
    row_pages = set(pages.tolist())
    bias: Commit | None = None
    row: Commit | None = None
    for newer, older, writes in _steps(store):
        if row is None and (
            writes is None or any(writes.chunks.get(name, set()) & row_pages for name in (WEIGHT, BIAS))
        ):
            row = newer
        if bias is None:
            if older is None:
                bias = newer
            elif writes is None or NODE_BIAS in writes.arrays:
                now, before = (_Snapshot(store, commit.snapshot).node_bias for commit in (newer, older))
                if before.shape != now.shape or not np.array_equal(now[node], before[node]):
                    bias = newer
        if row is not None and bias is not None:
            break
    return bias, row


def _steps(store: StoreReader) -> Iterator[tuple[Commit, Commit | None, Writes | None]]:
    """Each commit, newest first, with its parent and what it wrote (None: unknown)."""
    commits = store.history()
    for newer, older in zip(commits, [*commits[1:], None], strict=True):
        writes = None if older is None else store.writes_between(older.snapshot, newer.snapshot)
        yield newer, older, writes


def _same(
    now: _Snapshot, here: int, before: _Snapshot, there: int, generated: tuple[np.ndarray, np.ndarray] | None
) -> bool:
    """Whether an edge has the same values in two snapshots."""
    generates = not now.stored(here) and not before.stored(there)
    if generates or now.has_base:
        energies = now.energy(here), before.energy(there)
        if None not in energies and not np.array_equal(*energies, equal_nan=True):  # type: ignore[arg-type]
            return False
    if generates:
        return True
    new = now.edge(here) if now.stored(here) else generated
    old = before.edge(there) if before.stored(there) else generated
    return new is not None and old is not None and all(np.array_equal(a, b) for a, b in zip(new, old, strict=True))
