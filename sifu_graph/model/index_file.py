"""The index of a large graph as files that are mapped: what a command holds in memory does not grow with the edges.

The arrays of edges in the store are compressed, and in the order of the slots. The first command that needs them writes
them sorted by (u, v), uncompressed, into the folder `FOLDER` of the graph, a few blocks at a time; later ones map the
files. They are a cache: the name of their folder is a hash of the checksums of all chunks that they were made from,
each file has a checksum of its own, and whatever is missing or damaged is made again. It knows arrays of the store; it
does not know parameters.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sifu_store.arrays import Damage
from sifu_store.layout import COUNT, ENERGY, ORIGIN, SOURCE, TARGET
from sifu_store.reading import StoreReader
from sifu_store.store import Store

from sifu_graph.arrays import Floats, Ids, Integers, Ints, blocks
from sifu_graph.cached_folder import PARTIAL, cached_folder
from sifu_graph.edge_index import EdgeIndex
from sifu_graph.model.counts import read_counts
from sifu_graph.ops.origins import energies_of_rows
from sifu_graph.settings import GraphSettings, read_settings
from sifu_graph.sorted_edges import sorted_edges

FOLDER = "index"
"""Folder of a graph that has its indices."""
FORMAT = 1
META = "meta.json"
MAPPED_SLOTS = 1 << 20
"""Slots from which on the index of a graph is mapped; that of a smaller one is read into memory, which is faster."""
KEPT = 2
"""Indices that are kept, the newest: an undo and a redo find theirs."""

_MADE_FROM = (SOURCE, TARGET, COUNT, ENERGY, ORIGIN, "rows/total", "rows/discounted", "nodes/predecessors")
_NAMES = ("row_start", "target", "count", "moved", "energy", "origin")
_DTYPES = ("<i4", "<i8", "<f4")
_FAULTS = (OSError, ValueError, KeyError, TypeError, RecursionError, AttributeError)
"""What a file that is missing, incomplete, damaged or foreign may raise."""


@dataclass(frozen=True, slots=True)
class IndexFile:
    """The arrays of one index, mapped.

    Attributes
    ----------
    row_start, target, count, moved
        As those of `EdgeIndex`.
    energy
        float32 [slots], of `ops.origins`; None: all come from the hash.
    origin
        int32 [slots, 2], of a graph that was edited; None: the graph was not.
    """

    row_start: Ints
    target: Ids
    count: Integers
    moved: Integers | None
    energy: Floats | None
    origin: Ids | None

    @classmethod
    def open(cls, folder: Path, *, nodes: int, slots: int) -> IndexFile:
        """The index in a folder, of a graph with these numbers of nodes and slots; its files and values are checked.

        Raises
        ------
        OSError, ValueError, KeyError, TypeError, RecursionError, AttributeError
            It is missing, incomplete or damaged.
        """
        found: dict[str, NDArray[Any] | None] = dict.fromkeys(_NAMES)
        for name, kind, shape, crc in _described(folder):
            if name not in _NAMES or kind not in _DTYPES or _crc(folder / name) != crc:
                raise ValueError(f"the checksum of {name} does not match")
            found[name] = _mapped(folder / name, kind, tuple(shape))
        index = cls(**found)  # type: ignore[arg-type]
        index._check(nodes, slots)
        return index

    def _check(self, nodes: int, slots: int) -> None:
        """Raises `ValueError` if a value is outside its range: the kernels rely on them."""
        edges, start = len(self.target), self.row_start
        if start.shape != (nodes + 1,) or start[0] != 0 or start[-1] != edges or (np.diff(start) < 0).any():
            raise ValueError("row_start is not where rows begin")
        if len(self.count) != edges or edges > slots or (self.moved is None and edges != slots):
            raise ValueError("the files are not of the same edges")
        if self.energy is not None and self.energy.shape != (slots,):
            raise ValueError("energy has not one value a slot")
        if self.origin is not None and (self.energy is None or self.origin.shape != (slots, 2)):
            raise ValueError("origin has not two keys a slot")
        for values, stop in ((self.target, nodes), (self.moved, slots)):
            if values is not None and edges and not 0 <= int(values.min()) <= int(values.max()) < stop:
                raise ValueError("a node or a slot does not exist")
        for block in blocks(edges):
            falls = block.start + 1 + np.flatnonzero(np.diff(self.target[block.start : block.stop + 1]) <= 0)
            if not np.isin(falls, start).all():
                raise ValueError("the targets of a row are not ascending")


def is_large(slots: int) -> bool:
    """Whether tables of a graph with this number of slots are in files instead of memory."""
    return slots >= MAPPED_SLOTS


def index_file(store: Store, settings: GraphSettings) -> IndexFile | None:
    """The index of the snapshot as files; made if it is missing.

    None: the graph is small, its chunks have no checksums (of an earlier release), or there is no room for the files.

    Raises
    ------
    StoreDamagedError
        An array of the store cannot be read.
    """
    if not is_large(store.slots):
        return None
    key = _key(store, settings)
    if key is None:
        return None
    path = store.path / FOLDER / key

    def read() -> IndexFile | None:
        with suppress(*_FAULTS):
            return IndexFile.open(path, nodes=settings["nodes"], slots=store.slots)
        return None

    def make(folder: Path) -> None:
        _Maker(store, settings, folder).make(key)
        _drop_old(path)

    try:
        return cached_folder(path, read, make)
    except OSError:  # no room, or no right to write
        return None


def damaged_indices(store: StoreReader) -> Iterator[Damage]:
    """Checks the files of all indices of a graph, and yields what is damaged.

    The index of the snapshot is made again beside it, and compared: its own checksums do not tell where it came from.
    """
    folder = store.path / FOLDER
    for found in sorted(folder.iterdir() if folder.is_dir() else ()):
        if not found.is_dir() or found.name.startswith(PARTIAL):
            continue
        try:
            files = _described(found)
            if any(_crc(found / name) != crc for name, _, _, crc in files):
                raise ValueError("a checksum does not match")
            settings = read_settings(store)
            if found.name == _key(store, settings):
                with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=folder) as again:
                    if _Maker(store, settings, Path(again)).make(found.name) != files:
                        raise ValueError("it is not that of the edges in the store")
        except _FAULTS as error:
            yield Damage("index", None, None, str(found), f"{error}; delete this folder: it is made again")


def _key(store: StoreReader, settings: GraphSettings) -> str | None:
    """A hash (hex) of all that the files are made from; None: it is not known."""
    found = store.content_hash([name for name in _MADE_FROM if store.has(name)])
    if found is None:
        return None
    initial = json.dumps(settings["initial"], sort_keys=True)
    return hashlib.sha256(f"{FORMAT} {found} {settings['nodes']} {initial}".encode()).hexdigest()[:32]


def _described(folder: Path) -> list[Any]:
    """Name, type, shape and CRC-32 of each file of an index."""
    meta = json.loads((folder / META).read_text(encoding="utf-8"))
    if folder.is_symlink() or meta["format"] != FORMAT or meta["key"] != folder.name or len(meta["files"]) < 3:
        raise ValueError(f"{META} does not describe these files")
    return list(meta["files"])


def _crc(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            crc = zlib.crc32(block, crc)
    return crc


def _drop_old(path: Path) -> None:
    """Deletes all indices but the newest ones, before one takes its place at ``path``.

    A process that has mapped one keeps what it has.
    """
    others = [
        each for each in path.parent.iterdir() if each.is_dir() and each != path and not each.name.startswith(PARTIAL)
    ]
    for old in sorted(others, key=lambda each: each.stat().st_mtime)[: -(KEPT - 1)]:
        shutil.rmtree(old, ignore_errors=True)


def _mapped(path: Path, kind: str, shape: tuple[int, ...], mode: Literal["r", "r+"] = "r") -> NDArray[Any]:
    if path.stat().st_size != math.prod(shape) * np.dtype(kind).itemsize:
        raise ValueError(f"{path.name} has another size than was written")
    return np.memmap(path, kind, mode, shape=shape) if math.prod(shape) else np.empty(shape, kind)


# ---- making it


class _Maker:
    """Writes the files of an index into a folder."""

    def __init__(self, store: StoreReader, settings: GraphSettings, folder: Path) -> None:
        self.store, self.settings, self.folder = store, settings, folder
        self.n = settings["nodes"]
        self.files: dict[str, NDArray[Any]] = {}

    def make(self, key: str) -> list[Any]:
        """Makes all files. Returns what `META` says of them."""
        index = self.sorted_edges()
        self.write_energies(index)
        files = []
        for name, values in self.files.items():
            if isinstance(values, np.memmap):
                values.flush()
            files.append([name, values.dtype.str, list(values.shape), _crc(self.folder / name)])
        meta = {"format": FORMAT, "key": key, "files": files}
        (self.folder / META).write_text(json.dumps(meta), encoding="utf-8")
        return files

    def create(self, name: str, kind: str, *shape: int) -> NDArray[Any]:
        """A file of zeros as an array. Its space is taken now: a write to a map cannot report a full disk."""
        with (self.folder / name).open("wb") as file:
            size = math.prod(shape) * np.dtype(kind).itemsize
            if size and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
        self.files[name] = _mapped(self.folder / name, kind, shape, "r+")
        return self.files[name]

    def sorted_edges(self) -> EdgeIndex:
        """The edges of the store, sorted."""
        store = self.store
        found = sorted_edges(self.n, store.slots, lambda name, block: store.read_rows(name, block), self.create)
        if found.moved is None:
            del self.files["moved"]
            (self.folder / "moved").unlink()
        return found

    def write_energies(self, index: EdgeIndex) -> None:
        """The energies by slot: those of the store, or from the counts; and the origins that the store has."""
        store = self.store
        if store.has(ENERGY):
            energy, origin = self.create("energy", "<f4", store.slots), self.create("origin", "<i4", store.slots, 2)
            for block in blocks(store.slots):
                energy[block] = store.read_rows(ENERGY, block)
                origin[block] = store.read_rows(ORIGIN, block)
        elif self.settings["initial"]["method"] == "counts":
            energy, counts = self.create("energy", "<f4", store.slots), read_counts(store, self.settings)
            for rows in index.row_blocks():
                energy[index.slots(index.places_of(rows))] = energies_of_rows(index, counts, rows)
