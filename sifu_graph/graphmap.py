"""A map of the graph: its most frequent nodes, their strongest edges, where each lies and what belongs together.

It knows graphs and energies; it does not know how a map is drawn (`map_page`, `map_picture`). Energies come from
`decoding.Walk`, row by row, so that no more of the graph is in memory than the rows that are met.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from sifu_store.durable import write_durably
from sifu_store.errors import OptionError

from sifu_graph.arrays import Doubles, Ints
from sifu_graph.generation.walk import Walk
from sifu_graph.layout import communities, force_layout
from sifu_graph.plots import FORMATS, require_plotting, require_room
from sifu_graph.text.tokenizer import UNKNOWN

if TYPE_CHECKING:
    from sifu_graph.session import GraphSession

PAGE = ".html"
By = Literal["information", "energy", "count"]
MEASURES: dict[By, str] = {
    "information": "what an edge adds to the frequencies of its nodes",
    "energy": "what reaches the target in a neutral context",
    "count": "how often the pair occurred",
}
"""What makes an edge strong, in words."""

COLOURS = ("#c8553d", "#2f6f9f", "#5a8f3c", "#8a5aa8", "#c98a1b", "#2a9d8f", "#b5446e", "#4f6bd8", "#9c6644", "#3a9bdc",
           "#7d9b1f", "#a0527f")  # fmt: skip
"""Of the largest communities, for a light and a dark ground."""
OTHER = "#8d887c"
"""Of the others."""


@dataclass(frozen=True, slots=True)
class Row:
    """The contest of one node in its neutral context: the private edges out of it."""

    target: Ints  # [k]
    count: Ints  # [k]
    energy: Doubles  # [k]
    probability: Doubles  # [k], of the softmax over all nodes
    default_energy: float


def row_alone(walk: Walk, node: int) -> Row:
    """The row of a node in its neutral context: the node alone, its mix empty (see `sifu_graph.inspection`)."""
    walk.silent = frozenset({0})
    walk.start(node)
    energies, default = walk.energies()
    index = walk.parameters.index
    row = index.row(node)
    logits = energies.astype(np.float64) * walk.scale
    left = int(index.defaults()[node])
    rest = default * walk.scale + np.log(left) if left else -np.inf
    total = np.logaddexp(np.logaddexp.reduce(logits) if len(logits) else -np.inf, rest)
    return Row(
        target=index.target[row].astype(np.int64),
        count=index.count[row],
        energy=energies.astype(np.float64),
        probability=np.exp(logits - total),
        default_energy=default,
    )


@dataclass(frozen=True, slots=True)
class GraphMap:
    """Nodes [m] and edges [k] of a map; ``source`` and ``target`` are places in the node arrays.

    Attributes
    ----------
    node
        The nodes' ids in the graph, the most frequent first.
    occurrences
        In the corpus.
    place : float32 [m, 2]
        Within the unit circle.
    community : int64 [m]
        0 is the largest.
    strength : float64 [k]
        By the measure ``by``; edges are sorted by it, the strongest first.
    unwritten
        Names that a picture leaves out because no font of this machine has them.
    """

    node: Ints
    name: list[str]
    occurrences: Ints
    place: NDArray[np.float32]
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
        """How many there are."""
        return int(self.community.max(initial=-1)) + 1


def printed(name: str) -> str:
    """A node's name as one line that can be seen: blanks and control characters by a sign."""
    seen = name.replace(" ", "\u2423").replace("\n", "\u23ce").replace("\t", "\u21e5")
    return "".join(character if character.isprintable() else f"<{ord(character):X}>" for character in seen)


