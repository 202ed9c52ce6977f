"""A graph as tables of pandas: its nodes, its private edges, its history.

It knows graphs and tables; it does not know how a graph is edited.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from sifu_store.errors import OptionError

if TYPE_CHECKING:
    from sifu_graph.session import GraphSession

Table = Literal["nodes", "edges", "history"]


def to_pandas(graph: GraphSession, what: Table = "edges") -> Any:
    """A `pandas.DataFrame`.

    Parameters
    ----------
    graph
        The open graph.
    what
        ``nodes``: ``token``, ``count`` and ``kind``; the index is the number of the node. ``edges``: the private edges,
        with ``source`` and ``target`` (tokens) and ``count``, the row of each node together. ``history``: the commits,
        newest first, with ``snapshot``, ``time``, ``kind``, ``message``, ``command``, ``parent`` and ``undone``.

    Returns
    -------
    pandas.DataFrame
        Counts are int64.

    Raises
    ------
    OptionError
        pandas is not installed.
    """
    try:
        from pandas import DataFrame
    except ImportError as error:
        raise OptionError(f"this needs pandas, which cannot be imported ({error}): pip install pandas") from error
    return DataFrame(columns_of(graph, what))


def columns_of(graph: GraphSession, what: Table) -> dict[str, Any]:
    """The columns of `to_pandas` by name: arrays (int64 counts, tokens as objects) [rows], or lists."""
    if what == "history":
        history = graph.store.tree()
        made: dict[str, Any] = {
            name: [getattr(commit, name) for commit in history.commits]
            for name in ("snapshot", "time", "kind", "message", "command", "parent")
        }
        return made | {"undone": [commit.snapshot in history.undone for commit in history.commits]}
    tokens = np.array(graph.tokenizer.vocabulary, dtype=object)
    if what == "nodes":
        entries = graph.store.read_json("nodes/vocabulary")
        kinds = [entry.get("kind", "text") for entry in entries]
        return {"token": tokens, "count": graph.store.read("nodes/count").astype(np.int64), "kind": kinds}
    index = graph.parameters.index
    return {
        "source": tokens[index.sources()],
        "target": tokens[index.target],
        "count": index.count.astype(np.int64),
    }
