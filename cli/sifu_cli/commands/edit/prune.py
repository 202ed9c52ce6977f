"""``sifu prune``: turns private edges into default edges."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click
from sifu_store.durable import format_bytes

from sifu_cli.command_line import logged
from sifu_cli.confirmation import confirm, require_answer
from sifu_cli.number_types import Float, Integer
from sifu_cli.opening import open_graph
from sifu_cli.options import common_options, dry_run_option, yes_option
from sifu_cli.output.edit_reports import common_rows, print_edit, prune_rows
from sifu_cli.output.formats import percent
from sifu_cli.output.messages import say
from sifu_cli.output.progress import Progress


@click.command(
    "prune",
    short_help="Turn the least useful private edges into default edges.",
    epilog="""\b
Examples:
  sifu prune --to-ratio 0.05 --dry-run
  sifu prune --min-count 2 --by count --yes
  sifu prune --min-count 5 --node 春
  sifu prune --clones 36000
""",
)
@click.option(
    "--to-ratio",
    type=Float(min=0, max=1),
    metavar="SHARE",
    help="Prune until this share of all pairs is private (like --sparsify of build-graph).",
)
@click.option("--min-count", type=Integer(min=1), metavar="N", help="Prune every edge with a count below N.")
@click.option(
    "--by",
    type=click.Choice(["count", "energy", "usage"]),
    metavar="WHAT",
    default="count",
    show_default=True,
    help="Order of pruning, least first: count in the text, energy above the default edge's (at rest), or usage in "
    "training.",
)
@click.option("--node", metavar="NODE", help="With --min-count: prune only the edges out of this node and into it.")
@click.option(
    "--clones",
    type=Integer(min=0),
    metavar="N",
    help="Keep the N clones that gain most over what they are clones of; remove the others.",
)
@dry_run_option
@yes_option
@common_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    to_ratio: float | None,
    min_count: int | None,
    by: Literal["count", "energy", "usage"],
    node: str | None,
    clones: int | None,
    dry_run: bool,
    yes: bool,
    store: Path,
    quiet: bool,
    as_json: bool,
) -> None:
    """Turn the least useful private edges into default edges; --to-ratio or --min-count sets how many.

    --clones removes clones instead, or as well.

    With --dry-run, nothing changes, and the perplexity on held-out text before and after is shown too.
    """
    with open_graph(store) as graph:
        limits: dict[str, Any] = {
            "to_ratio": to_ratio,
            "min_count": min_count,
            "by": by,
            "node": node,
            "clones": clones,
        }
        with Progress(quiet=quiet, stages=False) as progress:
            report = graph.prune(**limits, dry_run=True, evaluate=dry_run, progress=progress)
        if not dry_run:
            require_answer(ctx, yes=yes)
            if not yes:
                of_clones = f", and {report.clones_removed:,} clones are removed" if report.clones_removed else ""
                say(
                    f"{store}: {report.edges_removed:,} of {report.private_edges_before:,} private edges become "
                    f"default ({format_bytes(report.bytes_freed)} of matrices, {percent(report.corpus_share)} of the "
                    f"text){of_clones}"
                )
                confirm(ctx)
            with Progress(quiet=quiet, stages=False) as progress:
                report = graph.prune(**limits, command=logged(ctx), progress=progress)
    if report.note:
        say(f"note: {report.note}", quiet=quiet)
    print_edit(report, [*prune_rows(report), *common_rows(report, store=store, nodes=False)], as_json=as_json)
