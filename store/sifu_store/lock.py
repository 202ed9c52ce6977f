"""One writer at a time: an operating-system lock, and a note that says who holds it.

The lock dies with its process, however that ends; the note (`writer.json`) may outlive it and is only read
while the lock is held. Readers take no lock. This module does not know what is written.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path

import filelock

from sifu_store.durable import disk_errors
from sifu_store.errors import StoreLockedError

LOCK_NAME = "writer.lock"
HOLDER_NAME = "writer.json"


class WriterLock:
    """The right to write to the store in `directory`.

    Raises
    ------
    StoreLockedError
        Another process (or another object in this one) holds it; raised at once, without waiting.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        # thread_local=False: a store opened in one thread may be closed in another
        self._lock = filelock.FileLock(directory / LOCK_NAME, timeout=0, thread_local=False)
        with disk_errors(directory, "taking the writer lock"):
            try:
                self._lock.acquire()
            except filelock.Timeout:
                raise StoreLockedError(
                    f"{directory} is being written by {describe_holder(directory)}: wait for it to end"
                ) from None
        with contextlib.suppress(OSError):  # the note may be missing: on a full disk `sifu gc` still has to begin
            _write_holder(directory)

    def moved(self, directory: Path) -> None:
        """The directory was renamed; the lock belongs to the file, not to its name, and is still held."""
        self._directory = directory

    def release(self) -> None:
        if self._lock.is_locked:
            with contextlib.suppress(OSError):
                (self._directory / HOLDER_NAME).unlink(missing_ok=True)
            self._lock.release(force=True)


def is_locked(directory: Path) -> bool:
    """True if a living process holds the writer lock of `directory` (nothing is left held)."""
    if not (directory / LOCK_NAME).exists():
        return False
    lock = filelock.FileLock(directory / LOCK_NAME, timeout=0, thread_local=False)
    try:
        with lock:
            return False
    except filelock.Timeout:
        return True


def describe_holder(directory: Path) -> str:
    """`process 4711 on alpha (sifu train), since 12:00:03`, as far as the note can be read."""
    try:
        holder = json.loads((directory / HOLDER_NAME).read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']} ({holder['command']}), since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _write_holder(directory: Path) -> None:
    # Not synced: it is read only while its process lives. Replaced in one step: a reader never sees half.
    arguments = [Path(sys.argv[0]).name, *sys.argv[1:]] if sys.argv and sys.argv[0] else ["python"]
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": " ".join(arguments)[:200],
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    temporary = directory / f".{HOLDER_NAME}.tmp"
    temporary.write_text(json.dumps(holder), encoding="utf-8")
    temporary.replace(directory / HOLDER_NAME)
