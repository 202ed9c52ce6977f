"""The checksums of all chunks of a snapshot: they bind the content of each chunk to its place.

Each chunk ends with a CRC-32C of its content, which the codec checks. It does not tell whether the chunk is the one
that belongs there. So every commit holds a table of these checksums, by array and chunk (`CHECKSUMS`), and the CRC-32
of that table in its metadata. A chunk that is read must end with the checksum in the table. A commit of an earlier
release has no such metadata, and then nothing is checked. This module knows keys and chunks; not what the arrays are.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import icechunk
import numpy as np
import zarr
from zarr.abc.store import ByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import WrapperStore

from sifu_store.chunk_cache import ChunkCache

CHECKSUMS = "checksums"
"""Name of the array that holds the table, and of the entry of a commit's metadata that holds its CRC-32."""

INLINE_BYTES = 512
"""Icechunk keeps a chunk of at most this size in a manifest, without a file of its own."""

_BYTES = 4


@dataclass(slots=True)
class ChunkChecksums:
    """The checksums of a session: those of its snapshot, and those of the chunks that were written since.

    Parameters
    ----------
    known
        uint32 [chunks] by array; 0: there is no such chunk. None: the snapshot has no table.
    fault
        What is wrong with the table of the snapshot; None: nothing, or it has none.
    written
        Checksum by chunk of the arrays that were written since.
    written_bytes
        Size of the chunks that were written since, as files: small ones have none.
    """

    known: dict[str, np.ndarray] | None = None
    fault: str | None = None
    written: dict[str, dict[int, int]] = field(default_factory=dict)
    written_bytes: int = 0

    def note(self, key: str, value: Buffer | None) -> None:
        """Note that a chunk was written, or with None deleted. Other keys are ignored."""
        place = _place(key)
        if value is not None and "/c/" in key and len(value) > INLINE_BYTES:
            self.written_bytes += len(value)
        if place is not None:
            self.written.setdefault(place[0], {})[place[1]] = 0 if value is None else _end(value)

    def forget(self, prefix: str) -> None:
        """Note that all arrays below a key were deleted."""
        for name in {*(self.known or ()), *self.written}:
            if name == prefix or name.startswith(f"{prefix}/"):
                self.written.pop(name, None)
                if self.known is not None:
                    self.known.pop(name, None)

    def expected(self, key: str) -> int | None:
        """The checksum of the chunk at a key; None: unknown, or no chunk."""
        place = _place(key)
        if place is None or self.known is None:
            return None
        name, chunk = place
        written = self.written.get(name, {}).get(chunk)
        if written is not None:
            return written
        column = self.known.get(name)
        return None if column is None or chunk >= len(column) else int(column[chunk])

    def check(self, key: str, value: Buffer) -> None:
        """Check a chunk that was read.

        Raises
        ------
        ValueError
            It is not the chunk that was written there.
        """
        expected = self.expected(key)
        if expected is not None and expected != _end(value):
            raise ValueError("the chunk is not the one that was written there: its checksum is another")

    def hash_of(self, arrays: Mapping[str, zarr.Array[Any]]) -> str | None:
        """A hash (hex) of the names, types, shapes and checksums of arrays; None: not all checksums are known."""
        found = hashlib.sha256()
        for name, array in sorted(arrays.items()):
            column = None if self.known is None else self.known.get(name)
            if column is None or name in self.written:
                return None
            found.update(f"{name} {array.dtype} {array.shape} {array.chunks}".encode() + column.tobytes())
        return found.hexdigest()

    def table(self, chunks: Mapping[str, int]) -> bytes:
        """The table of the next commit, as JSON. `chunks` is the number of chunks by array."""
        table = {}
        for name, count in sorted(chunks.items()):
            column = np.zeros(count, ">u4")
            before = (self.known or {}).get(name, column)[:count]
            column[: len(before)] = before
            for chunk, checksum in self.written.get(name, {}).items():
                if chunk < count:
                    column[chunk] = checksum
            table[name] = column.tobytes().hex()
        return json.dumps(table, separators=(",", ":")).encode()


