"""What the page at ``/`` asks for: what the graph is, why a token was chosen, edits and their history.

Edits are commits of their own, made by the methods of `Graph`. A client says which commit it has seen: an edit of
another one is refused. The module knows graphs and their methods; it does not know connections.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from sifu_store.errors import CorpusError, OptionError, StoreError, StoreLockedError

from sifu_graph.edit.reports import PruneReport
from sifu_graph.graph import Graph
from sifu_graph.inspection import distributions, what_if
from sifu_graph.inspection.neighbours import surroundings
from sifu_graph.inspection.trace import TraceOptions, trace
from sifu_graph.model.base_forward import documents_of
from sifu_graph.plot.html_page import html_page
from sifu_graph.plot.trace_html import trace_page
from sifu_graph.serve.protocol import ApiError, checked_changes, read
from sifu_graph.serve.rounds import Work
from sifu_graph.serve.served_graph import Snapshot
from sifu_graph.session import GraphSession

LISTED = 30
"""Commits that a page lists."""
LISTED_CHANGES = 3
"""Changes that the message of a commit names."""
NEIGHBOURS = 8
"""Nodes of each list beside an edge."""
TRACED_CHARACTERS = 2000
"""The end of a text that is traced."""
SAMPLED_TOKENS = 2000
"""Of held-out text, about: what is computed with in a quarter of a second."""


class EditRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One edit: ``kind`` is a key of `EDITS`; ``seen`` the snapshot that the client shows.

    ``u`` and ``v`` are the ends of an edge; ``u`` is a node that is renamed to ``v``, or is new and like ``v``;
    ``changes`` are those of `inspection.what_if` that become one commit. A pruning has ``min_count`` (around the node
    ``u``, if there is one) or ``clones``, as `Graph.prune`; with ``dry_run``, nothing changes.
    """

    kind: str
    seen: str
    u: str = ""
    v: str = ""
    amount: float | None = None
    changes: list[str] = []
    min_count: int | None = None
    clones: int | None = None
    dry_run: bool = False

    @property
    def nats(self) -> float:
        """The amount of a boost."""
        return 1.0 if self.amount is None else self.amount


def _keep(graph: Graph, asked: EditRequest) -> None:
    """Makes changes that were tried in memory, as one commit."""
    changes = [what_if.parse(text) for text in checked_changes(asked.changes)]
    if not changes or any(change.kind != "edge" for change in changes):
        raise OptionError("`changes`: expected changes of edges")
    message = ", ".join(str(change) for change in changes[:LISTED_CHANGES])
    if len(changes) > LISTED_CHANGES:
        message += f" and {len(changes) - LISTED_CHANGES} more"
    with graph.edit(message) as edit:
        for change in changes:
            u, v = change.names
            if change.way == "boost":
                edit.boost_edge(u, v, change.nats)
            else:
                (edit.forbid_edge if change.way == "forbid" else edit.default_edge)(u, v)


def _prune(graph: Graph, asked: EditRequest) -> PruneReport:
    return graph.prune(
        min_count=asked.min_count, clones=asked.clones, node=asked.u or None, progress=False, dry_run=asked.dry_run
    )


EDITS: dict[str, Callable[[Graph, EditRequest], Any]] = {
    "forbid": lambda graph, asked: graph.forbid_edge(asked.u, asked.v),
    "allow": lambda graph, asked: graph.allow_edge(asked.u, asked.v),
    "default": lambda graph, asked: graph.default_edge(asked.u, asked.v),
    "boost": lambda graph, asked: graph.boost_edge(asked.u, asked.v, asked.nats),
    "keep": _keep,
    "rename": lambda graph, asked: graph.rename_node(asked.u, asked.v),
    "add": lambda graph, asked: graph.add_node(asked.u, like=asked.v or None, progress=False),
    "prune": _prune,
    "undo": lambda graph, asked: graph.undo(),
    "redo": lambda graph, asked: graph.redo(),
}
"""What an edit does, by its kind."""


def page(*, editable: bool, token: bool) -> str:
    """The page.

    Parameters
    ----------
    editable
        It has buttons that edit.
    token
        It asks for a token where its address has none.
    """
    data, allowed = {"editable": editable, "token": token}, "connect-src 'self'; frame-src 'self'"
    return html_page("explorer", data, common=True, allowed=allowed)


def state(graph: GraphSession, *, name: str, editable: bool) -> dict[str, Any]:
    """What the page shows of the graph itself: its size and its commits, the newest first."""
    history = graph.store.tree()
    return {
        "model": name,
        "snapshot": graph.store.snapshot,
        "nodes": graph.settings["nodes"],
        "level": graph.tokenizer.level,
        "perplexity": graph.info().heldout_perplexity,
        "editable": editable,
        "drafts": graph.signal.base,
        "redo": bool(history.redo),
        "commits": [
            {
                "id": commit.snapshot[:8],
                "time": commit.time.isoformat(timespec="seconds"),
                "message": commit.message,
                "edit": commit.kind.startswith(("edit", "add-node", "prune")),
                "undone": commit.snapshot in history.undone,
                "here": commit.snapshot == graph.store.snapshot,
            }
            for commit in history.commits[:LISTED]
        ],
    }


