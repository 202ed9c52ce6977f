"""The writing part of a store: changes of arrays, pages and settings, buffered until the commit.

All changes go to one Icechunk session. This module knows arrays and pages, and what must hold before a commit; not
commits, branches, or how a store is opened.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
from numpy.typing import DTypeLike

from sifu_store import arrays, checksums, clock
from sifu_store.durable import disk_errors
from sifu_store.errors import StoreConflictError, StoreError, first_line
from sifu_store.layout import (
    ARRAYS,
    BY_NAME,
    CODEC_VERSION,
    ROUNDED,
    SOURCE,
    STORED,
    WEIGHT,
    page_count,
    page_slots,
    shape_fault,
)
from sifu_store.names import REPOSITORY_NAME
from sifu_store.page_codecs import (
    FLOAT32,
    PRECISION_ATTRIBUTE,
    PageCodec,
    Progress,
    is_rounded,
    require_library,
    rounded,
)
from sifu_store.places import place_of
from sifu_store.reading import StoreReader
from sifu_store.refs import is_snapshot_id
from sifu_store.staging import Staging


class StoreWriter(StoreReader):
    """The operations of `Store` that change arrays and settings. They need a store that is open for writing.

    Raises
    ------
    StoreError
        From every method: the store is open for reading only, or closed.
    DiskFullError
        From every method that writes: too little disk space is free.
    """

    def __init__(self, path: Path, directory: Path, repository: icechunk.Repository, snapshot: str) -> None:
        super().__init__(path, directory, repository, snapshot)
        self._staging: Staging | None = None  # of a new store until its first commit
        self._overtaken = False  # another process committed after the snapshot
        self._touched: set[int] = set()  # pages written since the last commit
        self._chunks_before: set[str] | None = None  # names of the chunk files before the first write since then

    def write(self, name: str, array: np.ndarray) -> None:
        """Write a whole array that is not paged. An array of another shape or dtype is replaced.

        Chunks that already hold the same values are not written, so an edit of a large index writes only what it
        changes. A new length of `edges/source` resizes every paged array, and `pages/stored` (0 for new pages).

        Raises
        ------
        ValueError
            The array is paged, or the format requires another dtype or shape.
        """
        self._check_writable()
        data = np.ascontiguousarray(array)
        spec = BY_NAME.get(name)
        if spec is not None and (spec.paged or data.dtype != np.dtype(spec.dtype)):
            raise ValueError(
                f"{name} is paged: use write_pages"
                if spec.paged
                else f"{name} must be {spec.dtype}, found {data.dtype}"
            )
        if self.has(name) and arrays.is_paged(self._array(name)):
            raise ValueError(f"{name} is paged: use write_pages")
        if name == STORED:
            if data.shape != (self.pages,):
                raise ValueError(f"{name} must have one element per page ({self.pages}), found shape {data.shape}")
            self._stored = data.astype(bool)
            return
        with self._writing(f"writing {name}", data.nbytes):
            target = self._all_arrays().get(name)
            if target is not None and arrays.can_take(target, data):
                arrays.write_changed(target, data)
            else:
                target = arrays.create_array(self._group, name, data.shape, data.dtype, paged=False)
                self._arrays_by_name[name] = target
                if data.size:
                    target[...] = data
        if name == SOURCE:
            self._resize(len(data))

    def write_json(self, name: str, obj: Any) -> None:
        """Write a JSON document as a uint8 array [bytes]."""
        text = json.dumps(obj, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        self.write(name, np.frombuffer(text.encode("utf-8"), np.uint8))

    def create_paged(self, name: str, trailing_shape: Sequence[int], dtype: DTypeLike) -> None:
        """Create a paged array [slots, *trailing_shape] of zeros, unless it exists. Write `edges/source` first.

        Its pages have the codec of those of `edges/weight`, and are not rounded.

        Raises
        ------
        ValueError
            An array of that name exists with another shape or dtype.
        """
        self._check_writable()
        shape, kind = (self.slots, *trailing_shape), np.dtype(dtype)
        if self.has(name):
            found = self._paged(name)
            if found.shape != shape or found.dtype != kind:
                raise ValueError(f"{name} exists with shape {found.shape} and dtype {found.dtype}")
            return
        with self._writing(f"creating {name}", 0):
            codec = arrays.page_codec_of(self._array(WEIGHT)).unrounded if self.has(WEIGHT) else PageCodec()
            self._arrays_by_name[name] = arrays.create_array(
                self._group, name, shape, kind, paged=True, page_codec=codec
            )

    def delete(self, name: str) -> None:
        """Delete an optional array.

        Raises
        ------
        ValueError
            The format requires the array.
        StoreError
            There is no array of that name.
        """
        self._check_writable()
        if name in BY_NAME:
            raise ValueError(f"{name} is part of the format: it cannot be deleted")
        self._array(name)  # raises if it does not exist
        with self._writing(f"deleting {name}", 0):
            del self._group[name]
            del self._arrays_by_name[name]

    def write_pages(self, name: str, first: int, data: np.ndarray) -> None:
        """Write whole pages of a paged array, from page `first` on. Call `mark_stored` for them before the commit.

        The values are not rounded: if the array is rounded and one of them has more bits, its precision becomes
        float32.

        Parameters
        ----------
        name
            A paged array.
        first
            Index of the first page.
        data
            [k * PAGE_EDGES, ...], or fewer rows if the last page is short; of the array's dtype.

        Raises
        ------
        DiskFullError
            Too little space is free (checked before the write), or the disk became full.
        ValueError
            The shape or dtype is wrong.
        """
        self._check_writable()
        array = self._paged(name)
        stop = first + page_count(len(data))
        begin, end = self._slot_range(first, stop)
        if data.shape != (end - begin, *array.shape[1:]) or data.dtype != array.dtype:
            raise ValueError(
                f"{name}: pages {first} to {stop - 1} need shape {(end - begin, *array.shape[1:])} and dtype "
                f"{array.dtype}, found {data.shape} and {data.dtype}"
            )
        with self._writing(f"writing {stop - first} page{'s' * (stop - first != 1)} of {name}", data.nbytes):
            if (precision := arrays.page_codec_of(array).precision) != FLOAT32 and not is_rounded(data, precision):
                array.attrs[PRECISION_ATTRIBUTE] = FLOAT32
            array[begin:end] = data
        self._touched.update(range(first, stop))

    def mark_stored(self, pages: np.ndarray) -> None:
        """Mark pages (integers [k]) as stored: their values are read, not generated."""
        self._check_writable()
        stored = self.page_stored()
        stored[np.asarray(pages, dtype=np.int64)] = True
        self._stored = stored

    def recode_pages(self, page_codec: PageCodec, progress: Progress | None = None) -> None:
        """Store all pages with another precision and codec.

        `edges/weight` and `edges/bias` are rounded; other paged arrays (the state of the optimizer) take the codec
        only. Older releases then refuse to read the store.

        Raises
        ------
        StoreDamagedError
            A page cannot be read.
        """
        self._check_writable()
        require_library(page_codec.codec)
        if page_codec != PageCodec():
            self.require_version(CODEC_VERSION)
        plan = {name: page_codec if name in ROUNDED else page_codec.unrounded for name in self.names()}
        plan = {name: codec for name, codec in plan.items() if self._is_other(name, codec)}
        existing = {name: sorted(arrays.existing_chunks(self._session, name)) for name in plan}
        done, total = 0, sum(map(len, existing.values()))
        for name, codec in plan.items():
            before = self._array(name)
            with self._writing(f"changing the codec of {name}", 0):
                after = self._arrays_by_name[name] = arrays.with_page_codec(self._group, before, codec)
            for page in existing[name]:
                begin, end = page_slots(page, self.slots)
                try:
                    values = np.asarray(before[begin:end])
                except Exception as error:
                    raise self._damaged(before, page, page + 1, error) from error
                with self._writing(f"storing a page of {name}", values.nbytes):
                    arrays.delete_chunks(after, [page])  # a short page is read before it is written
                    after[begin:end] = rounded(values, codec.precision)
                done += 1
                if progress is not None:
                    progress(done, total)

    def set_settings(self, settings: dict[str, Any]) -> None:
        """Replace the settings (JSON without NaN and infinity)."""
        self._check_writable()
        value = json.loads(json.dumps(settings, allow_nan=False))
        with self._writing("writing the settings", 0):
            self._group.attrs.update({"settings": value})

    def require_version(self, version: int) -> None:
        """Raise the format version of the store to `version` if it is lower. Older releases then refuse to read it."""
        self._check_writable()
        if version > self.format_version:
            with self._writing("writing the format version", 0):
                self._group.attrs.update({"format_version": version})

    @property
    def exclusive(self) -> bool:
        """Whether no other process can write to the store while this one may."""
        return not place_of(self.path).whole_files

    def require_clock(self) -> None:
        """Check that a commit is possible now, before work begins: it must be later than the newest commit.

        A clock that is a few seconds behind is waited for. `commit` waits for any clock.

        Raises
        ------
        StoreError
            The clock is further behind.
        """
        self._check_writable()
        clock.require_later(self._committed_at(), str(self.path))

    # ---- inside

    def _committed_at(self) -> datetime:
        found: datetime = self._repository.lookup_snapshot(self.snapshot).written_at
        return found

    def _is_other(self, name: str, page_codec: PageCodec) -> bool:
        """Whether an array is paged and stored in another way."""
        array = self._array(name)
        return arrays.is_paged(array) and arrays.page_codec_of(array) != page_codec

    def _check_writable(self) -> None:
        self._check_usable()
        if self._lock is None:
            raise StoreError(f"{self.path} was opened for reading: open it with `write=True`")
        if self._overtaken:
            raise StoreConflictError(
                f"{self.path}: another process committed to {self.branch} after {self.snapshot[:8]}: open it again"
            )

    @contextlib.contextmanager
    def _writing(self, what: str, needed_bytes: int | None) -> Iterator[None]:
        """Check the free disk space for a write (None: do not), and raise its errors as sifu's own."""
        if self._chunks_before is None:
            self._chunks_before = {path.name for path in self._chunk_files()}
        place = place_of(self._directory)
        if needed_bytes is not None:
            place.require_free_bytes(needed_bytes, what)
        with disk_errors(self.path, what):
            try:
                yield
            except icechunk.IcechunkError as error:
                place.require_reachable()
                raise StoreError(f"{what} failed at {self.path}: {first_line(error)}") from error

    def _chunk_files(self) -> list[Path]:
        chunks = self._directory / REPOSITORY_NAME / "chunks"
        return [path for path in chunks.iterdir() if is_snapshot_id(path.name)] if chunks.is_dir() else []

    def _new_chunks(self) -> list[Path]:
        # Only this process writes (it holds the lock), so chunk files that appeared since belong to no commit yet.
        before = self._chunks_before
        return [] if before is None else [path for path in self._chunk_files() if path.name not in before]

    def _written_bytes(self) -> int:
        """Size of the chunk files that were written since the last commit."""
        return self._checksums.written_bytes

    def _remove_uncommitted_chunks(self) -> None:
        for path in self._new_chunks():
            path.unlink(missing_ok=True)

    def _resize(self, slots: int) -> None:
        pages = page_count(slots)
        known = self._stored is not None or self.has(STORED)
        stored = self.page_stored() if known else np.zeros(0, bool)
        with self._writing(f"resizing to {slots} slots", 0):
            for array in self._all_arrays().values():
                if arrays.is_paged(array) and array.shape[0] != slots:
                    array.resize((slots, *array.shape[1:]))
        self._stored = np.zeros(pages, bool)
        self._stored[: min(pages, len(stored))] = stored[:pages]
        self._touched = {page for page in self._touched if page < pages}

    def _finish_pages(self) -> None:
        """Write the page bitmap, delete the chunks of pages that are no longer stored, and check the arrays."""
        if self._stored is not None:
            missing = sorted(page for page in self._touched if not self._stored[page])
            if missing:
                raise ValueError(f"page {missing[0]} was written, but not marked as stored")
            with self._writing("writing the page bitmap", self._stored.nbytes):
                self._write_bitmap(self._stored)
            self._stored = None
        elif self._touched and not self.page_stored()[sorted(self._touched)].all():
            raise ValueError("pages were written, but not marked as stored")
        self._check_complete()

    def _write_checksums(self) -> int:
        """Write the checksums of all chunks. Returns the CRC-32 of the table."""
        found = self._all_arrays()
        if self._checksums.known is None and self._staging is None:  # an earlier release wrote the snapshot
            with self._writing("reading the checksums of all chunks", 0):
                chunks = {name: arrays.existing_chunks(self._session, name) for name in found}
                known = checksums.scan(self._session, chunks, {name: array.ndim for name, array in found.items()})
            self._checksums.known = known.known
        table = self._checksums.table({name: arrays.chunk_count(array) for name, array in found.items()})
        data = np.frombuffer(table, np.uint8)
        with self._writing("writing the checksums", data.nbytes):
            arrays.create_array(self._group, checksums.CHECKSUMS, data.shape, data.dtype, paged=False)[...] = data
        return zlib.crc32(table)

    def _write_bitmap(self, stored: np.ndarray) -> None:
        bitmap = self._all_arrays().get(STORED)
        before = np.zeros(0, bool) if bitmap is None else np.asarray(bitmap[...]).astype(bool)
        if bitmap is None or bitmap.shape != stored.shape:
            bitmap = arrays.create_array(self._group, STORED, stored.shape, np.dtype(np.uint8), paged=False)
            self._arrays_by_name[STORED] = bitmap
        if len(stored):
            bitmap[...] = stored.astype(np.uint8)
        known = min(len(before), len(stored))
        dropped = np.flatnonzero(before[:known] & ~stored[:known]).tolist()
        for array in self._all_arrays().values():
            if dropped and arrays.is_paged(array):
                arrays.delete_chunks(array, dropped)

    def _check_complete(self) -> None:
        shapes = {name: array.shape for name, array in self._all_arrays().items()}
        missing = [spec.name for spec in ARRAYS if spec.name not in shapes]
        if missing:
            raise ValueError(f"the store lacks {', '.join(missing)}")
        fault = shape_fault(shapes)
        if fault is not None:
            raise ValueError(fault)
