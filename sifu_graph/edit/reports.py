"""The results of edits: one report for each kind of edit.

It knows figures and names only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sifu_store.short_repr import short_repr

from sifu_graph.text.node_lookup import shown_name


@short_repr
@dataclass(frozen=True, slots=True, kw_only=True)
class EditReport:
    """Sizes of the graph before and after an edit.

    Attributes
    ----------
    pages_written
        Pages that the commit writes, or would write.
    seconds
        Duration of the edit in seconds.
    snapshot
        Id of the commit; None if nothing was committed: in a dry run, or because nothing changed.
    dry_run
        Whether nothing was to be committed.
    notes
        What is to be said about the names that were given.
    """

    nodes_before: int
    nodes_after: int
    private_edges_before: int
    private_edges_after: int
    pages_written: int
    seconds: float = 0.0
    snapshot: str | None = None
    dry_run: bool = False
    notes: list[str] = field(default_factory=list)


@short_repr
@dataclass(frozen=True, slots=True, kw_only=True)
class AddNodeReport(EditReport):
    """Nodes that were added.

    Attributes
    ----------
    nodes_added
        Their tokens.
    private_edges_added
        Private edges out of them and into them.
    occurrences
        Their occurrences in the given corpus; None without a corpus.
    missing
        Tokens that do not occur in the given corpus.
    """

    nodes_added: list[str]
    private_edges_added: int
    occurrences: int | None
    missing: list[str]
    """Nodes that do not occur in the corpus: all their edges are default."""


@short_repr
@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveNodeReport(EditReport):
    """Nodes that were removed: their tokens, and the number of private edges removed with them."""

    nodes_removed: list[str]
    private_edges_removed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """One node: its name and kind, its count, its numbers of private edges out and in, and the L2 norm of its bias."""

    token: str
    kind: str
    count: int
    edges_out: int
    edges_in: int
    bias_norm: float


@short_repr
@dataclass(frozen=True, slots=True, kw_only=True)
class EditNodeReport(EditReport):
    """A node that was changed. After a merge, ``after`` is the node that remains."""

    before: NodeState
    after: NodeState


@short_repr
@dataclass(frozen=True, slots=True, kw_only=True)
class EditEdgeReport(EditReport):
    """An edge that was changed: its state before and after."""

    before: EdgeState
    after: EdgeState


@short_repr
@dataclass(frozen=True, slots=True, kw_only=True)
class EditEdgesReport(EditReport):
    """Edges that were changed, in the order of the table: the states of each before and after."""

    before: list[EdgeState]
    after: list[EdgeState]


@short_repr
@dataclass(frozen=True, slots=True, kw_only=True)
class PruneReport(EditReport):
    """Edges that became default or private, and clones that were removed or added.

    Attributes
    ----------
    edges_added, edges_removed
        Numbers of edges that became private and default.
    clones_removed, clones_added
        Numbers of clones; None: not asked for.
    tokens_counted
        Tokens of another text whose occurrences were added to the counts.
    clone_gain
        What the clones that were added are expected to gain over their parents, in nats for a transition of the text.
    bytes_freed
        Bytes of the stored matrices of removed edges less those of added edges: an edge that is generated from the
        counts, or whose graph has a base, has none. `compact` frees them on disk.
    corpus_share
        The share (0 to 1) of the text's transitions that take the pruned edges (after `grow`: the new private edges).
    heldout_before, heldout_after
        Held-out perplexity over up to 20,000 tokens; None if it was not requested or cannot be computed.
    other_before, other_after
        That of the held-out part of another text, which the graph grew from.
    note
        Why no probability changes, or why there is no perplexity; or None.
    """

    edges_added: int
    edges_removed: int
    clones_removed: int = 0
    clones_added: int | None = None
    tokens_counted: int = 0
    clone_gain: float = 0.0
    bytes_freed: int
    corpus_share: float
    heldout_before: float | None = None
    heldout_after: float | None = None
    other_before: float | None = None
    other_after: float | None = None
    note: str | None = None


@short_repr
@dataclass(frozen=True, slots=True, kw_only=True)
class CompactReport(EditReport):
    """Slots and runs before and after. A run is a sequence of edges of one row in consecutive slots.

    Attributes
    ----------
    bytes_freed
        Bytes of the values of pages that are not stored any more.
    precision, codec
        How the pages are stored afterwards.
    page_bytes_before, page_bytes_after
        Size of all pages on disk; None: not known, because nothing was committed.
    """

    slots_before: int
    slots_after: int
    runs_before: int
    runs_after: int
    bytes_freed: int
    precision: str
    codec: str
    page_bytes_before: int | None = None
    page_bytes_after: int | None = None


@dataclass(frozen=True, slots=True)
class EdgeState:
    """One edge of a node or a clone: its kind, count, and energy and probability at rest.

    See `rest_energy` for energies at rest.
    """

    source: str
    target: str
    kind: str
    """``private``, ``default`` or ``forbidden``; of a clone ``own`` if it adds something to that of its parent, else
    ``inherited``."""
    count: int
    energy: float
    probability: float


def number(count: int, what: str) -> str:
    """``1 node``, ``2,000 nodes``."""
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def listed(tokens: Sequence[str]) -> str:
    """The first three names, and how many more there are."""
    more = f" and {len(tokens) - 3:,} more" if len(tokens) > 3 else ""
    return ", ".join(map(shown_name, tokens[:3])) + more
