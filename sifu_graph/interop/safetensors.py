"""Import from one `.safetensors` file: every array under its name in the store, settings as metadata.

The format (https://github.com/huggingface/safetensors): 8 bytes with the length of a JSON header, the header (name ->
dtype, shape, place of the data), the data. `safetensors_export` writes the file, which has the parameters, the index,
the nodes and the settings; it does not have the optimizer's state, the history, or the text.

Of a graph whose edges share a base, and in a slim file, the matrices and biases of edges that were never trained are
left out: `edges/weight` and `edges/bias` have only the rows of the pages that `pages/stored` marks, pages of the edges
sorted by (u, v). The others are generated again, from the counts and from `edges/origin` and `edges/energy`. A slim
file is compressed with xz.
"""

from __future__ import annotations

import lzma
import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from sifu_store.consistency import inconsistencies
from sifu_store.durable import disk_errors, format_bytes, require_free_bytes, resolved
from sifu_store.errors import ForeignFileError
from sifu_store.layout import (
    ARRAYS,
    BASE,
    BASE_VERSION,
    CLONE_PARENT,
    CLONES,
    EDITED_VERSION,
    FORMAT_VERSION,
    OPTIONAL,
    PAGE_EDGES,
    REPEAT_VERSION,
    REPETITION,
    SOURCE,
    STORED,
    TARGET,
    ArraySpec,
    Sizes,
    page_count,
)
from sifu_store.short_repr import short_repr
from sifu_store.store import Store

from sifu_graph.arguments import checked
from sifu_graph.arrays import Bools, runs
from sifu_graph.input_file import HEAD_BYTES, MOST_JSON_BYTES, kind_of, open_regular
from sifu_graph.progress import ProgressOption
from sifu_graph.progress_bar import reporting
from sifu_graph.settings import GraphSettings
from sifu_graph.settings import checked as checked_settings
from sifu_graph.soundness import faults, not_finite

if TYPE_CHECKING:
    pass

DTYPES = {"uint8": "U8", "int32": "I32", "int64": "I64", "float32": "F32", "float64": "F64", "float16": "F16"}
NUMPY = {name: dtype for dtype, name in DTYPES.items()}
XZ_MAGIC = b"\xfd7zXZ\0"
MOST_GROWTH = 200
"""Greatest size of an unpacked file, in multiples of the packed one; graphs have 5 to 10."""
RUN_PAGES = 32  # read and written in one piece
SETTINGS = "sifu_settings"


EVERY_SPEC = (*ARRAYS, *OPTIONAL, *BASE, *REPETITION, *CLONES)
_Size = Annotated[int, msgspec.Meta(ge=0, lt=2**62)]


def copied(settings: GraphSettings, *, trained_only: bool) -> tuple[ArraySpec, ...]:
    """The arrays in the file.

    ``trained_only``: pages that were never trained are left out; then the array that says which, and what they are
    generated from, are in it.
    """
    always = tuple(spec for spec in ARRAYS if trained_only or spec.name != STORED)
    base = BASE if settings["signal"].get("base") else ()
    optional = OPTIONAL if base or (trained_only and "keys" in settings["initial"]) else ()
    repetition = REPETITION if settings["format_version"] >= REPEAT_VERSION and base else ()
    return (*always, *optional, *base, *repetition, *(CLONES if "pair_discounts" in settings["initial"] else ()))


@dataclass(frozen=True, slots=True)
class _Entry:
    shape: tuple[int, ...]
    begin: int
    dtype: str  # NumPy name of the type in the file


@short_repr
@dataclass(frozen=True, slots=True)
class SafetensorsReport:
    """The result of an import."""

    path: str
    nodes: int
    width: int
    private_edges: int
    read_bytes: int
    store_bytes: int
    seconds: float
    snapshot: str


