"""The arrays of a store, declared as data: names, shapes, dtypes and chunks. `docs/format.md` describes the same.

This module knows no files and no Zarr.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

FORMAT_VERSION = 6
"""The highest format version that this release reads."""
FIRST_VERSION = 1
"""The version of a new store. It rises when something is written that only a later version defines."""
EDITED_VERSION = 2
"""The version of a store that was edited."""
BASE_VERSION = 3
"""The version of a store whose edges share a base."""
CLONE_VERSION = 4
"""The version of a store with clones."""
REPEAT_VERSION = 5
"""The version of a store whose edges share a base with weights of repetition."""
CODEC_VERSION = 6
"""The version of a store whose pages are compressed."""
PAGE_EDGES = 512
"""Slots in a page: the unit of I/O and of caching, one Zarr chunk of every paged array."""

INDEX_CHUNK = 1 << 18
"""Greatest number of elements in a chunk of an array that is not paged."""

STORED = "pages/stored"
SOURCE = "edges/source"
TARGET = "edges/target"
COUNT = "edges/count"
WEIGHT = "edges/weight"
BIAS = "edges/bias"
ROUNDED = (WEIGHT, BIAS)
"""The paged arrays whose values may be rounded."""
FREE_SLOT = -1
"""Source and target of a slot that holds no edge."""

ENERGY = "edges/energy"
ORIGIN = "edges/origin"
FORBIDDEN = "edges/forbidden"
USAGE = "edges/usage"
"""Number of times that training used the edge in each slot. A program that moves edges must delete or move it too."""
KEY = "nodes/key"
LOG_LOWER = "nodes/log_lower"
LOG_LESS = "nodes/log_less"
PAIR_FIRST = "pairs/first"
PAIR_TARGET = "pairs/target"
PAIR_COUNT = "pairs/count"
PAIR_TOTAL = "pairs/total"
PAIR_DISCOUNTED = "pairs/discounted"
CLONE_PARENT = "clones/parent"
CLONE_TOKEN = "clones/token"
CLONE_GAIN = "clones/gain"
CLONE_TOTAL = "clones/total"
CLONE_DISCOUNTED = "clones/discounted"
CLONE_EDGE = "clones/edge"
CLONE_ENERGY = "clones/energy"
GAIN = "base/gain"
START = "base/start"
TARGET_VECTOR = "base/target"
TARGET_BIAS = "base/bias"
REPEAT = "base/repeat"
REPEAT_SHARED = "base/repeat_shared"
REPEAT_AFTER = "base/repeat_after"


@dataclass(frozen=True, slots=True)
class Sizes:
    """The numbers that all shapes follow from: `n` nodes, signal width `d`, `slots`, and C `clones`."""

    n: int
    d: int
    slots: int
    clones: int = 0

    @property
    def pages(self) -> int:
        """Number of pages that hold the slots."""
        return page_count(self.slots)


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """One array of the format.

    Parameters
    ----------
    name
        Path of the array in the Zarr group.
    dtype
        NumPy name of the element type.
    shape_text
        The shape as `docs/format.md` writes it.
    shape
        The shape for given sizes; None stands for any length.
    meaning
        What the elements are, in a few words.
    paged
        Whether a chunk is one page, compressed only if asked for. Other arrays are compressed. All chunks have a
        checksum.
    json
        Whether the bytes are a JSON document in UTF-8.
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
"""The arrays that a store MAY have; version 2 added them."""
BASE: tuple[ArraySpec, ...] = (
    ArraySpec(PAIR_FIRST, "int64", "[n + C + 1]", lambda s: (s.n + s.clones + 1,), "where a source's pairs begin"),
    ArraySpec(PAIR_TARGET, "int32", "[*]", lambda s: (None,), "v of each distinct pair, ascending within a source"),
    ArraySpec(PAIR_COUNT, "int64", "[*]", lambda s: (None,), "occurrences of the pair"),
    ArraySpec(LOG_LOWER, "float64", "[n]", lambda s: (s.n,), "log q_v, the model below the pairs"),
    ArraySpec(LOG_LESS, "float64", "[n]", lambda s: (s.n,), "log q_v with one predecessor less"),
    ArraySpec(GAIN, "float32", "[d]", lambda s: (s.d,), "factors of the normalised signal"),
    ArraySpec(START, "float32", "[d]", lambda s: (s.d,), "the signal before the first token"),
    ArraySpec(TARGET_VECTOR, "float32", "[n, d]", lambda s: (s.n, s.d), "vectors of the nodes as targets, n_v"),
    ArraySpec(TARGET_BIAS, "float32", "[n]", lambda s: (s.n,), "biases of the nodes as targets, c_v"),
)
"""The arrays of a graph whose edges share a base; version 3 added them. A store has all of them or none."""
REPETITION: tuple[ArraySpec, ...] = (
    ArraySpec(REPEAT, "float32", "[n, 2]", lambda s: (s.n, 2), "a node's own weights of its repetition, g_v"),
    ArraySpec(REPEAT_SHARED, "float32", "[2, 3]", lambda s: (2, 3), "weights of repetition by frequency, G"),
    ArraySpec(REPEAT_AFTER, "float32", "[2]", lambda s: (2,), "weights of what followed the same one and two nodes, h"),
)
"""Arrays besides `BASE`; version 5 added them. A store has all of them or none; none: they are 0."""
CLONES: tuple[ArraySpec, ...] = (
    ArraySpec(CLONE_PARENT, "int32", "[C]", lambda s: (s.clones,), "source that the clone is a part of"),
    ArraySpec(CLONE_TOKEN, "int32", "[C]", lambda s: (s.clones,), "node that stands before the parent's name"),
    ArraySpec(
        CLONE_GAIN, "float32", "[C]", lambda s: (s.clones,), "nats that the clone was expected to gain when made"
    ),
    ArraySpec(CLONE_TOTAL, "int64", "[C]", lambda s: (s.clones,), "transitions out of the clone, as it counts them"),
    ArraySpec(CLONE_DISCOUNTED, "float64", "[C]", lambda s: (s.clones,), "sum of the discounts of its pairs"),
    ArraySpec(CLONE_EDGE, "int32", "[*, 2]", lambda s: (None, 2), "edges (source, target) of clones that were edited"),
    ArraySpec(CLONE_ENERGY, "float32", "[*]", lambda s: (None,), "nats that each adds to its energy; -inf: forbidden"),
    ArraySpec(PAIR_TOTAL, "int64", "[n]", lambda s: (s.n,), "transitions out of the node, as it counts them"),
    ArraySpec(PAIR_DISCOUNTED, "float64", "[n]", lambda s: (s.n,), "sum of the discounts of its pairs"),
)
"""The arrays of a graph with clones, besides `BASE`; version 4 added them. A store has all of them or none."""
BY_NAME: dict[str, ArraySpec] = {spec.name: spec for spec in ARRAYS}
"""The arrays that a store MUST have, by name."""


