"""What a store consists of, declared as data: the one source for the code and for `docs/format.md`.

Names, shapes, dtypes and chunking of the arrays. Knows no files and no zarr.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

FORMAT_VERSION = 2
"""The greatest version that is read. A store has version `FIRST_VERSION` until an edit writes what version 2 is for."""
FIRST_VERSION = 1
PAGE_EDGES = 512
"""Slots in one page: the unit of I/O and of caching, one Zarr chunk of every paged array."""

INDEX_CHUNK = 1 << 18
"""Elements in a chunk of an array that is not paged."""

STORED = "pages/stored"
SOURCE = "edges/source"
TARGET = "edges/target"
COUNT = "edges/count"
WEIGHT = "edges/weight"
BIAS = "edges/bias"
FREE_SLOT = -1

ENERGY = "edges/energy"
ORIGIN = "edges/origin"
FORBIDDEN = "edges/forbidden"
USAGE = "edges/usage"
"""How often training met the edge in each slot. Whoever moves edges without knowing of it makes it void."""
KEY = "nodes/key"


@dataclass(frozen=True, slots=True)
class Sizes:
    """The numbers that shapes are made of: nodes, width of the signal, slots."""

    n: int
    d: int
    slots: int

    @property
    def pages(self) -> int:
        return page_count(self.slots)


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """One array that a store MUST have.

    `shape` gives the shape for given sizes, with None for a length that is free. `json` marks UTF-8 JSON.
    Paged arrays are uncompressed, one chunk a page; the others are compressed. All have a checksum.
    """

    name: str
    dtype: str
    shape_text: str
    shape: Callable[[Sizes], tuple[int | None, ...]]
    meaning: str
    paged: bool = False
    json: bool = False


ARRAYS: tuple[ArraySpec, ...] = (
    ArraySpec("nodes/vocabulary", "uint8", "[*]", lambda s: (None,), "JSON list of node objects", json=True),
    ArraySpec("nodes/tokenizer", "uint8", "[*]", lambda s: (None,), "JSON object", json=True),
    ArraySpec("nodes/count", "int64", "[n]", lambda s: (s.n,), "occurrences of each node in the corpus"),
    ArraySpec("nodes/bias", "float32", "[n, d]", lambda s: (s.n, s.d), "node biases b_u"),
    ArraySpec(SOURCE, "int32", "[slots]", lambda s: (s.slots,), "u of the edge in the slot, -1 if free"),
    ArraySpec(TARGET, "int32", "[slots]", lambda s: (s.slots,), "v of the edge in the slot, -1 if free"),
    ArraySpec(COUNT, "int64", "[slots]", lambda s: (s.slots,), "occurrences of (u, v), 0 if free"),
    ArraySpec("rows/total", "int64", "[n]", lambda s: (s.n,), "transitions out of u, counted at build"),
    ArraySpec("nodes/predecessors", "int64", "[n]", lambda s: (s.n,), "distinct sources of v, counted at build"),
    ArraySpec("rows/discounted", "float64", "[n]", lambda s: (s.n,), "sum of the discounts of all pairs out of u"),
    ArraySpec("signal/scale", "float32", "[1]", lambda s: (1,), "what the energies are multiplied by"),
    ArraySpec("rows/distinct", "int64", "[n]", lambda s: (s.n,), "distinct targets of u, counted at build"),
    ArraySpec(STORED, "uint8", "[pages]", lambda s: (s.pages,), "1 if the page is stored, 0 if it is generated"),
    ArraySpec(
        "edges/weight",
        "float32",
        "[slots, d, d]",
        lambda s: (s.slots, s.d, s.d),
        "W_uv; element [slot, i, o] multiplies input i of the signal into output o",
        paged=True,
    ),
    ArraySpec("edges/bias", "float32", "[slots, d]", lambda s: (s.slots, s.d), "b_uv", paged=True),
    ArraySpec("signal/alpha", "float32", "[*]", lambda s: (None,), "mixing logits"),
    ArraySpec("default/weight", "float32", "[d, d]", lambda s: (s.d, s.d), "matrix of every default edge"),
    ArraySpec("default/bias", "float32", "[d]", lambda s: (s.d,), "bias of every default edge"),
)
OPTIONAL: tuple[ArraySpec, ...] = (
    ArraySpec(KEY, "int32", "[n]", lambda s: (s.n,), "the number that the node's values are generated from"),
    ArraySpec(ORIGIN, "int32", "[slots, 2]", lambda s: (s.slots, 2), "keys that a page is generated from, -1 if free"),
    ArraySpec(ENERGY, "float32", "[slots]", lambda s: (s.slots,), "energy that a page is generated with, or NaN"),
    ArraySpec(FORBIDDEN, "int32", "[*, 2]", lambda s: (None, 2), "pairs (u, v) that are never chosen"),
)
"""What version 2 adds."""
BY_NAME: dict[str, ArraySpec] = {spec.name: spec for spec in ARRAYS}


def page_count(slots: int) -> int:
    """Pages that hold `slots` slots; the last one may be short."""
    return -(-slots // PAGE_EDGES)


def page_slots(page: int, slots: int) -> tuple[int, int]:
    """First slot of a page, and the slot after its last."""
    return page * PAGE_EDGES, min((page + 1) * PAGE_EDGES, slots)


def chunk_shape(shape: tuple[int, ...], *, paged: bool) -> tuple[int, ...]:
    """Chunks are cut along the first axis only."""
    if not shape:
        return ()
    if paged:
        return (PAGE_EDGES, *shape[1:])
    rows = max(1, INDEX_CHUNK // max(1, math.prod(shape[1:])))
    return (max(1, min(shape[0], rows)), *(max(1, size) for size in shape[1:]))