@checked
def import_safetensors(
    file: str | Path,
    path: str | Path = "graph.sifu",
    *,
    force: bool = False,
    command: str = "import",
    progress: ProgressOption = None,
) -> SafetensorsReport:
    """Makes a graph from a file of `write_safetensors`, slim or not.

    Parameters
    ----------
    file
        The `.safetensors` file.
    path
        The path of the new store, which appears there when it is complete.
    force
        Replace a store at ``path``.
    command
        What the history records as the command.
    progress
        How far it is: a callback, called with a `ProgressReport` ten times a second at most. None: a bar, where a
        person looks (in a terminal or a notebook). True: elsewhere lines on stderr, too. False: nothing.

    Returns
    -------
    SafetensorsReport
        Numbers of nodes and edges, and the bytes of the store.

    Raises
    ------
    ForeignFileError
        The file is incomplete, not of `write_safetensors`, or no sound graph; nothing was written.
    StoreExistsError, StoreLockedError, DiskFullError

    Examples
    --------
    >>> import_safetensors("graph.safetensors", "copy.sifu")                    # doctest: +SKIP
    """
    started = time.perf_counter()
    given = Path(file)
    with _opened(given, resolved(path).parent) as opened:
        entries, settings, size_bytes = _header(opened, given)
        specs = copied(settings, trained_only=STORED in entries)
        small = _small_arrays(opened, entries, specs, settings, given)
        edges = entries[SOURCE].shape[0]
        pages = small.pop(STORED, np.ones(page_count(edges), np.uint8)).astype(bool)
        require_free_bytes(resolved(path).parent, size_bytes, "the graph")
        with Store.create(path, force=force) as store, reporting(progress) as stages:
            stage = stages.stage("reading arrays", size_bytes, "bytes")
            stage.at(sum(values.nbytes for values in small.values()))
            for name, values in small.items():
                store.write(name, values)
            for spec in specs:
                if not spec.paged:
                    continue
                store.create_paged(spec.name, entries[spec.name].shape[1:], spec.dtype)
                for first, values in _paged(opened, entries[spec.name], spec, pages, edges, given):
                    if (fault := not_finite(spec.name, values)) is not None:
                        raise ForeignFileError(f"{given}: {spec.name}, from edge {first * PAGE_EDGES:,} on: {fault}")
                    store.write_pages(spec.name, first, values)
                    stage.advance(values.nbytes)
            n = entries["nodes/count"].shape[0]
            store.write(STORED, pages.astype(np.uint8))
            imported = {"from": "safetensors", "file": given.name, "training": settings["training"]}
            build = {**settings["build"], "imported": imported}
            version = EDITED_VERSION
            if settings["signal"].get("base"):
                version = max(BASE_VERSION, int(settings["format_version"]))
            store.require_version(version)
            store.set_settings({**settings, "training": None, "format_version": version, "build": build})
            snapshot = store.commit(
                f"import: {n:,} nodes, {edges:,} private edges from {given.name}",
                command=command,
                changes={"nodes": n, "private_edges": edges},
            )
            return SafetensorsReport(
                path=str(path),
                nodes=n,
                width=entries["default/bias"].shape[0],
                private_edges=edges,
                read_bytes=size_bytes,
                store_bytes=store.size_bytes(),
                seconds=time.perf_counter() - started,
                snapshot=snapshot,
            )


@contextmanager
def _opened(given: Path, folder: Path) -> Iterator[IO[bytes]]:
    """The file, open for reading; a slim one is unpacked into a temporary file in a folder.

    Raises
    ------
    ForeignFileError
        It cannot be opened, or it is packed and damaged.
    """
    try:
        opened = open_regular(given)
    except OSError as error:
        raise ForeignFileError(f"{given}: {error.strerror or error}") from error
    with opened:
        packed = opened.read(len(XZ_MAGIC)) == XZ_MAGIC
        opened.seek(0)
        if not packed:
            yield opened
            return
        with tempfile.TemporaryFile(dir=folder) as unpacked:
            with disk_errors(folder, f"unpacking {given.name}"):
                _unpack(opened, unpacked, given, folder)
            unpacked.seek(0)
            yield unpacked


def _unpack(packed: IO[bytes], unpacked: IO[bytes], given: Path, folder: Path) -> None:
    """Copy what an xz file holds."""
    most_bytes = MOST_JSON_BYTES + MOST_GROWTH * os.fstat(packed.fileno()).st_size
    done = 0
    try:
        with lzma.open(packed) as stream:
            while piece := stream.read(1 << 20):
                if (done := done + len(piece)) > most_bytes:
                    raise ForeignFileError(
                        f"{given}: more than {format_bytes(most_bytes)} unpacked: not a graph of sifu"
                    )
                require_free_bytes(folder, len(piece), f"unpacking {given.name}")
                unpacked.write(piece)
    except (lzma.LZMAError, EOFError) as error:
        raise ForeignFileError(f"{given}: damaged or incomplete ({error}): copy it again") from error


