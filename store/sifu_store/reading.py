"""The reading half of a store: one snapshot, its arrays and pages, its history and health.

This module knows how to read and what to say about damage; not how a store is found, written or committed.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import icechunk
import numpy as np
import zarr
from zarr.core.buffer.cpu import NDBuffer

from sifu_store import arrays, branching, collecting, history
from sifu_store.arrays import Damage
from sifu_store.branching import Moved
from sifu_store.collecting import Garbage
from sifu_store.errors import StoreDamagedError, StoreError
from sifu_store.history import Commit, History, Lineage
from sifu_store.layout import SOURCE, STORED, page_count, page_slots
from sifu_store.refs import MAIN
from sifu_store.verify import Verification, VerifyReport


class StoreReader:
    """What `Store` can do without the writer lock.

    Attributes
    ----------
    path : Path
        The directory of the store (of a new one: where it will be after the first commit).
    snapshot : str
        Id of the snapshot that is read; of a new store, of the empty one.
    branch : str
        The current branch, whether or not the snapshot is its newest.
    recovered_from : str or None
        What was wrong with the branch head, if the store fell back to the last acknowledged snapshot.
    """

    path: Path
    snapshot: str
    branch: str
    recovered_from: str | None
    _session: icechunk.Session
    _group: zarr.Group

    def __init__(self, path: Path, directory: Path, repository: icechunk.Repository, snapshot: str) -> None:
        self.path = path
        self.snapshot = snapshot
        self.branch = MAIN
        self.recovered_from = None
        self._directory = directory  # where it is now: a new store is elsewhere until its first commit
        self._repository = repository
        self._process = os.getpid()
        self._closed = False
        self._arrays_by_name: dict[str, zarr.Array[Any]] = {}
        self._listed = False
        self._stored: np.ndarray | None = None  # bool [pages], if changed since the last commit

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}, snapshot={self.snapshot!r})"

    @property
    def settings(self) -> dict[str, Any]:
        """A copy of the settings (JSON)."""
        self._check_usable()
        found = self._group.attrs.get("settings", {})
        return copy.deepcopy(dict(found)) if isinstance(found, dict) else {}

    @property
    def format_version(self) -> int:
        """The version of the disk format that this snapshot needs."""
        self._check_usable()
        return int(cast(int, self._group.attrs["format_version"]))

    def has(self, name: str) -> bool:
        """True if there is an array of this name."""
        return name in self._all_arrays()

    def is_paged(self, name: str) -> bool:
        """Whether an array is read and written page by page."""
        return arrays.is_paged(self._array(name))

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an array."""
        return tuple(self._array(name).shape)

    def names(self) -> list[str]:
        """Names of all arrays."""
        return sorted(self._all_arrays())

    def read(self, name: str) -> np.ndarray:
        """A whole array that is not paged.

        Raises
        ------
        StoreDamagedError
            A chunk is missing or fails its checksum; the message names it, its rows and its file.
        """
        self._check_usable()
        if name == STORED and self._stored is not None:
            return self._stored.astype(np.uint8)
        array = self._array(name)
        if arrays.is_paged(array):
            raise ValueError(f"{name} is paged: read_pages")
        try:
            return np.asarray(array[...])
        except Exception as error:
            raise self._damaged(array, 0, arrays.chunk_count(array), error) from error

    def read_json(self, name: str) -> Any:
        """The JSON document in a uint8 array."""
        return json.loads(self.read(name).tobytes().decode("utf-8"))

    @property
    def slots(self) -> int:
        """Length of `edges/source`: slots of the paged arrays."""
        return int(self._array(SOURCE).shape[0])

    @property
    def pages(self) -> int:
        """Pages of `PAGE_EDGES` slots; the last one may be short."""
        return page_count(self.slots)

    def page_stored(self) -> np.ndarray:
        """bool [pages]: True where the page is stored, False where it is to be generated."""
        return self.read(STORED).astype(bool)

    def read_page(self, name: str, page: int) -> np.ndarray:
        """One page of a paged array, [slots of the page, ...]."""
        return self.read_pages(name, page, page + 1)

    def read_pages(self, name: str, first: int, stop: int, *, out: np.ndarray | None = None) -> np.ndarray:
        """Pages `first` to `stop` - 1 of a paged array, in one read.

        Parameters
        ----------
        name
            A paged array.
        first, stop
            The run of pages.
        out
            Where to put them: C-contiguous, of the array's dtype and of shape [slots in the run, ...].

        Returns
        -------
        np.ndarray
            [slots in the run, ...]; zeros where a page is not stored.

        Raises
        ------
        StoreDamagedError
            A page is missing or fails its checksum; the message names it, its slots and its file.
        """
        array = self._paged(name)
        begin, end = self._slot_range(first, stop)
        try:
            if out is None:
                return np.asarray(array[begin:end])
            if out.shape != (end - begin, *array.shape[1:]) or out.dtype != array.dtype or not out.flags.c_contiguous:
                raise ValueError(f"out has shape {out.shape} and dtype {out.dtype}: cannot hold pages of {name}")
            array.get_basic_selection(slice(begin, end), out=NDBuffer.from_numpy_array(out))
            return out
        except Exception as error:
            if isinstance(error, ValueError) and str(error).startswith("out has"):
                raise
            raise self._damaged(array, first, stop, error) from error

    def history(self, limit: int | None = None) -> list[Commit]:
        """The commits up to the snapshot that is read, newest first."""
        self._check_usable()
        return history.read_history(self._repository, self.snapshot, limit)

    def tree(self) -> History:
        """All commits of the store: of every branch and tag, and what was undone.

        Raises
        ------
        StoreDamagedError
            A snapshot among them cannot be read.
        """
        self._check_usable()
        return history.read_tree(self._repository, self.branch, self._head())

    def commit_of(self, snapshot: str) -> Commit:
        """What a snapshot is, by its id."""
        self._check_usable()
        return Lineage(self._repository).commit(snapshot)

    @property
    def newest(self) -> bool:
        """Whether the snapshot is the newest of the current branch."""
        self._check_usable()
        return self.snapshot == self._head()

    def resolve(self, name: str) -> str:
        """The id of the snapshot that a name means: `HEAD`, a branch, a tag, the beginning of an id, each with `~N`.

        Raises
        ------
        OptionError
            Nothing has that name, or too much.
        """
        self._check_usable()
        return history.resolve(self._directory, self._repository, name, head=self._head())

    def would_undo(self, steps: int = 1) -> Moved:
        """What `undo` would do."""
        self._check_usable()
        return branching.back(Lineage(self._repository), self.branch, self._head(), steps)

    def would_redo(self, steps: int = 1) -> Moved:
        """What `redo` would do."""
        self._check_usable()
        return branching.forward(Lineage(self._repository), self.branch, self._head(), steps)

    def would_collect(self, keep_training: int = 2, *, keep_undone: bool = True) -> Garbage:
        """What `collect_garbage` would drop, and how much that would free. Takes no lock and changes nothing."""
        self._check_usable()
        return collecting.collect(
            self._directory, self._repository, keep_training=keep_training, keep_undone=keep_undone, dry_run=True
        )

    def changed_pages(self, other: str) -> np.ndarray | None:
        """bool [pages]: where a stored page may differ from that of another snapshot (by its id).

        False: the same chunks lie behind it in both, so that it need not be read. None: the store cannot tell,
        because commits in between were dropped, or the pages have another shape.
        """
        self._check_usable()
        chunks = history.changed_chunks(self._repository, self.snapshot, other)
        if chunks is None:
            return None
        changed = np.zeros(self.pages, bool)
        for name in self.names():
            if self.is_paged(name):
                pages = np.fromiter((chunk for chunk in chunks.get(name, ()) if chunk < self.pages), np.int64)
                changed[pages] = True
        return changed

    def verify(self, *, progress: Callable[[int, int], None] | None = None) -> VerifyReport:
        """Read every array and every stored page of this snapshot and check what can be checked.

        Parameters
        ----------
        progress
            Called with (chunks done, chunks in all).
        """
        self._check_usable()
        report = Verification(self._session, self._all_arrays(), self._directory, progress).run()
        try:
            self.history()
        except StoreDamagedError as error:
            unreadable = Damage("history", None, None, str(self._directory), str(error))
            return replace(report, damage=(*report.damage, unreadable))
        return report

    def size_bytes(self) -> int:
        """Bytes in the directory of the store, all snapshots together."""
        total = 0
        for folder, _, files in os.walk(self._directory):
            for name in files:
                with suppress(FileNotFoundError):
                    total += (Path(folder) / name).stat().st_size
        return total

    # ---- inside

    def _head(self) -> str:
        """The newest commit of the current branch (what was fallen back to, if that cannot be read)."""
        if self.recovered_from is not None:
            return self.snapshot
        return str(self._repository.lookup_branch(self.branch))

    def _check_usable(self) -> None:
        if self._closed:
            raise StoreError(f"{self.path} has been closed: open it again")
        if self._process != os.getpid():
            raise StoreError(
                f"{self.path} was opened in process {self._process} and cannot be used in a fork of it: "
                "start workers with spawn or forkserver, and open the store there"
            )

    def _all_arrays(self) -> dict[str, zarr.Array[Any]]:
        self._check_usable()
        if not self._listed:
            for name, member in self._group.members(max_depth=None):
                if isinstance(member, zarr.Array):
                    self._arrays_by_name.setdefault(name, arrays.stored_whole(member))
            self._listed = True
        return self._arrays_by_name

    def _array(self, name: str) -> zarr.Array[Any]:
        self._check_usable()
        if name not in self._arrays_by_name and not self._listed:  # who reads one array does not wait for all of them
            found = self._group.get(name)
            if isinstance(found, zarr.Array):
                self._arrays_by_name[name] = arrays.stored_whole(found)
        array = self._arrays_by_name.get(name)
        if array is None:
            raise StoreError(f"{self.path} has no array {name}: it is not part of snapshot {self.snapshot}")
        return array

    def _paged(self, name: str) -> zarr.Array[Any]:
        array = self._array(name)
        if not arrays.is_paged(array):
            raise ValueError(f"{name} is not paged: read or write it as a whole")
        return array

    def _slot_range(self, first: int, stop: int) -> tuple[int, int]:
        if not 0 <= first < stop <= self.pages:
            raise ValueError(f"pages {first} to {stop - 1} of {self.pages}")
        return page_slots(first, self.slots)[0], page_slots(stop - 1, self.slots)[1]

    def _damaged(self, array: zarr.Array[Any], first: int, stop: int, cause: Exception) -> StoreError:
        return arrays.damaged(self._session, array, self._directory, first, stop, cause)
