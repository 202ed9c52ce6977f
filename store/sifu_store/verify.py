"""Verification of a snapshot: reads every array and every stored page, and checks the index for consistency.

Damage is listed, not raised, so that one report names all of it. This module knows arrays and pages; not what they mean
to a graph.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import zarr

from sifu_store.arrays import Damage, chunk_count, existing_chunks, find_damage, is_paged
from sifu_store.checksums import CHECKSUMS, ChunkChecksums
from sifu_store.layout import (
    ARRAYS,
    BY_NAME,
    CLONE_EDGE,
    CLONE_PARENT,
    CLONE_TOKEN,
    COUNT,
    FORBIDDEN,
    FREE_SLOT,
    PAIR_COUNT,
    PAIR_FIRST,
    PAIR_TARGET,
    SOURCE,
    STORED,
    TARGET,
    page_slots,
)

_RUN_PAGES = 8


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was read and what is damaged.

    Parameters
    ----------
    snapshot
        Id of the snapshot.
    arrays, pages
        Number of arrays, and of stored pages.
    size_bytes
        Bytes read, uncompressed.
    damage
        All damage that was found; empty in an intact store.
    """

    snapshot: str
    arrays: int
    pages: int
    size_bytes: int
    damage: tuple[Damage, ...]

    @property
    def ok(self) -> bool:
        """Whether no damage was found."""
        return not self.damage


