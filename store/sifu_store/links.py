"""Writing inside the directory of a store without following links out of it.

A store may come from someone else, with a symbolic link in the place of a file or folder that sifu writes. Files are
created under random names that must not exist, and renamed; a rename replaces a link itself. Folders and the files that
are opened in place must not be links. The directory of the store may be reached through links. This module knows
files and folders; not their content.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from sifu_store.errors import StoreError

FOLDERS = ("chunks", "manifests", "refs", "snapshots", "transactions")
"""Folders of an Icechunk repository."""

SETTINGS = "config.yaml"
"""A file that Icechunk reads where there is one; it could name places outside of the store."""

_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)  # Windows has only the second
_APPEND = (
    os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NO_LINK | getattr(os, "O_NONBLOCK", 0)
)  # a FIFO is an error, not a wait


def refuse_link(path: Path) -> None:
    """Check that a file or folder in a store is no symbolic link; it may be missing.

    Raises
    ------
    StoreError
        It is one.
    """
    if path.is_symlink():
        raise _link(path)


def refuse_odd_files(directory: Path, repository: str) -> None:
    """Check that the files of a store are files, before any is read.

    A symbolic link may lead anywhere, and a pipe or a device may never end. Links that are allowed or have messages of
    their own (folders, references) are not checked here.

    Parameters
    ----------
    directory, repository
        Directory of the store, and the name of its repository.

    Raises
    ------
    StoreError
        The repository has settings of its own, a file of it is a symbolic link, or a file of the store is a pipe, a
        socket or a device.
    """
    inner = directory / repository
    if os.path.lexists(inner / SETTINGS):
        raise StoreError(f"{inner / SETTINGS} has settings of Icechunk, which no store of sifu has: delete it")
    for folder in (inner, *(inner / name for name in FOLDERS if name != "refs")):
        for file in _entries(folder):
            if file.is_symlink() and not (folder == inner and file.name in FOLDERS):
                raise StoreError(
                    f"{file.path} is a symbolic link, and nothing outside of a store is read: replace it by what it "
                    "refers to, or delete it"
                )
            if _is_odd(file):
                _refuse_odd_file(file.path, file.stat(follow_symlinks=False).st_mode)
    for reference in _entries(inner / "refs"):
        with contextlib.suppress(OSError):
            path = os.path.join(reference.path, "ref.json")  # noqa: PTH118  (there may be thousands)
            _refuse_odd_file(path, os.lstat(path).st_mode)
    for folder in (directory, directory / "cache", *(Path(each.path) for each in _entries(directory / "cache"))):
        for file in _entries(folder):
            if _is_odd(file):
                _refuse_odd_file(file.path, file.stat(follow_symlinks=False).st_mode)


def _entries(folder: Path | str) -> Iterator[os.DirEntry[str]]:
    """The entries of a folder, of which there may be very many; none, if it is no folder."""
    with contextlib.suppress(OSError), os.scandir(folder) as found:
        yield from found


def _is_odd(file: os.DirEntry[str]) -> bool:
    return not (file.is_symlink() or file.is_file(follow_symlinks=False) or file.is_dir(follow_symlinks=False))


def _refuse_odd_file(path: str, mode: int) -> None:
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
        kind = "a named pipe" if stat.S_ISFIFO(mode) else "a socket or a device"
        raise StoreError(f"{path} is {kind}, no file: it is not part of a store; delete it")


def check_folders(directory: Path, *names: str) -> None:
    """Check that no folder that a store of this directory is written to is a symbolic link.

    Parameters
    ----------
    directory
        Directory of the store.
    names
        Names of the folders in it; the first one is that of the repository.

    Raises
    ------
    StoreError
        One of them is a link, or a folder of the repository or of a reference is.
    """
    repository = directory / names[0]
    for folder in (*(directory / name for name in names), *(repository / name for name in FOLDERS)):
        refuse_link(folder)
    if (repository / "refs").is_dir():
        with os.scandir(repository / "refs") as references:
            for reference in references:
                if reference.is_symlink():
                    raise _link(Path(reference.path))


def create_beside(path: Path) -> tuple[Path, IO[bytes]]:
    """Create a file beside `path` that no other process and no link can have prepared, open for writing.

    Returns
    -------
    tuple of Path and file
        The path of the new file, `.NAME.RANDOM.tmp`, and the file.

    Raises
    ------
    OSError
        The operating system cannot create it.
    """
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.tmp")
    return temporary, os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK, 0o666), "wb")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file, open for writing, that replaces `path` in one step at the end. After an error `path` is unchanged.

    Nothing is synced.

    Raises
    ------
    OSError
        The operating system cannot create, write or rename it.
    """
    temporary, file = create_beside(path)
    try:
        with file:
            yield file
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def open_to_append(path: Path) -> IO[bytes]:
    """Open a file in a store to append to it; it is created if it is missing. A hard link becomes a file of its own.

    Raises
    ------
    StoreError
        It is a symbolic link.
    OSError
        The operating system cannot open it.
    """
    refuse_link(path)
    try:
        file = os.fdopen(os.open(path, _APPEND, 0o666), "ab")
        if os.fstat(file.fileno()).st_nlink == 1:
            return file
        with file, replacing(path) as own, path.open("rb") as shared:  # another name, of a copy, has the same file
            shutil.copyfileobj(shared, own)
        return os.fdopen(os.open(path, _APPEND, 0o666), "ab")
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _link(path) from error
        raise


def _link(path: Path) -> StoreError:
    return StoreError(
        f"{path} is a symbolic link, and nothing in a store is written through one: replace it by what it refers to, "
        "or delete it"
    )