def draw_map(
    graph: GraphSession,
    *files: str | Path,
    nodes: int = 2000,
    edges: int = 10000,
    by: By = "information",
    seed: int = 0,
    force: bool = False,
) -> GraphMap:
    """Chooses the nodes and the edges of a map, lays them out, and draws the map.

    Every node keeps the strongest edge that it has within the map; the others are the strongest of all. Edges of a
    node to itself are left out.

    Parameters
    ----------
    files
        ``.html``: a page that needs no network; ``.png``, ``.svg``, ``.pdf``: a picture (which needs matplotlib).
    nodes
        The most frequent nodes; the node of unknown text is never one of them.
    edges
        The strongest private edges among them.
    by
        What makes an edge strong. ``information``: p(u) p(v|u) log(p(v|u) / p(v)), what it adds to the frequencies,
        with p(v|u) from the energies in a neutral context (`row_alone`); ``energy``: that energy itself; ``count``:
        how often the pair occurred when the graph was built.
    seed
        Of the layout and the communities: same graph, options and seed, same map.
    force
        Overwrites files.

    Raises
    ------
    OptionError
        A number is not positive, the measure is not known, there is no edge to draw, or a file cannot be written.
    """
    paths = [Path(file) for file in files]
    for path in paths:
        _require_file(path, force=force)
    if by not in MEASURES:
        raise OptionError(f"a map by {by!r}: expected one of {', '.join(MEASURES)}")
    if nodes < 2 or edges < 1:
        raise OptionError(f"a map of {nodes} nodes and {edges} edges: expected at least 2 nodes and 1 edge")
    occurrences = graph.store.read("nodes/count").astype(np.int64)
    order = np.argsort(-occurrences, kind="stable")
    chosen = order[(order != UNKNOWN) & (occurrences[order] > 0)][:nodes]
    place_of = np.full(len(occurrences), -1)
    place_of[chosen] = np.arange(len(chosen))
    found = _edges_among(graph, chosen, place_of, occurrences, by)
    if not len(found.source):
        raise OptionError(f"there is no private edge among the {len(chosen):,} most frequent nodes: nothing to draw")
    kept = _strongest(found.source, found.target, found.strength, edges)
    part = found.take(kept)
    links = part.source, part.target, _weights(part.strength, by)
    community = communities(len(chosen), *links, seed=seed)
    names = graph.tokenizer.vocabulary
    drawn = GraphMap(
        node=chosen,
        name=[names[node] for node in chosen],
        occurrences=occurrences[chosen],
        place=force_layout(*links, community, seed=seed),
        community=community,
        by=by,
        snapshot=graph.store.snapshot,
        graph_nodes=len(occurrences),
        graph_edges=graph.parameters.index.edges,
        source=part.source,
        target=part.target,
        count=part.count,
        energy=part.energy,
        probability=part.probability,
        strength=part.strength,
    )
    unwritten = set().union(*(_write(drawn, path) for path in paths))
    return dataclasses.replace(drawn, unwritten=tuple(name for name in drawn.name if name in unwritten))


def _require_file(path: Path, *, force: bool) -> None:
    if path.suffix.lower() in FORMATS:
        require_plotting(path, force=force)
    elif path.suffix.lower() == PAGE:
        require_room(path, force=force)
    else:
        raise OptionError(f"{path}: the map's name must end with one of {', '.join((PAGE, *FORMATS))}")


def _write(drawn: GraphMap, path: Path) -> list[str]:
    """Returns the names that could not be written into a picture."""
    if path.suffix.lower() == PAGE:
        from sifu_graph.map_page import map_page

        write_durably(path.absolute(), map_page(drawn).encode())
        return []
    from sifu_graph.map_picture import map_picture

    picture, unwritten = map_picture(drawn, path.suffix.lower().removeprefix("."))
    write_durably(path.absolute(), picture)
    return unwritten


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
            self.source[kept], self.target[kept], self.count[kept], self.energy[kept], self.probability[kept],
            self.strength[kept],
        )  # fmt: skip


def _edges_among(graph: GraphSession, chosen: Ints, place_of: Ints, occurrences: Ints, by: By) -> _Edges:
    walk = Walk(graph.parameters, graph.signal)
    share = occurrences / max(1, int(occurrences.sum()))
    parts = []
    for at, node in enumerate(chosen.tolist()):
        row = row_alone(walk, node)
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
    """Which edges to keep, the strongest first: the first of every node, then the best of the others."""
    order = np.argsort(-strength, kind="stable")
    first = np.zeros(len(order), bool)
    ends = np.stack([source[order], target[order]], 1).reshape(-1)
    first[np.unique(ends, return_index=True)[1] // 2] = True
    rank = np.where(first, 0, 1)
    best: Ints = order[np.sort(np.lexsort([np.arange(len(order)), rank])[:edges])]
    return best


def _weights(strength: Doubles, by: By) -> Doubles:
    """How hard an edge pulls: the square root of its strength, so that a few do not hold everything."""
    low = float(strength.min())
    above = strength - low if by == "energy" or low < 0 else strength
    weight: Doubles = np.sqrt(above / max(float(above.max()), 1e-30)) + 0.05
    return weight
