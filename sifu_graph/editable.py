"""What a graph offers for editing: one method a change, each one commit, and a frame for several in one.

Each method calls one method of `sifu_graph.edit.session.Edit`, which says what the options mean. All take ``dry_run`` (only
report what would be done) and ``command`` (what the log says of the commit).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from sifu_graph.edit.reports import (
        AddNodeReport,
        CompactReport,
        EditEdgeReport,
        EditNodeReport,
        PruneReport,
        RemoveNodeReport,
    )
    from sifu_graph.edit.session import Edit
    from sifu_graph.graph import Graph


class Editable:
    """The editing half of `sifu_graph.graph.Graph`."""

    @contextmanager
    def edit(self, message: str, *, command: str = "edit") -> Iterator[Edit]:
        """Several edits as one commit, or none of them if an error is raised. See `sifu_graph.edit.session.Edit`.

        Examples
        --------
        >>> with graph.edit("a new word") as e:        # doctest: +SKIP
        ...     e.add_node("江南", like="江")
        ...     e.forbid_edge("江", "南")
        """
        from sifu_graph.edit.session import editing

        with editing(cast("Graph", self), message, command=command) as edit:
            yield edit

    def add_node(self, *tokens: str, **options: Any) -> AddNodeReport:
        """Adds nodes and commits. See `sifu_graph.edit.session.Edit.add_node`; ``dry_run`` only reports."""
        report: AddNodeReport = self._edited("add-node", lambda edit, **left: edit.add_node(*tokens, **left), options)
        return report

    def remove_node(self, *tokens: str, **options: Any) -> RemoveNodeReport:
        """Removes nodes and commits. See `sifu_graph.edit.session.Edit.remove_node`; ``dry_run`` only reports."""
        report: RemoveNodeReport = self._edited(
            "remove-node", lambda edit, **left: edit.remove_node(*tokens, **left), options
        )
        return report

    def rename_node(self, token: str, new: str, **options: Any) -> EditNodeReport:
        """Renames a node and commits. See `sifu_graph.edit.session.Edit.rename_node`; ``dry_run`` only reports."""
        report: EditNodeReport = self._edited(
            "edit-node", lambda edit, **left: edit.rename_node(token, new, **left), options
        )
        return report

    def merge_node(self, token: str, into: str, **options: Any) -> EditNodeReport:
        """Merges a node into another and commits. See `sifu_graph.edit.session.Edit.merge_node`; ``dry_run`` only reports."""
        report: EditNodeReport = self._edited(
            "edit-node", lambda edit, **left: edit.merge_node(token, into, **left), options
        )
        return report

    def set_bias(self, token: str, **options: Any) -> EditNodeReport:
        """Copies a node's bias and commits. See `sifu_graph.edit.session.Edit.set_bias`; ``dry_run`` only reports."""
        report: EditNodeReport = self._edited("edit-node", lambda edit, **left: edit.set_bias(token, **left), options)
        return report

    def scale_edge(self, u: str, v: str, factor: float, **options: Any) -> EditEdgeReport:
        """Scales an edge and commits. See `sifu_graph.edit.session.Edit.scale_edge`; ``dry_run`` only reports."""
        report: EditEdgeReport = self._edited(
            "edit-edge", lambda edit, **left: edit.scale_edge(u, v, factor, **left), options
        )
        return report

    def boost_edge(self, u: str, v: str, nats: float, **options: Any) -> EditEdgeReport:
        """Boosts an edge and commits. See `sifu_graph.edit.session.Edit.boost_edge`; ``dry_run`` only reports."""
        report: EditEdgeReport = self._edited(
            "edit-edge", lambda edit, **left: edit.boost_edge(u, v, nats, **left), options
        )
        return report

    def copy_edge(self, u: str, v: str, **options: Any) -> EditEdgeReport:
        """Copies another edge and commits. See `sifu_graph.edit.session.Edit.copy_edge`; ``dry_run`` only reports."""
        report: EditEdgeReport = self._edited("edit-edge", lambda edit, **left: edit.copy_edge(u, v, **left), options)
        return report

    def default_edge(self, u: str, v: str, **options: Any) -> EditEdgeReport:
        """Makes an edge default and commits. See `sifu_graph.edit.session.Edit.default_edge`; ``dry_run`` only reports."""
        report: EditEdgeReport = self._edited(
            "edit-edge", lambda edit, **left: edit.default_edge(u, v, **left), options
        )
        return report

    def forbid_edge(self, u: str, v: str, **options: Any) -> EditEdgeReport:
        """Forbids an edge and commits. See `sifu_graph.edit.session.Edit.forbid_edge`; ``dry_run`` only reports."""
        report: EditEdgeReport = self._edited("edit-edge", lambda edit, **left: edit.forbid_edge(u, v, **left), options)
        return report

    def allow_edge(self, u: str, v: str, **options: Any) -> EditEdgeReport:
        """Allows an edge again and commits. See `sifu_graph.edit.session.Edit.allow_edge`; ``dry_run`` only reports."""
        report: EditEdgeReport = self._edited("edit-edge", lambda edit, **left: edit.allow_edge(u, v, **left), options)
        return report

    def prune(self, **options: Any) -> PruneReport:
        """Prunes and commits. See `sifu_graph.edit.session.Edit.prune`; ``dry_run`` only reports."""
        report: PruneReport = self._edited("prune", lambda edit, **left: edit.prune(**left), options)
        return report

    def grow(self, **options: Any) -> PruneReport:
        """Grows and commits. See `sifu_graph.edit.session.Edit.grow`; ``dry_run`` only reports."""
        report: PruneReport = self._edited("grow", lambda edit, **left: edit.grow(**left), options)
        return report

    def compact(self, **options: Any) -> CompactReport:
        """Makes every row one run of slots again and commits. See `sifu_graph.edit.session.Edit.compact`."""
        report: CompactReport = self._edited("compact", lambda edit, **left: edit.compact(**left), options)
        return report

    def _edited(self, kind: str, change: Callable[..., Any], options: dict[str, Any]) -> Any:
        from sifu_graph.edit.session import apply

        frame = {"dry_run": options.pop("dry_run", False), "command": options.pop("command", kind)}
        return apply(cast("Graph", self), lambda edit: change(edit, **options), **frame)
