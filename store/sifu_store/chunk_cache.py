"""Chunks of a store in a bucket, kept in files on this machine.

A file is named after the key of its chunk and the checksum that the commit records for it (`checksums`), so a file is
never out of date: another content has another name. When the files exceed their budget, those that were not used for
the longest time are deleted. A file that is damaged or cannot be read or written is as good as none. Several processes
may use a folder. This module knows keys and chunks; not where they come from.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from pathlib import Path

from sifu_store.links import replacing

LEAST_BYTES = 1 << 12
"""Smaller chunks are not kept: they are read with others in few requests."""
_AFTER_EVICTION = 0.9
"""Share of the budget that is used after files were deleted."""
_CRC_BYTES = 4


class ChunkCache:
    """The files of one store.

    Parameters
    ----------
    folder
        Where they are; it is created when the first is written.
    budget_bytes
        Their greatest size together.
    """

    def __init__(self, folder: Path, budget_bytes: int) -> None:
        self._folder, self._budget_bytes = folder, budget_bytes
        self._size_bytes: int | None = None  # of all files; None: not counted yet

    def get(self, key: str, checksum: int) -> bytes | None:
        """A chunk; None: it is not kept."""
        path = self._path(key, checksum)
        try:
            content = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        data, crc = content[:-_CRC_BYTES], content[-_CRC_BYTES:]
        if zlib.crc32(data).to_bytes(_CRC_BYTES, "little") != crc:
            path.unlink(missing_ok=True)
            return None
        return data

    def put(self, key: str, checksum: int, data: bytes) -> None:
        """Keep a chunk, if there is room for it."""
        size_bytes = len(data) + _CRC_BYTES
        if size_bytes < LEAST_BYTES or size_bytes > self._budget_bytes:
            return
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            if self._size_bytes is None or self._size_bytes + size_bytes > self._budget_bytes:
                self._size_bytes = self._make_room(size_bytes)
            path = self._path(key, checksum)
            if not path.exists():
                with replacing(path) as file:
                    file.write(data)
                    file.write(zlib.crc32(data).to_bytes(_CRC_BYTES, "little"))
                self._size_bytes += size_bytes

    def _path(self, key: str, checksum: int) -> Path:
        return self._folder / f"{key.replace('/', '.')}-{checksum:08x}"

    def _make_room(self, needed_bytes: int) -> int:
        """Delete the files that were not used for the longest time. Returns the size of those that are left."""
        with os.scandir(self._folder) as entries:
            files = [(entry.stat().st_mtime, entry.stat().st_size, entry.path) for entry in entries if entry.is_file()]
        left = sum(size_bytes for _, size_bytes, _ in files)
        if left + needed_bytes <= self._budget_bytes:
            return left
        for _, size_bytes, path in sorted(files):
            if left + needed_bytes <= _AFTER_EVICTION * self._budget_bytes:
                break
            Path(path).unlink(missing_ok=True)
            left -= size_bytes
        return left
