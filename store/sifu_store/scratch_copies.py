"""Temporary directories that can be opened as a store with other references than the store has.

Icechunk needs one to work in where it would change files of the store in place, and where a reference cannot be read.
This module knows files and references; not commits.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from sifu_store.bucket import AT_ONCE
from sifu_store.errors import StoreError
from sifu_store.folder_refs import write_reference
from sifu_store.names import REFERENCES, REPOSITORY_NAME, SNAPSHOTS
from sifu_store.place import Place

COPY_PREFIX = "sifu-links-"
"""Beginning of the name of a directory of `linked_copy`; the id of its process follows."""
IN_MEMORY = "/dev/shm"
COPY_BYTES = 16 << 20
"""Free space that the directory of a `linked_copy` needs."""


def linked_copy(directory: Path, names: Mapping[str, str]) -> tempfile.TemporaryDirectory[str]:
    """A temporary directory of links to the store's files that can be opened as a store, with other references.

    Snapshots and references that are created, replaced or deleted there do not change the store; a manifest, a chunk
    or a transaction that is deleted there is deleted in the store.

    Parameters
    ----------
    directory
        Directory of the store.
    names
        Snapshot id of every reference by the name of its directory.
    """
    shadow = _new_directory()
    original, links = (directory / REPOSITORY_NAME).resolve(), Path(shadow.name) / REPOSITORY_NAME
    for folder in ("snapshots", "refs"):
        (links / folder).mkdir(parents=True)
    for part in (*original.iterdir(), *original.glob("snapshots/*")):
        link = links / part.relative_to(original)
        if not link.exists():
            link.symlink_to(part)
    for name, snapshot in names.items():
        write_reference(links / "refs" / name, snapshot)
    return shadow


def remove_dead_copies() -> None:
    """Delete the directories of links that killed processes of this user left."""
    for place in {_usual_temporary_directory(), IN_MEMORY}:
        for folder in Path(place).glob(f"{COPY_PREFIX}*-*"):
            owner = folder.name.removeprefix(COPY_PREFIX).partition("-")[0]
            with contextlib.suppress(OSError):
                mine = not hasattr(os, "getuid") or folder.lstat().st_uid == os.getuid()
                if mine and owner.isdigit() and not psutil.pid_exists(int(owner)):
                    shutil.rmtree(folder, ignore_errors=True)


def _temporary_directory() -> str | None:
    """Where a copy of links goes: the usual place, or one in memory if the disk of that place is full."""
    full = shutil.disk_usage(_usual_temporary_directory()).free < COPY_BYTES
    return IN_MEMORY if full and os.access(IN_MEMORY, os.W_OK) else None


def _usual_temporary_directory() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError as error:
        raise StoreError("no folder for temporary files can be written: name one in $TMPDIR") from error


def copied_snapshots(
    place: Place, names: Mapping[str, str], contents: dict[str, bytes]
) -> tempfile.TemporaryDirectory[str]:
    """A temporary directory with copies of the snapshot files of a store, and without its manifests and chunks.

    Parameters
    ----------
    place
        Of the store.
    names
        Snapshot id of every reference by its name.
    contents
        Gets the contents of the files, by their names.
    """
    copy = _new_directory()
    files = place.snapshots()
    (Path(copy.name) / SNAPSHOTS).mkdir(parents=True)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for name, content in zip(files, pool.map(lambda name: place.read(f"{SNAPSHOTS}/{name}"), files), strict=True):
            contents[name] = content
            (Path(copy.name) / SNAPSHOTS / name).write_bytes(content)
    for name, snapshot in names.items():
        write_reference(Path(copy.name) / REFERENCES / name, snapshot)
    return copy


def _new_directory() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(
        prefix=f"{COPY_PREFIX}{os.getpid()}-", dir=_temporary_directory(), ignore_cleanup_errors=True
    )
