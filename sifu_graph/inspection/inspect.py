"""One node or one edge in detail: its counts, its parameters, and the commit that last changed it.

Energies and probabilities are those at rest (`energies`). Of the graph's pages, only the row of the node and the edges
from its most frequent sources are read. The module knows a graph and its store; it does not know texts or screens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from sifu_store.history import Commit
from sifu_store.layout import BIAS, PAGE_EDGES, TARGET_VECTOR, WEIGHT
from sifu_store.provenance import edge_changed, rows_changed
from torch import Tensor

from sifu_graph.config import require_positive
from sifu_graph.generation.base_walk import BaseWalk, walk_of
from sifu_graph.inspection.energies import energies_at_rest, row_at_rest
from sifu_graph.inspection.inspect_clone import CloneReport, CloneSummary, clones_of, inspect_clone
from sifu_graph.model.base import Base, PartsAtRest
from sifu_graph.model.io import read_clones
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


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A private edge of the inspected node, and the node at its other end.

    ``share`` is its part of all transitions that were counted out of the source. ``energy`` and ``p``, its
    probability, are those at rest; ``p`` is None for an edge into the node, as it needs the source's whole row.
    """

    node: int
    name: str
    count: int
    share: float
    energy: float
    p: float | None


@dataclass(frozen=True, slots=True)
class Similar:
    """A node whose vector points in a similar direction as that of the inspected node, by the cosine."""

    node: int
    name: str
    cosine: float


@dataclass(frozen=True, slots=True)
class NodeReport:
    """One node. Each list has at most ``top`` entries, sorted by the measure in its name, descending.

    Attributes
    ----------
    transitions
        Occurrences of all pairs out of the node.
    targets_by_energy, targets_by_count
        Private edges out of the node.
    disagreements
        Private edges out of the node with the largest difference between probability and counted share.
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
    notes: tuple[str, ...] = ()
    """Which node was probably meant, if not this one."""


@dataclass(frozen=True, slots=True)
class EdgeReport:
    """One edge.

    Attributes
    ----------
    count, share
        Occurrences of the pair, and their share (0 to 1) of all transitions out of the source; None for a default edge,
        whose count is not stored.
    energy, p, rank
        Energy, probability and rank among all nodes, at rest.
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
    graph.fit_memory(evaluated_edges=max(SOURCES, top))
    parameters, store = graph.parameters, graph.store
    index, names = parameters.index, graph.tokenizer.vocabulary
    row = row_at_rest(walk_of(parameters, graph.signal), node)
    total = store.read("rows/total")
    share = row.count / max(1, int(total[node]))

    def targets(order: NDArray[np.int64]) -> tuple[Neighbour, ...]:
        return tuple(
            Neighbour(
                int(row.target[at]),
                names[row.target[at]],
                int(row.count[at]),
                float(share[at]),
                float(row.energy[at]),
                float(row.probability[at]),
            )
            for at in order[:top]
        )

    into = np.flatnonzero(index.target == node)
    into = into[np.argsort(-index.count[into], kind="stable")][: max(SOURCES, top)]
    sources = np.searchsorted(index.row_start, into, side="right") - 1
    compared = into[:SOURCES]
    energy = energies_at_rest(graph, index.slot[into]).tolist()
    neighbours = [
        Neighbour(int(u), names[u], int(index.count[at]), float(index.count[at] / max(1, total[u])), e, None)
        for u, at, e in zip(sources, into, energy, strict=True)
    ]
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
        private_in=int((index.target == node).sum()),
        default_energy=row.default_energy,
        default_p=row.default_probability,
        bias_norm=float(parameters.node_bias[node].norm()),
        pages=(int(pages[0]), int(pages[-1])) if len(pages) else None,
        targets_by_energy=targets(np.argsort(-row.energy, kind="stable")),
        targets_by_count=targets(np.argsort(-row.count, kind="stable")),
        disagreements=targets(np.argsort(-np.abs(row.probability - share), kind="stable")),
        sources_by_count=tuple(neighbours[:top]),
        sources_by_energy=tuple(sorted(neighbours[: len(compared)], key=lambda found: -found.energy)[:top]),
        compared=len(compared),
        bias_changed=_change(bias_changed),
        row_written=_change(row_written),
        similar_targets=_similar(parameters.small.get(TARGET_VECTOR), node, names, top),
        similar_sources=_similar(parameters.node_bias if parameters.base else None, node, names, top),
        clones=clones_of(graph, node, top=top),
        repeated=None if parameters.base is None else float(parameters.base.repeat_weights()[node, 0]),
        notes=_notes(graph, node),
    )


