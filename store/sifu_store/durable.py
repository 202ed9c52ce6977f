"""Durable writes, and the check for the disk space that they need.

A single file is replaced by: temporary file beside it, fsync, rename, fsync of the directory. The many files of a
commit are synced with the whole filesystem. Two directories are exchanged in one system call. This module knows files,
not their content.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sifu_store.errors import DiskFullError, ResourceError, StoreError, StoreNotFoundError
from sifu_store.links import create_beside, replacing

if TYPE_CHECKING:
    import ctypes

RESERVE_BYTES = 1 << 20
"""Space that every check keeps free, for the metadata of a commit."""

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_FEW_INODES = 64
"""Fewer free inodes than a commit may need: what failed has deleted its temporary files when its error is met."""
_NO_FILES = {errno.EMFILE, errno.ENFILE}
_NO_FILES_TEXT = ("Too many open files", "os error 24)", "os error 23)")
_FILES_OF_A_READ = 8
"""Files that Icechunk may open at once."""
_BYTES_OF_A_READ = 128 << 20  # what the C library reserves for the memory of a new thread
_NO_MEMORY_TEXT = (
    "error return without exception set", "Cannot allocate memory", "cannot allocate memory", "can't allocate memory",
    "failed to map segment", "memory allocation",
)  # fmt: skip
LEAST_ADDRESSES_BYTES = 3 << 29
"""Address space with which the libraries work. With less, Icechunk may abort the process, or wait for ever for a thread
that could not start: a collection of garbage did at 500 MB, and aborted at 350 to 1,200 MB."""
_NO_THREADS_TEXT = ("can't start new thread", "failed to spawn thread", "Resource temporarily unavailable")
_DISK_FULL_TEXT = ("No space left on device", "os error 28", "Disk quota exceeded", "os error 122")


def fsync_directory(path: Path) -> None:
    """Make changes of names in a directory durable (new files, renames, deletions)."""
    if sys.platform == "win32":  # Windows cannot open a directory
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, data: bytes) -> None:
    """Replace the file at `path` in one step: after a crash it holds the old bytes or the new ones.

    Raises
    ------
    DiskFullError
        The disk is full; the old file is unchanged.
    StoreError
        The operating system reports another error; the old file is unchanged.
    """
    with disk_errors(path, f"writing {path.name}"):
        with replacing(path) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fsync_directory(path.parent)


def replace_durably(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Replace files of a directory, by name, each in one step: after a crash each holds the old bytes or the new ones.

    Raises
    ------
    DiskFullError, StoreError
        As `write_durably`; the files that were not yet replaced are unchanged.
    """
    with disk_errors(folder, f"writing {len(contents)} files"):
        written: dict[str, Path] = {}
        try:
            for name, data in contents.items():
                written[name], file = create_beside(folder / name)
                with file:
                    file.write(data)
            sync_filesystem(folder)
            for name, temporary in written.items():
                temporary.replace(folder / name)
        finally:
            for temporary in written.values():
                temporary.unlink(missing_ok=True)
        sync_filesystem(folder)


def sync_filesystem(path: Path) -> None:
    """Wait until all data written to the filesystem of `path` is on the storage device.

    Linux syncs one filesystem (`syncfs`) and reports errors; other systems sync all filesystems.

    Raises
    ------
    OSError
        The sync failed (Linux).
    """
    libc = _libc()
    if libc is None or not hasattr(libc, "syncfs"):
        os.sync()
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if libc.syncfs(descriptor) != 0:
            import ctypes

            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))
    finally:
        os.close(descriptor)


def exchange(first: Path, second: Path) -> bool:
    """Exchange two directories in one step. Returns False, with nothing changed, if the system cannot do it."""
    libc = _libc()
    if libc is None or not hasattr(libc, "renameat2"):
        return False
    result = libc.renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
    return bool(result == 0)


