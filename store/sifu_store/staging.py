"""A new store is built beside its place and appears there in one step, when its first commit is durable.

Until then nothing at the final path changes, so a failed or killed build loses nothing. This module knows
directories and locks, not what a store contains.
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
ACKNOWLEDGED_NAME = "acknowledged"


def is_store(path: Path) -> bool:
    """True if `path` is a directory with a store in it, damaged or not."""
    repository = path / REPOSITORY_NAME
    return (repository / "snapshots").is_dir() and (
        (path / ACKNOWLEDGED_NAME).exists() or (repository / "refs").is_dir()
    )


class Staging:
    """A directory being built that is to become `target`. Holds the writer lock of both.

    Raises
    ------
    StoreExistsError
        There is something at `target`: a store without `force`, or anything that is not a store.
    StoreLockedError
        `target` is a store that another process writes to.
    """

    def __init__(self, target: Path, *, force: bool) -> None:
        self.target = target
        self._old_lock: WriterLock | None = None
        restore_interrupted_swap(target)
        if os.path.lexists(target):
            if not is_store(target):
                raise StoreExistsError(f"{target} exists and is not a sifu store: name another path (it is left alone)")
            if not force:
                raise StoreExistsError(
                    f"{target} is already a sifu store: name another path, or replace it with --force"
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
        """Put the directory at `target`, drop what was there, and hand over the lock."""
        if self._old_lock is None:
            if os.path.lexists(self.target):
                raise StoreExistsError(f"{self.target} was made by another process meanwhile: name another path")
            self.directory.rename(self.target)
            old = None
        elif exchange(self.directory, self.target):
            old = self.directory
        else:  # two steps; `restore_interrupted_swap` mends a crash between them
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
        """Leave everything as it was before."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self.lock.release()
        if self._old_lock is not None:
            self._old_lock.release()


def remove_dead_builds(target: Path) -> None:
    """Delete what builds of `target` that were killed have left behind."""
    for directory in target.parent.glob(f".{_escape(target.name)}.building-*"):
        owner = directory.name.rsplit("-", 2)[1]
        alive = owner.isdigit() and psutil.pid_exists(int(owner))
        if not alive and not is_locked(directory):
            shutil.rmtree(directory, ignore_errors=True)
    if target.exists():
        for directory in target.parent.glob(f".{_escape(target.name)}.replaced-*"):
            shutil.rmtree(directory, ignore_errors=True)


def restore_interrupted_swap(target: Path) -> None:
    """Where directories cannot be exchanged in one step, a crash may leave the old store beside its place."""
    if os.path.lexists(target) or not target.parent.is_dir():
        return
    left = sorted(target.parent.glob(f".{_escape(target.name)}.replaced-*"))
    if len(left) == 1:
        left[0].rename(target)


def _escape(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
