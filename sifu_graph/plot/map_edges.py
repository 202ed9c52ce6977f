"""The edges of a map: those among its nodes, those of clones, and which of them are drawn.

The module knows graphs and energies; it does not know places or drawing. Energies come from `walk.Walk`, one row in
memory at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from sifu_store.errors import OptionError
from sifu_store.layout import CLONE_GAIN

from sifu_graph.arrays import Doubles, Ints
from sifu_graph.model.base import Base
from sifu_graph.plot.graph_map import By
from sifu_graph.text.node_lookup import source_name

if TYPE_CHECKING:
    from sifu_graph.session import GraphSession


@dataclass(frozen=True, slots=True)
class MapEdges:
    """Edges of a map, [k] each, as in `GraphMap`."""

    source: Ints
    target: Ints
    count: Ints
    energy: Doubles
    probability: Doubles
    strength: Doubles

    @classmethod
    def joined(cls, parts: Sequence[MapEdges]) -> MapEdges:
        """The edges of several parts."""
        return cls(
            np.concatenate([part.source for part in parts]),
            np.concatenate([part.target for part in parts]),
            np.concatenate([part.count for part in parts]),
            np.concatenate([part.energy for part in parts]),
            np.concatenate([part.probability for part in parts]),
            np.concatenate([part.strength for part in parts]),
        )

    def take(self, kept: Ints) -> MapEdges:
        """Some of the edges, by their numbers, int64 [j]."""
        return MapEdges(
            self.source[kept],
            self.target[kept],
            self.count[kept],
            self.energy[kept],
            self.probability[kept],
            self.strength[kept],
        )


def edges_among(graph: GraphSession, chosen: Ints, place_of: Ints, occurrences: Ints, by: By) -> MapEdges:
    """The private edges among the chosen nodes, without self edges.

    ``chosen`` [m] are the nodes, ``place_of`` [n] is the point of each node on the map, -1: none; ``occurrences`` [n].
    """
    share = occurrences / max(1, int(occurrences.sum()))
    parts = []
    for at, (node, row) in enumerate(zip(chosen.tolist(), graph._at_rest.rows(chosen), strict=True)):
        inside = (place_of[row.target] >= 0) & (row.target != node)
        target, p = row.target[inside], row.probability[inside]
        ends = np.full(len(target), at), place_of[target]
        edges = row.count[inside], row.energy[inside], p
        parts.append(MapEdges(*ends, *edges, _strength(by, share[node], share[target], edges)))
    return MapEdges.joined(parts)


@dataclass(frozen=True, slots=True)
class Unfolded:
    """Clones of a map, its points after the nodes: their numbers among the sources, names, occurrences and edges.

    A clone has an edge from the node before it, if that is on the map, and edges to the targets that it has counted.
    """

    source: Ints
    name: list[str]
    occurrences: Ints
    edges: MapEdges

    @classmethod
    def of(cls, graph: GraphSession, nodes: Ints, place_of: Ints, occurrences: Ints, by: By, *, most: int) -> Unfolded:
        """The ``most`` clones of greatest gain of each of these nodes, int64 [k].

        ``place_of`` [n] is the point of each node, -1: none; ``occurrences`` [n].

        Raises
        ------
        OptionError
            One of the nodes has no clones.
        """
        none = np.empty(0, np.int64)
        if not len(nodes):
            return cls(none, [], none, MapEdges(none, none, none, *[np.empty(0)] * 3))
        base, names = graph.parameters.base, graph.tokenizer.vocabulary
        of_node = none if base is None else base.pairs.tree.node[base.pairs.nodes :]
        gain = graph.store.read(CLONE_GAIN) if len(of_node) else np.empty(0)
        chosen = []
        for node in nodes.tolist():
            mine = np.flatnonzero(of_node == node)
            if not len(mine):
                raise OptionError(f"{names[node]!r} has no clones to unfold")
            chosen.append(mine[np.argsort(-gain[mine], kind="stable")][:most])
        assert base is not None  # it has clones
        pairs = base.pairs
        source = pairs.nodes + np.unique(np.concatenate(chosen))
        first = int((place_of >= 0).sum())
        return cls(
            source=source,
            name=[source_name(graph.tokenizer, pairs.tree, clone) for clone in source.tolist()],
            occurrences=pairs.total[source],
            edges=MapEdges.joined(
                [
                    _of_clone(base, clone, first + k, place_of, occurrences, by)
                    for k, clone in enumerate(source.tolist())
                ]
            ),
        )


def _of_clone(base: Base, clone: int, point: int, place_of: Ints, occurrences: Ints, by: By) -> MapEdges:
    """The edges of one clone, at a point of a map."""
    pairs, total = base.pairs, max(1, int(occurrences.sum()))
    share = occurrences / total
    before, node = int(pairs.tree.token[clone - pairs.nodes]), int(pairs.tree.node[clone])
    row = slice(int(pairs.first[clone]), int(pairs.first[clone + 1]))
    target, count = pairs.target[row].astype(np.int64), pairs.count[row].astype(np.int64)
    inside = place_of[target] >= 0
    target, count = target[inside], count[inside]
    out, into = base.at_rest.row(clone), base.at_rest.row(before)
    edges = (
        np.append(count, pairs.total[clone]),
        np.append(out[0][target], into[0][node]),
        np.append(out[1][target], into[1][node]),
    )
    found = MapEdges(
        np.append(np.full(len(target), point), place_of[before]),
        np.append(place_of[target], point),
        *edges,
        _strength(by, float(pairs.total[clone]) / total, np.append(share[target], share[node]), edges),
    )
    return found.take(np.flatnonzero(found.source >= 0))


def _strength(by: By, share: Doubles | float, usual: Doubles, edges: tuple[Ints, Doubles, Doubles]) -> Doubles:
    """The measure of edges with count, energy and probability [k]: see `draw_map.draw_map`.

    ``share`` and ``usual`` are the shares of the text that their sources and targets have.
    """
    count, energy, p = edges
    if by == "information":
        return share * p * np.log(np.maximum(p, 1e-30) / usual)
    return energy if by == "energy" else count.astype(np.float64)


def strongest(source: Ints, target: Ints, strength: Doubles, edges: int) -> Ints:
    """Which of k edges to keep, int64, the strongest first: the strongest of every node, and the strongest others."""
    order = np.argsort(-strength, kind="stable")
    first = np.zeros(len(order), bool)
    ends = np.stack([source[order], target[order]], 1).reshape(-1)
    first[np.unique(ends, return_index=True)[1] // 2] = True
    rank = np.where(first, 0, 1)
    best: Ints = order[np.sort(np.lexsort([np.arange(len(order)), rank])[:edges])]
    return best


def weights(strength: Doubles, by: By) -> Doubles:
    """Weights [k] of edges in the layout: the square root of the strength, so that a few edges do not dominate."""
    low = float(strength.min())
    above = strength - low if by == "energy" or low < 0 else strength
    weight: Doubles = np.sqrt(above / max(float(above.max()), 1e-30)) + 0.05
    return weight
