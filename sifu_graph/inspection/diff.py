"""The differences between two snapshots of a graph: nodes, edges, settings. Pages are compared one block at a time.

Edges are identified by the names of their nodes, so an edge that only moved to another slot is the same edge. A page is
read only if it is stored in one of the snapshots and the store does not report the same chunk in both; pages that are
generated are compared by their generated values. An edge has changed if a bit of its parameters has.

The energies that are compared are those at the first step (`energies`), each computed with the signal of its own
snapshot and the positional encoding of generation. The module knows two open graphs; it does not know the commits
between them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from sifu_store.errors import OptionError
from sifu_store.history import Commit
from sifu_store.layout import (
    BIAS,
    CLONE_EDGE,
    CLONE_ENERGY,
    COUNT,
    ENERGY,
    FORBIDDEN,
    KEY,
    ORIGIN,
    PAGE_EDGES,
    SOURCE,
    STORED,
    TARGET,
    USAGE,
    WEIGHT,
)
from sifu_store.short_repr import short_repr

from sifu_graph.arrays import Floats, Ints
from sifu_graph.model.io import read_clones
from sifu_graph.progress import ProgressOption, Stages
from sifu_graph.progress_bar import reporting
from sifu_graph.session import GraphSession
from sifu_graph.settings import GraphSettings
from sifu_graph.text.node_lookup import source_name

if TYPE_CHECKING:
    from sifu_graph.inspection.energies import FirstStep

BLOCK_PAGES = 8  # compared at a time: 16 MiB of weights from each snapshot
OPTIMIZER = "optimizer/"
_SHOWN_APART = (STORED, KEY, "nodes/vocabulary", "nodes/tokenizer", CLONE_EDGE, CLONE_ENERGY)


@dataclass(frozen=True, slots=True)
class EdgeChange:
    """One edge that differs.

    ``count_*`` is None where the edge is not private. ``energy_*`` is the energy at the first step, of a default edge
    where the edge is not private; -inf where the pair is forbidden, None where one of its nodes is missing.
    """

    source: str
    target: str
    change: Literal["added", "removed", "changed", "forbidden", "allowed"]
    count_before: int | None
    count_after: int | None
    energy_before: float | None
    energy_after: float | None

    @property
    def energy_change(self) -> float | None:
        """The energy after minus the energy before; None if one of them is None."""
        if self.energy_before is None or self.energy_after is None:
            return None
        return self.energy_after - self.energy_before


@dataclass(frozen=True, slots=True)
class ValueChange:
    """A setting (by its dotted path) before and after; None where it is missing."""

    name: str
    before: Any
    after: Any


@short_repr
@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The difference from ``before`` to ``after``.

    Attributes
    ----------
    nodes_renamed
        Pairs (name before, name after).
    nodes_changed
        Names of nodes in both snapshots with another count or another bias.
    edges_added, edges_removed, edges_changed
        Numbers of private edges: only in ``after``, only in ``before``, in both with other parameters.
    edges_recounted
        Private edges in both with another count.
    edges_forbidden, edges_allowed
        Pairs that are never chosen in ``after`` only, and in ``before`` only.
    clone_edges
        Edges of clones whose own energy differs, as (clone, target, nats before, nats after); -inf: forbidden.
    largest
        The edges with the largest change of energy, among those added, removed or changed.
    arrays
        Names of the small arrays that differ, and the largest absolute difference (None: the shapes differ).
    pages_read
        Number of pages that were read, of both snapshots together.
    """

    before: Commit
    after: Commit
    nodes_before: int
    nodes_after: int
    nodes_added: tuple[str, ...]
    nodes_removed: tuple[str, ...]
    nodes_renamed: tuple[tuple[str, str], ...]
    nodes_changed: tuple[str, ...]
    edges_before: int
    edges_after: int
    edges_added: int
    edges_removed: int
    edges_changed: int
    edges_recounted: int
    edges_forbidden: tuple[tuple[str, str], ...]
    edges_allowed: tuple[tuple[str, str], ...]
    clone_edges: tuple[tuple[str, str, float, float], ...]
    largest: tuple[EdgeChange, ...]
    arrays: tuple[tuple[str, float | None], ...]
    settings: tuple[ValueChange, ...]
    pages_read: int

    @property
    def empty(self) -> bool:
        """Whether nothing differs except the commits themselves."""
        numbers = (self.edges_added, self.edges_removed, self.edges_changed, self.edges_recounted)
        names = (self.nodes_added, self.nodes_removed, self.nodes_renamed, self.nodes_changed)
        pairs = (self.edges_forbidden, self.edges_allowed, self.clone_edges)
        return not any(numbers) and not any(names) and not any(pairs) and not self.arrays and not self.settings


