"""What the commands that edit a graph share: asking first, and showing what an edit did.

It knows reports of edits and the screen; it does not know what an edit means.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sifu_cli.screen import Row, duration, number, percent, say, size

if TYPE_CHECKING:
    from sifu_graph.edit.reports import EditReport, PruneReport

_Function = TypeVar("_Function", bound=Callable[..., Any])


def yes_option(function: _Function) -> _Function:
    """``--yes``."""
    return click.option("--yes", is_flag=True, help="Do not ask.")(function)


def asked(ctx: click.Context, show: Callable[[], str], *, yes: bool, dry_run: bool, quiet: bool) -> None:
    """Shows what an edit would do and asks whether to go on; exits with 1 if not. ``show`` is called only then."""
    if yes or dry_run:
        return
    if sys.stdin is None or not sys.stdin.isatty():
        raise click.UsageError("it asks before it takes anything away, and nobody is there to answer: say --yes", ctx)
    say(show())
    if not click.confirm("Go on?", err=True):
        say("nothing was changed")
        ctx.exit(1)


def common_rows(report: EditReport, *, store: Path, nodes: bool = True) -> list[Row]:
    """The last rows of every edit's table."""
    rows: list[Row] = []
    if nodes:
        rows.append(("nodes", number(report.nodes_after), f"before: {report.nodes_before:,}"))
    rows += [
        ("private edges", number(report.private_edges_after), f"before: {report.private_edges_before:,}"),
        (
            "pages",
            number(report.pages_written),
            "of parameters written" if report.snapshot else "of parameters to write",
        ),
        ("time", duration(report.seconds), ""),
    ]
    if report.snapshot is None:
        rows.append(("dry run", "-", f"{store} is as it was"))
    else:
        rows.append(("snapshot", report.snapshot[:8], ""))
    return rows


def prune_rows(report: PruneReport) -> list[Row]:
    """What prune and grow show."""
    out: list[Row] = []
    if report.edges_added:
        out.append(("edges added", number(report.edges_added), "became private"))
    if report.edges_removed or not out:
        out.append(("edges removed", number(report.edges_removed), "became default"))
    freed = report.bytes_freed
    out.append(("parameters", size(abs(freed)), "fewer (sifu compact frees what is on disk)" if freed >= 0 else "more"))
    out.append(
        (
            "of the text",
            percent(report.corpus_share),
            "runs over the edges " + ("added" if report.edges_added else "removed"),
        )
    )
    if report.heldout_before is not None:
        out.append(("held-out", number(report.heldout_after, 2), f"perplexity; before: {report.heldout_before:.2f}"))
    return out