def sample(snapshot: Snapshot, changes: tuple[str, ...]) -> Work[dict[str, Any]]:
    """The perplexity of a sample of the held-out text with changes in memory: the last result, after some steps.

    ``tokens`` is 0 where the store has no held-out text.
    """
    graph, nats, tokens = snapshot.graph, 0.0, 0
    separator = graph.tokenizer.separator
    try:
        documents, _ = documents_of(graph._tokens().heldout, SAMPLED_TOKENS, seed=0)
        ids = documents.ids.tolist()
    except (CorpusError, OptionError):
        ids = []
    with snapshot.walks(changes).lend() as walk:
        for place, (node, following) in enumerate(itertools.pairwise(ids)):
            (walk.start if place == 0 or node == separator else walk.carry)(node)
            walk.energies()
            log_p = float(distributions.log_p_after(walk)[following])
            if math.isfinite(log_p):
                nats, tokens = nats - log_p, tokens + 1
            yield None
    yield {"tokens": tokens, "perplexity": math.exp(nats / tokens) if tokens else None}


def why(graph: GraphSession, text: str, what_if: list[str]) -> str:
    """The page of the trace of a text, open where its last token was chosen, with changes in memory.

    Its probabilities are those of evaluation where generation has the same, but leaves <unk> out.

    Raises
    ------
    ApiError
        The text has no token of the graph, or a change cannot be made.
    """
    try:
        options = TraceOptions(top=12, last=24, like="eval" if graph.signal.base else "generate", what_if=what_if)
        return trace_page(graph, trace(graph, text[-TRACED_CHARACTERS:], options), last_choice=True)
    except OptionError as error:
        raise ApiError(str(error)) from error


def edge(graph: GraphSession, u: str, v: str) -> dict[str, Any]:
    """An edge from a node or a clone to a node, and the nodes beside it (`inspection.neighbours`).

    ``parts`` are those of its energy by name, None where it has a matrix of its own; that has a ``spectrum``, its
    singular values. A forbidden edge has the energy None.

    Raises
    ------
    ApiError
        No node has one of the names.
    """
    try:
        found = surroundings(graph, u, v, top=NEIGHBOURS)
    except OptionError as error:
        raise ApiError(str(error)) from error
    one = found.edge
    return {
        "kind": "forbidden" if one.forbidden else "private" if one.private else "default",
        "count": one.count,
        "share": one.share,
        "p": one.p,
        "rank": one.rank,
        "energy": None if one.forbidden else one.energy,
        "parts": None if one.parts is None else {name: nats for name, nats in one.parts.items() if math.isfinite(nats)},
        "spectrum": [] if one.parts is not None else list(one.singular_values),
        "after": found.after,
        "before": found.before,
        "like": [(node.name, node.cosine) for node in found.like],
    }


def edit(path: Path, content: bytes) -> dict[str, Any] | None:
    """Make an edit, as one commit.

    Parameters
    ----------
    path
        Directory of the store.
    content
        The body of the request, an `EditRequest`.

    Returns
    -------
    dict or None
        What a pruning would do, where nothing was to be changed.

    Raises
    ------
    ApiError
        It cannot be made; status 409 where another process writes, or has committed since what the client has seen.
    """
    asked = read(content, EditRequest)
    if asked.kind not in EDITS:
        raise ApiError(f"no edit {asked.kind!r}; there are {', '.join(EDITS)}", param="kind")
    if asked.dry_run and asked.kind != "prune":
        raise ApiError("`dry_run`: only a pruning says what it would do", param="dry_run")
    with Graph.open(path) as graph:
        if graph.store.snapshot != asked.seen:
            newest = graph.store.history(1)[0]
            raise ApiError(
                f"the graph has changed since then ({newest.snapshot[:8]}: {newest.message}): repeat the edit",
                status=409,
                code="changed",
            )
        try:
            report = EDITS[asked.kind](graph, asked)
        except StoreLockedError as error:
            raise ApiError(str(error), status=409, code="locked") from error
        except OptionError as error:
            raise ApiError(str(error)) from error
        except StoreError as error:
            if type(error) is StoreError:  # nothing to undo, for example; not damage
                raise ApiError(str(error), status=409, code="refused") from error
            raise
    if not asked.dry_run:
        return None
    fields = ("edges_removed", "clones_removed", "private_edges_before", "bytes_freed", "corpus_share", "note")
    return {name: getattr(report, name) for name in fields}
