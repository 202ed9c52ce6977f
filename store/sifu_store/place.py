"""Where a store is: a folder, or a bucket of an object store. What differs between the two has its one home here.

A name is that of a file (an object) relative to the place, with `/` between folders (`names.py`). This module knows
files; not what they contain.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, ClassVar, Protocol

from sifu_store.names import REPOSITORY_NAME

if TYPE_CHECKING:
    from collections.abc import Hashable

    import icechunk

    from sifu_store.chunk_cache import ChunkCache


class Lock(Protocol):
    """The right to write to a store, until `release`."""

    def release(self) -> None:
        """Give it back; a second call does nothing."""


class Place(ABC):
    """A place of a store.

    Parameters
    ----------
    directory
        Folder on this machine with what is beside the repository: encoded text, the log of training, evicted pages. Of
        a store in a folder, the folder itself.

    Attributes
    ----------
    whole_files : bool
        A file appears whole, stays until it is deleted, and needs no sync: none can be torn by a power cut.
    """

    whole_files: ClassVar[bool]

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @abstractmethod
    def __str__(self) -> str:
        """The place as messages name it."""

    @property
    def title(self) -> str:
        """The last part of the name of the place, without its suffix."""
        return PurePosixPath(str(self)).stem

    # ---- the repository

    @abstractmethod
    def storage(self) -> icechunk.Storage:
        """Icechunk's storage of the repository."""

    @abstractmethod
    def require(self, given: str) -> None:
        """Check that there is a store. `given`: the path as the caller named it, for the message.

        Raises
        ------
        StoreNotFoundError
            There is none.
        StoreUnreachableError
            The place cannot be reached.
        """

    @abstractmethod
    def check_folders(self) -> None:
        """Check that the folders of the store are no symbolic links, before anything is written.

        Raises
        ------
        StoreError
            One is.
        """

    @abstractmethod
    def check(self) -> None:
        """Check that the files of the store are files, before any is read.

        Raises
        ------
        StoreError
            One is a symbolic link, a pipe or a device.
        """

    @abstractmethod
    def check_reference(self, name: str) -> None:
        """Check that a reference is no symbolic link.

        Raises
        ------
        StoreError
            It is one.
        """

    @abstractmethod
    def lock(self) -> Lock:
        """Take the right to write.

        Raises
        ------
        StoreLockedError
            Another process has it.
        StoreError
            No store can be written there.
        """

    # ---- files

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        """

    @abstractmethod
    def files(self, folder: str) -> dict[str, int]:
        """Sizes in bytes of the files directly in a folder, by their names in it. Empty: there is no such folder."""

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Replace a file durably: a crash leaves the old content or the new one."""

    @abstractmethod
    def add(self, name: str, data: bytes) -> None:
        """Write a file that no reader knows yet. Durable after `sync`."""

    @abstractmethod
    def remove(self, names: Iterable[str]) -> None:
        """Delete files."""

    @abstractmethod
    def sync(self) -> None:
        """Wait until all files are durable."""

    @abstractmethod
    def require_free_bytes(self, needed_bytes: int, what: str) -> None:
        """Check for enough free space before a write.

        Raises
        ------
        DiskFullError
            There is too little.
        """

    @abstractmethod
    def size_bytes(self) -> int:
        """Size of all files."""

    @abstractmethod
    def cache(self) -> ChunkCache | None:
        """Where chunks are kept on this machine; None: they are on this machine."""

    # ---- references

    @abstractmethod
    def references(self) -> tuple[dict[str, str], dict[str, str], set[str]]:
        """Snapshot ids of the references, and what is wrong with the others, by name; names of deleted tags.

        The name of a reference is that of its folder: `branch.main`, `tag.v1`.
        """

    @abstractmethod
    def point(self, names: Mapping[str, str], *, expected: Mapping[str, str | None] | None = None) -> None:
        """Make each name refer to a snapshot, durably. A crash leaves the old reference, the new one, or none.

        Parameters
        ----------
        names
            Snapshot id by the name of the reference.
        expected
            What a name must refer to before; None: nothing. Where a lock excludes other writers it is known to be so.

        Raises
        ------
        StoreConflictError
            A name does not refer to what was expected: another writer changed it.
        """

    @abstractmethod
    def drop(self, names: Mapping[str, str | None]) -> None:
        """Delete references, durably. The value is what each is expected to refer to; None: whatever it does.

        Raises
        ------
        StoreConflictError
            As `point`.
        """

    @abstractmethod
    def restored_on_error(self, name: str) -> AbstractContextManager[None]:
        """A block that moves a reference; if it raises, the reference is restored, which needs no space then."""

    @abstractmethod
    def mark_deleted(self, tag: str) -> None:
        """Mark a tag as deleted, durably. As in Icechunk, its name cannot be used again."""

    # ---- changes by other processes

    @abstractmethod
    def identity(self) -> Hashable:
        """What tells the store from another one that replaced it; None: unknown."""

    @abstractmethod
    def state(self) -> Hashable:
        """What changes if another process replaces the store, commits, or collects garbage; None: unknown."""

    @abstractmethod
    def require_reachable(self) -> None:
        """Check that the place can be reached now: a failed read is then no damage.

        Raises
        ------
        StoreUnreachableError
            It cannot.
        """

    def has(self, name: str) -> bool:
        """Whether there is a file."""
        folder, _, file = name.rpartition("/")
        return file in self.files(folder)

    def snapshots(self) -> list[str]:
        """Names of the files in the folder of snapshots."""
        return sorted(self.files(f"{REPOSITORY_NAME}/snapshots"))
