"""Which commit last changed an edge: the history, walked backwards until the edge was another one.

Icechunk's difference between two snapshots names the chunks that were written; only where the page of the edge is among
them are its values compared. This module knows commits, slots and pages; not nodes' names or what values mean.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import icechunk
import numpy as np
import zarr

from sifu_store.history import Commit
from sifu_store.layout import BIAS, PAGE_EDGES, SOURCE, STORED, TARGET, WEIGHT
from sifu_store.reading import StoreReader

VOCABULARY, NODE_BIAS = "nodes/vocabulary", "nodes/bias"


@dataclass(slots=True)
class _View:
    """One snapshot, opened when something is asked of it."""

    repository: icechunk.Repository
    snapshot: str
    _group: zarr.Group | None = None
    _read: dict[str, Any] = field(default_factory=dict)

    def array(self, name: str) -> Any:
        if self._group is None:
            session = self.repository.readonly_session(snapshot_id=self.snapshot)
            self._group = zarr.open_group(session.store, mode="r")
        return self._group[name]

    def whole(self, name: str) -> Any:
        if name not in self._read:
            self._read[name] = self.array(name)[...]
        return self._read[name]

    @property
    def vocabulary(self) -> list[Any]:
        if VOCABULARY not in self._read:
            self._read[VOCABULARY] = json.loads(self.array(VOCABULARY)[...].tobytes().decode("utf-8"))
        found: list[Any] = self._read[VOCABULARY]
        return found

    def node(self, entry: Any) -> int | None:
        """Where an entry of the vocabulary stands here."""
        return self.vocabulary.index(entry) if entry in self.vocabulary else None

    def slot(self, source: int, target: int) -> int | None:
        found = np.flatnonzero((self.whole(SOURCE) == source) & (self.whole(TARGET) == target))
        return int(found[0]) if len(found) else None

    def stored(self, slot: int) -> bool:
        return bool(self.whole(STORED)[slot // PAGE_EDGES])

    def edge(self, slot: int) -> tuple[np.ndarray, np.ndarray]:
        return self.array(WEIGHT)[slot], self.array(BIAS)[slot]


def edge_changed(
    store: StoreReader, source: int, target: int, slot: int | None, generated: tuple[np.ndarray, np.ndarray] | None
) -> Commit | None:
    """The commit that made edge (source, target) what it is; None if the history does not reach back so far.

    Parameters
    ----------
    slot
        Where its parameters lie now; None: it is a default edge.
    generated
        Its W and b as long as its page is not stored.
    """
    commits = store.history()
    here = slot
    for newer, older in zip(commits, [*commits[1:], None], strict=True):
        if older is None:
            return newer
        chunks = _written(store, older, newer)
        if chunks is not None and not _touches(chunks, SOURCE, TARGET, VOCABULARY):
            page = None if here is None else here // PAGE_EDGES
            if page is None or not any(page in chunks.get(name, ()) for name in (WEIGHT, BIAS)):
                continue
        now, before = _View(store._repository, newer.snapshot), _View(store._repository, older.snapshot)
        if chunks is None or _touches(chunks, VOCABULARY):
            was_source, was_target = (before.node(now.vocabulary[node]) for node in (source, target))
            if was_source is None or was_target is None:
                return newer  # one of its nodes is new, or had another name
            source, target = was_source, was_target
        there = before.slot(source, target)
        if (here is None) != (there is None):
            return newer
        if here is not None and there is not None and not _same(now, here, before, there, generated):
            return newer
        here = there
    return None


def rows_changed(store: StoreReader, node: int, pages: np.ndarray) -> tuple[Commit | None, Commit | None]:
    """The commits that last changed the bias of a node, and that last wrote one of the pages of its row."""
    commits = store.history()
    bias: Commit | None = None
    row: Commit | None = None
    for newer, older in zip(commits, [*commits[1:], None], strict=True):
        chunks = None if older is None else _written(store, older, newer)
        if row is None and (
            chunks is None or any(chunks.get(name, set()) & set(pages.tolist()) for name in (WEIGHT, BIAS))
        ):
            row = newer
        if bias is None:
            if older is None:
                bias = newer
            elif chunks is None or _touches(chunks, NODE_BIAS):
                now, before = (_View(store._repository, each.snapshot).array(NODE_BIAS) for each in (newer, older))
                if before.shape != now.shape or not np.array_equal(now[node], before[node]):
                    bias = newer
        if row is not None and bias is not None:
            break
    return bias, row


def _same(now: _View, here: int, before: _View, there: int, generated: tuple[np.ndarray, np.ndarray] | None) -> bool:
    """Whether an edge has the same values in two snapshots. What is not stored is generated, always the same."""
    if not now.stored(here) and not before.stored(there):
        return True
    values = [view.edge(slot) if view.stored(slot) else generated for view, slot in ((now, here), (before, there))]
    new, old = values
    return new is not None and old is not None and all(np.array_equal(a, b) for a, b in zip(new, old, strict=True))


def _written(store: StoreReader, older: Commit, newer: Commit) -> dict[str, set[int]] | None:
    """By array, the numbers of the chunks (along the first axis) that differ; None: Icechunk cannot tell."""
    try:
        found = store._repository.diff(from_snapshot_id=older.snapshot, to_snapshot_id=newer.snapshot)
    except icechunk.IcechunkError:  # the one is no ancestor of the other: what lay between was collected
        return None
    chunks = {
        name.removeprefix("/"): {int(place[0]) for place in places} for name, places in found.updated_chunks.items()
    }
    for name in found.new_arrays | found.updated_arrays | found.deleted_arrays:
        chunks.setdefault(name.removeprefix("/"), set())
    return chunks


def _touches(chunks: dict[str, set[int]], *names: str) -> bool:
    return any(name in chunks for name in names)
