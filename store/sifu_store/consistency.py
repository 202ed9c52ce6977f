"""Whether the arrays of a snapshot agree with one another: the index, pairs, clones, JSON.

It knows arrays in memory; `verify` reads them from a store, an import from a file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import numpy as np

from sifu_store.layout import (
    ARRAYS,
    CLONE_EDGE,
    CLONE_ENERGY,
    CLONE_PARENT,
    CLONE_TOKEN,
    CLONE_TOTAL,
    COUNT,
    FORBIDDEN,
    FREE_SLOT,
    PAIR_COUNT,
    PAIR_FIRST,
    PAIR_TARGET,
    PAIR_TOTAL,
    SOURCE,
    STORED,
    TARGET,
)

Contents = Mapping[str, np.ndarray | None]
"""Arrays by name; None: it cannot be read."""
Faults = Iterator[tuple[str, str]]
"""Array and fault."""

_COUNTS = (
    "nodes/count",
    "nodes/predecessors",
    "rows/total",
    "rows/distinct",
    COUNT,
    PAIR_COUNT,
    PAIR_TOTAL,
    CLONE_TOTAL,
)
_MOST_COUNTED = 2.0**62  # so that sums of counts fit into 64 bits


def inconsistencies(contents: Contents) -> Faults:
    """What disagrees in the arrays that are not paged."""
    yield from _check_counts(contents)
    yield from _check_index(contents)
    yield from _check_pairs(contents)
    yield from _check_clones(contents)
    yield from _check_json(contents)


def _check_counts(contents: Contents) -> Faults:
    """Check that no count is negative, and that the counts of an array can be added."""
    for name in _COUNTS:
        values = contents.get(name)
        if values is None or not len(values):
            continue
        if int(values.min()) < 0:
            yield (name, f"{int((values < 0).sum())} negative counts")
        elif float(values.sum(dtype=np.float64)) > _MOST_COUNTED:
            yield (name, "the sum of the counts is too large for 64 bits")


def _check_index(contents: Contents) -> Faults:
    counted = contents.get("nodes/count")
    n = 0 if counted is None else len(counted)
    bitmap = contents.get(STORED)
    if bitmap is not None and len(bitmap) and int(bitmap.max()) > 1:
        yield (STORED, "values other than 0 and 1")
    source, target, count = contents.get(SOURCE), contents.get(TARGET), contents.get(COUNT)
    if source is None or target is None or count is None or not len(source) == len(target) == len(count):
        return
    for name, values in ((SOURCE, source), (TARGET, target)):
        wrong = (values < FREE_SLOT) | (values >= n)
        if counted is not None and wrong.any():
            slot = int(wrong.argmax())
            yield (name, f"{int(wrong.sum())} slots refer to no node, the first is slot {slot}: {values[slot]}")
    free = source == FREE_SLOT
    if (free != (target == FREE_SLOT)).any():
        yield (TARGET, "a slot is free in only one of edges/source and edges/target")
    if count[free].any():
        yield (COUNT, "a free slot has a count")
    pairs = source[~free].astype(np.int64) * (n + 1) + target[~free]
    yield from _check_unique(pairs, n)
    yield from _check_forbidden(contents.get(FORBIDDEN), pairs, n if counted is not None else None)


def _check_unique(pairs: np.ndarray, n: int) -> Faults:
    """Check that no edge has two slots. `pairs` are int64 source * (n + 1) + target."""
    if len(pairs) > 1 and not (pairs[1:] > pairs[:-1]).all():  # a build sorts the pairs; edits keep them unique
        pairs = np.sort(pairs)
        twice = pairs[1:] == pairs[:-1]
        if twice.any():
            u, v = divmod(int(pairs[1:][twice][0]), n + 1)
            yield (SOURCE, f"{int(twice.sum())} edges have two slots, the first is ({u}, {v})")


def _check_forbidden(forbidden: np.ndarray | None, pairs: np.ndarray, n: int | None) -> Faults:
    """Check that forbidden pairs [k, 2] are nodes (of `n`; None: unknown) and have no slot."""
    if forbidden is None or not len(forbidden):
        return
    if n is not None and (forbidden.min() < 0 or forbidden.max() >= n):
        yield (FORBIDDEN, "a pair refers to no node")
    elif np.isin(forbidden[:, 0].astype(np.int64) * ((n or 0) + 1) + forbidden[:, 1], pairs).any():
        yield (FORBIDDEN, "a forbidden pair has a slot")


def _check_pairs(contents: Contents) -> Faults:
    """Check that the pairs of each source are one ascending run of nodes."""
    nodes, first, target = (contents.get(name) for name in ("nodes/count", PAIR_FIRST, PAIR_TARGET))
    if nodes is None or first is None or target is None:
        return
    if not len(first) or first[0] != 0 or first[-1] != len(target) or (np.diff(first) < 0).any():
        yield (PAIR_FIRST, "the pairs of the sources do not follow one another")
        return
    if len(target) and (target.min() < 0 or target.max() >= len(nodes)):
        yield (PAIR_TARGET, "a pair refers to no node")
    follows = np.ones(len(target), bool)
    follows[first[first < len(target)]] = False  # the first of each source
    unsorted = follows[1:] & (target[1:] <= target[:-1])
    counts = contents.get(PAIR_COUNT)
    if counts is not None and len(counts) != len(target):
        yield (PAIR_COUNT, f"{len(counts)} counts for {len(target)} pairs")
    if unsorted.any():
        yield (PAIR_TARGET, f"{int(unsorted.sum())} pairs are not in the order of their targets")


def _check_clones(contents: Contents) -> Faults:
    """Check that every clone has a name: a node before a node or an earlier clone, each once."""
    nodes, parent, token = (contents.get(name) for name in ("nodes/count", CLONE_PARENT, CLONE_TOKEN))
    if nodes is None or parent is None or token is None or len(parent) != len(token):
        return
    n, clones = len(nodes), len(parent)
    later = (parent < 0) | (parent >= n + np.arange(clones))
    if later.any():
        yield (CLONE_PARENT, f"{int(later.sum())} clones are not of a node or of an earlier clone")
    if clones and (token.min() < 0 or token.max() >= n):
        yield (CLONE_TOKEN, "a clone refers to no node")
    elif (np.diff(parent.astype(np.int64) * n + token) <= 0).any():
        yield (CLONE_TOKEN, "the clones are not sorted by parent and token, each once")
    edges, energies = contents.get(CLONE_EDGE), contents.get(CLONE_ENERGY)
    if edges is not None and energies is not None and len(edges) != len(energies):
        yield (CLONE_ENERGY, f"{len(energies)} energies for {len(edges)} edges of clones")
    if edges is not None and len(edges):
        (source, target), least = edges.T, edges.min()
        if least < 0 or source.max() >= n + clones or target.max() >= n:
            yield (CLONE_EDGE, "an edge refers to no source or node")


def _check_json(contents: Contents) -> Faults:
    counted = contents.get("nodes/count")
    for spec in ARRAYS:
        text = contents.get(spec.name)
        if not spec.json or text is None:
            continue
        try:
            value = json.loads(text.tobytes().decode("utf-8"))
        except (ValueError, RecursionError) as error:
            yield (spec.name, f"not JSON: {error}")
            continue
        if spec.name == "nodes/vocabulary" and counted is not None:
            found = len(value) if isinstance(value, list) else None
            if found != len(counted):
                yield (spec.name, f"{found} node objects for {len(counted)} nodes")
