"""Export to one `.safetensors` file, which `safetensors` describes and reads.

It is written as a stream, because the writer of the safetensors library needs all tensors in memory; a test reads the
file with the library.
"""

from __future__ import annotations

import json
import lzma
import math
import struct
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from sifu_store.durable import require_free_bytes
from sifu_store.errors import OptionError
from sifu_store.layout import (
    BIAS,
    CLONE_ENERGY,
    COUNT,
    ENERGY,
    ORIGIN,
    PAGE_EDGES,
    SOURCE,
    STORED,
    TARGET,
    WEIGHT,
    ArraySpec,
    Sizes,
    page_count,
)
from sifu_store.store import Store

from sifu_graph.arrays import Bools
from sifu_graph.interop.safetensors import DTYPES, SETTINGS, copied
from sifu_graph.model.edge_reader import blocks
from sifu_graph.progress import SILENT, Stages
from sifu_graph.settings import BuildSettings, GraphSettings

if TYPE_CHECKING:
    from sifu_graph.session import GraphSession

BY_SLOT = (ORIGIN, ENERGY)
"""Optional arrays [slots, ...], of which the file has one row for each private edge."""
EXACT = (ENERGY, CLONE_ENERGY)
"""Arrays that keep 32 bits in a file of 16: few edits set them, and they can be NaN or infinite."""
FILES = ("name", "checkpoint", "file", "vocab", "frequency", "tokenizer")
"""Settings of a build that name files."""
XZ_PRESET = 1  # measured on an English graph: preset 6 takes five times as long for a file that is 4 % smaller


def write_safetensors(
    graph: GraphSession,
    path: Path,
    *,
    slim: bool = False,
    half: bool = False,
    stages: Stages = SILENT,
) -> None:
    """Writes a graph to `path`. Edges are sorted by (u, v); slots are not written.

    ``slim``: compressed with xz, without edges that were never trained, and with the names of the text's files instead
    of their paths. ``half``: trained parameters in 16 bits.
    """
    index, store = graph.parameters.index, graph.store
    trained_only = slim or graph.signal.base
    specs = {spec.name: spec for spec in copied(graph.settings, trained_only=trained_only)}
    pages = _trained(graph) if trained_only else np.ones(page_count(index.edges), bool)
    small: dict[str, NDArray[Any]] = {
        SOURCE: index.sources().astype(np.int32),
        TARGET: index.target,
        COUNT: index.count.astype(np.int64, copy=False),
        STORED: pages.astype(np.uint8),
    }
    small |= {name: _of_store(store, spec) for name, spec in specs.items() if not spec.paged and name not in small}
    small |= {name: small[name][index.slots()] for name in BY_SLOT if name in small}
    small = {name: _halved(name, values) if half else values for name, values in small.items() if name in specs}
    slots = index.slots(np.flatnonzero(np.repeat(pages, PAGE_EDGES)[: index.edges]))
    d = graph.parameters.width
    shapes = {name: (values.shape, values.dtype) for name, values in small.items()}
    paged = np.dtype(np.float16 if half else np.float32)
    shapes |= {WEIGHT: ((len(slots), d, d), paged), BIAS: ((len(slots), d), paged)}
    header: dict[str, Any] = {"__metadata__": _metadata(graph.settings, slim=slim)}
    end = 0
    # widest elements first: then every array is aligned
    order = sorted(shapes, key=lambda name: (-shapes[name][1].itemsize, name))
    for name in order:
        shape, dtype = shapes[name]
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": DTYPES[dtype.name], "shape": shape, "data_offsets": [begin, end]}
    if not slim:
        require_free_bytes(path.parent, end, f"writing {path.name}")
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    stage, reader = stages.stage("writing arrays", end, "bytes"), graph._edge_reader()
    with lzma.open(path, "wb", preset=XZ_PRESET) if slim else path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            pieces = [small[name]] if name in small else (reader.read(name, slots[at]) for at in blocks(len(slots)))
            for piece in pieces:
                values = _halved(name, piece, always=True) if half and name not in small else piece
                stage.advance(file.write(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data))


def _trained(graph: GraphSession) -> Bools:
    """The pages of the edges sorted by (u, v) with an edge of a page that was trained, bool [pages]."""
    slot = graph.parameters.index.slots()
    trained = graph.store.page_stored()[slot // PAGE_EDGES]
    if not len(slot):
        return np.zeros(0, bool)
    return np.logical_or.reduceat(trained, np.arange(0, len(slot), PAGE_EDGES))


def _halved(name: str, values: NDArray[Any], *, always: bool = False) -> NDArray[Any]:
    """Values of float32 in 16 bits; unchanged if they are of another type or too large for it."""
    if values.dtype != np.float32 or name in EXACT:
        return values
    most = float(np.finfo(np.float16).max)
    if np.abs(values).max(initial=0) > most:
        if not always:
            return values
        raise OptionError(f"{name} has values above {most:,.0f}, which 16 bits do not hold: write 32 bits")
    return values.astype(np.float16)


def _metadata(settings: GraphSettings, *, slim: bool) -> dict[str, str]:
    """The metadata of the header. A slim file names files of the text without their folders."""
    if slim:
        settings = {**settings, "build": cast(BuildSettings, _named_only(settings["build"]))}
    return {
        "format": "pt",
        "written_by": settings["created_by"],
        "format_version": str(settings["format_version"]),
        SETTINGS: json.dumps(settings, ensure_ascii=False),
    }


def _of_store(store: Store, spec: ArraySpec) -> NDArray[Any]:
    """An array, or an empty one if the store lacks an optional one."""
    if store.has(spec.name):
        return store.read(spec.name)
    return np.zeros([size or 0 for size in spec.shape(Sizes(n=0, d=0, slots=0))], spec.dtype)


def _named_only(value: Any) -> Any:
    """A JSON value in which each path of a file is the name of the file."""
    if isinstance(value, dict):
        return {
            key: PurePath(item).name if key in FILES and isinstance(item, str) else _named_only(item)
            for key, item in value.items()
        }
    return [_named_only(item) for item in value] if isinstance(value, list) else value
