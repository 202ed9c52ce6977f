"""What an edit did: one report for each kind of edit.

It knows figures and names only.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EditReport:
    """What an edit did to the graph as a whole. ``snapshot`` is None if nothing was committed (yet)."""

    nodes_before: int
    nodes_after: int
    private_edges_before: int
    private_edges_after: int
    pages_written: int
    seconds: float = 0.0
    snapshot: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AddNodeReport(EditReport):
    """Nodes that were added. ``occurrences``: how often they occur in the corpus that was given, or None."""

    nodes_added: list[str]
    private_edges_added: int
    occurrences: int | None
    missing: list[str]
    """Nodes that do not occur in the corpus: all their edges are default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveNodeReport(EditReport):
    """Nodes that were removed."""

    nodes_removed: list[str]
    private_edges_removed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """One node: its name, how often it occurred, the private edges out of it and into it, its bias's length."""

    token: str
    kind: str
    count: int
    edges_out: int
    edges_in: int
    bias_norm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EditNodeReport(EditReport):
    """A node that was changed. ``after`` is that of the node that is left."""

    before: NodeState
    after: NodeState


@dataclass(frozen=True, slots=True, kw_only=True)
class EditEdgeReport(EditReport):
    """An edge that was changed."""

    before: EdgeState
    after: EdgeState


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneReport(EditReport):
    """Edges that became default or private.

    Attributes
    ----------
    bytes_freed
        What the parameters of the edges that went take (negative: that more came). `compact` gives it back on disk.
    corpus_share
        The share of the text's transitions that ran over the edges that became default, or now does over new ones.
    heldout_before, heldout_after
        Held-out perplexity (over up to 20,000 tokens); None where it was not asked for or cannot be told.
    """

    edges_added: int
    edges_removed: int
    bytes_freed: int
    corpus_share: float
    heldout_before: float | None = None
    heldout_after: float | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactReport(EditReport):
    """Slots and runs before and after. A run is a sequence of a row's edges in consecutive slots."""

    slots_before: int
    slots_after: int
    runs_before: int
    runs_after: int
    bytes_freed: int


@dataclass(frozen=True, slots=True)
class EdgeState:
    """One edge: what it is, how often it occurred, and its energy and probability at rest (see `rest_energy`)."""

    source: str
    target: str
    kind: str
    """``private``, ``default`` or ``forbidden``."""
    count: int
    energy: float
    probability: float
