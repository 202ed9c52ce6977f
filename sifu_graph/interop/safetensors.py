"""Export to and import from one `.safetensors` file: every array under its name in the store, settings as metadata.

The format (https://github.com/huggingface/safetensors): 8 bytes with the length of a JSON header, the header (name ->
dtype, shape, place of the data), the data. Here it is written and read as a stream, because the library's writer needs
all tensors in memory; a test reads the file with the library. The file has the parameters, the index, the nodes and the
settings; it does not have the optimizer's state and the history.
"""

from __future__ import annotations

import json
import math
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from sifu_store.consistency import inconsistencies
from sifu_store.durable import format_bytes, require_free_bytes
from sifu_store.errors import ForeignFileError
from sifu_store.layout import (
    ARRAYS,
    BASE,
    BASE_VERSION,
    CLONE_PARENT,
    CLONES,
    EDITED_VERSION,
    ENERGY,
    FORMAT_VERSION,
    OPTIONAL,
    ORIGIN,
    PAGE_EDGES,
    REPEAT_VERSION,
    REPETITION,
    SOURCE,
    STORED,
    TARGET,
    ArraySpec,
    Sizes,
)
from sifu_store.store import Store

from sifu_graph.arguments import checked
from sifu_graph.input_file import HEAD_BYTES, MOST_JSON_BYTES, kind_of, open_regular
from sifu_graph.settings import GraphSettings
from sifu_graph.settings import checked as checked_settings
from sifu_graph.soundness import faults, not_finite

if TYPE_CHECKING:
    from sifu_graph.session import GraphSession

DTYPES = {"uint8": "U8", "int32": "I32", "int64": "I64", "float32": "F32", "float64": "F64"}
RUN_PAGES = 32  # read and written in one piece
SETTINGS = "sifu_settings"
BY_SLOT = (ORIGIN, ENERGY)
"""Optional arrays [slots, ...], of which a graph with a base has one row for each private edge."""


EVERY_SPEC = (*ARRAYS, *OPTIONAL, *BASE, *REPETITION, *CLONES)
_Size = Annotated[int, msgspec.Meta(ge=0, lt=2**62)]


def copied(settings: GraphSettings) -> tuple[ArraySpec, ...]:
    """The arrays in the file: without the one that says which pages are stored, for it has the values of all pages."""
    always = tuple(spec for spec in ARRAYS if spec.name != STORED)
    base = (*OPTIONAL, *BASE) if settings["signal"].get("base") else ()
    repetition = REPETITION if settings["format_version"] >= REPEAT_VERSION and base else ()
    return (*always, *base, *repetition, *(CLONES if "pair_discounts" in settings["initial"] else ()))


def write_safetensors(graph: GraphSession, path: Path, *, on_bytes: Callable[[int, int], None] | None = None) -> None:
    """Writes a graph to `path`. Edges are sorted by (u, v); slots are not written.

    ``on_bytes`` is called with (bytes written, bytes in all).
    """
    index, store = graph.parameters.index, graph.store
    small: dict[str, NDArray[Any]] = {
        "edges/source": graph.parameters.index.sources().astype(np.int32),
        "edges/target": index.target,
        "edges/count": index.count,
    }
    specs = {spec.name: spec for spec in copied(graph.settings)}
    small |= {name: _of_store(store, spec) for name, spec in specs.items() if not spec.paged and name not in small}
    small |= {name: small[name][index.slot] for name in BY_SLOT if name in small}
    d = graph.parameters.width
    shapes = {name: values.shape for name, values in small.items()}
    shapes |= {"edges/weight": (index.edges, d, d), "edges/bias": (index.edges, d)}
    header: dict[str, Any] = {
        "__metadata__": {
            "format": "pt",
            "written_by": graph.settings["created_by"],
            "format_version": str(graph.settings["format_version"]),
            SETTINGS: json.dumps(graph.settings, ensure_ascii=False),
        }
    }
    end = 0
    # widest elements first: then every array is aligned
    order = sorted(shapes, key=lambda name: (-np.dtype(specs[name].dtype).itemsize, name))
    for name in order:
        begin, end = end, end + math.prod(shapes[name]) * np.dtype(specs[name].dtype).itemsize
        header[name] = {"dtype": DTYPES[specs[name].dtype], "shape": shapes[name], "data_offsets": [begin, end]}
    require_free_bytes(path.parent, end, f"writing {path.name}")
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    done = 0
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            pieces = [small[name]] if name in small else graph.edge_reader().blocks(name, graph.parameters.index)
            for piece in pieces:
                done += file.write(np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data)
                if on_bytes is not None:
                    on_bytes(done, end)