class _Place(msgspec.Struct):
    """What the header of a file says of one array."""

    dtype: str
    shape: Annotated[list[_Size], msgspec.Meta(max_length=8)]
    data_offsets: tuple[_Size, _Size]


class _Metadata(msgspec.Struct):
    """The metadata of a file; other keys are skipped."""

    sifu_settings: str | None = None


def _header(file: IO[bytes], path: Path) -> tuple[dict[str, _Entry], GraphSettings, int]:
    """The places of the arrays, the settings, and the bytes of all arrays, each checked against the file."""
    size_bytes = os.fstat(file.fileno()).st_size
    head = file.read(8)
    length = int.from_bytes(head, "little")
    most_bytes = MOST_JSON_BYTES + size_bytes // 32
    if len(head) < 8 or length > min(most_bytes, size_bytes - 8):
        kind = kind_of(head + file.read(HEAD_BYTES - 8))
        found = f"its header would have {length:,} bytes" if kind in (None, "a safetensors file") else f"it is {kind}"
        raise ForeignFileError(f"{path}: not a safetensors file, or incomplete ({found})")
    places, text = _places(file.read(length), path)
    if text is None:
        raise ForeignFileError(
            f"{path}: not a graph of sifu (its settings missing); expected a safetensors file of `export()`"
        )
    settings = _settings(text, path)
    trained_only = STORED in places
    specs = copied(settings, trained_only=trained_only)
    missing = [spec.name for spec in specs if spec.name not in places]
    if missing:
        raise ForeignFileError(
            f"{path}: not a graph of sifu ({', '.join(missing[:3])} missing); expected a safetensors file of `export()`"
        )
    clones = places[CLONE_PARENT].shape if CLONE_PARENT in places else [0]
    slots = places[SOURCE].shape
    sizes = Sizes(
        n=settings["nodes"], d=settings["width"], slots=slots[0] if slots else 0, clones=clones[0] if clones else 0
    )
    total = 0
    for spec in specs:
        place, wanted = places[spec.name], spec.shape(sizes)
        if spec.paged and trained_only:
            wanted = (None, *wanted[1:])  # checked when the pages are known
        dtypes = [DTYPES[spec.dtype], *(["F16"] if spec.dtype == "float32" else [])]
        begin, end = place.data_offsets
        fits = len(place.shape) == len(wanted)
        if (
            place.dtype not in dtypes
            or not fits
            or any(w not in (None, s) for s, w in zip(place.shape, wanted, strict=True))
        ):
            raise ForeignFileError(
                f"{path}: {spec.name} is {place.dtype} {place.shape}; expected {DTYPES[spec.dtype]} {list(wanted)}"
            )
        expected = math.prod(place.shape) * np.dtype(NUMPY[place.dtype]).itemsize
        if end - begin != expected:
            raise ForeignFileError(
                f"{path}: {spec.name} has {end - begin:,} bytes; expected {expected:,} for its shape {place.shape}"
            )
        if 8 + length + end > size_bytes:
            raise ForeignFileError(
                f"{path}: ends too early, at {size_bytes:,} bytes, within {spec.name}: copy it again"
            )
        total += expected
    _check_overlap({spec.name: places[spec.name] for spec in specs}, path)
    entries = {
        spec.name: _Entry(tuple(place.shape), 8 + length + place.data_offsets[0], NUMPY[place.dtype])
        for spec in specs
        for place in [places[spec.name]]
    }
    return entries, settings, total


def _places(header: bytes, path: Path) -> tuple[dict[str, _Place], str | None]:
    """The places of the arrays that a graph can have, by name, and the text of the settings.

    Other members are skipped: a header with millions of names takes no memory.
    """
    names = [spec.name for spec in EVERY_SPEC]
    fields: list[tuple[str, Any, Any]] = [(f"array_{at}", _Place | None, None) for at in range(len(names))]
    schema = msgspec.defstruct(
        "Header",
        [*fields, ("metadata", _Metadata | None, None)],
        rename={**{f"array_{at}": name for at, name in enumerate(names)}, "metadata": "__metadata__"},
    )
    try:
        found = msgspec.json.decode(header, type=schema)
    except (ValueError, RecursionError) as error:
        raise ForeignFileError(f"{path}: not a safetensors file, or incomplete (its header: {error})") from error
    values = msgspec.structs.asdict(found)
    metadata = values.pop("metadata")
    places = {names[int(field.removeprefix("array_"))]: place for field, place in values.items() if place is not None}
    return places, None if metadata is None else metadata.sifu_settings


