"""A store of parameters: named arrays and pages of edges, changed by commits that survive a crash.

A store is one directory with an Icechunk repository and one Zarr group in it (`layout.py`, `docs/format.md`). Changes
are buffered in one session and become visible together, when `commit` returns. This module opens, commits and moves
between commits; `reading.py` and `writing.py` know the arrays. It knows no tokens, signals, caches or graphs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Container
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import icechunk
import zarr

from sifu_store import branching, clock, collecting, history, repair
from sifu_store.branching import Moved
from sifu_store.checksums import BoundStore, ChunkChecksums
from sifu_store.collecting import Garbage
from sifu_store.durable import disk_errors
from sifu_store.errors import DiskFullError, OptionError, StoreConflictError, StoreError
from sifu_store.history import Commit, Lineage
from sifu_store.layout import FIRST_VERSION
from sifu_store.places import locate, place_of, require_store
from sifu_store.publish import stage
from sifu_store.read_errors import opens_again
from sifu_store.refs import BRANCH, MAIN, TAG
from sifu_store.repair import Repair
from sifu_store.repository import (
    acknowledge,
    check_process,
    check_readable,
    known_references,
    open_icechunk,
    open_repository,
    read_acknowledged,
    storage,
)
from sifu_store.scratch_copies import remove_dead_copies
from sifu_store.staging import remove_dead_builds
from sifu_store.writing import StoreWriter


class Store(StoreWriter):
    """A store, opened with `Store.open` or `Store.create`. Close it, or use it as a context manager.

    Inherited: from `StoreReader` what reads (`read`, `read_pages`, `history`, `verify`, ...), from `StoreWriter` what
    writes (`write`, `write_pages`, `set_settings`, ...).
    """

    def __init__(self, path: Path, directory: Path, repository: icechunk.Repository, snapshot: str) -> None:
        super().__init__(path, directory, repository, snapshot)
        self._cleanup: Callable[[], None] | None = None

    # ---- opening and closing

    @classmethod
    def create(cls, path: str | Path, *, force: bool = False) -> Store:
        """Create a store, open for writing. Nothing exists at `path` until the first commit is durable.

        Parameters
        ----------
        path
            Its directory.
        force
            Replace a store at `path`. The first commit replaces it in one step, including any other files in its
            directory; if the process fails or is killed before, the old store is unchanged.

        Raises
        ------
        StoreExistsError
            `path` is a store and `force` is False, or `path` is something else.
        StoreLockedError
            Another process writes to the store at `path`.
        DiskFullError
            The disk is full.
        StoreError
            The process is a fork of one that has opened a store.
        """
        target = locate(path)
        check_process(target)
        staging = stage(target, force=force)
        try:
            with disk_errors(target, "creating the store"):
                icechunk.Repository.create(storage(staging.directory))
                repository = open_icechunk(staging.directory)
                store = cls(target, staging.directory, repository, repository.lookup_branch(MAIN))
            store._staging, store._lock = staging, staging.lock
            store._begin()
        except BaseException:
            staging.abandon()
            raise
        return store

    @classmethod
    @opens_again
    def open(cls, path: str | Path, *, write: bool = False, at: str | None = None) -> Store:
        """Open a store.

        Parameters
        ----------
        path
            Its directory.
        write
            Take the writer lock. A reader takes no lock and sees one snapshot, also if other processes commit.
        at
            The snapshot to read instead of the newest one of the current branch: `HEAD`, a branch, a tag, or the first
            characters of an id; `~N` after it selects the N-th commit before it. Not with `write`.

        Raises
        ------
        StoreNotFoundError
            There is no store at `path`.
        StoreLockedError
            Another process writes to the store (only with `write`).
        StoreVersionError
            The store has a newer format version.
        StoreDamagedError
            No snapshot can be read.
        OptionError
            `at` names no snapshot.
        StoreError
            The process is a fork of one that has opened a store, or a folder of the store is a symbolic link.
        ValueError
            Both `write` and `at` are given.
        """
        if write and at is not None:
            raise ValueError("an older snapshot can only be read: give either `write` or `at`")
        check_process(locate(path))
        target = require_store(path)
        place = place_of(target)
        place.check_folders()
        lock = place.lock() if write else None
        try:
            if write:
                collecting.restore(target)
            opened = open_repository(target, write=write, at=at)
            store = cls(target, target, opened.repository, opened.snapshot)
            store.branch, store.recovered_from, store._lock = opened.branch, opened.recovered_from, lock
            store._cleanup = opened.shadow.cleanup if opened.shadow is not None else None
            store._begin()
            if write:
                store._check_writable()
                last = read_acknowledged(target)
                recorded = None if last is None or not last.files else (last.snapshot, last.references)
                if recorded is None or recorded != (opened.snapshot, known_references(target).by_directory()):
                    # The process that made the last commit was killed before it recorded the commit as durable.
                    # On a full disk a later write says what is missing; a garbage collection needs no record.
                    with suppress(DiskFullError), disk_errors(target, "recording the last commit"):
                        acknowledge(target, opened.repository, opened.snapshot, branch=opened.branch)
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        return store

    def close(self) -> None:
        """Discard uncommitted changes and release the lock. A new store without a commit is deleted."""
        if self._closed:
            return
        self._closed = True
        if self._process != os.getpid():  # in a fork: the lock and the files belong to the parent process
            return
        try:
            if self._staging is not None:
                self._staging.abandon()
            else:
                self._remove_uncommitted_chunks()
        finally:  # whatever failed, another writer can begin
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

    # ---- committing

    def commit(self, message: str, *, command: str, changes: dict[str, Any]) -> str:
        """Make all changes since the last commit durable, in one step.

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
            The id of the snapshot; the current one if nothing was changed. After the return, the commit survives
            kill -9 and a power cut.

        Raises
        ------
        DiskFullError
            The disk is full. The store is unchanged; call `rollback` or `close`.
        ValueError
            A required array is missing, shapes disagree, or a written page is not marked as stored.
        """
        self._check_writable()
        changes = json.loads(json.dumps(changes))
        self._finish_pages()
        if not self._session.has_uncommitted_changes:
            return self.snapshot
        with self._writing(f"committing {message!r}", 100 * len(self._touched)):
            checksums = self._write_checksums()
            # The order: data and snapshot, sync, then the branch that refers to the snapshot.
            size_bytes = self._written_bytes()
            clock.wait_until_later(self._committed_at(), str(self.path))
            snapshot = self._session.flush(message, history.metadata(command, changes, size_bytes, checksums))
            place_of(self._directory).sync()
            # From here on the branch may refer to the new chunks, so they must not be removed.
            chunks_before, self._chunks_before = self._chunks_before, None
            try:
                branching.advance(self._directory, self._repository, self.branch, self.snapshot, snapshot)
                acknowledge(self._directory, self._repository, snapshot, branch=self.branch)
            except StoreConflictError:
                raise
            except BaseException:
                with suppress(icechunk.IcechunkError):  # the branch was not moved, or cannot be moved back
                    self._repository.reset_branch(self.branch, self.snapshot, from_snapshot_id=snapshot)
                self._chunks_before = chunks_before
                raise
            if self._staging is not None:
                self._staging.publish()
                self._staging, self._directory = None, self.path
                self._repository = open_icechunk(self.path)
                self._identity, self._cache = place_of(self.path).identity(), place_of(self.path).cache()
        self.snapshot = snapshot
        self._begin()
        return snapshot

    def rollback(self) -> None:
        """Discard all changes since the last commit, and delete their chunk files."""
        self._check_writable()
        self._remove_uncommitted_chunks()
        self._begin()

    # ---- undo, branches, tags

    def undo(self, steps: int = 1) -> Moved:
        """Return to the commit `steps` before the newest one of the current branch: parameters, settings and all.

        `redo` restores the undone commits until another commit is made; after that they can still be read, or made a
        branch, by id.

        Raises
        ------
        StoreError
            There are fewer commits to undo.
        OptionError
            `steps` is less than 1.
        """
        lineage = self._lineage()
        return self._move(lineage, branching.plan_undo(lineage, self.branch, self.snapshot, steps))

    def redo(self, steps: int = 1) -> Moved:
        """Restore the last `steps` undone commits.

        Raises
        ------
        StoreError
            There are fewer commits to redo.
        OptionError
            `steps` is less than 1.
        """
        lineage = self._lineage()
        return self._move(lineage, branching.plan_redo(lineage, self.branch, self.snapshot, steps))

    def create_branch(self, name: str, at: str = "HEAD", *, switch: bool = False) -> str:
        """Create a branch at a snapshot; with `switch` it becomes the current one, or there is no new branch.

        Returns the id of the snapshot.

        Raises
        ------
        OptionError
            The name is taken or not allowed, or `at` names no snapshot.
        """
        lineage, snapshot = self._lineage(), self.resolve(at)
        check_readable(self._repository, snapshot, self._directory, None)
        branching.create_branch(self._directory, lineage, name, snapshot)
        self._acknowledge_new(BRANCH + name, *((name, snapshot) if switch else ()))
        return snapshot

    def delete_branch(self, name: str) -> Commit:
        """Delete a branch. Commits that only it reaches become undone commits. Returns its newest commit.

        Raises
        ------
        OptionError
            There is no branch of that name, or it is the current branch, or `main`.
        """
        commit = branching.leave_branch(self._directory, self._lineage(), name, current=self.branch)
        references = branching.references_of(name, commit.snapshot)
        self._acknowledge(without=references)
        place_of(self._directory).drop(references)
        return commit

    def switch(self, name: str) -> str:
        """Make another branch the current one, for reading and for commits. Returns the id of its newest snapshot.

        Raises
        ------
        OptionError
            There is no branch of that name.
        StoreDamagedError
            Its newest snapshot cannot be read; the current branch does not change.
        """
        snapshot = branching.find_branch(self._lineage(), name)
        check_readable(self._repository, snapshot, self._directory, None)
        self._acknowledge(name, snapshot)
        return snapshot

    def create_tag(self, name: str, at: str = "HEAD") -> str:
        """Create a tag: a name that always refers to one snapshot, and protects it from `collect_garbage`.

        Returns the id of the snapshot.

        Raises
        ------
        OptionError
            The name is taken, was the name of a deleted tag, or is not allowed, or `at` names no snapshot.
        """
        lineage, snapshot = self._lineage(), self.resolve(at)
        check_readable(self._repository, snapshot, self._directory, None)
        branching.create_tag(self._directory, lineage, name, snapshot)
        self._acknowledge_new(TAG + name)
        return snapshot

    def delete_tag(self, name: str) -> str:
        """Delete a tag. The name cannot be used again. Returns the id of its snapshot.

        Raises
        ------
        OptionError
            There is no tag of that name.
        """
        snapshot = branching.find_tag(self._lineage(), name)
        self._acknowledge(without=[TAG + name])
        place_of(self._directory).mark_deleted(name)
        return snapshot

    def collect_garbage(self, keep_training: int = 2, *, keep_undone: bool = True) -> Garbage:
        """Delete old training commits, and the remains of killed processes, those of builds beside the store included.

        Builds, edits, tagged commits and the newest commit of every branch are always kept. A process that reads a
        deleted snapshot gets `StoreDamagedError` from then on.

        Parameters
        ----------
        keep_training
            Number of training commits to keep, of each branch and of the undone commits.
        keep_undone
            Whether undone commits are kept by the same rules; False deletes all of them.

        Raises
        ------
        OptionError
            `keep_training` is negative.
        StoreDamagedError
            A reference or a commit cannot be read, or the commit before another one is not known; nothing was deleted.
        """
        self._check_unchanged()
        if keep_training < 0:
            raise OptionError(f"`keep_training` is {keep_training}: it must not be negative")
        with self._writing("collecting garbage", None):  # it must also run on a full disk
            recorded = True

            def record(without: Container[str]) -> None:
                nonlocal recorded
                recorded = False
                self._record(checksums=False, without=without)

            try:
                builds = remove_dead_builds(self.path)  # first: it needs no free space
                remove_dead_copies()
                garbage = collecting.collect(
                    self._directory,
                    self._lineage(),
                    keep_training=keep_training,
                    keep_undone=keep_undone,
                    acknowledge=record,
                )
                garbage = garbage.with_builds(*builds)
            finally:
                self._repository = open_icechunk(self.path)
                if not recorded:
                    self._record()
        self._begin()
        return garbage

    def repair(self) -> Repair:
        """Repair references that are missing or damaged, and lines of commits that end too early.

        Opening a store for writing restores recorded references already; `would_repair` of a store that is open for
        reading says all that will be done. Data is not changed, and no commit is deleted.

        Returns
        -------
        Repair
            What was changed here, and what cannot be repaired.
        """
        self._check_unchanged()
        planned = self.would_repair()
        repair.carry_out(self._directory, planned)
        self._acknowledge()
        return planned

    # ---- inside

    def _begin(self) -> None:
        """Open a session at the current snapshot, without changes."""
        if self._lock is None:
            self._read_snapshot()
        else:
            self._session = self._repository.writable_session(self.branch)
            self._overtaken = self._session.snapshot_id != self.snapshot
            if self._overtaken:  # only where no lock holds other writers off
                self._read_snapshot()
            elif self._staging is not None:
                self._checksums = ChunkChecksums(known={})
                self._group = zarr.open_group(BoundStore(self._session.store, self._checksums), mode="a")
                self._group.attrs.update({"format_version": FIRST_VERSION, "settings": {}})
            else:
                self._open_group("r+")
        self._arrays_by_name, self._listed = {}, False
        self._stored, self._touched, self._chunks_before = None, set(), None

    def _check_unchanged(self) -> None:
        self._check_writable()
        if self._staging is not None or self._stored is not None or self._session.has_uncommitted_changes:
            raise ValueError("there are uncommitted changes: commit or rollback first")

    def _lineage(self) -> Lineage:
        """The ancestry of commits, for an operation that changes references."""
        self._check_unchanged()
        return self._read_lineage()

    def _move(self, lineage: Lineage, moved: Moved) -> Moved:
        check_readable(self._repository, moved.snapshot, self._directory, None)
        with place_of(self._directory).restored_on_error(BRANCH + self.branch):
            branching.carry_out(self._directory, lineage, moved)
            self._acknowledge(self.branch, moved.snapshot)
        return moved

    def _record(self, *, checksums: bool = True, without: Container[str] = ()) -> None:
        acknowledge(
            self._directory,
            self._repository,
            self.snapshot,
            branch=self.branch,
            checksums=checksums,
            without=without,
        )

    def _acknowledge_new(self, reference: str, branch: str | None = None, snapshot: str | None = None) -> None:
        """`_acknowledge` with a new reference, by the name of its directory; it is deleted if that fails."""
        try:
            self._acknowledge(branch, snapshot)
        except BaseException:
            with suppress(OSError, StoreError):
                place_of(self._directory).drop({reference: None})
            raise

    def _acknowledge(
        self, branch: str | None = None, snapshot: str | None = None, *, without: Container[str] = ()
    ) -> None:
        """Record the current branch and snapshot durably, and open the snapshot. `without` will be deleted."""
        branch, snapshot = branch or self.branch, snapshot or self.snapshot
        with disk_errors(self.path, "recording the current branch"):
            acknowledge(self._directory, self._repository, snapshot, branch=branch, without=without)
        self.branch, self.snapshot = branch, snapshot
        self._begin()
