"""``sifu edit-node``: renames a node, merges it into another, or replaces its bias."""

from __future__ import annotations

from pathlib import Path

import click

from sifu_cli.command_line import logged
from sifu_cli.opening import open_graph
from sifu_cli.options import common_options, dry_run_option
from sifu_cli.output.edit_reports import common_rows, print_edit
from sifu_cli.output.formats import number, printable


@click.command(
    "edit-node",
    short_help="Rename a node, merge it into another, or copy the bias of another.",
    epilog="""\b
Examples:
  sifu edit-node 爲 --merge-into 為
  sifu edit-node 龘 --rename 龖
""",
)
@click.argument("node", metavar="NODE")
@click.option("--rename", metavar="NEW", help="Change its text to NEW; its old text becomes unknown.")
@click.option(
    "--merge-into",
    metavar="OTHER",
    help="Merge it into OTHER: counts are added, edges are averaged by count, and its text is read as OTHER.",
)
@click.option("--bias-from", metavar="OTHER", help="Copy the bias of OTHER, which starts the signal of a text.")
@dry_run_option
@common_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    node: str,
    rename: str | None,
    merge_into: str | None,
    bias_from: str | None,
    dry_run: bool,
    store: Path,
    quiet: bool,
    as_json: bool,
) -> None:
    """Change NODE, in exactly one way. Its edges do not change unless it is merged."""
    if sum(option is not None for option in (rename, merge_into, bias_from)) != 1:
        raise click.UsageError("give exactly one of --rename, --merge-into and --bias-from", ctx)
    with open_graph(store) as graph:
        if rename is not None:
            report = graph.rename_node(node, rename, dry_run=dry_run, command=logged(ctx))
        elif merge_into is not None:
            report = graph.merge_node(node, merge_into, dry_run=dry_run, command=logged(ctx))
        else:
            assert bias_from is not None
            report = graph.set_bias(node, like=bias_from, dry_run=dry_run, command=logged(ctx))
    before, after = report.before, report.after
    print_edit(
        report,
        [
            ("node", printable(after.token), f"before: {printable(before.token)}"),
            ("count", number(after.count), f"before: {before.count:,}"),
            ("edges out", number(after.edges_out), f"before: {before.edges_out:,} (private)"),
            ("edges in", number(after.edges_in), f"before: {before.edges_in:,} (private)"),
            *common_rows(report, store=store),
        ],
        as_json=as_json,
    )
