"""Verification of a snapshot: reads every array and every stored page, and checks that they agree (`consistency`).

Damage is listed, not raised, so that one report names all of it. This module knows arrays and pages; not what they mean
to a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import zarr

from sifu_store.arrays import Damage, chunk_count, existing_chunks, find_damage, is_paged
from sifu_store.checksums import CHECKSUMS, ChunkChecksums
from sifu_store.consistency import Contents, Faults, inconsistencies
from sifu_store.layout import ARRAYS, BY_NAME, PAGE_EDGES, STORED, page_slots
from sifu_store.short_repr import short_repr

Check = Callable[[str, np.ndarray], str | None]
Further = Callable[[Contents], Faults]
_RUN_PAGES = 8


@short_repr
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
    unchecked
        Files and folders that were not checked, because this process may not read them.
    """

    snapshot: str
    arrays: int
    pages: int
    size_bytes: int
    damage: tuple[Damage, ...]
    unchecked: tuple[str, ...] = ()

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
    check
        Called with the name and the values of each array and page; returns what is wrong with the values, or None.
    further
        Called with the arrays that are not paged, by name, if they agree; yields array and fault.
    """

    def __init__(
        self,
        session: icechunk.Session,
        arrays: dict[str, zarr.Array[Any]],
        directory: Path,
        progress: Callable[[int, int], None] | None,
        *,
        checksums: ChunkChecksums,
        check: Check | None = None,
        further: Further | None = None,
    ) -> None:
        self._session, self._arrays, self._directory = session, arrays, directory
        self._progress, self._checksums, self._check, self._further = progress, checksums, check, further
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
        found = [*inconsistencies(contents)]
        for name, reason in found or (self._further(contents) if self._further else ()):
            self._report(name, reason)
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
            self._report(CHECKSUMS, self._checksums.fault)
        for name, column in (self._checksums.known or {}).items():
            if name not in self._arrays:
                self._report(name, "the array is missing")
            elif is_paged(self._arrays[name]):  # of the others, every chunk must exist
                for chunk in sorted(set(np.flatnonzero(column).tolist()) - existing_chunks(self._session, name)):
                    self._report(name, "the chunk that was written is missing", chunk)

    def _read_plain(self, name: str, array: zarr.Array[Any]) -> np.ndarray | None:
        count = chunk_count(array)
        content: np.ndarray | None = None
        try:
            content = np.asarray(array[...])
            self._size_bytes += content.nbytes
            if self._check is not None and (reason := self._check(name, content)) is not None:
                self._report(name, reason)
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
                content = np.asarray(array[page_slots(first, slots)[0] : page_slots(stop - 1, slots)[1]])
                self._size_bytes += content.nbytes
                self._check_values(name, content, first)
            except Exception:
                self._damage += find_damage(self._session, array, self._directory, first, stop)
            self._step(stop - first)

    def _check_values(self, name: str, content: np.ndarray, first: int) -> None:
        """Check the values of a run of pages, and report each page that has a fault."""
        if self._check is None or self._check(name, content) is None:
            return
        for page, begin in enumerate(range(0, len(content), PAGE_EDGES), first):
            if (reason := self._check(name, content[begin : begin + PAGE_EDGES])) is not None:
                self._report(name, reason, page)

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
