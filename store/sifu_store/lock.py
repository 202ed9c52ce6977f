"""The writer lock of a store: an operating-system file lock, and a file that names the process that holds it.

The operating system releases the lock when the process ends. The file (`writer.json`) may remain; it is read only while
the lock is held. Readers take no lock. This module does not know what is written.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock

from sifu_store.durable import disk_errors
from sifu_store.errors import StoreLockedError
from sifu_store.links import refuse_link, replacing

LOCK_NAME = "writer.lock"
HOLDER_NAME = "writer.json"


class WriterLock:
    """The exclusive right to write to the store in `directory`, held from construction to `release`.

    Raises
    ------
    StoreLockedError
        Another process, or another object in this process, holds the lock. There is no waiting.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = file_lock(directory / LOCK_NAME, timeout=0)
        with disk_errors(directory, "taking the writer lock"):
            before = directory.stat().st_ino
            try:
                self._lock.acquire()
            except filelock.Timeout:
                raise StoreLockedError(
                    f"{directory} is being written by {describe_holder(directory)}: {_way_out(directory)}"
                ) from None
            try:
                if directory.stat().st_ino != before:  # replaced meanwhile: the lock may be that of the old store
                    raise StoreLockedError(f"{directory} was replaced by another process at this moment: try again")
                with contextlib.suppress(OSError):  # on a full disk, garbage collection must start without this file
                    _write_holder(directory)
            except BaseException:
                self._lock.release(force=True)
                raise

    def moved(self, directory: Path) -> None:
        """Record that the directory was renamed. The lock belongs to the file, not to its name: it is still held."""
        self._directory = directory

    def release(self) -> None:
        """Release the lock; a second call does nothing."""
        if self._lock.is_locked:
            with contextlib.suppress(OSError):
                (self._directory / HOLDER_NAME).unlink(missing_ok=True)
            self._lock.release(force=True)


def file_lock(path: Path, *, timeout: float = -1) -> filelock.BaseFileLock:
    """An operating-system lock of a file, which is created and emptied; not yet taken.

    Parameters
    ----------
    timeout
        Seconds to wait for another holder; negative: without end.

    Raises
    ------
    StoreError
        The file is a symbolic link: what it refers to would be emptied.
    """
    refuse_link(path)
    # thread_local=False: one thread may open a store and another close it
    return filelock.FileLock(path, timeout=timeout, thread_local=False)


def is_locked(directory: Path) -> bool:
    """Whether a running process holds the writer lock of `directory`. The check itself leaves no lock."""
    path = directory / LOCK_NAME
    if path.is_symlink() or not path.exists():
        return False
    lock = file_lock(path, timeout=0)
    try:
        with lock:
            return False
    except filelock.Timeout:
        return True


def describe_holder(directory: Path) -> str:
    """The holder of the lock as text: `process 4711 on alpha (sifu train), since 2026-01-02T12:00:03+00:00`.

    Returns "another process" if the holder file is missing or damaged.
    """
    try:
        holder = _read_holder(directory)
        return f"process {holder['pid']} on {holder['host']} ({holder['command']}), since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _way_out(directory: Path) -> str:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        holder = _read_holder(directory)
        if (holder["pid"], holder["host"]) == (os.getpid(), socket.gethostname()):
            return "that is this process: end the call or the edit that writes first"
    return "wait for it to end"


def _read_holder(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / HOLDER_NAME).read_text(encoding="utf-8"))
    return found


def _without_secrets(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command without the value of an option `--token`: others read them in the store."""
    out: list[str] = []
    for argument in arguments:
        hidden = bool(out) and out[-1] == "--token"
        out.append("..." if hidden else re.sub(r"(?s)^(--token=).*", r"\1...", argument))
    return out


def _write_holder(directory: Path) -> None:
    # Not synced, because it is read only while its process runs. Replaced in one step, so a reader sees whole JSON.
    arguments = [Path(sys.argv[0]).name, *_without_secrets(sys.argv[1:])] if sys.argv and sys.argv[0] else ["python"]
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": " ".join(arguments)[:200],
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with replacing(directory / HOLDER_NAME) as file:
        file.write(json.dumps(holder).encode())
