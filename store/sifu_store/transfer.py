"""Copies between places: of all commits that references reach, with the same ids.

Snapshots, manifests, chunks and transactions are immutable and named by ids that are never used twice, so only what is
not there yet is copied. References come last: a copy that is interrupted changes no branch. This module knows files and
references.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from sifu_store.bucket import AT_ONCE
from sifu_store.errors import StoreChangedError
from sifu_store.names import REPOSITORY_NAME
from sifu_store.place import Place
from sifu_store.refs import is_snapshot_id

PARTS = ("chunks", "manifests", "transactions", "snapshots")
"""Folders of a repository in the order in which they are copied: what refers to others comes after them."""

Progress = Callable[[int, int], None]
"""Called with the number of files copied so far and in all."""


@dataclass(frozen=True, slots=True)
class Copied:
    """What was copied.

    Parameters
    ----------
    files, size_bytes
        Number and size of the files.
    """

    files: int
    size_bytes: int


def repository_files(place: Place) -> dict[str, int]:
    """Sizes of the files of a repository, by name, in the order of `PARTS`. References are not among them."""
    return {
        f"{REPOSITORY_NAME}/{part}/{name}": size_bytes
        for part in PARTS
        for name, size_bytes in place.files(f"{REPOSITORY_NAME}/{part}").items()
        if is_snapshot_id(name)
    }


def copy_files(source: Place, target: Place, *, progress: Progress | None = None) -> Copied:
    """Copy the files of a repository that are not at the target, durably.

    Parameters
    ----------
    progress
        Called with the number of files copied so far and in all.
    """
    there = repository_files(target)
    missing = {name: size_bytes for name, size_bytes in repository_files(source).items() if name not in there}
    target.require_free_bytes(sum(missing.values()), f"copying {len(missing):,} files")
    done = 0
    for part in PARTS:
        names = [name for name in missing if name.startswith(f"{REPOSITORY_NAME}/{part}/")]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in pool.map(lambda name: _copy(source, target, name), names):
                done += 1
                if progress is not None:
                    progress(done, len(missing))
        target.sync()
    return Copied(len(missing), sum(missing.values()))


def _copy(source: Place, target: Place, name: str) -> None:
    try:
        content = source.read(name)
    except FileNotFoundError as error:
        raise StoreChangedError(
            f"{source}: {name} was deleted by another process while it was copied: repeat"
        ) from error
    target.add(name, content)
