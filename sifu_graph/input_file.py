"""Files that a user names: how they are opened, how much of them is read, and what their first bytes say they are.

It knows files and bytes; it does not know what a file is read for.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from sifu_store.durable import format_bytes

MOST_JSON_BYTES = 8 << 20
"""Greatest size of a JSON file that is read as a whole. As Python objects it takes up to 25 times its size."""

HEAD_BYTES = 512
"""Number of bytes from which `kind_of` knows a file."""

_OTHERS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))

_KINDS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"PK\x03\x04", "a zip archive, as checkpoints of PyTorch and .npz files are"),
    (0, b"\x1f\x8b", "compressed with gzip"),
    (0, b"\xfd7zXZ\0", "compressed with xz"),
    (0, b"(\xb5/\xfd", "compressed with zstd"),
    (0, b"BZh", "compressed with bzip2"),
    (0, b"7z\xbc\xaf'\x1c", "a 7z archive"),
    (0, b"Rar!", "a rar archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"\x80\x02", "a Python pickle"),
    (0, b"\x80\x03", "a Python pickle"),
    (0, b"\x80\x04", "a Python pickle"),
    (0, b"\x80\x05", "a Python pickle"),
    (0, b"GGUF", "a GGUF model"),
    (0, b"\x89HDF", "an HDF5 file"),
    (0, b"PAR1", "a Parquet file"),
    (0, b"ARROW1", "an Arrow file"),
    (0, b"SQLite format 3\0", "an SQLite database"),
    (0, b"%PDF-", "a PDF"),
    (0, b"\x89PNG", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"\x7fELF", "a program"),
    (0, b"\xff\xfe\0\0", "text in UTF-32"),
    (0, b"\0\0\xfe\xff", "text in UTF-32"),
    (0, b"\xff\xfe", "text in UTF-16"),
    (0, b"\xfe\xff", "text in UTF-16"),
)


def open_regular(path: Path) -> BinaryIO:
    """Opens a file for reading, never a folder, a pipe, a socket or a device: reading those could wait for ever.

    Raises
    ------
    OSError
        It cannot be opened, or is no regular file.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(path, flags)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            found = next((name for is_kind, name in _OTHERS if is_kind(mode)), "a device")
            raise OSError(errno.EINVAL, f"{found}, not a file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_small(path: Path, *, most_bytes: int = MOST_JSON_BYTES) -> bytes:
    """The content of a regular file of limited size.

    Raises
    ------
    OSError
        As `open_regular`; or the file is larger.
    """
    with open_regular(path) as file:
        content = file.read(most_bytes + 1)
        if len(content) > most_bytes:
            size_bytes = os.fstat(file.fileno()).st_size
            found = f"{format_bytes(size_bytes)}, expected at most {format_bytes(most_bytes)}"
            raise OSError(errno.EFBIG, found, str(path))
    return content


def kind_of(head: bytes) -> str | None:
    """What a file is by its first `HEAD_BYTES` bytes; None: text, or not known.

    A text can begin with the same characters as some of these files: ask when it cannot be read as text.
    """
    for place, mark, kind in _KINDS:
        if head[place : place + len(mark)] == mark:
            return kind
    if head[8:9] == b"{" and head[4:8] == b"\0\0\0\0":
        return "a safetensors file"
    return None
