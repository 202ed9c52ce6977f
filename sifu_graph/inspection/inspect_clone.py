"""One clone in detail: what its counts say, and what its parent says.

It knows a graph and its counts; it does not know texts or screens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from sifu_store.layout import CLONE_GAIN, CLONE_PARENT
from sifu_store.short_repr import short_repr

from sifu_graph.config import require_positive
from sifu_graph.text.node_lookup import source_name

if TYPE_CHECKING:
    from sifu_graph.session import GraphSession


@dataclass(frozen=True, slots=True)
class CloneTarget:
    """A node after a clone.

    Attributes
    ----------
    count
        Occurrences after the clone, as it counts them; 0: its parent alone speaks for it.
    p, p_parent
        Its probability (0 to 1) at rest, after the clone and after the parent.
    """

    node: int
    name: str
    count: int
    p: float
    p_parent: float


@dataclass(frozen=True, slots=True)
class CloneSummary:
    """A clone: its name, its occurrences as it counts them, and what it was expected to gain."""

    name: str
    count: int
    gain: float


@short_repr
@dataclass(frozen=True, slots=True)
class CloneReport:
    """One clone. The lists have at most ``top`` entries, sorted descending.

    Attributes
    ----------
    parent
        The name of the clone or node that speaks where this one has no counts.
    count, distinct_targets
        Occurrences, as the clone counts them, and different targets.
    inherited
        Share of the probability that the clone leaves to its parent, 0 to 1.
    gain
        What it was expected to gain over its parent, in nats over a text like that of the build.
    targets
        By probability.
    changes
        By the absolute difference of the probabilities after the clone and after its parent.
    clones
        The clones of this one, by gain.
    """

    name: str
    parent: str
    count: int
    distinct_targets: int
    inherited: float
    gain: float
    targets: tuple[CloneTarget, ...]
    changes: tuple[CloneTarget, ...]
    clones: tuple[CloneSummary, ...]


def inspect_clone(graph: GraphSession, source: int, *, top: int = 10) -> CloneReport:
    """The report of a clone, by its number among the sources.

    Raises
    ------
    OptionError
        ``top`` is not positive.
    """
    require_positive(top=top)
    base, names = graph._at_rest.base(np.array([source])), graph.tokenizer.vocabulary
    pairs = base.pairs
    parent = int(pairs.tree.parents[source])
    p, p_parent = (base.row(at)[1] for at in (source, parent))
    row = slice(int(pairs.first[source]), int(pairs.first[source + 1]))
    count = np.zeros(pairs.nodes, np.int64)
    count[pairs.target[row]] = pairs.count[row]

    def listed(order: np.ndarray) -> tuple[CloneTarget, ...]:
        return tuple(
            CloneTarget(v, names[v], int(count[v]), float(p[v]), float(p_parent[v])) for v in order[:top].tolist()
        )

    return CloneReport(
        name=source_name(graph.tokenizer, pairs.tree, source),
        parent=source_name(graph.tokenizer, pairs.tree, parent),
        count=int(pairs.total[source]),
        distinct_targets=int((count > 0).sum()),
        inherited=float(pairs.left[source]),
        gain=float(graph.store.read(CLONE_GAIN)[source - pairs.nodes]),
        targets=listed(np.argsort(-p, kind="stable")),
        changes=listed(np.argsort(-np.abs(p - p_parent), kind="stable")),
        clones=clones_of(graph, source, top=top),
    )


def clones_of(graph: GraphSession, source: int, *, top: int) -> tuple[CloneSummary, ...]:
    """The clones of a node or of a clone, those of the greatest gain first."""
    if not graph.signal.base or not graph.store.has(CLONE_PARENT):
        return ()
    pairs, gain = graph._at_rest.sources, graph.store.read(CLONE_GAIN)
    mine = np.flatnonzero(pairs.tree.parent == source)
    best = mine[np.argsort(-gain[mine], kind="stable")][:top]
    return tuple(
        CloneSummary(
            source_name(graph.tokenizer, pairs.tree, pairs.nodes + at),
            int(pairs.total[pairs.nodes + at]),
            float(gain[at]),
        )
        for at in best.tolist()
    )