def require_free_bytes(path: Path, needed_bytes: int, what: str) -> None:
    """Check for enough free disk space before a write begins.

    Parameters
    ----------
    path
        A path on the filesystem of the write; it need not exist.
    needed_bytes
        Size of the write.
    what
        The operation, for the message: "writing 40 pages of edges/weight".

    Raises
    ------
    DiskFullError
        Less than `needed_bytes` plus `RESERVE_BYTES` is free, or the filesystem has no free inode.
    """
    existing = _nearest_existing(path)
    free_bytes = shutil.disk_usage(existing).free
    missing_bytes = needed_bytes + RESERVE_BYTES - free_bytes
    if missing_bytes > 0:
        raise DiskFullError(
            f"{what} needs {format_bytes(needed_bytes + RESERVE_BYTES)}, {format_bytes(free_bytes)} are free "
            f"on the disk of {existing}: free {format_bytes(missing_bytes)} more, or use another disk"
        )
    if (lacking := lack_of_inodes(existing, fewer_than=1)) is not None:
        raise DiskFullError(f"{what} needs new files, and the disk of {existing} has {lacking}, or use another disk")


def lack_of_inodes(path: Path, *, fewer_than: int = _FEW_INODES) -> str | None:
    """What to say of a filesystem that has space, but few inodes for more files; None: it has enough, or no limit.

    The system reports both a lack of space and a lack of inodes as "No space left on device".

    Parameters
    ----------
    path
        A path on the filesystem; it need not exist.
    fewer_than
        How many free inodes are too few.

    Returns
    -------
    str or None
        "no free inodes (0 of 4,096), although 3.0 GiB are free: delete files that are not needed".
    """
    if not hasattr(os, "statvfs"):  # Windows
        return None
    try:
        found = os.statvfs(_nearest_existing(path))
    except OSError:
        return None
    free_bytes = found.f_bavail * found.f_frsize
    if not found.f_files or found.f_favail >= fewer_than or free_bytes < RESERVE_BYTES:
        return None
    some = "too few free inodes" if found.f_favail else "no free inodes"
    return (
        f"{some} ({found.f_favail:,} of {found.f_files:,}), although {format_bytes(free_bytes)} are free: delete "
        "files that are not needed"
    )


def reason_of(error: OSError, path: Path) -> str:
    """Why the system refused to write at `path`: its own words, or that the filesystem lacks inodes."""
    lacking = lack_of_inodes(path) if error.errno == errno.ENOSPC else None
    return lacking or error.strerror or str(error)


def resolved(path: str | Path) -> Path:
    """The absolute path, with symbolic links followed.

    Raises
    ------
    StoreNotFoundError
        A symbolic link is circular.
    """
    try:
        return Path(path).resolve()
    except RuntimeError as error:  # Python 3.11 and 3.12; later ones keep the link
        raise StoreNotFoundError(f"{path} leads through a circular symbolic link: name another path") from error


def _nearest_existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


@contextlib.contextmanager
def disk_errors(path: Path, what: str, *, done: str = "committed") -> Iterator[None]:
    """Raise `DiskFullError` for a full disk, however the cause is wrapped, and `StoreError` for other `OSError`s.

    Parameters
    ----------
    path
        The file or directory that is written, for the message.
    what
        The operation, for the message: "writing the settings".
    done
        What it did not do, for the message: "nothing was committed". A file that is no store is "written".
    """
    try:
        yield
    except Exception as error:
        if is_disk_full(error):
            if (lacking := lack_of_inodes(path)) is not None:
                raise DiskFullError(
                    f"{what} failed, and nothing was {done}: the disk of {path} has {lacking}, and try again"
                ) from error
            raise DiskFullError(
                f"the disk of {path} became full while {what}: nothing was {done}; free some space and try again"
            ) from error
        if isinstance(error, OSError):
            raise_resource_error(error)
            raise StoreError(f"{what} failed at {path}: {error.strerror or error}") from error
        raise


