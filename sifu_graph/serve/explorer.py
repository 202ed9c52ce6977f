"""What the page at ``/`` asks for: what the graph is, why a token was chosen, edits and their history.

Edits are commits of their own, made by the methods of `Graph`. A client says which commit it has seen: an edit of
another one is refused. The module knows graphs and their methods; it does not know connections.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from sifu_store.errors import OptionError, StoreLockedError

from sifu_graph.graph import Graph
from sifu_graph.inspection.trace import TraceOptions, trace
from sifu_graph.plot.html_page import html_page
from sifu_graph.plot.trace_html import trace_page
from sifu_graph.serve.protocol import ApiError, read
from sifu_graph.session import GraphSession

LISTED = 30
"""Commits that a page lists."""
TRACED_CHARACTERS = 2000
"""The end of a text that is traced."""


class EditRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One edit: ``kind`` is a key of `EDITS`; ``seen`` the snapshot that the client shows."""

    kind: str
    seen: str
    u: str = ""
    v: str = ""
    amount: float | None = None

    @property
    def nats(self) -> float:
        """The amount of a boost."""
        return 1.0 if self.amount is None else self.amount


def _line(asked: EditRequest, option: str) -> str:
    """The command line that makes the same edit, which the history records."""
    return f"sifu edit-edge {shlex.quote(asked.u)} {shlex.quote(asked.v)} {option}"


EDITS: dict[str, Callable[[Graph, EditRequest], Any]] = {
    "forbid": lambda graph, asked: graph.forbid_edge(asked.u, asked.v, command=_line(asked, "--forbid")),
    "allow": lambda graph, asked: graph.allow_edge(asked.u, asked.v, command=_line(asked, "--allow")),
    "default": lambda graph, asked: graph.default_edge(asked.u, asked.v, command=_line(asked, "--to-default")),
    "boost": lambda graph, asked: graph.boost_edge(
        asked.u, asked.v, asked.nats, command=_line(asked, f"--boost={asked.nats:g}")
    ),
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
        "redo": bool(history.redo),
        "commits": [
            {
                "id": commit.snapshot[:8],
                "time": commit.time.isoformat(timespec="seconds"),
                "message": commit.message,
                "edit": commit.kind == "edit-edge",
                "undone": commit.snapshot in history.undone,
                "here": commit.snapshot == graph.store.snapshot,
            }
            for commit in history.commits[:LISTED]
        ],
    }


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


def edit(path: Path, content: bytes) -> None:
    """Make an edit, as one commit.

    Parameters
    ----------
    path
        Directory of the store.
    content
        The body of the request, an `EditRequest`.

    Raises
    ------
    ApiError
        It cannot be made; status 409 where another process writes, or has committed since what the client has seen.
    """
    asked = read(content, EditRequest)
    if asked.kind not in EDITS:
        raise ApiError(f"no edit {asked.kind!r}; there are {', '.join(EDITS)}", param="kind")
    with Graph.open(path) as graph:
        if graph.store.snapshot != asked.seen:
            newest = graph.store.history(1)[0]
            raise ApiError(
                f"the graph has changed since then ({newest.snapshot[:8]}: {newest.message}): repeat the edit",
                status=409,
                code="changed",
            )
        try:
            EDITS[asked.kind](graph, asked)
        except StoreLockedError as error:
            raise ApiError(str(error), status=409, code="locked") from error
        except OptionError as error:
            raise ApiError(str(error)) from error
