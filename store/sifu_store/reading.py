"""The reading part of a store: one snapshot, its arrays and pages, the history, verification.

This module knows how to read and how to report damage; not how a store is found, written or committed.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import icechunk
import numpy as np
import zarr
from zarr.core.buffer.cpu import NDBuffer

from sifu_store import arrays, branching, collecting, differences, history
from sifu_store.arrays import Damage
from sifu_store.branching import Moved
from sifu_store.checksums import CHECKSUMS, BoundStore, ChunkChecksums, read_checksums
from sifu_store.collecting import Garbage
from sifu_store.errors import StoreDamagedError, StoreError
from sifu_store.history import Commit, History, Lineage, Writes
from sifu_store.layout import ROUNDED, SOURCE, STORED, page_count, page_slots
from sifu_store.page_codecs import PageCodec
from sifu_store.place import Lock
from sifu_store.places import place_of
from sifu_store.read_errors import looks_again, why
from sifu_store.refs import MAIN
from sifu_store.repair import Repair, plan_repair
from sifu_store.repository import known_references, open_icechunk, read_acknowledged
from sifu_store.staging import dead_builds, size_of
from sifu_store.verify import Check, Further, Verification, VerifyReport


class StoreReader:
    """The operations of `Store` that need no writer lock.

    Attributes
    ----------
    path : Path
        The directory of the store; of a new store, the directory after the first commit.
    snapshot : str
        Id of the snapshot that is read; of a new store, the id of Icechunk's empty snapshot.
    branch : str
        The current branch. The snapshot may be an older commit.
    recovered_from : str or None
        What was wrong with the newest commit, if the store reads the last acknowledged snapshot instead.
    """

    path: Path
    snapshot: str
    branch: str
    recovered_from: str | None
    _checksums: ChunkChecksums
    _session: icechunk.Session
    _group: zarr.Group

    def __init__(self, path: Path, directory: Path, repository: icechunk.Repository, snapshot: str) -> None:
        self.path = path
        self.snapshot = snapshot
        self.branch = MAIN
        self.recovered_from = None
        self._directory = directory  # of a new store: the staging directory until the first commit
        self._repository = repository
        self._process = os.getpid()
        self._lock: Lock | None = None
        self._cache = place_of(directory).cache()
        self._identity: Hashable = place_of(directory).identity()
        self._closed = False
        self._arrays_by_name: dict[str, zarr.Array[Any]] = {}
        self._listed = False
        self._stored: np.ndarray | None = None  # bool [pages], if changed since the last commit

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(place_of(self.path))!r}, snapshot={self.snapshot!r})"

    @property
    def settings(self) -> dict[str, Any]:
        """A copy of the settings (JSON)."""
        self._check_usable()
        found = self._group.attrs.get("settings", {})
        return copy.deepcopy(dict(found)) if isinstance(found, dict) else {}

    @property
    def format_version(self) -> int:
        """The version of the disk format of this snapshot."""
        self._check_usable()
        return int(cast(int, self._group.attrs["format_version"]))

    def has(self, name: str) -> bool:
        """Whether there is an array of this name."""
        if self._listed:
            return name in self._arrays_by_name
        return self._opened(name) is not None

    def is_paged(self, name: str) -> bool:
        """Whether an array is read and written page by page."""
        return arrays.is_paged(self._array(name))

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an array."""
        return tuple(self._array(name).shape)

    def names(self) -> list[str]:
        """Names of all arrays."""
        return sorted(self._all_arrays())

    @looks_again(again=False)
    def read(self, name: str) -> np.ndarray:
        """A whole array that is not paged, in its stored shape and dtype (`docs/format.md`).

        Raises
        ------
        StoreDamagedError
            A chunk is missing or fails its checksum; the message names it, its rows and its file.
        StoreError
            There is no array of that name.
        ValueError
            The array is paged.
        """
        self._check_usable()
        if name == STORED and self._stored is not None:
            return self._stored.astype(np.uint8)
        array = self._whole(name)
        try:
            return np.asarray(array[...])
        except Exception as error:
            raise self._damaged(array, 0, arrays.chunk_count(array), error) from error

    @looks_again(again=False)
    def read_rows(self, name: str, rows: np.ndarray | slice) -> np.ndarray:
        """Some rows of an array that is not paged. Only the chunks that have one of them are read, each once.

        Parameters
        ----------
        name
            The array.
        rows
            int64 [k], places along its first axis, in any order; or a slice of consecutive ones.

        Returns
        -------
        np.ndarray
            [k, ...], in the dtype of the array.

        Raises
        ------
        StoreDamagedError, StoreError, ValueError
            As `read`.
        IndexError
            The array does not have one of the rows.
        """
        self._check_usable()
        return arrays.rows_of(self._whole(name), rows, self._damaged)

    def content_hash(self, names: Sequence[str]) -> str | None:
        """A hash (hex) of the content of arrays, from the checksums of their chunks; None: some are not known."""
        self._check_usable()
        return self._checksums.hash_of({name: self._array(name) for name in names})

    def read_json(self, name: str) -> Any:
        """The JSON document in a uint8 array.

        Raises
        ------
        StoreDamagedError
            It is not JSON; or as `read`.
        """
        try:
            return json.loads(self.read(name).tobytes().decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise StoreDamagedError(f"{self.path}: {name} is not JSON ({error}): open an older snapshot") from error

    @property
    def slots(self) -> int:
        """Number of slots: the length of `edges/source` and of every paged array."""
        return int(self._array(SOURCE).shape[0])

    @property
    def pages(self) -> int:
        """Number of pages of `PAGE_EDGES` slots; the last one may be short."""
        return page_count(self.slots)

    def page_stored(self) -> np.ndarray:
        """bool [pages]: True where the page is stored, False where its values are generated."""
        return self.read(STORED).astype(bool)

    @property
    def page_codec(self) -> PageCodec:
        """How the pages of the edges are stored."""
        return arrays.page_codec_of(*map(self._paged, ROUNDED))

    def page_bytes(self) -> int:
        """Size of all pages on disk, in bytes: the chunks of all paged arrays."""
        return arrays.disk_bytes(self._session, [name for name in self.names() if self.is_paged(name)])

    def read_page(self, name: str, page: int) -> np.ndarray:
        """One page of a paged array, [slots of the page, ...]."""
        return self.read_pages(name, page, page + 1)

    @looks_again(again=False)
    def read_pages(self, name: str, first: int, stop: int, *, out: np.ndarray | None = None) -> np.ndarray:
        """Pages `first` to `stop` - 1 of a paged array, in one read.

        Parameters
        ----------
        name
            A paged array.
        first, stop
            The run of pages.
        out
            Destination: C-contiguous, of the array's dtype, of shape [slots in the run, ...]. None: a new array.

        Returns
        -------
        np.ndarray
            [slots in the run, ...]; zeros where a page is not stored.

        Raises
        ------
        StoreDamagedError
            A page is missing or fails its checksum; the message names it, its slots and its file.
        ValueError
            The array is not paged, there are no such pages, or `out` does not fit.
        """
        array = self._paged(name)
        begin, end = self._slot_range(first, stop)
        shape = (end - begin, *array.shape[1:])
        if out is not None and (out.shape != shape or out.dtype != array.dtype or not out.flags.c_contiguous):
            raise ValueError(
                f"`out` has shape {out.shape} and dtype {out.dtype}: expected shape {shape} and dtype {array.dtype}, "
                "C-contiguous"
            )
        try:
            if out is None:
                return np.asarray(array[begin:end])
            array.get_basic_selection(slice(begin, end), out=NDBuffer.from_numpy_array(out))
            return out
        except Exception as error:
            raise self._damaged(array, first, stop, error) from error

    @looks_again(again=True)
    def history(self, limit: int | None = None) -> list[Commit]:
        """The commits up to the snapshot that is read, newest first, at most `limit` of them (None: all)."""
        self._check_usable()
        return history.read_history(self._read_lineage(), self.snapshot, limit)

    @looks_again(again=True, faults=lambda found: found.faults)
    def tree(self) -> History:
        """All commits of the store that can be read: those of every branch and tag, and the undone ones."""
        self._check_usable()
        return history.read_tree(self._read_lineage(), self.branch, self._head())

    @looks_again(again=True)
    def commit_of(self, snapshot: str) -> Commit:
        """The commit of a snapshot id."""
        self._check_usable()
        return self._read_lineage().commit(snapshot)

    @property
    @looks_again(again=True)
    def newest(self) -> bool:
        """Whether the snapshot is the newest of the current branch."""
        self._check_usable()
        return self.snapshot == self._head()

    @looks_again(again=True)
    def resolve(self, name: str) -> str:
        """The id of the snapshot that a name stands for.

        Parameters
        ----------
        name
            `HEAD`, a branch, a tag, or the first characters of an id; `~N` after it selects the N-th commit before.

        Raises
        ------
        OptionError
            The name stands for no snapshot, or for more than one.
        """
        self._check_usable()
        return history.resolve(self._directory, self._read_lineage(), name, head=self._head())

    @looks_again(again=True)
    def would_undo(self, steps: int = 1) -> Moved:
        """What `Store.undo` would do. Takes no lock and changes nothing."""
        self._check_usable()
        return branching.plan_undo(self._read_lineage(), self.branch, self._head(), steps)

    @looks_again(again=True)
    def would_redo(self, steps: int = 1) -> Moved:
        """What `Store.redo` would do. Takes no lock and changes nothing."""
        self._check_usable()
        return branching.plan_redo(self._read_lineage(), self.branch, self._head(), steps)

    @looks_again(again=True)
    def would_collect(self, keep_training: int = 2, *, keep_undone: bool = True) -> Garbage:
        """What `Store.collect_garbage` would delete, and its size. Takes no lock and changes nothing."""
        self._check_usable()
        garbage = collecting.would_collect(
            self._directory, self._read_lineage(), keep_training=keep_training, keep_undone=keep_undone
        )
        return garbage.with_builds(len(builds := dead_builds(self.path)), sum(map(size_of, builds)))

    @looks_again(again=False)
    def would_repair(self) -> Repair:
        """What `Store.repair` would change. Takes no lock and changes nothing."""
        self._check_usable()
        lineage = Lineage(self._repository, known_references(self._directory))
        return plan_repair(self._directory, lineage, read_acknowledged(self._directory), self.recovered_from)

    @looks_again(again=False)
    def changed_pages(self, other: str) -> np.ndarray | None:
        """bool [pages]: where a stored page may differ from that of another snapshot.

        Parameters
        ----------
        other
            Id of the other snapshot.

        Returns
        -------
        np.ndarray or None
            False: both snapshots use the same chunks. None: this cannot be determined, because a commit between them
            was deleted or a paged array was replaced.
        """
        self._check_usable()
        chunks = differences.changed_chunks(self._repository, self._read_lineage(), self.snapshot, other)
        paged = filter(self.is_paged, self.names())
        return None if chunks is None else differences.pages_of(chunks, paged, pages=self.pages)

    def writes_between(self, older: str, newer: str) -> Writes | None:
        """What was written between a snapshot and a descendant, by id; None: a commit between them was deleted."""
        self._check_usable()
        return history.writes_between(self._repository, older, newer)

    @looks_again(again=False)
    def changed_arrays(self, other: str) -> frozenset[str] | None:
        """The arrays that may differ from those of another snapshot, by id. None: this cannot be determined."""
        self._check_usable()
        return differences.changed_arrays(self._repository, self._read_lineage(), self.snapshot, other)

    @looks_again(again=False)
    def view(self, snapshot: str) -> StoreReader:
        """Another snapshot of this store, by its id, for reading. It is open as long as this store is."""
        self._check_usable()
        other = StoreReader(self.path, self._directory, self._repository, snapshot)
        other.branch = self.branch
        other._read_snapshot()
        return other

    @looks_again(again=False)
    def verify(
        self,
        *,
        progress: Callable[[int, int], None] | None = None,
        check: Check | None = None,
        further: Further | None = None,
    ) -> VerifyReport:
        """Read every array and every stored page of this snapshot and check them for damage and consistency.

        Parameters
        ----------
        progress
            Called with the number of chunks read so far and in all.
        check
            Called with the name and the values of each array and page; returns what is wrong with them, or None.
        further
            Called with the arrays that are not paged, by name (None: it cannot be read), if they agree; yields array
            and fault.
        """
        self._check_usable()
        report = Verification(
            self._session,
            self._all_arrays(),
            self._directory,
            progress,
            checksums=self._checksums,
            check=check,
            further=further,
        ).run()
        if report.damage and (known := why(self, StoreDamagedError(str(report.damage[0])))) is not None:
            raise known
        damage = [Damage("history", None, None, str(self._directory), fault) for fault in self._history_faults()]
        return replace(report, damage=(*report.damage, *damage))

    def size_bytes(self) -> int:
        """Size of all files of the store, in bytes: all snapshots together."""
        return place_of(self._directory).size_bytes()

    # ---- inside

    @looks_again(again=False)
    def _read_snapshot(self) -> None:
        """Open the snapshot for reading."""
        self._session = self._repository.readonly_session(snapshot_id=self.snapshot)
        self._open_group("r")

    def _open_group(self, mode: Literal["r", "r+"]) -> None:
        """Open the group of the session, which is at the snapshot, with its checksums."""
        metadata = history.snapshot_info(self._repository, self.snapshot).metadata
        self._checksums = read_checksums(self._session, metadata)
        store = BoundStore(self._session.store, self._checksums, self._cache)
        self._group = zarr.open_group(store, mode=mode)

    def _reopen(self) -> bool:
        """Open the repository again, as another process may have changed it.

        False: this process is the writer, or it cannot be opened.
        """
        if self._lock is not None or self.recovered_from is not None:
            return False
        try:
            self._repository = open_icechunk(self._directory)
        except icechunk.IcechunkError:
            return False
        return True

    @looks_again(again=True, faults=lambda found: found)
    def _history_faults(self) -> tuple[str, ...]:
        """What is wrong with the references and the commits."""
        return history.read_all(self._read_lineage(), [self.snapshot])[1].lines

    def _read_lineage(self) -> Lineage:
        """The ancestry of commits, by the present references."""
        names = known_references(self._directory)
        if self.recovered_from is not None:  # what it says is not said again
            names = names.with_branch(self.branch, self.snapshot)
        return Lineage(self._repository, names)

    def _head(self) -> str:
        """Id of the newest readable commit of the current branch."""
        if self.recovered_from is not None:
            return self.snapshot
        return str(self._repository.lookup_branch(self.branch))

    def _check_usable(self) -> None:
        if self._closed:
            raise StoreError(f"{self.path} is closed: open it again")
        if self._process != os.getpid():
            raise StoreError(
                f"{self.path} was opened in process {self._process} and cannot be used in a fork of it: "
                "start workers with spawn or forkserver, and open the store there"
            )

    @looks_again(again=False)
    def _all_arrays(self) -> dict[str, zarr.Array[Any]]:
        self._check_usable()
        if not self._listed:
            found = {name: array for name, array in arrays.open_arrays(self._group) if name != CHECKSUMS}
            self._arrays_by_name, self._listed = found | self._arrays_by_name, True
        return self._arrays_by_name

    @looks_again(again=False)
    def _array(self, name: str) -> zarr.Array[Any]:
        array = self._opened(name)
        if array is None:
            raise StoreError(f"{self.path} has no array {name}: it is not part of snapshot {self.snapshot}")
        return array

    @looks_again(again=False)
    def _opened(self, name: str) -> zarr.Array[Any] | None:
        """An array; None: there is none of this name."""
        self._check_usable()
        if name not in self._arrays_by_name and not self._listed:  # opening one array takes less time than listing all
            self._arrays_by_name.update(arrays.open_named(self._group, name))
        return self._arrays_by_name.get(name)

    def _whole(self, name: str) -> zarr.Array[Any]:
        array = self._array(name)
        if arrays.is_paged(array):
            raise ValueError(f"{name} is paged: use read_pages")
        return array

    def _paged(self, name: str) -> zarr.Array[Any]:
        array = self._array(name)
        if not arrays.is_paged(array):
            raise ValueError(f"{name} is not paged: read or write it as a whole")
        return array

    def _slot_range(self, first: int, stop: int) -> tuple[int, int]:
        if not 0 <= first < stop <= self.pages:
            raise ValueError(f"pages {first} to {stop - 1} of {self.pages}: expected 0 <= first < stop <= pages")
        return page_slots(first, self.slots)[0], page_slots(stop - 1, self.slots)[1]

    def _damaged(self, array: zarr.Array[Any], first: int, stop: int, cause: Exception) -> StoreError:
        return arrays.damaged(self._session, array, self._directory, first, stop, cause)