def is_disk_full(error: BaseException) -> bool:
    """Whether an error or one of its causes is ENOSPC or EDQUOT, as an `OSError` or as text of an Icechunk error."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _DISK_FULL:
            return True
        if type(seen).__module__.startswith("icechunk") and any(text in str(seen) for text in _DISK_FULL_TEXT):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def resource_error(error: BaseException) -> ResourceError | None:
    """What the process lacks, if an error or one of its causes is a lack of open files, of threads or of memory.

    Libraries report it as an `OSError`, as a `RuntimeError`, or within the text of an error of their own. Icechunk also
    reports a file as missing that it could not open, and a thread that it could not start as an I/O error: its errors
    are checked against the files that can be opened and the addresses that can be taken.
    """
    seen: BaseException | None = error
    while seen is not None:
        text = str(seen)
        no_files = isinstance(seen, OSError) and seen.errno in _NO_FILES
        no_files = no_files or any(each in text for each in _NO_FILES_TEXT)
        if no_files or (type(seen).__module__.startswith("icechunk") and not _can_open(_FILES_OF_A_READ)):
            return ResourceError(
                f"this process may have {_most_files()} open files, which are too few: raise the limit (ulimit -n), "
                "then repeat"
            )
        no_memory = isinstance(seen, MemoryError) or (isinstance(seen, OSError) and seen.errno == errno.ENOMEM)
        no_memory = no_memory or any(each in text for each in _NO_MEMORY_TEXT)
        if no_memory or ("I/O error" in text and not _can_map(_BYTES_OF_A_READ)):
            return _too_little_memory()
        if any(each in text for each in _NO_THREADS_TEXT):
            if not _can_map(_BYTES_OF_A_READ):  # a thread needs addresses, too
                return _too_little_memory()
            return ResourceError(
                "the system gives this process no more threads: raise the limit (ulimit -u), or end other processes, "
                "then repeat"
            )
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return None


def raise_resource_error(error: BaseException) -> None:
    """Raise what `resource_error` finds; before an error is taken for damage."""
    lacking = None if isinstance(error, ResourceError) else resource_error(error)
    if lacking is not None:
        raise lacking from error


def _too_little_memory() -> ResourceError:
    if _address_limit() is not None:
        return ResourceError("this process may take too little memory: raise the limit (ulimit -v), then repeat")
    return ResourceError("the machine has too little free memory: free some, or use a smaller graph")


def few_addresses() -> str | None:
    """What to say if this process may take fewer addresses than `LEAST_ADDRESSES_BYTES`; None: it may take enough."""
    limit = _address_limit()
    if limit is None or limit >= LEAST_ADDRESSES_BYTES:
        return None
    return (
        f"this process may take {format_bytes(limit)} of address space, and the libraries need "
        f"{format_bytes(LEAST_ADDRESSES_BYTES)}: raise the limit (ulimit -v)"
    )


def _address_limit() -> int | None:
    """The limit of the address space of this process in bytes (``ulimit -v``); None: there is none."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _can_map(size: int) -> bool:
    """Whether the process can take this number of further bytes of addresses."""
    try:
        mmap.mmap(-1, size).close()
    except OSError:
        return False
    return True


def _can_open(files: int) -> bool:
    """Whether the process can open this number of further files."""
    opened: list[int] = []
    try:
        for _ in range(files):
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return False
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return True


def _most_files() -> str:
    try:
        import resource
    except ImportError:  # not on Windows
        return "a limited number of"
    return f"{resource.getrlimit(resource.RLIMIT_NOFILE)[0]:,}"


def format_bytes(size_bytes: float) -> str:
    """A size as text in binary units: `512 bytes`, `3.2 GiB`, `1,040.0 TiB`."""
    size = float(size_bytes)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"


def _libc() -> ctypes.CDLL | None:
    """The C library on Linux. ctypes is imported here, because the command line imports this module at its start."""
    if sys.platform != "linux":
        return None
    import ctypes

    return ctypes.CDLL(None, use_errno=True)
