"""``sifu remove-node``: nodes go, and all their edges."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from sifu_cli.edits import asked, common_rows, yes_option
from sifu_cli.options import dry_run_option, json_option, logged, opened, quiet_option, store_option
from sifu_cli.screen import number, print_json, print_table


@click.command(
    "remove-node",
    short_help="Remove nodes and all their edges.",
    epilog="""\b
Example:
  sifu remove-node 龘 --dry-run
""",
)
@click.argument("tokens", nargs=-1, required=True, metavar="TOKEN ...")
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
    tokens: tuple[str, ...],
    dry_run: bool,
    yes: bool,
    store: Path,
    quiet: bool,
    as_json: bool,
) -> None:
    """Remove the nodes of these TOKENs, with all edges into and out of them. Their text is unknown from then on.

    The energies of all other edges keep their bits. Nodes after a removed one move up by one number.
    """
    with opened(store) as graph:
        planned = graph.remove_node(*tokens, dry_run=True)
        nodes, edges = len(planned.nodes_removed), planned.private_edges_removed
        words = f"removes {nodes:,} node{'s' * (nodes != 1)} and {edges:,} private edge{'s' * (edges != 1)}"
        asked(ctx, lambda: f"{store}: {words}", yes=yes, dry_run=dry_run, quiet=quiet)
        report = planned if dry_run else graph.remove_node(*tokens, command=logged(ctx))
    if as_json:
        print_json({**dataclasses.asdict(report), "dry_run": dry_run})
        return
    removed = ", ".join(report.nodes_removed[:8]) + (" ..." if len(report.nodes_removed) > 8 else "")
    print_table(
        [
            ("removed", number(len(report.nodes_removed)), removed),
            ("edges removed", number(report.private_edges_removed), "private"),
            *common_rows(report, store=store),
        ]
    )
