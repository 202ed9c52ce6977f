"""A store of parameters: named arrays and pages of edges, changed by commits that survive a crash.

One directory with an Icechunk repository, one Zarr group in it (`layout.py`, `docs/format.md`). Changes are
buffered in one session and become visible together, when `commit` returns. This module knows arrays and
pages; not tokens, signals, caches or what a graph is.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import icechunk
import numpy as np
import zarr
from numpy.typing import DTypeLike

from sifu_store import arrays, branching, collecting, history
from sifu_store.branching import Moved
from sifu_store.collecting import Garbage
from sifu_store.durable import RESERVE_BYTES, disk_errors, require_free_bytes, sync_filesystem
from sifu_store.errors import OptionError, StoreError, StoreNotFoundError, first_line
from sifu_store.history import Commit, Lineage
from sifu_store.layout import ARRAYS, BY_NAME, FIRST_VERSION, OPTIONAL, SOURCE, STORED, Sizes, page_count
from sifu_store.lock import WriterLock
from sifu_store.reading import StoreReader
from sifu_store.refs import MAIN, branch_heads, read_references
from sifu_store.repository import acknowledge, open_repository, probe, read_acknowledged, storage
from sifu_store.staging import REPOSITORY_NAME, Staging, is_store, restore_interrupted_swap


class Store(StoreReader):
    """Open one with `Store.open` or `Store.create`; close it, or use it as a context manager.

    Reading (`read`, `read_pages`, `history`, `verify`, ...) is inherited from `StoreReader`.
    """

    def __init__(self, path: Path, directory: Path, repository: icechunk.Repository, snapshot: str) -> None:
        super().__init__(path, directory, repository, snapshot)
        self._lock: WriterLock | None = None
        self._staging: Staging | None = None
        self._cleanup: Callable[[], None] | None = None
        self._touched: set[int] = set()  # pages written since the last commit
        self._chunks_before: set[str] | None = None  # chunk files before the first write since then

    # ---- opening and closing

    @classmethod
    def create(cls, path: str | Path, *, force: bool = False) -> Store:
        """Begin a new store, open for writing. Nothing is at `path` before the first commit is durable.

        With `force` a store at `path` is replaced by that commit, in one step (files that others put into its
        directory go with it); until then, and if the build fails or is killed, it stays as it was.

        Raises
        ------
        StoreExistsError
            A store is at `path` (without `force`), or something else is (even with it).
        StoreLockedError
            Another process writes to the store at `path`.
        """
        target = Path(path).resolve()
        staging = Staging(target, force=force)
        try:
            with disk_errors(target, "creating the store"):
                repository = icechunk.Repository.create(storage(staging.directory))
                store = cls(target, staging.directory, repository, repository.lookup_branch(MAIN))
            store._staging, store._lock = staging, staging.lock
            store._begin()
        except BaseException:
            staging.abandon()
            raise
        return store

    @classmethod
    def open(cls, path: str | Path, *, write: bool = False, at: str | None = None) -> Store:
        """Open a store.

        Parameters
        ----------
        path
            Its directory.
        write
            Take the writer lock. Readers need none and see one snapshot, whatever is committed meanwhile.
        at
            Read that snapshot instead of the newest of the current branch (not with `write`): `HEAD`, a branch, a
            tag, or the beginning of an id; with `~N` after it, the N-th commit before that one.

        Raises
        ------
        StoreNotFoundError, StoreLockedError, StoreVersionError, StoreDamagedError
        OptionError
            Nothing has the name `at`.
        """
        if write and at is not None:
            raise ValueError("an older snapshot can only be read: give either write or at")
        target = Path(path).resolve()
        restore_interrupted_swap(target)
        if not is_store(target):
            found = "is not a sifu store" if target.exists() else "does not exist"
            raise StoreNotFoundError(f"{path} {found}: make one with sifu build-graph, or name another with --store")
        lock = WriterLock(target) if write else None
        try:
            if write:
                collecting.restore(target)
            opened = open_repository(target, write=write, at=at)
            store = cls(target, target, opened.repository, opened.snapshot)
            store.branch, store.recovered_from, store._lock = opened.branch, opened.recovered_from, lock
            store._cleanup = opened.shadow.cleanup if opened.shadow is not None else None
            store._begin()
            if write:
                last, heads = read_acknowledged(target), branch_heads(opened.repository)
                if last is None or not last.files or (last.snapshot, last.branches) != (opened.snapshot, heads):
                    # The process that made it was killed before it could say "saved": make that true now.
                    with disk_errors(target, "noting the last commit"):
                        acknowledge(target, opened.repository, opened.snapshot, branch=opened.branch)
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        return store

    def close(self) -> None:
        """Drop uncommitted changes and release the lock. A new store that was never committed is removed."""
        if self._closed:
            return
        self._closed = True
        if self._process != os.getpid():  # a forked copy owns nothing
            return
        if self._staging is not None:
            self._staging.abandon()
        else:
            self._remove_uncommitted_chunks()
            if self._lock is not None:
                self._lock.release()
        if self._cleanup is not None:
            self._cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # ---- writing

    def write(self, name: str, array: np.ndarray) -> None:
        """Write a whole array that is not paged; one of another shape or dtype is replaced.

        Chunks that hold the same already are not written: an edit of a large index costs what it changes of it.
        A new length of `edges/source` resizes every paged array, and `pages/stored` (0 for the new pages).
        """
        self._check_writable()
        data = np.ascontiguousarray(array)
        spec = BY_NAME.get(name)
        if spec is not None and (spec.paged or data.dtype != np.dtype(spec.dtype)):
            raise ValueError(f"{name} is paged: write_pages" if spec.paged else f"{name} must be {spec.dtype}")
        if self.has(name) and arrays.is_paged(self._array(name)):
            raise ValueError(f"{name} is paged: write_pages")
        if name == STORED:
            if data.shape != (self.pages,):
                raise ValueError(f"{name} must have one element a page ({self.pages}), found shape {data.shape}")
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
        """Write a JSON document as a uint8 array."""
        text = json.dumps(obj, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        self.write(name, np.frombuffer(text.encode("utf-8"), np.uint8))

    def create_paged(self, name: str, trailing_shape: Sequence[int], dtype: DTypeLike) -> None:
        """Make a paged array [slots, *trailing_shape] of zeros, unless it is there. After `edges/source`."""
        self._check_writable()
        shape, kind = (self.slots, *trailing_shape), np.dtype(dtype)
        if self.has(name):
            found = self._paged(name)
            if found.shape != shape or found.dtype != kind:
                raise ValueError(f"{name} is there with shape {found.shape} and dtype {found.dtype}")
            return
        with self._writing(f"creating {name}", 0):
            self._arrays_by_name[name] = arrays.create_array(self._group, name, shape, kind, paged=True)

    def delete(self, name: str) -> None:
        """Delete an array that is not one of those that every store has."""
        self._check_writable()
        if name in BY_NAME:
            raise ValueError(f"{name} is part of the format: it cannot be deleted")
        self._array(name)  # says so if there is none
        with self._writing(f"deleting {name}", 0):
            del self._group[name]
            del self._arrays_by_name[name]

    def write_pages(self, name: str, first: int, data: np.ndarray) -> None:
        """Write whole pages of a paged array, from page `first` on. `mark_stored` them before the commit.

        Parameters
        ----------
        name
            A paged array.
        first
            The first page.
        data
            [k * PAGE_EDGES, ...], or less where the last page is short; of the array's dtype.

        Raises
        ------
        DiskFullError
            Too little space is free (found before anything is written), or it ran out.
        """
        self._check_writable()
        array = self._paged(name)
        stop = first + page_count(len(data))
        begin, end = self._slot_range(first, stop)
        if data.shape != (end - begin, *array.shape[1:]) or data.dtype != array.dtype:
            raise ValueError(
                f"{name}: pages {first} to {stop - 1} take shape {(end - begin, *array.shape[1:])} and dtype "
                f"{array.dtype}, found {data.shape} and {data.dtype}"
            )
        with self._writing(f"writing {stop - first} pages of {name}", data.nbytes):
            array[begin:end] = data
        self._touched.update(range(first, stop))

    def mark_stored(self, pages: np.ndarray) -> None:
        """Mark pages (their indices) as stored."""
        self._check_writable()
        stored = self.page_stored()
        stored[np.asarray(pages, dtype=np.int64)] = True
        self._stored = stored

    def set_settings(self, settings: dict[str, Any]) -> None:
        """Replace the settings (JSON)."""
        self._check_writable()
        value = json.loads(json.dumps(settings, allow_nan=False))
        with self._writing("writing the settings", 0):
            self._group.attrs.update({"settings": value})

    def require_version(self, version: int) -> None:
        """Say that readers of older format versions than this would misread the store."""
        self._check_writable()
        if version > self.format_version:
            with self._writing("writing the format version", 0):
                self._group.attrs.update({"format_version": version})

    def commit(self, message: str, *, command: str, changes: dict[str, Any]) -> str:
        """Make all changes since the last commit durable, together.

        Parameters
        ----------
        message
            One line for people.
        command
            The command that made the change; its first word is the kind of the commit.
        changes
            The numbers that it changed (JSON).

        Returns
        -------
        str
            The id of the snapshot (the current one if nothing was changed). Once it is returned, neither
            kill -9 nor a power cut can take it back.

        Raises
        ------
        DiskFullError
            The store is as it was; the buffered changes are lost: `rollback`, or `close`.
        ValueError
            A MUST array is missing or shapes disagree, or a page was written but not marked as stored.
        """
        self._check_writable()
        changes = json.loads(json.dumps(changes))
        self._finish_pages()
        if not self._session.has_uncommitted_changes:
            return self.snapshot
        with self._writing(f"committing {message!r}", 100 * len(self._touched)):
            # Data and the snapshot that names it, then the branch that names that: each synced first.
            size_bytes = sum(path.stat().st_size for path in self._new_chunks())
            snapshot = self._session.flush(message, history.metadata(command, changes, size_bytes))
            sync_filesystem(self._directory)
            # From here on the branch may name the new chunks: they are no longer ours to remove.
            chunks_before, self._chunks_before = self._chunks_before, None
            try:
                self._repository.reset_branch(self.branch, snapshot, from_snapshot_id=self.snapshot)
                acknowledge(self._directory, self._repository, snapshot, branch=self.branch)
            except BaseException:
                self._repository.reset_branch(self.branch, self.snapshot)
                self._chunks_before = chunks_before
                raise
            if self._staging is not None:
                self._staging.publish()
                self._staging, self._directory = None, self.path
                self._repository = icechunk.Repository.open(storage(self.path))
        self.snapshot = snapshot
        self._begin()
        return snapshot

    def rollback(self) -> None:
        """Drop all changes since the last commit, and what they took on disk."""
        self._check_writable()
        self._remove_uncommitted_chunks()
        self._begin()

    # ---- moving about in the history

    def undo(self, steps: int = 1) -> Moved:
        """Go back to the commit before the newest one of the current branch, training state and all.

        What was undone can be done again with `redo`, until something else is committed; then it can still be read,
        or made a branch, by its id.

        Raises
        ------
        StoreError
            There is nothing to undo.
        """
        lineage = self._lineage()
        return self._move(lineage, branching.back(lineage, self.branch, self.snapshot, steps))

    def redo(self, steps: int = 1) -> Moved:
        """Take back an `undo`.

        Raises
        ------
        StoreError
            There is nothing to redo.
        """
        lineage = self._lineage()
        return self._move(lineage, branching.forward(lineage, self.branch, self.snapshot, steps))

    def create_branch(self, name: str, at: str = "HEAD") -> str:
        """A new branch at a snapshot (by any of its names); the current one stays. Returns the snapshot.

        Raises
        ------
        OptionError
            The name is taken, or cannot be one.
        """
        lineage, snapshot = self._lineage(), self.resolve(at)
        probe(self._repository, snapshot, self._directory, None)
        branching.create_branch(self._directory, lineage, name, snapshot)
        self._acknowledge()
        return snapshot

    def delete_branch(self, name: str) -> Commit:
        """Drop a branch other than the current one. Its commits that nothing else names count as undone.

        Raises
        ------
        OptionError
            There is none of that name, or it is the current one, or `main`.
        """
        commit = branching.leave_branch(self._directory, self._lineage(), name, current=self.branch)
        self._acknowledge(without=name)
        branching.drop_branch(self._directory, name)
        return commit

    def switch(self, name: str) -> str:
        """Make another branch the current one: the one that is read, and that grows. Returns its newest snapshot.

        Raises
        ------
        OptionError
            There is no branch of that name.
        StoreDamagedError
            Its newest snapshot cannot be read; the current branch stays.
        """
        snapshot = branching.find_branch(self._lineage(), name)
        probe(self._repository, snapshot, self._directory, None)
        self._acknowledge(name, snapshot)
        return snapshot

    def create_tag(self, name: str, at: str = "HEAD") -> str:
        """A name for a snapshot that never moves, and that `collect_garbage` spares. Returns the snapshot.

        Raises
        ------
        OptionError
            The name is taken, or cannot be one.
        """
        lineage, snapshot = self._lineage(), self.resolve(at)
        probe(self._repository, snapshot, self._directory, None)
        branching.create_tag(self._directory, lineage, name, snapshot)
        return snapshot

    def delete_tag(self, name: str) -> str:
        """Drop a tag. The name cannot be given again. Returns the snapshot that it named.

        Raises
        ------
        OptionError
            There is none of that name.
        """
        with self._writing(f"deleting the tag {name}", 0):
            snapshot = branching.delete_tag(self._repository, self._lineage(), name)
            sync_filesystem(self._directory)
        return snapshot

    def collect_garbage(self, keep_training: int = 2, *, keep_undone: bool = True) -> Garbage:
        """Drop old training commits, and what killed processes left behind.

        Of every branch the newest `keep_training` training commits stay, and so many of what was undone. Builds,
        edits, tagged commits and the newest commit of every branch stay in any case; without `keep_undone`, what was
        undone goes altogether. A process that reads one of the dropped snapshots at this moment gets
        `StoreDamagedError` from then on.
        """
        self._check_unchanged()
        if keep_training < 0:
            raise OptionError(f"keep_training is {keep_training}: it must not be negative")
        with self._writing("collecting garbage", -RESERVE_BYTES):  # a full disk is where it is needed most
            # Expiry gives the oldest snapshot that is kept another parent, so its file changes.
            acknowledge(self._directory, self._repository, self.snapshot, branch=self.branch, checksums=False)
            try:
                garbage = collecting.collect(
                    self._directory, self._repository, keep_training=keep_training, keep_undone=keep_undone
                )
            finally:
                self._repository = icechunk.Repository.open(storage(self.path))
                acknowledge(self._directory, self._repository, self.snapshot, branch=self.branch)
        self._begin()
        return garbage

    # ---- inside

    def _begin(self) -> None:
        """Start over from the current snapshot: a fresh session without changes."""
        if self._lock is None:
            self._session = self._repository.readonly_session(snapshot_id=self.snapshot)
            self._group = zarr.open_group(self._session.store, mode="r")
        else:
            self._session = self._repository.writable_session(self.branch)
            if self._staging is not None:
                self._group = zarr.open_group(self._session.store, mode="a")
                self._group.attrs.update({"format_version": FIRST_VERSION, "settings": {}})
            else:
                self._group = zarr.open_group(self._session.store, mode="r+")
        self._arrays_by_name, self._listed = {}, False
        self._stored, self._touched, self._chunks_before = None, set(), None

    def _check_writable(self) -> None:
        self._check_usable()
        if self._lock is None:
            raise StoreError(f"{self.path} was opened for reading: open it with write=True")

    def _check_unchanged(self) -> None:
        self._check_writable()
        if self._staging is not None or self._stored is not None or self._session.has_uncommitted_changes:
            raise ValueError("there are uncommitted changes: commit or rollback first")

    def _lineage(self) -> Lineage:
        """The history, to be changed."""
        self._check_unchanged()
        return Lineage(self._repository, read_references(self._repository))

    def _move(self, lineage: Lineage, moved: Moved) -> Moved:
        probe(self._repository, moved.snapshot, self._directory, None)
        branching.move(self._directory, lineage, moved)
        self._acknowledge(self.branch, moved.snapshot)
        return moved

    def _acknowledge(
        self, branch: str | None = None, snapshot: str | None = None, *, without: str | None = None
    ) -> None:
        """Notes what is current, durably, and goes on from there. ``without``: a branch that is about to be dropped."""
        branch, snapshot = branch or self.branch, snapshot or self.snapshot
        with disk_errors(self.path, "noting the current branch"):
            acknowledge(self._directory, self._repository, snapshot, branch=branch, without=without)
        self.branch, self.snapshot = branch, snapshot
        self._begin()

    @contextlib.contextmanager
    def _writing(self, what: str, needed_bytes: int) -> Iterator[None]:
        chunks = self._directory / REPOSITORY_NAME / "chunks"
        if self._chunks_before is None:
            self._chunks_before = {path.name for path in chunks.iterdir()} if chunks.is_dir() else set()
        require_free_bytes(self._directory, needed_bytes, what)
        with disk_errors(self.path, what):
            try:
                yield
            except icechunk.IcechunkError as error:
                raise StoreError(f"{what} failed at {self.path}: {first_line(error)}") from error

    def _new_chunks(self) -> list[Path]:
        # Only this process writes (it holds the lock): a chunk file that appeared since is ours and unnamed.
        chunks, before = self._directory / REPOSITORY_NAME / "chunks", self._chunks_before
        if before is None or not chunks.is_dir():
            return []
        return [path for path in chunks.iterdir() if path.name not in before]

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
        """Write the bitmap, drop the chunks of pages that are no longer stored, and check what must hold."""
        if self._stored is not None:
            missing = sorted(page for page in self._touched if not self._stored[page])
            if missing:
                raise ValueError(f"page {missing[0]} was written, but not marked as stored")
            with self._writing("writing the page bitmap", self._stored.nbytes):
                bitmap = self._all_arrays().get(STORED)
                before = np.zeros(0, bool) if bitmap is None else np.asarray(bitmap[...]).astype(bool)
                shape = self._stored.shape
                if bitmap is None or bitmap.shape != shape:
                    bitmap = arrays.create_array(self._group, STORED, shape, np.dtype(np.uint8), paged=False)
                    self._arrays_by_name[STORED] = bitmap
                if len(self._stored):
                    bitmap[...] = self._stored.astype(np.uint8)
                known = min(len(before), len(self._stored))
                dropped = np.flatnonzero(before[:known] & ~self._stored[:known]).tolist()
                for array in self._all_arrays().values():
                    if dropped and arrays.is_paged(array):
                        arrays.delete_chunks(self._session, array, dropped)
            self._stored = None
        elif self._touched and not self.page_stored()[sorted(self._touched)].all():
            raise ValueError("pages were written, but not marked as stored")
        self._check_complete()

    def _check_complete(self) -> None:
        shapes = {name: array.shape for name, array in self._all_arrays().items()}
        missing = [spec.name for spec in ARRAYS if spec.name not in shapes]
        if missing:
            raise ValueError(f"the store lacks {', '.join(missing)}")
        sizes = Sizes(n=shapes["nodes/count"][0], d=shapes["default/bias"][0], slots=shapes[SOURCE][0])
        for spec in (*ARRAYS, *(spec for spec in OPTIONAL if spec.name in shapes)):
            found, expected = shapes[spec.name], spec.shape(sizes)
            if len(found) != len(expected) or any(e not in (None, f) for e, f in zip(expected, found, strict=True)):
                raise ValueError(f"{spec.name} has shape {found}, expected {spec.shape_text} with {sizes}")
