"""``sifu remove-node``: removes nodes and all their edges."""

from __future__ import annotations

from pathlib import Path

import click

from sifu_cli.command_line import logged
from sifu_cli.confirmation import confirm, require_answer
from sifu_cli.opening import open_graph
from sifu_cli.options import common_options, dry_run_option, yes_option
from sifu_cli.output.edit_reports import common_rows, print_edit
from sifu_cli.output.formats import number, printable
from sifu_cli.output.messages import say


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
@common_options
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
    """Remove the nodes of these TOKENs and all edges into and out of them. Their text becomes unknown.

    The energies of all other edges keep every bit. The numbers of the nodes after a removed node decrease.
    """
    with open_graph(store) as graph:
        report = graph.remove_node(*tokens, dry_run=True)
        if not dry_run:
            require_answer(ctx, yes=yes)
            if not yes:
                nodes, edges = len(report.nodes_removed), report.private_edges_removed
                say(
                    f"{store}: removes {nodes:,} node{'s' * (nodes != 1)} and {edges:,} private "
                    f"edge{'s' * (edges != 1)}"
                )
                confirm(ctx)
            report = graph.remove_node(*tokens, command=logged(ctx))
    removed = ", ".join(map(printable, report.nodes_removed[:8])) + (" ..." if len(report.nodes_removed) > 8 else "")
    print_edit(
        report,
        [
            ("removed", number(len(report.nodes_removed)), removed),
            ("edges removed", number(report.private_edges_removed), "private"),
            *common_rows(report, store=store),
        ],
        as_json=as_json,
    )