class BoundStore(WrapperStore[icechunk.IcechunkStore]):
    """The Zarr store of a session that checks chunks when they are read, and notes the checksums of written ones.

    Parameters
    ----------
    store
        The store of the session.
    checksums
        The checksums of the session. None: none are checked.
    cache
        Where chunks are kept that were read or written; None: nowhere.
    """

    def __init__(
        self,
        store: icechunk.IcechunkStore,
        checksums: ChunkChecksums | None = None,
        cache: ChunkCache | None = None,
    ) -> None:
        super().__init__(store)
        self.checksums = ChunkChecksums() if checksums is None else checksums
        self.cache = cache

    def _with_store(self, store: icechunk.IcechunkStore) -> BoundStore:
        return BoundStore(store, self.checksums, self.cache)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The value of a key, checked if it is a whole chunk."""
        expected = None if self.cache is None or byte_range is not None else self.checksums.expected(key)
        if self.cache is not None and expected:
            kept = await asyncio.to_thread(self.cache.get, key, expected)
            if kept is not None:
                return prototype.buffer.from_bytes(kept)
        value = await self._store.get(key, prototype, byte_range)
        if value is not None and byte_range is None:
            self.checksums.check(key, value)
            if self.cache is not None and expected:
                await asyncio.to_thread(self.cache.put, key, expected, value.to_bytes())
        return value

    async def set(self, key: str, value: Buffer) -> None:
        """Set the value of a key."""
        await self._store.set(key, value)
        self.checksums.note(key, value)
        if self.cache is not None and (written := self.checksums.expected(key)):
            await asyncio.to_thread(self.cache.put, key, written, value.to_bytes())

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Set the value of a key that has none. Zarr does so for metadata only."""
        await self._store.set_if_not_exists(key, value)

    async def delete(self, key: str) -> None:
        """Delete a key."""
        await self._store.delete(key)
        self.checksums.note(key, None)

    async def delete_dir(self, prefix: str) -> None:
        """Delete all keys below a prefix."""
        await self._store.delete_dir(prefix)
        self.checksums.forget(prefix.strip("/"))


def read_checksums(session: icechunk.Session, metadata: Mapping[str, Any]) -> ChunkChecksums:
    """The checksums of a snapshot, from its session and the metadata of its commit.

    A table that cannot be read is no error: what is read is then not checked, and `fault` says why.
    """
    recorded = metadata.get(CHECKSUMS)
    if recorded is None:
        return ChunkChecksums()
    try:
        text = np.asarray(zarr.open_array(session.store, path=CHECKSUMS, mode="r")[...]).tobytes()
        if zlib.crc32(text) != recorded:
            return ChunkChecksums(fault="the table of checksums is that of another commit")
        return ChunkChecksums({name: np.frombuffer(bytes.fromhex(c), ">u4") for name, c in json.loads(text).items()})
    except Exception as error:
        return ChunkChecksums(fault=f"the table of checksums cannot be read ({type(error).__name__})")


def scan(session: icechunk.Session, chunks: Mapping[str, set[int]], axes: Mapping[str, int]) -> ChunkChecksums:
    """The checksums of a snapshot without a table, from the ends of all its chunks.

    Parameters
    ----------
    chunks
        The chunks of each array, as indices along the first axis.
    axes
        The number of axes of each array.
    """

    async def read() -> dict[str, np.ndarray]:
        known = {}
        for name, existing in chunks.items():
            column = np.zeros(max(existing, default=-1) + 1, ">u4")
            for chunk in existing:
                key = "/".join([name, "c", str(chunk), *("0" for _ in range(axes[name] - 1))])
                end = await session.store.get(key, default_buffer_prototype(), SuffixByteRequest(_BYTES))
                column[chunk] = 0 if end is None else _end(end)
            known[name] = column
        return known

    return ChunkChecksums(sync(read()))


def _place(key: str) -> tuple[str, int] | None:
    """The array and the index along the first axis of the chunk at a key; None: it is no chunk with a checksum here."""
    name, found, rest = key.rpartition("/c/")
    if not found or name == CHECKSUMS:
        return None
    first, _, later = rest.partition("/")
    return (name, int(first)) if not later.strip("0/") else None


def _end(value: Buffer) -> int:
    """The CRC-32C at the end of a chunk."""
    return int.from_bytes(value[-_BYTES:].to_bytes(), "little")
