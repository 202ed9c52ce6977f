"""``sifu prune``: private edges become default edges."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import click

from sifu_cli.edits import asked, common_rows, prune_rows, yes_option
from sifu_cli.options import Number, dry_run_option, json_option, logged, opened, quiet_option, store_option
from sifu_cli.screen import percent, print_json, print_table, say, size


@click.command(
    "prune",
    short_help="Turn the least useful private edges into default edges.",
    epilog="""\b
Examples:
  sifu prune --to-ratio 0.05 --dry-run
  sifu prune --min-count 2 --by count --yes
""",
)
@click.option(
    "--to-ratio",
    type=Number(float, least=0, most=1),
    metavar="SHARE",
    help="Until this share of all pairs is private (as --sparsify of build-graph).",
)
@click.option("--min-count", type=Number(int, least=1), metavar="N", help="Every edge that occurred less often goes.")
@click.option(
    "--by",
    type=click.Choice(["count", "energy", "usage"]),
    metavar="WHAT",
    default="count",
    show_default=True,
    help="What the least is: count in the text, energy over the default edge's (at rest), or usage in training.",
)
@dry_run_option
@yes_option
@store_option
@quiet_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    to_ratio: float | None,
    min_count: int | None,
    by: Literal["count", "energy", "usage"],
    dry_run: bool,
    yes: bool,
    store: Path,
    quiet: bool,
    as_json: bool,
) -> None:
    """Private edges become default edges: say how far with --to-ratio or --min-count.

    With --dry-run, nothing is changed, and the perplexity on held-out text before and after is shown as well.
    """
    with opened(store) as graph:
        planned = graph.prune(to_ratio=to_ratio, min_count=min_count, by=by, dry_run=True, evaluate=dry_run)
        words = (
            f"{planned.edges_removed:,} of {planned.private_edges_before:,} private edges become default "
            f"({size(planned.bytes_freed)}, {percent(planned.corpus_share)} of the text)"
        )
        asked(ctx, lambda: f"{store}: {words}", yes=yes, dry_run=dry_run, quiet=quiet)
        report = planned
        if not dry_run:
            report = graph.prune(to_ratio=to_ratio, min_count=min_count, by=by, command=logged(ctx))
    if report.note:
        say(f"note: {report.note}", quiet=quiet)
    if as_json:
        print_json({**dataclasses.asdict(report), "dry_run": dry_run})
        return
    print_table([*prune_rows(report), *common_rows(report, store=store, nodes=False)])
