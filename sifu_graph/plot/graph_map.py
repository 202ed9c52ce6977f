"""A map of the graph: its most frequent nodes, their strongest edges, their places and communities.

The module knows graphs and energies; it does not know how a map is drawn (`map_html`, `map_image`). Energies come from
`walk.Walk`, one row in memory at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from sifu_graph.arrays import Doubles, Floats, Ints
from sifu_graph.generation.base_walk import walk_of
from sifu_graph.inspection.energies import row_at_rest

if TYPE_CHECKING:
    from sifu_graph.session import GraphSession

By = Literal["information", "energy", "count"]
MEASURES: dict[By, str] = {
    "information": "what an edge adds to the frequencies of its nodes",
    "energy": "the energy of the edge at rest",
    "count": "how often the pair occurred",
}
"""The measures of an edge's strength, with their meaning."""

COLOURS = (
    "#c8553d",
    "#2f6f9f",
    "#5a8f3c",
    "#8a5aa8",
    "#c98a1b",
    "#2a9d8f",
    "#b5446e",
    "#4f6bd8",
    "#9c6644",
    "#3a9bdc",
    "#7d9b1f",
    "#a0527f",
)
"""Of the largest communities, for light and dark backgrounds."""
OTHER = "#8d887c"
"""Of the others."""


@dataclass(frozen=True, slots=True)
class GraphMap:
    """Nodes [m] and edges [k] of a map; ``source`` and ``target`` are places in the node arrays.

    Attributes
    ----------
    node : int64 [m]
        The nodes' ids in the graph, the most frequent first.
    occurrences : int64 [m]
        Counts in the corpus.
    place : float32 [m, 2]
        Positions within the unit circle.
    community : int64 [m]
        Number of the community; 0 is the largest.
    energy, probability : float64 [k]
        Of the edges, at rest.
    strength : float64 [k]
        The measure ``by``; edges are sorted by it in descending order.
    unwritten
        Names that a picture leaves out because no installed font has them.
    """

    node: Ints
    name: list[str]
    occurrences: Ints
    place: Floats
    community: Ints
    source: Ints
    target: Ints
    count: Ints
    energy: Doubles
    probability: Doubles
    strength: Doubles
    by: By
    snapshot: str
    graph_nodes: int
    graph_edges: int
    unwritten: tuple[str, ...] = ()

    @property
    def communities(self) -> int:
        """Number of communities."""
        return int(self.community.max(initial=-1)) + 1


def printed(name: str) -> str:
    """A node's name as one visible line: signs for blanks, codes for control characters."""
    seen = name.replace(" ", "\u2423").replace("\n", "\u23ce").replace("\t", "\u21e5")
    return "".join(character if character.isprintable() else f"<{ord(character):X}>" for character in seen)


@dataclass(frozen=True, slots=True)
class _Edges:
    source: Ints
    target: Ints
    count: Ints
    energy: Doubles
    probability: Doubles
    strength: Doubles

    @classmethod
    def joined(cls, parts: list[_Edges]) -> _Edges:
        return cls(
            np.concatenate([part.source for part in parts]),
            np.concatenate([part.target for part in parts]),
            np.concatenate([part.count for part in parts]),
            np.concatenate([part.energy for part in parts]),
            np.concatenate([part.probability for part in parts]),
            np.concatenate([part.strength for part in parts]),
        )

    def take(self, kept: Ints) -> _Edges:
        return _Edges(
            self.source[kept],
            self.target[kept],
            self.count[kept],
            self.energy[kept],
            self.probability[kept],
            self.strength[kept],
        )


def _edges_among(graph: GraphSession, chosen: Ints, place_of: Ints, occurrences: Ints, by: By) -> _Edges:
    walk = walk_of(graph.parameters, graph.signal)
    share = occurrences / max(1, int(occurrences.sum()))
    parts = []
    for at, node in enumerate(chosen.tolist()):
        row = row_at_rest(walk, node)
        inside = (place_of[row.target] >= 0) & (row.target != node)
        target, p = row.target[inside], row.probability[inside]
        if by == "information":
            strength = share[node] * p * np.log(np.maximum(p, 1e-30) / share[target])
        else:
            strength = (row.energy if by == "energy" else row.count)[inside].astype(np.float64)
        ends = np.full(len(target), at), place_of[target]
        parts.append(_Edges(*ends, row.count[inside], row.energy[inside], p, strength))
    return _Edges.joined(parts)


def _strongest(source: Ints, target: Ints, strength: Doubles, edges: int) -> Ints:
    """Which edges to keep, the strongest first: the strongest of every node, and the strongest of the others."""
    order = np.argsort(-strength, kind="stable")
    first = np.zeros(len(order), bool)
    ends = np.stack([source[order], target[order]], 1).reshape(-1)
    first[np.unique(ends, return_index=True)[1] // 2] = True
    rank = np.where(first, 0, 1)
    best: Ints = order[np.sort(np.lexsort([np.arange(len(order)), rank])[:edges])]
    return best


def _weights(strength: Doubles, by: By) -> Doubles:
    """Weights of edges in the layout: the square root of the strength, so that a few edges do not dominate."""
    low = float(strength.min())
    above = strength - low if by == "energy" or low < 0 else strength
    weight: Doubles = np.sqrt(above / max(float(above.max()), 1e-30)) + 0.05
    return weight