def _settings(text: str, path: Path) -> GraphSettings:
    """The settings in a file, complete and possible."""
    try:
        settings = msgspec.json.decode(text, type=dict[str, Any])
        version = settings.get("format_version")
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise ForeignFileError(
                f"{path}: format {version}, written by a newer release; this one reads {FORMAT_VERSION}"
            )
        return checked_settings(settings)
    except (ValueError, RecursionError) as error:
        raise ForeignFileError(f"{path}: its settings cannot be read ({error})") from error


def _check_overlap(places: Mapping[str, _Place], path: Path) -> None:
    """Raise `ForeignFileError` if two arrays have bytes in common."""
    before, end = "", 0
    for name, place in sorted(places.items(), key=lambda item: item[1].data_offsets):
        if place.data_offsets[0] < end:
            raise ForeignFileError(f"{path}: {before} and {name} overlap: copy it again")
        before, end = name, max(end, place.data_offsets[1])


def _small_arrays(
    file: IO[bytes], entries: Mapping[str, _Entry], specs: Sequence[ArraySpec], settings: GraphSettings, path: Path
) -> dict[str, NDArray[Any]]:
    """The arrays that are not paged, by name: finite, consistent, and those of a graph."""
    small: dict[str, NDArray[Any]] = {}
    for spec in specs:
        if spec.paged:
            continue
        most_bytes = MOST_JSON_BYTES + 64 * settings["nodes"]
        if spec.json and entries[spec.name].shape[0] > most_bytes:
            raise ForeignFileError(
                f"{path}: {spec.name} has {format_bytes(entries[spec.name].shape[0])}; expected at most "
                f"{format_bytes(most_bytes)} for {settings['nodes']:,} nodes"
            )
        file.seek(entries[spec.name].begin)
        values = _read(file, entries[spec.name], spec, entries[spec.name].shape[0], path)
        if (fault := not_finite(spec.name, values)) is not None:
            raise ForeignFileError(f"{path}: {spec.name}: {fault}")
        small[spec.name] = values
    keys = small[SOURCE].astype(np.int64) * settings["nodes"] + small[TARGET]
    found = [*inconsistencies(small)]
    if not found and (small[SOURCE].min(initial=0) < 0 or (np.diff(keys) <= 0).any()):
        found = [(SOURCE, "its edges are not sorted by (u, v), each once")]
    for name, fault in found or faults(small, settings):
        raise ForeignFileError(f"{path}: {name}: {fault}")
    return small


def _paged(
    file: IO[bytes], entry: _Entry, spec: ArraySpec, pages: Bools, edges: int, path: Path
) -> Iterator[tuple[int, NDArray[Any]]]:
    """(first page, values): runs of the pages, bool [pages], that the file has."""
    found = [(first, min(stop * PAGE_EDGES, edges)) for first, stop in runs(np.flatnonzero(pages), most=RUN_PAGES)]
    rows = sum(end - first * PAGE_EDGES for first, end in found)
    if rows != entry.shape[0]:
        raise ForeignFileError(f"{path}: {spec.name} has {entry.shape[0]:,} rows; expected {rows:,} by {STORED}")
    file.seek(entry.begin)
    for first, end in found:
        yield first, _read(file, entry, spec, end - first * PAGE_EDGES, path)


def _read(file: IO[bytes], entry: _Entry, spec: ArraySpec, rows: int, path: Path) -> NDArray[Any]:
    """The next rows of an array, [rows, ...], in the type of the store."""
    values = np.empty((rows, *entry.shape[1:]), entry.dtype)
    if values.nbytes and file.readinto(values.reshape(-1).view(np.uint8).data) != values.nbytes:  # type: ignore[attr-defined]
        raise ForeignFileError(f"{path}: ends within {spec.name}")
    return values.astype(spec.dtype, copy=False)
