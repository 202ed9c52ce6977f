"""An edge and the nodes beside it, as the page of a server shows them: without the history, which takes longest.

The module knows a graph at rest; it does not know the commits that changed it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from sifu_store.layout import TARGET_VECTOR

from sifu_graph.arrays import Doubles, Ints
from sifu_graph.config import require_positive
from sifu_graph.inspection.inspect import EdgeReport, Similar, inspect_edge, similar, source_of
from sifu_graph.text.node_lookup import node_named

if TYPE_CHECKING:
    from sifu_graph.session import GraphSession


@dataclass(frozen=True, slots=True)
class Surroundings:
    """An edge and the nodes beside it. Each list has at most ``top`` entries, the first the greatest.

    Attributes
    ----------
    edge
        The edge; ``changed`` is None.
    after
        Names of nodes after the source, with their probabilities at rest.
    before
        Names of the nodes before the target, with the counts of the private edges.
    like
        The nodes that are most similar to the target, of a graph whose edges share a base; else empty.
    """

    edge: EdgeReport
    after: tuple[tuple[str, float], ...]
    before: tuple[tuple[str, int], ...]
    like: tuple[Similar, ...]


def surroundings(graph: GraphSession, source: str, target: str, *, top: int = 8) -> Surroundings:
    """An edge from a node or a clone, and the nodes beside it.

    Raises
    ------
    OptionError
        No node has one of the names; the message has the nearest names.
    """
    require_positive(top=top)
    edge = inspect_edge(graph, source, target, history=False)
    u, v = source_of(graph, source), node_named(graph.tokenizer, target)
    rest, names, index = graph._at_rest, graph.tokenizer.vocabulary, graph._at_rest.index
    nodes: Ints
    p: Doubles
    if rest.has_base:
        p = rest.base(np.array([u])).row(u)[1]
        nodes = np.arange(len(p))
    else:
        row = rest.row(u)
        nodes, p = row.target, row.probability
    best = np.argsort(-p, kind="stable")[:top]
    into = np.flatnonzero(index.target == v)
    into = into[np.argsort(-index.count[into], kind="stable")][:top]
    sources = np.searchsorted(index.row_start, into, side="right") - 1
    return Surroundings(
        edge,
        tuple((names[nodes[at]], float(p[at])) for at in best),
        tuple((names[at], int(count)) for at, count in zip(sources, index.count[into], strict=True)),
        similar(rest.small(TARGET_VECTOR) if rest.has_base else None, v, names, top),
    )
