"""Writes that survive a power cut, and the free space that they need.

Sibling temporary file, fsync, rename, fsync of the directory; a sync of the whole filesystem for the many
files of a commit; an exchange of two directories in one step. This module knows files, not what is in them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from sifu_store.errors import DiskFullError, StoreError

RESERVE_BYTES = 1 << 20
"""Left free by every check: the metadata of a commit has to fit too."""

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_DISK_FULL_TEXT = ("No space left on device", "os error 28", "Disk quota exceeded", "os error 122")


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable (renames, new files)."""
    if sys.platform == "win32":  # a directory cannot be opened there
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, data: bytes) -> None:
    """Replace the file at `path` in one step: after a crash it holds the old bytes or the new ones."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with disk_errors(path, f"writing {path.name}"):
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        fsync_directory(path.parent)


def sync_filesystem(path: Path) -> None:
    """Wait until everything written to the filesystem that holds `path` is on the device.

    Linux has a call for one filesystem (`syncfs`), which also reports errors; elsewhere all are synced.
    """
    libc = _libc()
    if libc is None or not hasattr(libc, "syncfs"):
        os.sync()
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if libc.syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))
    finally:
        os.close(descriptor)


def exchange(first: Path, second: Path) -> bool:
    """Swap two directories in one step; False where the system cannot (nothing has changed then)."""
    libc = _libc()
    if libc is None or not hasattr(libc, "renameat2"):
        return False
    result = libc.renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
    return bool(result == 0)


def require_free_bytes(path: Path, needed_bytes: int, what: str) -> None:
    """Refuse a long write that cannot end well, before it begins.

    Parameters
    ----------
    path
        Anywhere on the filesystem that is written to; need not exist yet.
    needed_bytes
        What is about to be written.
    what
        Named in the message, e.g. "writing 40 pages of edges/weight".

    Raises
    ------
    DiskFullError
        Fewer than `needed_bytes` (and a small reserve) are free.
    """
    existing = path
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    free_bytes = shutil.disk_usage(existing).free
    missing_bytes = needed_bytes + RESERVE_BYTES - free_bytes
    if missing_bytes > 0:
        raise DiskFullError(
            f"{what} needs {format_bytes(needed_bytes + RESERVE_BYTES)}, {format_bytes(free_bytes)} are free "
            f"on the disk of {existing}: free {format_bytes(missing_bytes)} more, or use another disk"
        )


@contextlib.contextmanager
def disk_errors(path: Path, what: str) -> Iterator[None]:
    """Turn "no space left", however wrapped, into `DiskFullError`; any other `OSError` into `StoreError`."""
    try:
        yield
    except Exception as error:
        if is_disk_full(error):
            raise DiskFullError(
                f"the disk of {path} became full while {what}: nothing was committed; free some space and repeat"
            ) from error
        if isinstance(error, OSError):
            raise StoreError(f"{what} failed at {path}: {error.strerror or error}") from error
        raise


def is_disk_full(error: BaseException) -> bool:
    """True for ENOSPC and EDQUOT, also as text inside another library's error, and in its causes."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _DISK_FULL:
            return True
        if type(seen).__module__.startswith("icechunk") and any(text in str(seen) for text in _DISK_FULL_TEXT):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def format_bytes(size_bytes: int) -> str:
    """`3.2 GiB`, `512 bytes`: for messages."""
    size = float(size_bytes)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _libc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
