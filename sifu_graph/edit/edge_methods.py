"""The methods of `Graph` that edit edges: each makes one commit, and calls one method of `edit.session.Edit`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sifu_graph.command_text import command_text
from sifu_graph.edit.edit_names import table_name
from sifu_graph.session import GraphSession, operations

if TYPE_CHECKING:
    from sifu_graph.edit.edge_table import EdgeTable
    from sifu_graph.edit.reports import EditEdgeReport, EditEdgesReport, EditReport
    from sifu_graph.edit.session import Edit
    from sifu_graph.progress import ProgressOption

Report = TypeVar("Report", bound="EditReport")


@operations
class EdgeMethods(GraphSession):
    """An open graph with the methods that edit edges. `EditMethods` inherits them."""

    def scale_edge(
        self, u: str, v: str, factor: float, *, dry_run: bool = False, command: str | None = None
    ) -> EditEdgeReport:
        """Multiplies the parameters of an edge. A default edge becomes private first.

        Parameters
        ----------
        u, v
            Names of the two nodes; u may be a clone (``立>春``).
        factor
            A finite number.
        dry_run
            Report what would change, and commit nothing.
        command
            What the history records as the command. None: the command line that makes the same edit.

        Returns
        -------
        EditEdgeReport
            The edge ``before`` and ``after``: its kind, energy and probability at rest, and the id of the commit.

        Raises
        ------
        OptionError
            A node is not known, the factor is not -1e6 to 1e6, or the edge is forbidden.

        Examples
        --------
        >>> graph.scale_edge("春", "風", 0.5)                                        # doctest: +SKIP
        """
        return self._edited(
            lambda edit: edit.scale_edge(u, v, factor),
            dry_run=dry_run,
            command=command or command_text("edit-edge", u, v, scale=float(factor)),
        )

    def boost_edge(
        self, u: str, v: str, nats: float, *, dry_run: bool = False, command: str | None = None
    ) -> EditEdgeReport:
        """Raises the log-odds of an edge against all other candidates, at rest (without context).

        Parameters
        ----------
        u, v
            Names of the two nodes; u may be a clone (``立>春``).
        nats
            How much, in nats; below 0 it is lowered.
        dry_run
            Report what would change, and commit nothing.
        command
            What the history records as the command. None: the command line that makes the same edit.

        Returns
        -------
        EditEdgeReport
            The edge ``before`` and ``after``: its kind, energy and probability at rest, and the id of the commit.

        Raises
        ------
        OptionError
            A node is not known, ``nats`` is not -1e6 to 1e6, or the edge is forbidden.

        Examples
        --------
        >>> graph.boost_edge("春", "風", 2.0).after.probability                      # doctest: +SKIP
        """
        return self._edited(
            lambda edit: edit.boost_edge(u, v, nats),
            dry_run=dry_run,
            command=command or command_text("edit-edge", u, v, boost=float(nats)),
        )

    def copy_edge(
        self, u: str, v: str, *, source: tuple[str, str], dry_run: bool = False, command: str | None = None
    ) -> EditEdgeReport:
        """Copies the parameters of a private edge to another, which becomes private.

        Parameters
        ----------
        u, v
            Names of the two nodes; u may be a clone (``立>春``).
        source
            Names of the two nodes of the edge to copy.
        dry_run
            Report what would change, and commit nothing.
        command
            What the history records as the command. None: the command line that makes the same edit.

        Returns
        -------
        EditEdgeReport
            The edge ``before`` and ``after``: its kind, energy and probability at rest, and the id of the commit.

        Raises
        ------
        OptionError
            A node is not known, the source is a default edge, or the edge is forbidden.

        Examples
        --------
        >>> graph.copy_edge("春", "風", source=("秋", "風"))                           # doctest: +SKIP
        """
        return self._edited(
            lambda edit: edit.copy_edge(u, v, source=source),
            dry_run=dry_run,
            command=command or command_text("edit-edge", u, v, copy_from=source),
        )

    def edit_edges(
        self, table: str | Path | EdgeTable, *, dry_run: bool = False, command: str | None = None
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
            What the history records as the command. None: the command line that makes the same edit.

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
        return self._edited(
            lambda edit: edit.edit_edges(table),
            dry_run=dry_run,
            command=command or command_text("edit-edge", **{"from": table_name(table)}),
        )

    def default_edge(self, u: str, v: str, *, dry_run: bool = False, command: str | None = None) -> EditEdgeReport:
        """Makes a private edge a default edge.

        Parameters
        ----------
        u, v
            Names of the two nodes; u may be a clone (``立>春``).
        dry_run
            Report what would change, and commit nothing.
        command
            What the history records as the command. None: the command line that makes the same edit.

        Returns
        -------
        EditEdgeReport
            The edge ``before`` and ``after``: its kind, energy and probability at rest, and the id of the commit.

        Raises
        ------
        OptionError
            A node is not known, or the edge is not private.

        Examples
        --------
        >>> graph.default_edge("春", "風")                                           # doctest: +SKIP
        """
        return self._edited(
            lambda edit: edit.default_edge(u, v),
            dry_run=dry_run,
            command=command or command_text("edit-edge", u, v, to_default=True),
        )

    def forbid_edge(self, u: str, v: str, *, dry_run: bool = False, command: str | None = None) -> EditEdgeReport:
        """Sets the probability of an edge to 0 in training, evaluation and generation.

        Parameters
        ----------
        u, v
            Names of the two nodes; u may be a clone (``立>春``).
        dry_run
            Report what would change, and commit nothing.
        command
            What the history records as the command. None: the command line that makes the same edit.

        Returns
        -------
        EditEdgeReport
            The edge ``before`` and ``after``: its kind, energy and probability at rest, and the id of the commit.

        Raises
        ------
        OptionError
            A node is not known, the edge is forbidden already, or is the last one that may be chosen.

        Examples
        --------
        >>> graph.forbid_edge("春", "風")                                            # doctest: +SKIP
        """
        return self._edited(
            lambda edit: edit.forbid_edge(u, v),
            dry_run=dry_run,
            command=command or command_text("edit-edge", u, v, forbid=True),
        )

    def allow_edge(self, u: str, v: str, *, dry_run: bool = False, command: str | None = None) -> EditEdgeReport:
        """Makes a forbidden edge what it was before it was forbidden.

        Its count and its parameters come from the last snapshot in which it was allowed. If there is none, it becomes
        a default edge, and ``notes`` of the report says so.

        Parameters
        ----------
        u, v
            Names of the two nodes; u may be a clone (``立>春``).
        dry_run
            Report what would change, and commit nothing.
        command
            What the history records as the command. None: the command line that makes the same edit.

        Returns
        -------
        EditEdgeReport
            The edge ``before`` and ``after``: its kind, energy and probability at rest, and the id of the commit.

        Raises
        ------
        OptionError
            A node is not known, or the edge is not forbidden.

        Examples
        --------
        >>> graph.allow_edge("春", "風")                                             # doctest: +SKIP
        """
        return self._edited(
            lambda edit: edit.allow_edge(u, v),
            dry_run=dry_run,
            command=command or command_text("edit-edge", u, v, allow=True),
        )

    def _edited(
        self, change: Callable[[Edit], Report], *, dry_run: bool, command: str, progress: ProgressOption = False
    ) -> Report:
        from sifu_graph.edit.session import apply

        return apply(self, change, command=command, dry_run=dry_run, progress=progress)
