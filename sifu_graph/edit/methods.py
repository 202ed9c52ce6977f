"""The methods of `Graph` that edit: each makes one commit, and calls one method of `edit.session.Edit`.

`edit.session` is imported on first use, so that opening a graph does not load torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from sifu_graph.session import GraphSession, operations

if TYPE_CHECKING:
    from sifu_graph.config import Say
    from sifu_graph.edit.edge_table import EdgeTable
    from sifu_graph.edit.reports import (
        AddNodeReport,
        CompactReport,
        EditEdgeReport,
        EditEdgesReport,
        EditNodeReport,
        EditReport,
        PruneReport,
        RemoveNodeReport,
    )
    from sifu_graph.edit.session import Edit
    from sifu_graph.text.corpus import Corpora

Report = TypeVar("Report", bound="EditReport")


@operations
class EditMethods(GraphSession):
    """An open graph with the methods that edit it. `Graph` inherits them."""

    @contextmanager
    def edit(self, message: str, *, command: str = "edit") -> Iterator[Edit]:
        """Several edits as one commit; nothing is committed if an error is raised. See `edit.session.Edit`.

        Examples
        --------
        >>> with graph.edit("a new word") as e:        # doctest: +SKIP
        ...     e.add_node("江南", like="江")
        ...     e.forbid_edge("江", "南")
        """
        from sifu_graph.edit.session import editing

        with editing(self, message, command=command) as edit:
            yield edit

    def add_node(
        self,
        *tokens: str,
        like: str | None = None,
        corpus: Corpora | None = None,
        kind: str = "text",
        train_steps: int = 0,
        dry_run: bool = False,
        command: str = "add-node",
    ) -> AddNodeReport:
        """Adds nodes. See `edit.session.Edit.add_node`. `CorpusError`: the text cannot be read, or has none of them."""
        return self._edited(
            lambda edit: edit.add_node(*tokens, like=like, corpus=corpus, kind=kind, train_steps=train_steps),
            dry_run=dry_run,
            command=command,
        )

    def remove_node(self, *tokens: str, dry_run: bool = False, command: str = "remove-node") -> RemoveNodeReport:
        """Removes nodes and their edges. See `edit.session.Edit.remove_node`."""
        return self._edited(lambda edit: edit.remove_node(*tokens), dry_run=dry_run, command=command)

    def rename_node(self, token: str, new: str, *, dry_run: bool = False, command: str = "edit-node") -> EditNodeReport:
        """Changes the token of a node. See `edit.session.Edit.rename_node`."""
        return self._edited(lambda edit: edit.rename_node(token, new), dry_run=dry_run, command=command)

    def merge_node(self, token: str, into: str, *, dry_run: bool = False, command: str = "edit-node") -> EditNodeReport:
        """Merges a node into another. See `edit.session.Edit.merge_node`."""
        return self._edited(lambda edit: edit.merge_node(token, into), dry_run=dry_run, command=command)

    def set_bias(self, token: str, *, like: str, dry_run: bool = False, command: str = "edit-node") -> EditNodeReport:
        """Copies the bias of another node. See `edit.session.Edit.set_bias`."""
        return self._edited(lambda edit: edit.set_bias(token, like=like), dry_run=dry_run, command=command)

    def scale_edge(
        self, u: str, v: str, factor: float, *, dry_run: bool = False, command: str = "edit-edge"
    ) -> EditEdgeReport:
        """Multiplies the parameters of an edge. See `edit.session.Edit.scale_edge`."""
        return self._edited(lambda edit: edit.scale_edge(u, v, factor), dry_run=dry_run, command=command)

    def boost_edge(
        self, u: str, v: str, nats: float, *, dry_run: bool = False, command: str = "edit-edge"
    ) -> EditEdgeReport:
        """Raises the energy at rest of an edge by ``nats`` of log-odds. See `edit.session.Edit.boost_edge`."""
        return self._edited(lambda edit: edit.boost_edge(u, v, nats), dry_run=dry_run, command=command)

    def copy_edge(
        self, u: str, v: str, *, source: tuple[str, str], dry_run: bool = False, command: str = "edit-edge"
    ) -> EditEdgeReport:
        """Copies the parameters of another edge. See `edit.session.Edit.copy_edge`."""
        return self._edited(lambda edit: edit.copy_edge(u, v, source=source), dry_run=dry_run, command=command)

    def edit_edges(
        self, table: str | Path | EdgeTable, *, dry_run: bool = False, command: str = "edit-edge"
    ) -> EditEdgesReport:
        """Edits the edges of a table as one commit; nothing is changed if any row is wrong.

        Parameters
        ----------
        table
            A row for each edge: a list of dicts, a pandas DataFrame, or the path of a CSV file or of JSON lines. The
            columns are ``source`` and ``target`` (names of nodes; the source may be a clone) and one or more of
            ``scale`` (a factor), ``boost`` (nats), ``copy_from`` (two names), ``to_default``, ``forbid`` and ``allow``
            (true or false). Each row has a value in exactly one of these; None, NaN and an empty cell are no value.
        dry_run
            Commit nothing; the report says what would change.
        command
            What the history records as the command.

        Returns
        -------
        EditEdgesReport
            The states of the edges ``before`` and ``after``, at rest, in the order of the table.

        Raises
        ------
        OptionError
            A column or a node is not known, a row is not one edit, or cannot be carried out: the message names the
            row (``table[3]``, or the line of the file) and the column.

        Examples
        --------
        >>> graph.edit_edges([                                                    # doctest: +SKIP
        ...     {"source": "春", "target": "風", "boost": 2.0},
        ...     {"source": "春", "target": "雨", "forbid": True},
        ... ])
        """
        return self._edited(lambda edit: edit.edit_edges(table), dry_run=dry_run, command=command)

    def default_edge(self, u: str, v: str, *, dry_run: bool = False, command: str = "edit-edge") -> EditEdgeReport:
        """Makes a private edge a default edge. See `edit.session.Edit.default_edge`."""
        return self._edited(lambda edit: edit.default_edge(u, v), dry_run=dry_run, command=command)

    def forbid_edge(self, u: str, v: str, *, dry_run: bool = False, command: str = "edit-edge") -> EditEdgeReport:
        """Sets the probability of an edge to 0. See `edit.session.Edit.forbid_edge`."""
        return self._edited(lambda edit: edit.forbid_edge(u, v), dry_run=dry_run, command=command)

    def allow_edge(self, u: str, v: str, *, dry_run: bool = False, command: str = "edit-edge") -> EditEdgeReport:
        """Makes a forbidden edge a default edge. See `edit.session.Edit.allow_edge`."""
        return self._edited(lambda edit: edit.allow_edge(u, v), dry_run=dry_run, command=command)

    def prune(
        self,
        *,
        to_ratio: float | None = None,
        min_count: int | None = None,
        by: Literal["count", "energy", "usage"] = "count",
        clones: int | None = None,
        evaluate: bool = False,
        dry_run: bool = False,
        command: str = "prune",
    ) -> PruneReport:
        """Makes private edges default edges, and removes clones. See `edit.session.Edit.prune`."""
        return self._edited(
            lambda edit: edit.prune(to_ratio=to_ratio, min_count=min_count, by=by, clones=clones, evaluate=evaluate),
            dry_run=dry_run,
            command=command,
        )

    def grow(
        self,
        *,
        corpus: Corpora | None = None,
        to_ratio: float | None = None,
        min_count: int | None = None,
        init: Literal["counts", "default"] = "counts",
        clones: int | None = None,
        gain: float | None = None,
        evaluate: bool = False,
        say: Say | None = None,
        dry_run: bool = False,
        command: str = "grow",
    ) -> PruneReport:
        """Makes default edges private edges, and adds clones. See `edit.session.Edit.grow`."""
        more: dict[str, Any] = {"clones": clones, "gain": gain, "evaluate": evaluate, "say": say}
        return self._edited(
            lambda edit: edit.grow(corpus=corpus, to_ratio=to_ratio, min_count=min_count, init=init, **more),
            dry_run=dry_run,
            command=command,
        )

    def compact(self, *, dry_run: bool = False, command: str = "compact") -> CompactReport:
        """Stores the edges of each row side by side and removes free slots. See `edit.session.Edit.compact`."""
        return self._edited(lambda edit: edit.compact(), dry_run=dry_run, command=command)

    def _edited(self, change: Callable[[Edit], Report], *, dry_run: bool, command: str) -> Report:
        from sifu_graph.edit.session import apply

        return apply(self, change, command=command, dry_run=dry_run)
