"""A new store is built in a sibling directory and moved to its path in one step, when its first commit is durable.

Until then nothing at the final path changes, so a failed or killed build loses nothing. This module knows directories
and locks, not what a store contains.
"""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

import psutil

from sifu_store.durable import disk_errors, exchange, fsync_directory
from sifu_store.errors import StoreExistsError
from sifu_store.lock import WriterLock, is_locked

REPOSITORY_NAME = "repository"
"""Directory of the Icechunk repository in a store."""
ACKNOWLEDGED_NAME = "acknowledged"
"""File of a store that names the last commit that was reported as durable."""


def is_store(path: Path) -> bool:
    """Whether `path` is the directory of a store, intact or damaged."""
    repository = path / REPOSITORY_NAME
    return (repository / "snapshots").is_dir() and (
        (path / ACKNOWLEDGED_NAME).exists() or (repository / "refs").is_dir()
    )


class Staging:
    """The directory of a store that is being built and will be moved to `target`. Holds the writer locks of both.

    Parameters
    ----------
    target
        Final path of the store.
    force
        Whether a store at `target` is replaced.

    Raises
    ------
    StoreExistsError
        `target` is a store and `force` is False, or `target` is something else.
    StoreLockedError
        `target` is a store that another process writes to.
    """

    def __init__(self, target: Path, *, force: bool) -> None:
        self.target = target
        self._old_lock: WriterLock | None = None
        restore_interrupted_swap(target)
        if os.path.lexists(target):
            if not is_store(target):
                raise StoreExistsError(
                    f"{target} exists and is not a sifu store, so it is not replaced: name another path"
                )
            if not force:
                raise StoreExistsError(
                    f"{target} is already a sifu store: name another path, or replace it with `force=True`"
                )
            self._old_lock = WriterLock(target)
        try:
            with disk_errors(target, "creating the store"):
                target.parent.mkdir(parents=True, exist_ok=True)
                remove_dead_builds(target)
                name = f".{target.name}.building-{os.getpid()}-{secrets.token_hex(4)}"
                self.directory = target.with_name(name)
                self.directory.mkdir()
            try:
                self.lock = WriterLock(self.directory)
            except BaseException:
                shutil.rmtree(self.directory, ignore_errors=True)
                raise
        except BaseException:
            if self._old_lock is not None:
                self._old_lock.release()
            raise

    def publish(self) -> WriterLock:
        """Move the directory to `target`, delete the store that was there, and return the lock of the new one.

        Raises
        ------
        StoreExistsError
            Another process created `target` during the build.
        """
        if self._old_lock is None:
            if os.path.lexists(self.target):
                raise StoreExistsError(f"another process created {self.target} during the build: name another path")
            self.directory.rename(self.target)
            old = None
        elif exchange(self.directory, self.target):
            old = self.directory
        else:  # two renames; `restore_interrupted_swap` repairs a crash between them
            old = self.target.with_name(f".{self.target.name}.replaced-{os.getpid()}-{secrets.token_hex(4)}")
            self.target.rename(old)
            self.directory.rename(self.target)
        self.lock.moved(self.target)
        fsync_directory(self.target.parent)
        if self._old_lock is not None and old is not None:
            self._old_lock.moved(old)
            self._old_lock.release()
            shutil.rmtree(old, ignore_errors=True)
        return self.lock

    def abandon(self) -> None:
        """Delete the directory and release the locks; a store at `target` is unchanged."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self.lock.release()
        if self._old_lock is not None:
            self._old_lock.release()


def remove_dead_builds(target: Path) -> None:
    """Delete the sibling directories that killed builds of `target` left."""
    for directory in target.parent.glob(f".{_escape(target.name)}.building-*"):
        owner = directory.name.rsplit("-", 2)[1]
        alive = owner.isdigit() and psutil.pid_exists(int(owner))
        if not alive and not is_locked(directory):
            shutil.rmtree(directory, ignore_errors=True)
    if target.exists():
        for directory in target.parent.glob(f".{_escape(target.name)}.replaced-*"):
            shutil.rmtree(directory, ignore_errors=True)


def restore_interrupted_swap(target: Path) -> None:
    """Move the old store back to `target` after a crash between the two renames of `Staging.publish`."""
    if os.path.lexists(target) or not target.parent.is_dir():
        return
    left = sorted(target.parent.glob(f".{_escape(target.name)}.replaced-*"))
    if len(left) == 1:
        left[0].rename(target)


def _escape(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