def _of_store(store: Store, spec: ArraySpec) -> NDArray[Any]:
    """An array, or an empty one if the store lacks an optional one."""
    if store.has(spec.name):
        return store.read(spec.name)
    return np.zeros([size or 0 for size in spec.shape(Sizes(n=0, d=0, slots=0))], spec.dtype)


@dataclass(frozen=True, slots=True)
class _Entry:
    shape: tuple[int, ...]
    begin: int


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
    on_bytes: Callable[[int, int], None] | None = None,
) -> SafetensorsReport:
    """Makes a graph from a file of `write_safetensors`.

    Parameters
    ----------
    file
        The `.safetensors` file.
    path
        The path of the new store, which appears there when it is complete.
    force
        Replace a store at ``path``.
    on_bytes
        Called with (bytes read, bytes in all).

    Raises
    ------
    ForeignFileError
        The file is incomplete, not of `write_safetensors`, or no sound graph; nothing was written.
    StoreExistsError, StoreLockedError, DiskFullError
    """
    started = time.perf_counter()
    given = Path(file)
    try:
        opened = open_regular(given)
    except OSError as error:
        raise ForeignFileError(f"{given}: {error.strerror or error}") from error
    with opened:
        entries, settings, size_bytes = _header(opened, given)
        specs = copied(settings)
        small = _small_arrays(opened, entries, specs, settings, given)
        edges = entries[SOURCE].shape[0]
        require_free_bytes(Path(path).resolve().parent, size_bytes, "the graph")
        done = sum(values.nbytes for values in small.values())
        with Store.create(path, force=force) as store:
            for name, values in small.items():
                store.write(name, values)
            for spec in specs:
                if not spec.paged:
                    continue
                store.create_paged(spec.name, entries[spec.name].shape[1:], spec.dtype)
                for first, values in _pieces(opened, entries[spec.name], spec, given):
                    if (fault := not_finite(spec.name, values)) is not None:
                        raise ForeignFileError(f"{given}: {spec.name}, from edge {first * PAGE_EDGES:,} on: {fault}")
                    store.write_pages(spec.name, first, values)
                    done += values.nbytes
                    if on_bytes is not None:
                        on_bytes(done, size_bytes)
            n = entries["nodes/count"].shape[0]
            store.write(STORED, np.ones(store.pages, np.uint8))
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
    size_bytes = path.stat().st_size
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
    specs = copied(settings)
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
        begin, end = place.data_offsets
        fits = len(place.shape) == len(wanted)
        if (
            place.dtype != DTYPES[spec.dtype]
            or not fits
            or any(w not in (None, s) for s, w in zip(place.shape, wanted, strict=True))
        ):
            raise ForeignFileError(
                f"{path}: {spec.name} is {place.dtype} {place.shape}; expected {DTYPES[spec.dtype]} {list(wanted)}"
            )
        expected = math.prod(place.shape) * np.dtype(spec.dtype).itemsize
        if end - begin != expected:
            raise ForeignFileError(
                f"{path}: {spec.name} has {end - begin:,} bytes; its shape {place.shape} needs {expected:,}"
            )
        if 8 + length + end > size_bytes:
            raise ForeignFileError(
                f"{path}: ends too early, at {size_bytes:,} bytes, within {spec.name}: copy it again"
            )
        total += expected
    _check_overlap({spec.name: places[spec.name] for spec in specs}, path)
    entries = {
        spec.name: _Entry(tuple(places[spec.name].shape), 8 + length + places[spec.name].data_offsets[0])
        for spec in specs
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
        ((_, values),) = _pieces(file, entries[spec.name], spec, path)
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


def _pieces(file: IO[bytes], entry: _Entry, spec: ArraySpec, path: Path) -> Iterator[tuple[int, NDArray[Any]]]:
    """(first page, values): runs of pages of a paged array; another array as a whole."""
    rows = entry.shape[0]
    step = RUN_PAGES * PAGE_EDGES if spec.paged else max(1, rows)
    file.seek(entry.begin)
    for begin in range(0, rows if spec.paged else max(1, rows), step):
        values = np.empty((min(begin + step, rows) - begin, *entry.shape[1:]), spec.dtype)
        if values.nbytes and file.readinto(values.reshape(-1).view(np.uint8).data) != values.nbytes:  # type: ignore[attr-defined]
            raise ForeignFileError(f"{path}: ends within {spec.name}")
        yield begin // PAGE_EDGES, values
