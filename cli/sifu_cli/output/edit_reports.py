"""Tables of the commands that edit a graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sifu_store.durable import format_bytes

from sifu_cli.output.formats import duration, number, percent
from sifu_cli.output.messages import warn
from sifu_cli.output.results import Row, print_json, print_table

if TYPE_CHECKING:
    from sifu_graph.edit.reports import EditReport, PruneReport


def print_edit(report: EditReport, rows: Sequence[Row], *, as_json: bool) -> None:
    """Print what is to be said about an edit, and its report: as JSON, or as a table with these rows."""
    for note in report.notes:
        warn(note)
    if as_json:
        print_json(dataclasses.asdict(report))
    else:
        print_table(rows)


def common_rows(report: EditReport, *, store: Path, nodes: bool = True) -> list[Row]:
    """The last rows of the table of every edit.

    Parameters
    ----------
    report
        What the edit did, or would do (dry run).
    store
        Directory of the store.
    nodes
        Whether the number of nodes may have changed.
    """
    rows: list[Row] = []
    if nodes:
        rows.append(("nodes", number(report.nodes_after), f"before: {report.nodes_before:,}"))
    rows += [
        ("private edges", number(report.private_edges_after), f"before: {report.private_edges_before:,}"),
        (
            "pages",
            number(report.pages_written),
            "to write" if report.dry_run else "written",
        ),
        ("time", duration(report.seconds), ""),
    ]
    if report.dry_run:
        rows.append(("dry run", "-", f"{store} was not changed"))
    elif report.snapshot is None:
        rows.append(("snapshot", "-", "nothing changed, so nothing was committed"))
    else:
        rows.append(("snapshot", report.snapshot[:8], ""))
    return rows


def prune_rows(report: PruneReport) -> list[Row]:
    """The first rows of the tables of prune and grow."""
    out: list[Row] = []
    if report.edges_added:
        out.append(("edges added", number(report.edges_added), "became private"))
    if report.clones_removed:
        out.append(("clones removed", number(report.clones_removed), "their parents count what they counted"))
    if report.tokens_counted:
        out.append(("tokens counted", number(report.tokens_counted), "of another text"))
    if report.clones_added is not None:
        remark = f"expected gain: {number(report.clone_gain, 3)} nats a token of the text"
        out.append(("clones added", number(report.clones_added), remark))
    if report.edges_removed:
        out.append(("edges removed", number(report.edges_removed), "became default"))
    if not out:
        out.append(("edges", "0", "became private or default"))
    if report.edges_added or report.edges_removed:
        freed = report.bytes_freed
        remark = "fewer (sifu compact frees the disk space)" if freed > 0 else "more"
        remark = remark if freed else "none of these edges has a stored matrix"
        uses = "uses the edges " + ("added" if report.edges_added else "removed")
        out += [("matrices", format_bytes(abs(freed)), remark), ("of the text", percent(report.corpus_share), uses)]
    for name, before, after in (
        ("held-out", report.heldout_before, report.heldout_after),
        ("of the other text", report.other_before, report.other_after),
    ):
        if before is not None:
            out.append((name, number(after, 2), f"perplexity; before: {before:.2f}"))
    return out
