"""A map of the graph: its most frequent nodes, their strongest edges, their places and communities.

The module knows what a map consists of; it does not know how its parts are found (`map_edges`, `map_layout`) or drawn
(`map_html`, `map_image`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sifu_store.short_repr import short_repr

from sifu_graph.arrays import Doubles, Floats, Ints

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


@short_repr
@dataclass(frozen=True, slots=True)
class GraphMap:
    """Nodes [m] and edges [k] of a map; ``source`` and ``target`` are places in the node arrays.

    Attributes
    ----------
    node : int64 [m]
        The nodes' ids in the graph, the most frequent first; then clones, by their numbers among the sources.
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
    clones
        How many of the last points are clones.
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
    clones: int = 0
    unwritten: tuple[str, ...] = ()

    def summary(self) -> str:
        """What the map shows, in a line."""
        clones = f", and {self.clones:,} clones" if self.clones else ""
        return (
            f"{len(self.name) - self.clones:,} of {self.graph_nodes:,} nodes, the most frequent{clones}; "
            f"{len(self.source):,} edges, the strongest by {self.by}, of {self.graph_edges:,} private ones"
            + (" and those of the clones" if self.clones else "")
        )

    @property
    def communities(self) -> int:
        """Number of communities."""
        return int(self.community.max(initial=-1)) + 1


def printed(name: str) -> str:
    """A node's name as one visible line: signs for blanks, codes for control characters."""
    seen = name.replace(" ", "\u2423").replace("\n", "\u23ce").replace("\t", "\u21e5")
    return "".join(character if character.isprintable() else f"<{ord(character):X}>" for character in seen)
