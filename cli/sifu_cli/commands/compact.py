"""``sifu compact``: rows become one run again, freed slots go."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from sifu_cli.edits import common_rows
from sifu_cli.options import dry_run_option, json_option, logged, opened, quiet_option, store_option
from sifu_cli.screen import number, print_json, print_table, size


@click.command(
    "compact",
    short_help="Make every row one run again and drop free slots; no result changes.",
    epilog="""\b
Example:
  sifu compact
""",
)
@dry_run_option
@store_option
@quiet_option
@json_option
@click.pass_context
def command(ctx: click.Context, /, *, dry_run: bool, store: Path, quiet: bool, as_json: bool) -> None:
    """Put the edges of every row side by side again, as after a build, and drop the slots that edits freed.

    No result changes by a bit. Pages whose edges move are written anew; the old ones take space until no snapshot
    needs them any more.
    """
    with opened(store) as graph:
        report = graph.compact(dry_run=dry_run, command=logged(ctx))
    if as_json:
        print_json({**dataclasses.asdict(report), "dry_run": dry_run})
        return
    print_table(
        [
            ("slots", number(report.slots_after), f"before: {report.slots_before:,}"),
            ("runs", number(report.runs_after), f"before: {report.runs_before:,}"),
            ("pages freed", size(max(0, report.bytes_freed)), ""),
            *common_rows(report, store=store, nodes=False),
        ]
    )
