"""Folders of files that are made once and found again: written beside their place, and renamed when they are complete.

It knows folders and locks; it does not know what the files hold, or how to check them.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sifu_store.links import refuse_link
from sifu_store.lock import file_lock

PARTIAL = "partial-"
"""Beginning of the name of a folder that is being written."""

_Found = TypeVar("_Found")


def cached_folder(
    path: Path, read: Callable[[], _Found | None], make: Callable[[Path], object], *, mode: int = 0o777
) -> _Found | None:
    """What ``read`` finds at a path. If it finds nothing, the folder is made first, by one process at a time.

    Parameters
    ----------
    path
        Its parent is made if missing, and has a file `lock`.
    read
        Returns None where the folder is missing, incomplete or damaged.
    make
        Fills a new folder, which then takes the place of whatever is at the path.
    mode
        Permissions of a parent that is made.

    Raises
    ------
    OSError
        It cannot be written.
    StoreError
        The parent is a symbolic link.
    """
    refuse_link(path.parent)
    found = read()
    if found is not None:
        return found
    path.parent.mkdir(parents=True, exist_ok=True, mode=mode)
    with file_lock(path.parent / "lock"):
        found = read()  # another process may have been faster
        if found is not None:
            return found
        for abandoned in path.parent.glob(PARTIAL + "*"):  # its writer held the lock, so it no longer runs
            shutil.rmtree(abandoned, ignore_errors=True)
        partial = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=path.parent))
        try:
            make(partial)
            if path.is_dir() and not path.is_symlink():  # torn or foreign
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            partial.rename(path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return read()
