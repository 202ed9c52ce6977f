"""A store in a folder of this machine: files that are synced, and a lock that holds other writers off."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar

from sifu_store import durable, folder_refs
from sifu_store.errors import StoreNotFoundError
from sifu_store.links import check_folders, refuse_odd_files, replacing
from sifu_store.lock import WriterLock
from sifu_store.names import ACKNOWLEDGED_NAME, REPOSITORY_NAME
from sifu_store.place import Place
from sifu_store.staging import is_store, restore_interrupted_swap, size_of

if TYPE_CHECKING:
    import icechunk

COPIES_NAME = "collecting"
"""Folder in which earlier releases kept copies of snapshot files while Icechunk replaced them."""


class Folder(Place):
    """A folder. Other writers are held off by a lock; a commit is synced before it is acknowledged."""

    whole_files: ClassVar[bool] = False

    def __str__(self) -> str:
        return str(self.directory)

    @property
    def title(self) -> str:
        """The name of the folder, without its suffix."""
        return self.directory.stem

    def storage(self) -> icechunk.Storage:
        """A local storage."""
        import icechunk

        return icechunk.local_filesystem_storage(str(self.directory / REPOSITORY_NAME))

    def require(self, given: str) -> None:
        """Look for the folders of a store, after a swap that was interrupted is undone."""
        restore_interrupted_swap(self.directory)
        if not is_store(self.directory):
            found = "is not a sifu store" if self.directory.exists() else "does not exist"
            raise StoreNotFoundError(f"{given} {found}: create one with `build_graph()`, or give another `path`")

    def check_folders(self) -> None:
        """Refuse links in the place of folders."""
        check_folders(self.directory, REPOSITORY_NAME, COPIES_NAME)

    def check(self) -> None:
        """Refuse links, pipes and devices in the place of files."""
        refuse_odd_files(self.directory, REPOSITORY_NAME)

    def check_reference(self, name: str) -> None:
        """Refuse a link: it would be another reference."""
        folder_refs.refuse_links(self.directory, name)

    def lock(self) -> WriterLock:
        """The lock of the operating system."""
        return WriterLock(self.directory)

    # ---- files

    def read(self, name: str) -> bytes:
        """The content of a file."""
        return (self.directory / name).read_bytes()

    def files(self, folder: str) -> dict[str, int]:
        """Names and sizes; temporary files are left out."""
        found = {}
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.directory / folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if entry.is_file(follow_symlinks=False) and not entry.name.startswith("."):
                        found[entry.name] = entry.stat(follow_symlinks=False).st_size
        return found

    def write(self, name: str, data: bytes) -> None:
        """Replace it in one step, with a sync before and after."""
        durable.write_durably(self.directory / name, data)

    def add(self, name: str, data: bytes) -> None:
        """Write it beside its place and rename it, without a sync."""
        path = self.directory / name
        with durable.disk_errors(self.directory, f"writing {name}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                file.write(data)

    def remove(self, names: Iterable[str]) -> None:
        """Delete them, without a sync."""
        for name in names:
            (self.directory / name).unlink(missing_ok=True)

    def sync(self) -> None:
        """Sync the whole filesystem: a commit has many files."""
        durable.sync_filesystem(self.directory)

    def require_free_bytes(self, needed_bytes: int, what: str) -> None:
        """Check the free space of the disk."""
        durable.require_free_bytes(self.directory, needed_bytes, what)

    def size_bytes(self) -> int:
        """Of all that is in the folder."""
        return size_of(self.directory)

    def cache(self) -> None:
        """None is needed."""

    # ---- references

    def references(self) -> tuple[dict[str, str], dict[str, str], set[str]]:
        """Read every reference; files that are none are skipped."""
        return folder_refs.read_directories(self.directory)

    def point(self, names: Mapping[str, str], *, expected: Mapping[str, str | None] | None = None) -> None:
        """Write them beside their places and rename them. The lock holds off who could change what is expected."""
        folder_refs.point(self.directory, names)

    def drop(self, names: Mapping[str, str | None]) -> None:
        """Delete each in one step.

        The caller must have removed them from the `acknowledged` file: the next writer restores what is recorded there.
        """
        folder_refs.drop(self.directory, names)

    def restored_on_error(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Keep a copy of its file meanwhile."""
        return folder_refs.restored_on_error(self.directory, name)

    def mark_deleted(self, tag: str) -> None:
        """Create the file that marks it."""
        folder_refs.mark_deleted(self.directory, tag)

    # ---- changes by other processes

    def identity(self) -> tuple[int, int] | None:
        """Device and inode of the repository."""
        try:
            status = (self.directory / REPOSITORY_NAME).stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def state(self) -> Hashable:
        """The repository, and the record of the last commit."""
        try:
            status = (self.directory / ACKNOWLEDGED_NAME).stat()
        except OSError:
            return self.identity(), None
        return self.identity(), (status.st_ino, status.st_mtime_ns)

    def require_reachable(self) -> None:
        """A folder is always there to be read."""
