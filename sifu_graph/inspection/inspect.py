"""One node or one edge in detail: its counts, its parameters, and the commit that last changed it.

Energies and probabilities are those at rest (`model.graph_at_rest`). Of the graph's counts and pages, only the row of
the node and the edges from its most frequent sources are read. The module knows a graph and its store; it does not
know texts or screens, and does not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
from sifu_store.history import Commit
from sifu_store.layout import BIAS, PAGE_EDGES, REPEAT, REPEAT_SHARED, TARGET_VECTOR, WEIGHT
from sifu_store.provenance import edge_changed, rows_changed
from sifu_store.short_repr import short_repr

from sifu_graph.arrays import Doubles, Floats, Ints
from sifu_graph.config import require_positive
from sifu_graph.inspection.inspect_clone import CloneReport, CloneSummary, clones_of, inspect_clone
from sifu_graph.model.base_at_rest import BaseAtRest, PartsAtRest
from sifu_graph.model.graph_at_rest import GraphAtRest, RowAtRest
from sifu_graph.model.io import read_clones
from sifu_graph.ops.repetition import frequency_basis, repeat_weights
from sifu_graph.text.node_lookup import node_named, other_form_note, source_name, source_named

if TYPE_CHECKING:
    from sifu_graph.session import GraphSession

SOURCES = 32  # whose pages are read to compare their energies


@dataclass(frozen=True, slots=True)
class Change:
    """A commit that changed a node or an edge."""

    snapshot: str
    time: datetime
    message: str
    command: str


@short_repr
@dataclass(frozen=True, slots=True)
class Neighbour:
    """A private edge of the inspected node, and the node at its other end.

    ``share`` is its part of all transitions that were counted out of the source, ``own_share`` of those that the source
    itself counts: its clones have the others. ``energy`` and ``p``, its probability, are those at rest, where no clone
    speaks: ``p`` follows ``own_share``. Both are None for an edge into the node, as they need the source's whole row.
    """

    node: int
    name: str
    count: int
    share: float
    energy: float
    p: float | None
    own_share: float | None = None


@dataclass(frozen=True, slots=True)
class Similar:
    """A node whose vector points in a similar direction as that of the inspected node, by the cosine."""

    node: int
    name: str
    cosine: float


@short_repr
@dataclass(frozen=True, slots=True)
class NodeReport:
    """One node. Each list has at most ``top`` entries, sorted by the measure in its name, descending.

    Attributes
    ----------
    transitions, own_transitions
        Occurrences of all pairs out of the node, and those that it counts itself: all but those of its clones, each of
        which leaves it one for each of its targets.
    targets_by_energy, targets_by_count
        Private edges out of the node.
    disagreements
        Private edges out of the node with the largest difference between probability and ``own_share``.
    sources_by_count, sources_by_energy
        Private edges into the node; by energy among the ``compared`` most frequent ones.
    bias_norm
        L2 norm.
    pages
        First and last page of the row, both included; None: the row is empty.
    bias_changed, row_written
        The commit that last changed the bias of the node, and that last wrote a page of its row.
    similar_targets, similar_sources
        The nodes with the most similar vectors n and e, of a graph whose edges share a base; else empty.
    clones
        The clones of the node that gain most.
    repeated
        Nats that the node gains where it came once before in the document; None without a base.
    """

    node: int
    name: str
    count: int
    transitions: int
    distinct_targets: int
    distinct_sources: int
    private_out: int
    private_in: int
    default_energy: float
    default_p: float
    bias_norm: float
    pages: tuple[int, int] | None
    targets_by_energy: tuple[Neighbour, ...]
    targets_by_count: tuple[Neighbour, ...]
    disagreements: tuple[Neighbour, ...]
    sources_by_count: tuple[Neighbour, ...]
    sources_by_energy: tuple[Neighbour, ...]
    compared: int
    bias_changed: Change | None
    row_written: Change | None
    similar_targets: tuple[Similar, ...] = ()
    similar_sources: tuple[Similar, ...] = ()
    clones: tuple[CloneSummary, ...] = ()
    repeated: float | None = None
    own_transitions: int | None = None
    notes: tuple[str, ...] = ()
    """Which node was probably meant, if not this one."""


@short_repr
@dataclass(frozen=True, slots=True)
class EdgeReport:
    """One edge.

    Attributes
    ----------
    count, share
        Occurrences of the pair, and their share (0 to 1) of all transitions out of the source; None for a default edge,
        whose count is not stored.
    energy, p, rank
        Energy, probability and rank among all nodes, at rest. A forbidden pair has -inf, 0 and the last rank.
    weight_norm
        Frobenius norm of W.
    singular_values
        Of W, descending [d].
    slot, page
        Where its parameters are stored; None for a default edge.
    changed
        The commit that last changed its parameters, or made it private or default.
    parts
        The parts of the energy by name, in a graph whose edges share a base: ``counts`` (s log p), ``bias`` (c of the
        target), ``edge`` (what the edge adds) and, for an edge of a clone, ``clones`` (what its counts add to those of
        the node); else None.
    """

    source: str
    target: str
    private: bool
    count: int | None
    share: float | None
    energy: float
    default_energy: float
    p: float
    rank: int
    weight_norm: float
    bias_norm: float
    singular_values: tuple[float, ...]
    slot: int | None
    page: int | None
    page_stored: bool | None
    changed: Change | None
    parts: dict[str, float] | None = None
    notes: tuple[str, ...] = ()
    """Which nodes were probably meant, if not these."""

    @property
    def forbidden(self) -> bool:
        """The pair is never chosen."""
        return self.energy == -math.inf


def inspect_source(graph: GraphSession, name: str, *, top: int = 10) -> NodeReport | CloneReport:
    """The report of a node or of a clone. For ``top`` and the errors, see `inspect_node`."""
    source = source_of(graph, name)
    if source >= graph.settings["nodes"]:
        return inspect_clone(graph, source, top=top)
    return inspect_node(graph, name, top=top)


def inspect_node(graph: GraphSession, name: str, *, top: int = 10) -> NodeReport:
    """The report of a node.

    Parameters
    ----------
    graph
        The open graph.
    name
        The name of the node.
    top
        Length of each list of edges.

    Raises
    ------
    OptionError
        No node has this name; the message has the nearest names.
    """
    require_positive(top=top)
    node = node_named(graph.tokenizer, name)
    rest, store, names = graph._at_rest, graph.store, graph.tokenizer.vocabulary
    total = store.read("rows/total")
    neighbours, private_in = _sources(rest, node, total, names, most=max(SOURCES, top))
    compared, row = neighbours[:SOURCES], rest.row(node)
    share = row.count / max(1, int(total[node]))
    own_share, own_total = share, int(total[node])
    if graph.signal.base:
        own_share, own_total = _own_shares(rest, node, row.target)

    def targets(order: Ints) -> tuple[Neighbour, ...]:
        return tuple(
            Neighbour(
                int(row.target[at]),
                names[row.target[at]],
                int(row.count[at]),
                float(share[at]),
                float(row.energy[at]),
                float(row.probability[at]),
                float(own_share[at]),
            )
            for at in order[:top]
        )

    pages = np.unique(row.slot // PAGE_EDGES)
    bias_changed, row_written = rows_changed(store, node, pages)
    return NodeReport(
        node=node,
        name=names[node],
        count=int(store.read("nodes/count")[node]),
        transitions=int(total[node]),
        distinct_targets=int(store.read("rows/distinct")[node]),
        distinct_sources=int(store.read("nodes/predecessors")[node]),
        private_out=len(row.slot),
        private_in=private_in,
        default_energy=row.default_energy,
        default_p=row.default_probability,
        bias_norm=_norm(rest.small("nodes/bias")[node]),
        pages=(int(pages[0]), int(pages[-1])) if len(pages) else None,
        targets_by_energy=targets(np.argsort(-row.energy, kind="stable")),
        targets_by_count=targets(np.argsort(-row.count, kind="stable")),
        disagreements=targets(np.argsort(-np.abs(row.probability - own_share), kind="stable")),
        sources_by_count=tuple(neighbours[:top]),
        sources_by_energy=tuple(sorted(compared, key=lambda found: -found.energy)[:top]),
        compared=len(compared),
        bias_changed=_change(bias_changed),
        row_written=_change(row_written),
        similar_targets=similar(rest.small(TARGET_VECTOR) if graph.signal.base else None, node, names, top),
        similar_sources=similar(rest.small("nodes/bias") if graph.signal.base else None, node, names, top),
        clones=clones_of(graph, node, top=top),
        repeated=_repeated(rest, node) if graph.signal.base else None,
        own_transitions=own_total,
        notes=_notes(graph, node),
    )


def _own_shares(rest: GraphAtRest, node: int, target: Ints) -> tuple[Doubles, int]:
    """The share of targets, int64 [k], in what a node counts itself, float64 [k]; and how much that is."""
    pairs = rest.base(np.array([node])).pairs
    at = pairs.find(np.full(len(target), node), target.astype(np.int64))
    total = int(pairs.total[node])
    return np.where(at >= 0, pairs.count[at], 0) / max(1, total), total


def _sources(
    rest: GraphAtRest, node: int, total: Ints, names: Sequence[str], *, most: int
) -> tuple[list[Neighbour], int]:
    """The ``most`` most frequent private edges into a node, and how many there are; ``total``: int64 [n]."""
    index = rest.index
    every = np.flatnonzero(index.target == node)
    into = every[np.argsort(-index.count[every], kind="stable")][:most]
    source = np.searchsorted(index.row_start, into, side="right") - 1
    if rest.has_base:
        rest.base(np.append(source, node))  # the row of the node is asked for too: their pairs are read once
    columns = (column.tolist() for column in (source, index.count[into], rest.edges(into)))
    found = [
        Neighbour(u, names[u], count, count / max(1, int(total[u])), energy, None)
        for u, count, energy in zip(*columns, strict=True)
    ]
    return found, len(every)


def similar(vectors: Floats | None, node: int, names: Sequence[str], top: int) -> tuple[Similar, ...]:
    """The nodes with the vectors [n, d] that are most similar to that of a node; none for no vectors or one of 0."""
    if vectors is None or not bool(vectors[node].any()):
        return ()
    wide = vectors.astype(np.float64)
    length = np.linalg.norm(wide, axis=1)
    cosine = wide @ wide[node] / np.maximum(length * length[node], 1e-8)
    order = np.argsort(-cosine, kind="stable")
    return tuple(Similar(int(v), names[v], float(cosine[v])) for v in order[order != node][:top])


def _repeated(rest: GraphAtRest, node: int) -> float:
    """f of a node (`ops.recurrent`)."""
    basis = frequency_basis(rest.sources.log_lower).astype(np.float32)
    return float(repeat_weights(rest.small(REPEAT), rest.small(REPEAT_SHARED), basis)[node, 0])


def inspect_edge(graph: GraphSession, source: str, target: str, *, history: bool = True) -> EdgeReport:
    """The report of the edge from one node to another. ``history`` False: ``changed`` is not looked for.

    Raises
    ------
    OptionError
        No node has one of the names; the message has the nearest names.
    """
    v, u = node_named(graph.tokenizer, target), source_of(graph, source)
    rest, store = graph._at_rest, graph.store
    base = rest.base(np.array([u])) if graph.signal.base else None
    if base is not None and u >= graph.settings["nodes"]:
        return _edge_of_clone(graph, base, u, v)
    row = rest.row(u)
    at = int(np.searchsorted(row.target, v))
    private = at < len(row.target) and int(row.target[at]) == v
    slot, count = (int(row.slot[at]), int(row.count[at])) if private else (None, None)
    if base is not None:
        energy, p, rank = _place_in(base, u, v)
    elif rest.index.is_forbidden(np.array([u]), np.array([v]))[0]:
        energy, p, rank = -math.inf, 0.0, 1 + len(row.target) + int(rest.index.defaults()[u])
    else:
        energy, p, rank = _place(rest, row, u, at if private else None)
    W, b = rest.small("default/weight"), rest.small("default/bias")
    generated = None
    if slot is not None:
        reader, slots = rest.reader(), np.array([slot])
        W, b = (reader.read(name, slots)[0] for name in (WEIGHT, BIAS))
        generated = reader.generated(WEIGHT, slots)[0], reader.generated(BIAS, slots)[0]
    page = None if slot is None else slot // PAGE_EDGES
    return EdgeReport(
        source=graph.tokenizer.vocabulary[u],
        target=graph.tokenizer.vocabulary[v],
        private=private,
        count=count,
        share=None if count is None else count / max(1, int(store.read("rows/total")[u])),
        energy=energy,
        default_energy=row.default_energy,
        p=p,
        rank=rank,
        weight_norm=_norm(W),
        bias_norm=_norm(b),
        singular_values=tuple(np.linalg.svd(W.astype(np.float64), compute_uv=False).tolist()),
        slot=slot,
        page=page,
        page_stored=None if page is None else bool(store.page_stored()[page]),
        changed=_change(edge_changed(store, u, v, slot, generated)) if history else None,
        parts=None if base is None else _parts(base.parts(u, np.array([v]))),
        notes=_notes(graph, u, v),
    )


def _norm(values: Floats) -> float:
    """The L2 norm; of a matrix, the Frobenius norm."""
    return float(np.linalg.norm(values.astype(np.float64)))


def _place(rest: GraphAtRest, row: RowAtRest, node: int, at: int | None) -> tuple[float, float, int]:
    """The energy, probability and rank of an edge of a row, by its place in the row; None: of a default edge."""
    energy, p = (row.default_energy, row.default_probability) if at is None else (row.energy[at], row.probability[at])
    stronger = int((row.energy > energy).sum())
    if row.default_energy > energy:
        stronger += int(rest.index.defaults()[node])
    return float(energy), float(p), stronger + 1


def _place_in(base: BaseAtRest, source: int, target: int) -> tuple[float, float, int]:
    """The energy, probability and rank of an edge of a node or clone, where the edges share a base."""
    energy, p = base.row(source)
    return float(energy[target]), float(p[target]), 1 + int((energy > energy[target]).sum())


def _notes(graph: GraphSession, *nodes: int) -> tuple[str, ...]:
    count = graph.store.read("nodes/count")
    notes = [other_form_note(graph.tokenizer, node, count) for node in dict.fromkeys(nodes)]
    return tuple(note for note in notes if note is not None)


def source_of(graph: GraphSession, name: str) -> int:
    """The node or the clone of a name. Raises `OptionError` with the nearest names for any other."""
    return source_named(graph.tokenizer, read_clones(graph.store, graph.settings["nodes"]), name)


def _edge_of_clone(graph: GraphSession, base: BaseAtRest, source: int, v: int) -> EdgeReport:
    """The report of an edge of a clone, which has counts and an energy, but no matrix of its own."""
    pairs, (energy, p, rank) = base.pairs, _place_in(base, source, v)
    pair = int(pairs.find(np.array([source]), np.array([v]))[0])
    count = int(pairs.count[pair]) if pair >= 0 else 0
    default = np.delete(base.energies(source), pairs.target[pairs.first[source] : pairs.first[source + 1]])
    return EdgeReport(
        source=source_name(graph.tokenizer, pairs.tree, source),
        target=graph.tokenizer.vocabulary[v],
        private=False,
        count=count,
        share=count / max(1, int(pairs.total[source])),
        energy=energy,
        default_energy=float(np.logaddexp.reduce(default)) - math.log(max(1, len(default))),
        p=p,
        rank=rank,
        weight_norm=0.0,
        bias_norm=0.0,
        singular_values=(),
        slot=None,
        page=None,
        page_stored=None,
        changed=None,
        parts=_parts(base.parts(source, np.array([v]))),
        notes=_notes(graph, v),
    )


def _parts(found: PartsAtRest) -> dict[str, float]:
    parts = {name: float(getattr(found, name)[0]) for name in ("counts", "bias", "edge")}
    return {**parts, "clones": float(found.clones.sum())} if len(found.clones) else parts


def _change(commit: Commit | None) -> Change | None:
    return None if commit is None else Change(commit.snapshot, commit.time, commit.message, commit.command)