class Verification:
    """One pass over a snapshot.

    Parameters
    ----------
    session, arrays, directory
        The snapshot, its arrays by name, and the directory of the store.
    progress
        Called with the number of chunks read so far and in all.
    checksums
        The checksums of the chunks; the arrays check them when they are read.
    """

    def __init__(
        self,
        session: icechunk.Session,
        arrays: dict[str, zarr.Array[Any]],
        directory: Path,
        progress: Callable[[int, int], None] | None,
        *,
        checksums: ChunkChecksums,
    ) -> None:
        self._session, self._arrays, self._directory = session, arrays, directory
        self._progress, self._checksums = progress, checksums
        self._done = self._total = 0
        self._size_bytes = 0
        self._damage: list[Damage] = []

    def run(self) -> VerifyReport:
        """Read and check everything once."""
        for spec in ARRAYS:
            if spec.name not in self._arrays:
                self._report(spec.name, "the array is missing")
        plain = {name: array for name, array in self._arrays.items() if not is_paged(array)}
        paged = {name: array for name, array in self._arrays.items() if is_paged(array)}
        self._total = sum(chunk_count(array) for array in plain.values())
        contents = {name: self._read_plain(name, array) for name, array in plain.items()}
        self._check_table()
        self._check_index(contents)
        self._check_pairs(contents)
        self._check_clones(contents)
        self._check_json(contents)
        bitmap = contents.get(STORED)
        stored = np.zeros(0, bool) if bitmap is None else bitmap.astype(bool)
        self._total += int(stored.sum()) * len(paged)
        for name, array in paged.items():
            self._check_pages(name, array, stored)
        return VerifyReport(
            snapshot=self._session.snapshot_id,
            arrays=len(self._arrays),
            pages=int(stored.sum()),
            size_bytes=self._size_bytes,
            damage=tuple(self._damage),
        )

    def _check_table(self) -> None:
        """Check that every chunk in the table of checksums exists. What exists is compared when it is read."""
        if self._checksums.fault is not None:
            self._damage.append(Damage(CHECKSUMS, None, None, str(self._directory), self._checksums.fault))
        for name, column in (self._checksums.known or {}).items():
            if name not in self._arrays:
                self._damage.append(Damage(name, None, None, str(self._directory), "the array is missing"))
            elif is_paged(self._arrays[name]):  # of the others, every chunk must exist
                for chunk in sorted(set(np.flatnonzero(column).tolist()) - existing_chunks(self._session, name)):
                    self._report(name, "the chunk that was written is missing", chunk)

    def _read_plain(self, name: str, array: zarr.Array[Any]) -> np.ndarray | None:
        count = chunk_count(array)
        content: np.ndarray | None = None
        try:
            content = np.asarray(array[...])
            self._size_bytes += content.nbytes
        except Exception:
            self._damage += find_damage(self._session, array, self._directory, 0, count)
        missing = set(range(count)) - existing_chunks(self._session, name)
        for chunk in sorted(missing):
            self._report(name, "the chunk was never written", chunk)
        self._step(count)
        return content

    def _check_pages(self, name: str, array: zarr.Array[Any], stored: np.ndarray) -> None:
        slots = array.shape[0]
        existing = existing_chunks(self._session, name)
        for page in sorted(existing):
            if page >= len(stored) or not stored[page]:
                self._report(name, "a chunk exists, but the page is not marked as stored", page)
        for first, stop in _runs(stored):
            if name in BY_NAME:
                for page in range(first, stop):
                    if page not in existing:
                        self._report(name, "the page is marked as stored, but has no chunk", page)
            try:
                content = array[page_slots(first, slots)[0] : page_slots(stop - 1, slots)[1]]
                self._size_bytes += np.asarray(content).nbytes
            except Exception:
                self._damage += find_damage(self._session, array, self._directory, first, stop)
            self._step(stop - first)

    def _check_index(self, contents: dict[str, np.ndarray | None]) -> None:
        counted = contents.get("nodes/count")
        n = 0 if counted is None else len(counted)
        for name in ("nodes/count", "rows/total", "rows/distinct", COUNT, PAIR_COUNT):
            values = contents.get(name)
            if values is not None and len(values) and int(values.min()) < 0:
                self._report(name, f"{int((values < 0).sum())} negative counts")
        bitmap = contents.get(STORED)
        if bitmap is not None and len(bitmap) and int(bitmap.max()) > 1:
            self._report(STORED, "values other than 0 and 1")
        source, target, count = contents.get(SOURCE), contents.get(TARGET), contents.get(COUNT)
        if source is None or target is None or count is None or not len(source) == len(target) == len(count):
            return
        for name, values in ((SOURCE, source), (TARGET, target)):
            wrong = (values < FREE_SLOT) | (values >= n)
            if counted is not None and wrong.any():
                slot = int(wrong.argmax())
                self._report(
                    name, f"{int(wrong.sum())} slots refer to no node, the first is slot {slot}: {values[slot]}"
                )
        free = source == FREE_SLOT
        if (free != (target == FREE_SLOT)).any():
            self._report(TARGET, "a slot is free in only one of edges/source and edges/target")
        if count[free].any():
            self._report(COUNT, "a free slot has a count")
        pairs = source[~free].astype(np.int64) * (n + 1) + target[~free]
        self._check_unique(pairs, n)
        self._check_forbidden(contents.get(FORBIDDEN), pairs, n if counted is not None else None)

    def _check_unique(self, pairs: np.ndarray, n: int) -> None:
        """Check that no edge has two slots. `pairs` are int64 source * (n + 1) + target."""
        if len(pairs) > 1 and not (pairs[1:] > pairs[:-1]).all():  # a build sorts the pairs; edits keep them unique
            pairs = np.sort(pairs)
            twice = pairs[1:] == pairs[:-1]
            if twice.any():
                u, v = divmod(int(pairs[1:][twice][0]), n + 1)
                self._report(SOURCE, f"{int(twice.sum())} edges have two slots, the first is ({u}, {v})")

    def _check_forbidden(self, forbidden: np.ndarray | None, pairs: np.ndarray, n: int | None) -> None:
        """Check that forbidden pairs [k, 2] are nodes (of `n`; None: unknown) and have no slot."""
        if forbidden is None or not len(forbidden):
            return
        if n is not None and (forbidden.min() < 0 or forbidden.max() >= n):
            self._report(FORBIDDEN, "a pair refers to no node")
        elif np.isin(forbidden[:, 0].astype(np.int64) * ((n or 0) + 1) + forbidden[:, 1], pairs).any():
            self._report(FORBIDDEN, "a forbidden pair has a slot")

    def _check_pairs(self, contents: dict[str, np.ndarray | None]) -> None:
        """Check that the pairs of each source are one ascending run of nodes."""
        nodes, first, target = (contents.get(name) for name in ("nodes/count", PAIR_FIRST, PAIR_TARGET))
        if nodes is None or first is None or target is None:
            return
        if first[0] != 0 or first[-1] != len(target) or (np.diff(first) < 0).any():
            self._report(PAIR_FIRST, "the pairs of the sources do not follow one another")
            return
        if len(target) and (target.min() < 0 or target.max() >= len(nodes)):
            self._report(PAIR_TARGET, "a pair refers to no node")
        follows = np.ones(len(target), bool)
        follows[first[first < len(target)]] = False  # the first of each source
        unsorted = follows[1:] & (target[1:] <= target[:-1])
        if unsorted.any():
            self._report(PAIR_TARGET, f"{int(unsorted.sum())} pairs are not in the order of their targets")

    def _check_clones(self, contents: dict[str, np.ndarray | None]) -> None:
        """Check that every clone has a name: a node before a node or an earlier clone, each once."""
        nodes, parent, token = (contents.get(name) for name in ("nodes/count", CLONE_PARENT, CLONE_TOKEN))
        if nodes is None or parent is None or token is None or len(parent) != len(token):
            return
        n, clones = len(nodes), len(parent)
        later = (parent < 0) | (parent >= n + np.arange(clones))
        if later.any():
            self._report(CLONE_PARENT, f"{int(later.sum())} clones are not of a node or of an earlier clone")
        if clones and (token.min() < 0 or token.max() >= n):
            self._report(CLONE_TOKEN, "a clone refers to no node")
        elif (np.diff(parent.astype(np.int64) * n + token) <= 0).any():
            self._report(CLONE_TOKEN, "the clones are not sorted by parent and token, each once")
        edges = contents.get(CLONE_EDGE)
        if edges is not None and len(edges):
            (source, target), least = edges.T, edges.min()
            if least < 0 or source.max() >= n + clones or target.max() >= n:
                self._report(CLONE_EDGE, "an edge refers to no source or node")

    def _check_json(self, contents: dict[str, np.ndarray | None]) -> None:
        counted = contents.get("nodes/count")
        for spec in ARRAYS:
            text = contents.get(spec.name)
            if not spec.json or text is None:
                continue
            try:
                value = json.loads(text.tobytes().decode("utf-8"))
            except ValueError as error:
                self._report(spec.name, f"not JSON: {error}")
                continue
            if spec.name == "nodes/vocabulary" and counted is not None:
                found = len(value) if isinstance(value, list) else None
                if found != len(counted):
                    self._report(spec.name, f"{found} node objects for {len(counted)} nodes")

    def _report(self, name: str, reason: str, page: int | None = None) -> None:
        rows = None
        if page is not None:
            array = self._arrays[name]
            rows = (page * array.chunks[0], min((page + 1) * array.chunks[0], array.shape[0]))
        self._damage.append(Damage(name, page, rows, str(self._directory), reason))

    def _step(self, chunks: int) -> None:
        self._done += chunks
        if self._progress is not None:
            self._progress(self._done, self._total)


def _runs(stored: np.ndarray) -> Iterator[tuple[int, int]]:
    """Runs of stored pages (first, stop), at most `_RUN_PAGES` pages each."""
    pages = np.flatnonzero(stored)
    for run in np.split(pages, np.flatnonzero(np.diff(pages) != 1) + 1):
        for first in range(0, len(run), _RUN_PAGES):
            piece = run[first : first + _RUN_PAGES]
            yield int(piece[0]), int(piece[-1]) + 1
