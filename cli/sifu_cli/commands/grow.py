"""``sifu grow``: default edges that a text uses become private."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import click

from sifu_cli.edits import common_rows, prune_rows
from sifu_cli.options import Number, dry_run_option, json_option, logged, opened, quiet_option, store_option
from sifu_cli.screen import print_json, print_table, say


@click.command(
    "grow",
    short_help="Give the default edges that a text uses often parameters of their own.",
    epilog="""\b
Examples:
  sifu grow --corpus new-poems.txt --to-ratio 0.1 --dry-run
  sifu grow --min-count 3
""",
)
@click.option(
    "--corpus",
    multiple=True,
    metavar="FILE",
    help="The text; may be given again.  [default: the one that the graph was built from]",
)
@click.option(
    "--to-ratio",
    type=Number(float, least=0, most=1),
    metavar="SHARE",
    help="One budget for old and new edges: this share of all pairs. The least useful give way.",
)
@click.option(
    "--min-count",
    type=Number(int, least=1),
    metavar="N",
    help="Only pairs that occur so often.  [default: as at the build]",
)
@click.option(
    "--init",
    type=click.Choice(["counts", "default"]),
    metavar="HOW",
    default="counts",
    show_default=True,
    help="The energy that their counts ask for, or the default edge's own values.",
)
@dry_run_option
@store_option
@quiet_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    corpus: tuple[str, ...],
    to_ratio: float | None,
    min_count: int | None,
    init: Literal["counts", "default"],
    dry_run: bool,
    store: Path,
    quiet: bool,
    as_json: bool,
) -> None:
    """Default edges that a text uses often become private: say how far with --to-ratio or --min-count.

    With --to-ratio, private edges that occur less may become default to stay in the budget. With --dry-run, nothing is
    changed, and the perplexity on held-out text before and after is shown as well.
    """
    with opened(store) as graph:
        report = graph.grow(
            corpus=list(corpus) or None,
            to_ratio=to_ratio,
            min_count=min_count,
            init=init,
            evaluate=dry_run,
            dry_run=dry_run,
            command=logged(ctx),
        )
    if report.note:
        say(f"note: {report.note}", quiet=quiet)
    if as_json:
        print_json({**dataclasses.asdict(report), "dry_run": dry_run})
        return
    print_table([*prune_rows(report), *common_rows(report, store=store, nodes=False)])