def _similar(vectors: Tensor | None, node: int, names: Sequence[str], top: int) -> tuple[Similar, ...]:
    """The nodes with the vectors [n, d] that are most similar to that of a node; none for no vectors or one of 0."""
    if vectors is None or not bool(vectors[node].any()):
        return ()
    cosine = torch.nn.functional.cosine_similarity(vectors, vectors[node][None]).numpy()
    order = np.argsort(-cosine, kind="stable")
    return tuple(Similar(int(v), names[v], float(cosine[v])) for v in order[order != node][:top])


def inspect_edge(graph: GraphSession, source: str, target: str) -> EdgeReport:
    """The report of the edge from one node to another.

    Raises
    ------
    OptionError
        No node has one of the names; the message has the nearest names.
    """
    v = node_named(graph.tokenizer, target)
    graph.fit_memory(evaluated_edges=1)
    parameters, store = graph.parameters, graph.store
    base, walk = parameters.base, walk_of(parameters, graph.signal)
    u = source_of(graph, source)
    if base is not None and u >= base.pairs.nodes:
        return _edge_of_clone(graph, base, u, v)
    row = row_at_rest(walk, u)
    at = int(np.searchsorted(row.target, v))
    private = at < len(row.target) and int(row.target[at]) == v
    if isinstance(walk, BaseWalk):  # every node has an energy of its own
        every = walk.last_energies()[0].astype(np.float64)
        energy, stronger = float(every[v]), int((every > every[v]).sum())
        p = float(np.exp(every[v] - np.logaddexp.reduce(every)))
    else:
        energy, p = (
            (float(row.energy[at]), float(row.probability[at]))
            if private
            else (row.default_energy, row.default_probability)
        )
        stronger = int((row.energy > energy).sum())
        if row.default_energy > energy:
            stronger += int(parameters.index.defaults()[u])
    slot = int(row.slot[at]) if private else None
    generated: tuple[np.ndarray, np.ndarray] | None = None
    if slot is not None:
        W, b = (parameters.edges.get(name, np.array([slot]))[0] for name in (WEIGHT, BIAS))
        initial = parameters.edges.initial
        drawn = initial.weight(np.array([slot]))
        generated = (np.zeros(W.shape, np.float32) if drawn is None else drawn[0], initial.bias(np.array([slot]))[0])
    else:
        W, b = parameters.default_W, parameters.default_b
    count = int(row.count[at]) if private else None
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
        rank=stronger + 1,
        weight_norm=float(W.norm()),
        bias_norm=float(b.norm()),
        singular_values=tuple(torch.linalg.svdvals(W.double()).tolist()),
        slot=slot,
        page=page,
        page_stored=None if page is None else bool(store.page_stored()[page]),
        changed=_change(edge_changed(store, u, v, slot, generated)),
        parts=None if base is None else _parts(base.parts_at_rest(u, np.array([v]))),
        notes=_notes(graph, u, v),
    )


def _notes(graph: GraphSession, *nodes: int) -> tuple[str, ...]:
    count = graph.store.read("nodes/count")
    notes = [other_form_note(graph.tokenizer, node, count) for node in dict.fromkeys(nodes)]
    return tuple(note for note in notes if note is not None)


def source_of(graph: GraphSession, name: str) -> int:
    """The node or the clone of a name. Raises `OptionError` with the nearest names for any other."""
    return source_named(graph.tokenizer, read_clones(graph.store, graph.settings["nodes"]), name)


def _edge_of_clone(graph: GraphSession, base: Base, source: int, v: int) -> EdgeReport:
    """The report of an edge of a clone, which has counts and an energy, but no matrix of its own."""
    every, pairs = np.arange(base.pairs.nodes), base.pairs
    (row, p), parts = base.row_at_rest(source), base.parts_at_rest(source, np.array([v]))
    pair = int(pairs.find(np.array([source]), np.array([v]))[0])
    count = int(pairs.count[pair]) if pair >= 0 else 0
    default = row[np.delete(every, pairs.target[pairs.first[source] : pairs.first[source + 1]])]
    return EdgeReport(
        source=source_name(graph.tokenizer, pairs.tree, source),
        target=graph.tokenizer.vocabulary[v],
        private=False,
        count=count,
        share=count / max(1, int(pairs.total[source])),
        energy=float(row[v]),
        default_energy=float(np.logaddexp.reduce(default)) - math.log(max(1, len(default))),
        p=float(p[v]),
        rank=1 + int((row > row[v]).sum()),
        weight_norm=0.0,
        bias_norm=0.0,
        singular_values=(),
        slot=None,
        page=None,
        page_stored=None,
        changed=None,
        parts=_parts(parts),
        notes=_notes(graph, v),
    )


def _parts(found: PartsAtRest) -> dict[str, float]:
    parts = {name: float(getattr(found, name)[0]) for name in ("counts", "bias", "edge")}
    return {**parts, "clones": float(found.clones.sum())} if len(found.clones) else parts


def _change(commit: Commit | None) -> Change | None:
    return None if commit is None else Change(commit.snapshot, commit.time, commit.message, commit.command)
