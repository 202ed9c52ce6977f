"""``sifu compact``: stores every row contiguously and removes free slots."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click
from sifu_store.durable import format_bytes

from sifu_cli.command_line import logged
from sifu_cli.opening import open_graph
from sifu_cli.options import common_options, dry_run_option
from sifu_cli.output.edit_reports import common_rows
from sifu_cli.output.formats import number
from sifu_cli.output.results import print_json, print_table


@click.command(
    "compact",
    short_help="Store every row contiguously and remove free slots; no result changes.",
    epilog="""\b
Example:
  sifu compact
""",
)
@dry_run_option
@common_options
@click.pass_context
def command(ctx: click.Context, /, *, dry_run: bool, store: Path, quiet: bool, as_json: bool) -> None:
    """Store the edges of every row contiguously, as after a build, and remove the slots that edits freed.

    Results keep every bit. Pages with moved edges are rewritten; the old pages use disk space until no snapshot needs
    them.
    """
    with open_graph(store) as graph:
        report = graph.compact(dry_run=dry_run, command=logged(ctx))
    if as_json:
        print_json({**dataclasses.asdict(report), "dry_run": dry_run})
        return
    print_table(
        [
            ("slots", number(report.slots_after), f"before: {report.slots_before:,}"),
            ("runs", number(report.runs_after), f"before: {report.runs_before:,}"),
            ("pages freed", format_bytes(max(0, report.bytes_freed)), ""),
            *common_rows(report, store=store, nodes=False),
        ]
    )
