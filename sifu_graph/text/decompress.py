"""Decompression of texts, one block after another, in a limited amount of memory.

It knows the formats of compression; it does not know lines or characters.
"""

from __future__ import annotations

import bz2
import gzip
import importlib
import lzma
import zlib
from typing import Any, BinaryIO, Protocol, cast

from sifu_store.errors import CorpusError

COMPRESSIONS = ("", ".gz", ".xz", ".bz2", ".zst")
"""Suffixes of the formats."""
READ_ERRORS = (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile)
"""What reading a damaged file raises."""
MOST_XZ_BYTES = 100 << 20
"""Greatest memory for decompression; ``xz -9`` needs 65 MiB."""
_BLOCK_BYTES = 1 << 16
_XZ_MAGIC = b"\xfd7zXZ\0"


class Blocks(Protocol):
    """What is read block by block."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""


def decompressed(raw: BinaryIO, *, compression: str) -> Blocks:
    """The content of a file; ``compression`` is one of `COMPRESSIONS`.

    Reading it raises one of `READ_ERRORS` for a damaged file, and `lzma.LZMAError` for one that needs more than
    `MOST_XZ_BYTES` of memory.

    Raises
    ------
    CorpusError
        No installed library reads `.zst`.
    """
    if compression == ".gz":
        return cast(Blocks, gzip.GzipFile(fileobj=raw))
    if compression == ".bz2":
        return _Bz2(raw)
    if compression == ".zst":
        return _zstd(raw)
    return _Xz(raw) if compression == ".xz" else raw


class _Bz2:
    """As `bz2.BZ2File`, whose error for a damaged file is an `OSError`, as if it could not be opened."""

    def __init__(self, raw: BinaryIO) -> None:
        self._file = bz2.BZ2File(raw)

    def read(self, size: int, /) -> bytes:
        try:
            return self._file.read(size)
        except OSError as error:
            if error.errno is not None:
                raise
            raise EOFError(str(error)) from error


def _zstd(raw: BinaryIO) -> Blocks:
    """The content of a file in zstd, by Python (3.14) or by a library, if one is installed."""
    for name in ("compression.zstd", "backports.zstd"):
        if (found := _module(name)) is not None:
            return _Zstd(found.ZstdFile(raw), found.ZstdError)
    if (found := _module("zstandard")) is not None:
        return _Zstd(found.ZstdDecompressor().stream_reader(raw, read_across_frames=True), found.ZstdError)
    raise CorpusError(
        ".zst is read by Python 3.14 or with the package zstandard: install it (pip install zstandard), or decompress "
        "the file"
    )


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


class _Zstd:
    """A file in zstd, whose errors are those of `READ_ERRORS`."""

    def __init__(self, file: Any, error: type[Exception]) -> None:
        self._file, self._error = file, error

    def read(self, size: int, /) -> bytes:
        try:
            return cast(bytes, self._file.read(size))
        except self._error as error:
            raise EOFError(str(error)) from error


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
