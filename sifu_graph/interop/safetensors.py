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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sifu_store.durable import require_free_bytes
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
    ArraySpec,
    Sizes,
)
from sifu_store.store import Store

from sifu_graph.settings import GraphSettings

if TYPE_CHECKING:
    from sifu_graph.session import GraphSession

DTYPES = {"uint8": "U8", "int32": "I32", "int64": "I64", "float32": "F32", "float64": "F64"}
MOST_HEADER = 1 << 24
RUN_PAGES = 32  # read and written in one piece
SETTINGS = "sifu_settings"
BY_SLOT = (ORIGIN, ENERGY)
"""Optional arrays [slots, ...], of which a graph with a base has one row for each private edge."""


def copied(settings: dict[str, Any] | GraphSettings) -> tuple[ArraySpec, ...]:
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
        The file is incomplete, or not of `write_safetensors`; nothing was written.
    StoreExistsError, StoreLockedError, DiskFullError
    """
    started = time.perf_counter()
    given = Path(file)
    try:
        opened = given.open("rb")
    except OSError as error:
        raise ForeignFileError(f"{given}: {error.strerror or error}") from error
    with opened:
        entries, settings, size_bytes = _header(opened, given)
        edges = entries["edges/source"].shape[0]
        require_free_bytes(Path(path).resolve().parent, size_bytes, "the graph")
        done = 0
        with Store.create(path, force=force) as store:
            for spec in sorted(copied(settings), key=lambda spec: spec.paged):
                if spec.paged:
                    store.create_paged(spec.name, entries[spec.name].shape[1:], spec.dtype)
                for first, values in _pieces(opened, entries[spec.name], spec, given):
                    if not spec.paged:
                        _check(spec, values, entries, given)
                        store.write(spec.name, values)
                    else:
                        store.write_pages(spec.name, first, values)
                    done += values.nbytes
                    if on_bytes is not None:
                        on_bytes(done, size_bytes)
            n = entries["nodes/count"].shape[0]
            keys = store.read("edges/source").astype(np.int64) * n + store.read("edges/target")
            if (np.diff(keys) <= 0).any():
                raise ForeignFileError(f"{given}: its edges are not sorted by (u, v), each once")
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


def _header(file: IO[bytes], path: Path) -> tuple[dict[str, _Entry], dict[str, Any], int]:
    """The places of the arrays, the settings, and the bytes of all arrays, each checked against the file."""
    size_bytes = path.stat().st_size
    try:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(MOST_HEADER + (size_bytes >> 4), size_bytes - 8):
            raise ValueError(f"its header would have {length:,} bytes")
        header = json.loads(file.read(length).decode("utf-8"))
        metadata = header.pop("__metadata__", {})
        places = {
            name: (entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"]) for name, entry in header.items()
        }
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ForeignFileError(f"{path}: not a safetensors file, or incomplete ({error})") from error
    if SETTINGS not in metadata:
        raise ForeignFileError(
            f"{path}: not a graph of sifu (its settings missing); expected a safetensors file of `export()`"
        )
    try:
        settings = json.loads(metadata[SETTINGS])
        version = int(settings["format_version"])
        sizes = Sizes(
            n=int(settings["nodes"]),
            d=int(settings["width"]),
            slots=places[SOURCE][1][0],
            clones=places[CLONE_PARENT][1][0] if CLONE_PARENT in places else 0,
        )
        settings["build"], settings["initial"], settings["training"]
        specs = copied(settings)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ForeignFileError(f"{path}: its settings cannot be read ({error!r})") from error
    if version > FORMAT_VERSION:
        raise ForeignFileError(f"{path}: format {version}, written by a newer release; this one reads {FORMAT_VERSION}")
    missing = [spec.name for spec in specs if spec.name not in places]
    if missing:
        raise ForeignFileError(
            f"{path}: not a graph of sifu ({', '.join(missing[:3])} missing); expected a safetensors file of `export()`"
        )
    total = 0
    for spec in specs:
        dtype, shape, begin, end = places[spec.name]
        wanted = spec.shape(sizes)
        fits = len(shape) == len(wanted) and all(w in (None, s) for s, w in zip(shape, wanted, strict=True))
        if dtype != DTYPES[spec.dtype] or not fits:
            raise ForeignFileError(
                f"{path}: {spec.name} is {dtype} {list(shape)}; expected {spec.dtype} {list(wanted)}"
            )
        expected = math.prod(shape) * np.dtype(spec.dtype).itemsize
        if end - begin != expected or begin < 0 or 8 + length + end > size_bytes:
            raise ForeignFileError(
                f"{path}: ends too early, at {size_bytes:,} bytes, within {spec.name}: copy it again"
            )
        total += expected
    entries = {spec.name: _Entry(places[spec.name][1], 8 + length + places[spec.name][2]) for spec in specs}
    return entries, settings, total


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


def _check(spec: ArraySpec, values: NDArray[Any], entries: dict[str, _Entry], path: Path) -> None:
    """Raise `ForeignFileError` if an array of the index or a JSON array is not valid."""
    n = entries["nodes/count"].shape[0]
    if spec.name in ("edges/source", "edges/target") and len(values) and not (values.min() >= 0 and values.max() < n):
        raise ForeignFileError(f"{path}: {spec.name} names nodes beyond 0 to {n - 1}")
    if spec.json:
        try:
            json.loads(values.tobytes().decode("utf-8"))
        except ValueError as error:
            raise ForeignFileError(f"{path}: {spec.name} is not JSON ({error})") from error
