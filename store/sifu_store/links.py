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
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from sifu_store.errors import StoreError

FOLDERS = ("chunks", "manifests", "refs", "snapshots", "transactions")
"""Folders of an Icechunk repository."""

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


def refuse_linked_files(repository: Path) -> None:
    """Check that no file of an Icechunk repository is a symbolic link, before any is read: it may lead anywhere.

    Raises
    ------
    StoreError
        One is.
    """
    for name in ("snapshots", "manifests", "transactions", "chunks"):
        with contextlib.suppress(OSError), os.scandir(repository / name) as files:
            for file in files:
                if file.is_symlink():
                    raise StoreError(
                        f"{file.path} is a symbolic link, and nothing outside of a store is read: replace it by what "
                        "it refers to, or delete it"
                    )


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
    """Open a file in a store to append to it; it is created if it is missing.

    Raises
    ------
    StoreError
        It is a symbolic link.
    OSError
        The operating system cannot open it.
    """
    refuse_link(path)
    try:
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
