"""A new store is built in a sibling directory and moved to its path in one step, when its first commit is durable.

Until then nothing at the final path changes, so a failed or killed build loses nothing. This module knows directories
and locks, not what a store contains.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from pathlib import Path

import psutil

from sifu_store.durable import disk_errors, exchange, fsync_directory
from sifu_store.errors import StoreExistsError
from sifu_store.lock import WriterLock, is_locked
from sifu_store.names import ACKNOWLEDGED_NAME, REPOSITORY_NAME


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
        self._make_directory(target)

    def _make_directory(self, target: Path) -> None:
        """Create the directory, a sibling of `target`, and take its lock."""
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
            try:
                self.directory.rename(self.target)
            except OSError:
                if not os.path.lexists(self.target):
                    raise
                raise StoreExistsError(
                    f"another process created {self.target} during the build: name another path"
                ) from None
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
        try:
            shutil.rmtree(self.directory, ignore_errors=True)
        finally:
            self.lock.release()
            if self._old_lock is not None:
                self._old_lock.release()


def dead_builds(target: Path) -> list[Path]:
    """The sibling directories that killed builds of `target` left: new stores, and old ones that were replaced."""
    name = _escape(target.name)
    found = [each for each in target.parent.glob(f".{name}.building-*") if not _is_made(each)]
    if target.exists():
        found += [each for each in target.parent.glob(f".{name}.replaced-*") if not is_locked(each)]
    return sorted(each for each in found if each.is_dir() and not each.is_symlink())


def remove_dead_builds(target: Path) -> tuple[int, int]:
    """Delete what `dead_builds` lists. Returns the number of directories that are gone, and their size in bytes."""
    gone = gone_bytes = 0
    for directory in dead_builds(target):
        size_bytes = size_of(directory)
        shutil.rmtree(directory, ignore_errors=True)
        if not directory.exists():
            gone, gone_bytes = gone + 1, gone_bytes + size_bytes
    return gone, gone_bytes


def size_of(directory: Path) -> int:
    """Size of all files in a directory, in bytes."""
    total = 0
    for folder, _, files in os.walk(directory):
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                total += (Path(folder) / name).lstat().st_size
    return total


def is_being_replaced(target: Path) -> bool:
    """Whether a running process is between the two renames of `Staging.publish`."""
    return not target.exists() and any(
        is_locked(each) for each in target.parent.glob(f".{_escape(target.name)}.replaced-*")
    )


def restore_interrupted_swap(target: Path) -> None:
    """Move the old store back to `target` after a crash between the two renames of `Staging.publish`."""
    if os.path.lexists(target) or not target.parent.is_dir():
        return
    left = sorted(target.parent.glob(f".{_escape(target.name)}.replaced-*"))
    if len(left) == 1 and not is_locked(left[0]):  # locked: a running process is between the renames
        left[0].rename(target)


def _is_made(directory: Path) -> bool:
    """Whether a running process makes a directory of `Staging`: it holds its lock, or has just created it.

    The number of the process in the name of the directory may belong to another process today, one that began after
    the last change of the directory.
    """
    if is_locked(directory):
        return True
    owner = directory.name.rsplit("-", 2)[1]
    try:
        return owner.isdigit() and psutil.Process(int(owner)).create_time() <= directory.stat().st_mtime
    except (psutil.Error, OSError):
        return False


def _escape(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
