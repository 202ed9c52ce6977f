"""Decompression of texts, one block after another, in a limited amount of memory.

It knows two formats of compression; it does not know lines or characters.
"""

from __future__ import annotations

import gzip
import lzma
from typing import BinaryIO, Protocol, cast

MOST_XZ_BYTES = 100 << 20
"""Greatest memory for decompression; ``xz -9`` needs 65 MiB."""
_BLOCK_BYTES = 1 << 16
_XZ_MAGIC = b"\xfd7zXZ\0"


class Blocks(Protocol):
    """What is read block by block."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""


def decompressed(raw: BinaryIO, *, compression: str) -> Blocks:
    """The content of a file; ``compression`` is ``""``, `.gz` or `.xz`.

    Reading it raises `EOFError`, `lzma.LZMAError`, `zlib.error` or `gzip.BadGzipFile` for a damaged file, and
    `lzma.LZMAError` for one that needs more than `MOST_XZ_BYTES` of memory.
    """
    if compression == ".gz":
        return cast(Blocks, gzip.GzipFile(fileobj=raw))
    return _Xz(raw) if compression == ".xz" else raw


class _Xz:
    """As `lzma.LZMAFile`, which has no limit of memory: a file of a few bytes can ask for 4 GiB."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._decoder = lzma.LZMADecompressor(memlimit=MOST_XZ_BYTES)

    def read(self, size: int, /) -> bytes:
        while True:
            if self._decoder.eof:  # another stream may follow
                rest = (self._decoder.unused_data or self._raw.read(_BLOCK_BYTES)).lstrip(b"\0")
                if not rest and not (rest := self._raw.read(_BLOCK_BYTES).lstrip(b"\0")):
                    return b""
                self._decoder = lzma.LZMADecompressor(memlimit=MOST_XZ_BYTES)
                try:
                    found = self._decoder.decompress(rest, size)
                except lzma.LZMAError:
                    if rest.startswith(_XZ_MAGIC):
                        raise
                    return b""  # data that is not xz after the end, which xz ignores too
            elif self._decoder.needs_input:
                block = self._raw.read(_BLOCK_BYTES)
                if not block:
                    raise EOFError("the file ends before its end-of-stream marker")
                found = self._decoder.decompress(block, size)
            else:
                found = self._decoder.decompress(b"", size)
            if found:
                return found
