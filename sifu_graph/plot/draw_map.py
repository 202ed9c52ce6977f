"""Draw a map of a graph to files: a page of HTML or a picture.

It knows the maps and the writers; it does not know energies or layouts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from sifu_store.durable import write_durably
from sifu_store.errors import OptionError

from sifu_graph.output_file import require_file
from sifu_graph.plot.figures import FORMATS, require_plotting
from sifu_graph.plot.graph_map import MEASURES, By, GraphMap
from sifu_graph.plot.map_edges import MapEdges, Unfolded, edges_among, strongest, weights
from sifu_graph.plot.map_layout import communities, force_layout
from sifu_graph.progress import SILENT, Stages
from sifu_graph.text.node_lookup import node_named
from sifu_graph.text.tokenizer import UNKNOWN

if TYPE_CHECKING:
    from sifu_graph.session import GraphSession


PAGE = ".html"
UNFOLDED = 30
"""Clones of a node that a map shows at most."""


def draw_map(
    graph: GraphSession,
    *files: str | Path,
    nodes: int = 2000,
    edges: int = 10000,
    by: By = "information",
    unfold: Sequence[str] = (),
    seed: int = 0,
    force: bool = False,
    stages: Stages = SILENT,
) -> GraphMap:
    """Choose the nodes and edges of a map, compute their places, and draw the map.

    The map has the strongest edge of every node, and the strongest ones of the others. Self edges (u, u) are left out.

    Parameters
    ----------
    files
        ``.html``: a page that needs no network; ``.png``, ``.svg``, ``.pdf``: a picture (which needs matplotlib).
    nodes
        Number of nodes: the most frequent ones, without the node of unknown text.
    edges
        Number of edges: the strongest private ones among the nodes.
    by
        The measure of strength. ``information``: p(u) p(v|u) log(p(v|u) / p(v)), the edge's term of the mutual
        information of neighbours, with p(v|u) at rest (`model.graph_at_rest`); ``energy``: the energy of the edge
        at rest; ``count``: how often the pair occurred when the graph was built.
    unfold
        Names of nodes whose clones are drawn too, each with edges of its own: the `UNFOLDED` of greatest gain.
    seed
        Of the layout and the communities: same graph, options and seed, same map.
    force
        Overwrite existing files.
    stages
        Choosing edges, placing nodes and drawing are stages.

    Raises
    ------
    OptionError
        A number is not positive, the measure or a node is unknown, a node has no clones, there is no edge to draw, or a
        file cannot be written.
    """
    paths = [Path(file) for file in files]
    for path in paths:
        _require_file(path, force=force)
    if by not in MEASURES:
        raise OptionError(f"a map by {by!r}: expected one of {', '.join(MEASURES)}")
    if nodes < 2 or edges < 1:
        raise OptionError(f"a map of {nodes} nodes and {edges} edges: expected at least 2 nodes and 1 edge")
    stages.stage("choosing nodes and edges")
    occurrences = graph.store.read("nodes/count").astype(np.int64)
    order = np.argsort(-occurrences, kind="stable")
    chosen = order[(order != UNKNOWN) & (occurrences[order] > 0)][:nodes]
    place_of = np.full(len(occurrences), -1)
    opened = np.array([node_named(graph.tokenizer, name) for name in unfold], np.int64)
    chosen = np.concatenate([chosen, np.setdiff1d(opened, chosen)])
    if len(chosen) < 2:
        raise OptionError(f"a map shows nodes that occurred, and {len(chosen)} of {len(occurrences):,} have a count")
    place_of[chosen] = np.arange(len(chosen))
    clones = Unfolded.of(graph, opened, place_of, occurrences, by, most=UNFOLDED)
    found = MapEdges.joined([edges_among(graph, chosen, place_of, occurrences, by), clones.edges])
    if not len(found.source):
        raise OptionError(
            f"no private edge among the {len(chosen):,} most frequent nodes; expected at least one: raise `nodes`"
        )
    kept = strongest(found.source, found.target, found.strength, edges)
    part = found.take(kept)
    links = part.source, part.target, weights(part.strength, by)
    community = communities(len(chosen) + len(clones.source), *links, seed=seed)
    names = graph.tokenizer.vocabulary
    drawn = GraphMap(
        node=np.concatenate([chosen, clones.source]),
        name=[*(names[node] for node in chosen), *clones.name],
        occurrences=np.concatenate([occurrences[chosen], clones.occurrences]),
        place=force_layout(*links, community, seed=seed, stages=stages),
        community=community,
        by=by,
        snapshot=graph.store.snapshot,
        graph_nodes=len(occurrences),
        graph_edges=graph._at_rest.index.edges,
        clones=len(clones.source),
        source=part.source,
        target=part.target,
        count=part.count,
        energy=part.energy,
        probability=part.probability,
        strength=part.strength,
    )
    stages.stage("drawing")
    unwritten = set().union(*(_write(drawn, path) for path in paths))
    return dataclasses.replace(drawn, unwritten=tuple(name for name in drawn.name if name in unwritten))


def _require_file(path: Path, *, force: bool) -> None:
    if path.suffix.lower() in FORMATS:
        require_plotting(path, force=force)
    elif path.suffix.lower() == PAGE:
        require_file(path, force=force)
    else:
        raise OptionError(f"{path}: the map's name must end with one of {', '.join((PAGE, *FORMATS))}")


def _write(drawn: GraphMap, path: Path) -> list[str]:
    """Write one file; returns the names that the picture leaves out."""
    if path.suffix.lower() == PAGE:
        from sifu_graph.plot.map_html import map_page

        write_durably(path.absolute(), map_page(drawn).encode())
        return []
    from sifu_graph.plot.map_image import map_picture

    picture, unwritten = map_picture(drawn, path.suffix.lower().removeprefix("."))
    write_durably(path.absolute(), picture)
    return unwritten