def diff(
    path: str | Path,
    before: str = "HEAD~1",
    after: str = "HEAD",
    *,
    top: int = 10,
    progress: ProgressOption = None,
) -> Difference:
    """Compares two snapshots of the graph at a path.

    Parameters
    ----------
    path
        The directory of the store.
    before, after
        Names of snapshots: ``HEAD``, a branch, a tag, the beginning of an id, each with ``~N``.
    top
        Number of edges in ``largest``.
    progress
        See `progress_bar.reporting`.

    Raises
    ------
    OptionError
        One of the names refers to no snapshot.
    StoreNotFoundError, StoreDamagedError
    """
    if top < 0:
        raise OptionError(f"`top` is {top}: it must be 0 or more")
    with (
        GraphSession.open(path, at=before) as first,
        GraphSession.open(path, at=after) as second,
        reporting(progress) as stages,
    ):
        return _Comparison(first, second, top).run(stages)


class _Comparison:
    """Two open graphs, and which of their nodes and edges are the same ones."""

    def __init__(self, a: GraphSession, b: GraphSession, top: int) -> None:
        self.a, self.b, self.top = a, b, top
        self.names = (a.tokenizer.vocabulary, b.tokenizer.vocabulary)
        self.to_b, self.renamed = _match_nodes(a, b)
        self.to_a = np.full(len(self.names[1]), -1, np.int64)
        known = np.flatnonzero(self.to_b >= 0)
        self.to_a[self.to_b[known]] = known
        self.sides = (_Side(a), _Side(b))

    def run(self, stages: Stages) -> Difference:
        a, b = self.a._at_rest.index, self.b._at_rest.index
        u, v = np.repeat(np.arange(a.nodes), a.row_sizes()), a.target
        keys = self.to_b[u] * b.nodes + self.to_b[v]
        keys[(self.to_b[u] < 0) | (self.to_b[v] < 0)] = -1
        there = np.flatnonzero(keys >= 0)
        _, at_a, in_b = np.intersect1d(keys[there], b.keys(), assume_unique=True, return_indices=True)
        in_a = there[at_a]
        removed = np.setdiff1d(np.arange(a.edges), in_a, assume_unique=True)
        added = np.setdiff1d(np.arange(b.edges), in_b, assume_unique=True)
        self.stage = stages.stage("comparing edges", len(in_a) + len(removed) + len(added), "edges")
        changed, energy_a, energy_b = self._compare(in_a, in_b)
        changes = [(in_a[changed], in_b[changed], energy_a, energy_b)]
        none = np.full(len(added), -1)
        changes.append((none, added, self._other_energies(0, added), self._energies(1, added)))
        none = np.full(len(removed), -1)
        changes.append((removed, none, self._energies(0, removed), self._other_energies(1, removed)))
        arrays, nodes_changed = self._arrays()
        never = [
            {(names[key // index.nodes], names[key % index.nodes]) for key in index.forbidden.tolist()}
            for names, index in zip(self.names, (a, b), strict=True)
        ]
        return Difference(
            before=self.a.store.history(1)[0],
            after=self.b.store.history(1)[0],
            nodes_before=a.nodes,
            nodes_after=b.nodes,
            nodes_added=tuple(self.names[1][i] for i in np.flatnonzero(self.to_a < 0)),
            nodes_removed=tuple(self.names[0][i] for i in np.flatnonzero(self.to_b < 0)),
            nodes_renamed=tuple((self.names[0][i], self.names[1][i]) for i in self.renamed),
            nodes_changed=nodes_changed,
            edges_before=a.edges,
            edges_after=b.edges,
            edges_added=len(added),
            edges_removed=len(removed),
            edges_changed=len(changed),
            edges_recounted=int((a.count[in_a] != b.count[in_b]).sum()),
            edges_forbidden=tuple(sorted(never[1] - never[0])),
            edges_allowed=tuple(sorted(never[0] - never[1])),
            clone_edges=_clone_edges(self.a, self.b),
            largest=self._largest(changes),
            arrays=arrays,
            settings=tuple(_settings(self.a.settings, self.b.settings)),
            pages_read=sum(side.reader.pages_read for side in self.sides),
        )

    # ---- edges

    def _compare(self, in_a: Ints, in_b: Ints) -> tuple[Ints, Floats, Floats]:
        """The pairs of edges that differ, int64 [k], and their energies before and after, float32 [k] each."""
        slot_a, slot_b = self.a._at_rest.index.slots(in_a), self.b._at_rest.index.slots(in_b)
        stored_a, stored_b = (
            side.stored[slots // PAGE_EDGES] for side, slots in zip(self.sides, (slot_a, slot_b), strict=True)
        )
        changed = self.b.store.changed_pages(self.a.store.snapshot)
        same = np.zeros(len(in_a), bool)
        if changed is not None:
            same = (slot_a == slot_b) & stored_a & stored_b & ~changed[slot_b // PAGE_EDGES]
        same &= ~self._other_slot_arrays(slot_a, slot_b)
        found: list[Ints] = []
        energies: tuple[list[Floats], list[Floats]] = ([], [])
        rest = np.flatnonzero(~same)
        self.stage.advance(len(in_a) - len(rest))
        for block in _blocks(rest, slot_b):
            values: list[tuple[Floats | None, Floats]] = []
            generated = not stored_a[block].any() and not stored_b[block].any()
            for side, slots in zip(self.sides, (slot_a[block], slot_b[block]), strict=True):
                values.append((None, side.reader.generated(BIAS, slots)) if generated else side.values(slots))
            (W_a, b_a), (W_b, b_b) = values
            differs = _differs(b_a, b_b)
            if generated and self.sides[0].method != self.sides[1].method:
                differs[:] = True
            if W_a is not None and W_b is not None:
                differs |= _differs(W_a, W_b)
            differs |= self._other_slot_arrays(slot_a[block], slot_b[block])
            if differs.any():
                found.append(block[differs])
                for side, edges, (W, b), slots, kept in zip(
                    self.sides,
                    (in_a[block], in_b[block]),
                    values,
                    (slot_a[block], slot_b[block]),
                    energies,
                    strict=True,
                ):
                    weight = side.reader.generated(WEIGHT, slots[differs]) if W is None else W[differs]
                    kept.append(side.energy(edges[differs], weight, b[differs]))
            self.stage.advance(len(block))
        if not found:
            return np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.float32)
        return np.concatenate(found), np.concatenate(energies[0]), np.concatenate(energies[1])

    def _other_slot_arrays(self, slot_a: Ints, slot_b: Ints) -> NDArray[np.bool_]:
        """Whether further arrays [slots] have different values for an edge, bool [edges]."""
        differs = np.zeros(len(slot_a), bool)
        for name in sorted({*self.sides[0].slot_arrays, *self.sides[1].slot_arrays}):
            first, second = (side.slot_array(name) for side in self.sides)
            x, y = first[slot_a], second[slot_b]
            differs |= (x != y) & ((x == x) | (y == y))  # two that are NaN are equal
        return differs

    def _energies(self, which: int, edges: Ints) -> Floats:
        """The energies of edges that only one snapshot has, float32 [edges]."""
        side = self.sides[which]
        slots = side.graph._at_rest.index.slots(edges)
        out = np.zeros(len(edges), np.float32)
        for block in _blocks(np.arange(len(edges)), slots):
            out[block] = side.energy(edges[block], *side.values(slots[block]))
            self.stage.advance(len(block))
        return out

    def _other_energies(self, which: int, edges: Ints) -> Floats:
        """The energies of private edges of the other snapshot in this one, where they are not; NaN: a node is gone."""
        other, to = (self.b, self.to_a) if which == 0 else (self.a, self.to_b)
        index = other._at_rest.index
        source = to[np.searchsorted(index.row_start, edges, side="right") - 1]
        target = to[index.target[edges]]
        out, known = np.full(len(edges), np.nan, np.float32), (source >= 0) & (target >= 0)
        if known.any():
            out[known] = self.sides[which].first_step.other_energies(source[known], target[known].astype(np.int64))
        return out

    def _largest(self, changes: list[tuple[Ints, Ints, Floats, Floats]]) -> tuple[EdgeChange, ...]:
        in_a, in_b = (np.concatenate([change[k] for change in changes]).astype(np.int64) for k in (0, 1))
        before, after = (np.concatenate([change[k] for change in changes]) for k in (2, 3))
        with np.errstate(invalid="ignore"):
            size = np.nan_to_num(np.abs(after - before), nan=-1.0, posinf=np.inf)
        order = np.argsort(-size, kind="stable")[: self.top]
        return tuple(self._edge(int(in_a[k]), int(in_b[k]), float(before[k]), float(after[k])) for k in order)

    def _edge(self, in_a: int, in_b: int, before: float, after: float) -> EdgeChange:
        a, b = self.a._at_rest.index, self.b._at_rest.index
        index, place, names = (b, in_b, self.names[1]) if in_b >= 0 else (a, in_a, self.names[0])
        u = int(np.searchsorted(index.row_start, place, side="right")) - 1
        change: Literal["added", "removed", "changed", "forbidden", "allowed"] = "changed"
        if in_a < 0:
            change = "allowed" if before == -math.inf else "added"
        elif in_b < 0:
            change = "forbidden" if after == -math.inf else "removed"
        return EdgeChange(
            source=names[u],
            target=names[int(index.target[place])],
            change=change,
            count_before=int(a.count[in_a]) if in_a >= 0 else None,
            count_after=int(b.count[in_b]) if in_b >= 0 else None,
            energy_before=None if math.isnan(before) else before,
            energy_after=None if math.isnan(after) else after,
        )

    # ---- the small arrays

    def _arrays(self) -> tuple[tuple[tuple[str, float | None], ...], tuple[str, ...]]:
        first, second = self.a.store, self.b.store
        common_a = np.flatnonzero(self.to_b >= 0)
        common_b = self.to_b[common_a]
        nodes_changed = np.zeros(len(common_a), bool)
        out: list[tuple[str, float | None]] = []
        for name in sorted({*first.names(), *second.names()}):
            if name.startswith(("edges/", OPTIMIZER)) or name in _SHOWN_APART:
                continue
            if not (first.has(name) and second.has(name)):
                out.append((name, None))
                continue
            x, y = first.read(name), second.read(name)
            if name.startswith(("nodes/", "rows/")):
                x, y = x[common_a], y[common_b]
            if x.shape != y.shape:
                out.append((name, None))
            elif (differs := _differs(x, y)).any():
                gap = np.abs(y.astype(np.float64) - x)
                out.append((name, float(np.nanmax(gap)) if not np.isnan(gap).all() else None))
                if name in ("nodes/count", "nodes/bias"):
                    nodes_changed |= differs
        return tuple(out), tuple(self.names[1][i] for i in common_b[nodes_changed])


class _Side:
    """The edges of one snapshot, read or generated on request, and their energies."""

    def __init__(self, graph: GraphSession) -> None:
        self.graph = graph
        self.reader = graph._at_rest.reader()
        self.stored = self.reader.stored
        self.method = graph.settings["initial"]["method"]
        own = {SOURCE, TARGET, COUNT, USAGE, ORIGIN, FORBIDDEN}
        if not graph.signal.base:  # there, generated edges are compared by their values
            own.add(ENERGY)
        self.slot_arrays = [
            name
            for name in graph.store.names()
            if name.startswith("edges/") and name not in own and not graph.store.is_paged(name)
        ]
        self._slot_arrays: dict[str, NDArray[Any]] = {}

    @cached_property
    def first_step(self) -> FirstStep:
        """Computed, and torch imported, where an edge differs."""
        from sifu_graph.inspection.energies import FirstStep

        return FirstStep.of(self.graph, offset=self.graph.signal.decode_offset)

    def slot_array(self, name: str) -> NDArray[Any]:
        """[slots], zeros where this snapshot has no such array."""
        if name not in self._slot_arrays:
            slots = self.graph.store.slots
            there = name in self.slot_arrays
            self._slot_arrays[name] = self.graph.store.read(name) if there else np.zeros(slots, np.uint8)
        return self._slot_arrays[name]

    def values(self, slots: Ints) -> tuple[Floats, Floats]:
        """W [k, d, d] and b [k, d]."""
        return self.reader.read(WEIGHT, slots), self.reader.read(BIAS, slots)

    def energy(self, edges: Ints, W: Floats, b: Floats) -> Floats:
        """At the first step [k], of private edges by their places in the index [k] and their parameters."""
        index = self.graph._at_rest.index
        source = np.searchsorted(index.row_start, edges, side="right") - 1
        return self.first_step.energies(source, index.target[edges].astype(np.int64), W, b)


def _match_nodes(a: GraphSession, b: GraphSession) -> tuple[Ints, list[int]]:
    """The node of ``b`` that each node of ``a`` is [n of a], -1 for none; and those that have another name there.

    A node is the one of the same name; or the one with the same number, count and bias, if both names are new.
    """
    names_a, names_b = a.tokenizer.vocabulary, b.tokenizer.vocabulary
    ids_b = {name: i for i, name in enumerate(names_b)}
    to_b = np.array([ids_b.get(name, -1) for name in names_a], np.int64)
    taken, renamed = set(names_a), []
    count_a, count_b = a.store.read("nodes/count"), b.store.read("nodes/count")
    bias_a, bias_b = a.store.read("nodes/bias"), b.store.read("nodes/bias")
    for i in np.flatnonzero(to_b < 0).tolist():
        if i < len(names_b) and names_b[i] not in taken and count_a[i] == count_b[i] and (bias_a[i] == bias_b[i]).all():
            to_b[i] = i
            renamed.append(i)
    return to_b, renamed


def _blocks(places: Ints, slots: Ints) -> Iterator[Ints]:
    """These places in order of their slots, those of `BLOCK_PAGES` pages at a time."""
    ordered = places[np.argsort(slots[places], kind="stable")]
    block = slots[ordered] // (PAGE_EDGES * BLOCK_PAGES)
    if len(ordered):
        yield from np.split(ordered, np.flatnonzero(np.diff(block)) + 1)


def _differs(x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a bit differs, along the first axis; the shapes agree."""
    if x.dtype != y.dtype:
        return np.ones(len(x), bool)
    words = np.dtype(f"u{x.dtype.itemsize}")
    bits = [np.ascontiguousarray(each).view(words).reshape(len(each), math.prod(each.shape[1:])) for each in (x, y)]
    differs: NDArray[np.bool_] = (bits[0] != bits[1]).any(1)
    return differs


def _clone_edges(a: GraphSession, b: GraphSession) -> tuple[tuple[str, str, float, float], ...]:
    """The edges of clones whose own energies differ, by their names."""
    found: list[dict[tuple[str, str], float]] = []
    for graph in (a, b):
        store, names = graph.store, graph.tokenizer.vocabulary
        edges = store.read(CLONE_EDGE) if store.has(CLONE_EDGE) else np.empty((0, 2), np.int32)
        energy = store.read(CLONE_ENERGY) if len(edges) else np.empty(0)
        tree = read_clones(store, graph.settings["nodes"])
        found.append(
            {
                (source_name(graph.tokenizer, tree, u), names[v]): nats
                for (u, v), nats in zip(edges.tolist(), energy.tolist(), strict=True)
            }
        )
    before, after = found
    edges_of_both = sorted({*before, *after})
    changes = ((*edge, before.get(edge, 0.0), after.get(edge, 0.0)) for edge in edges_of_both)
    return tuple(change for change in changes if change[2] != change[3])


def _settings(before: GraphSettings, after: GraphSettings) -> Iterator[ValueChange]:
    first, second = _flat(before), _flat(after)
    for flat in (first, second):  # they change only with the nodes, which are compared by name
        flat.pop("initial.keys", None)
        flat.pop("initial.nodes", None)
    for name in sorted({*first, *second}):
        x, y = first.get(name), second.get(name)
        if json.dumps(x, sort_keys=True) != json.dumps(y, sort_keys=True):
            yield ValueChange(name, x, y)


def _flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(settings, dict):
        return {prefix: settings}
    out: dict[str, Any] = {}
    for key, value in settings.items():
        out |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return out