def page_count(slots: int) -> int:
    """Number of pages that hold `slots` slots; the last one may be short."""
    return -(-slots // PAGE_EDGES)


def page_slots(page: int, slots: int) -> tuple[int, int]:
    """First slot of a page and the slot after its last one, in a store with `slots` slots."""
    return page * PAGE_EDGES, min((page + 1) * PAGE_EDGES, slots)


def sizes_of(shapes: Mapping[str, tuple[int, ...]]) -> Sizes:
    """The sizes of a store, from the shapes of its arrays by name.

    Raises
    ------
    KeyError
        One of the arrays that give the sizes is missing.
    """
    return Sizes(
        n=shapes["nodes/count"][0],
        d=shapes["default/bias"][0],
        slots=shapes[SOURCE][0],
        clones=shapes[CLONE_PARENT][0] if CLONE_PARENT in shapes else 0,
    )


def shape_fault(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """The first array with a wrong shape, as text ("found, expected"); None if all shapes agree.

    Parameters
    ----------
    shapes
        Shapes by array name: all arrays that a store MUST have, and any others.

    Raises
    ------
    KeyError
        A required array is missing.
    """
    sizes = sizes_of(shapes)
    for spec in (*ARRAYS, *(spec for spec in (*OPTIONAL, *BASE, *REPETITION, *CLONES) if spec.name in shapes)):
        found, expected = shapes[spec.name], spec.shape(sizes)
        if len(found) != len(expected) or any(e not in (None, f) for e, f in zip(expected, found, strict=True)):
            return f"{spec.name} has shape {found}, expected {spec.shape_text} with {sizes}"
    return None


def chunk_shape(shape: tuple[int, ...], *, paged: bool) -> tuple[int, ...]:
    """The chunk shape of an array: chunks are cut along the first axis only."""
    if not shape:
        return ()
    if paged:
        return (PAGE_EDGES, *shape[1:])
    rows = max(1, INDEX_CHUNK // max(1, math.prod(shape[1:])))
    return (max(1, min(shape[0], rows)), *(max(1, size) for size in shape[1:]))
