"""``sifu edit-node``: one node is renamed, merged into another, or given another's bias."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from sifu_cli.edits import common_rows
from sifu_cli.options import dry_run_option, json_option, logged, opened, quiet_option, store_option
from sifu_cli.screen import number, print_json, print_table


@click.command(
    "edit-node",
    short_help="Rename a node, merge it into another, or give it another's bias.",
    epilog="""\b
Examples:
  sifu edit-node 爲 --merge-into 為
  sifu edit-node 龘 --rename 龖
""",
)
@click.argument("node", metavar="NODE")
@click.option("--rename", metavar="NEW", help="Another text for it; its old text is unknown from then on.")
@click.option(
    "--merge-into",
    metavar="OTHER",
    help="It becomes part of OTHER: counts added, edges combined by count, its text read as OTHER.",
)
@click.option("--bias-from", metavar="OTHER", help="Start the signal of a text as OTHER does.")
@dry_run_option
@store_option
@quiet_option
@json_option
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
    """Change one NODE, in exactly one way. Its edges stay as they are unless it is merged."""
    if sum(option is not None for option in (rename, merge_into, bias_from)) != 1:
        raise click.UsageError("say one of --rename, --merge-into and --bias-from", ctx)
    with opened(store) as graph:
        if rename is not None:
            report = graph.rename_node(node, rename, dry_run=dry_run, command=logged(ctx))
        elif merge_into is not None:
            report = graph.merge_node(node, merge_into, dry_run=dry_run, command=logged(ctx))
        else:
            assert bias_from is not None
            report = graph.set_bias(node, like=bias_from, dry_run=dry_run, command=logged(ctx))
    if as_json:
        print_json({**dataclasses.asdict(report), "dry_run": dry_run})
        return
    before, after = report.before, report.after
    print_table(
        [
            ("node", after.token, f"before: {before.token}"),
            ("count", number(after.count), f"before: {before.count:,}"),
            ("edges out", number(after.edges_out), f"before: {before.edges_out:,} (private)"),
            ("edges in", number(after.edges_in), f"before: {before.edges_in:,} (private)"),
            *common_rows(report, store=store),
        ]
    )
