"""``sifu add-node``: new nodes, bare, like another one, or from a text."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import click

from sifu_cli.edits import common_rows
from sifu_cli.options import Number, dry_run_option, json_option, logged, opened, quiet_option, store_option
from sifu_cli.screen import number, print_json, print_table, say


@click.command(
    "add-node",
    short_help="Add nodes: bare, like another one, or as a text has them.",
    epilog="""\b
Examples:
  sifu add-node 龘 --like 龍
  sifu add-node 江南 --corpus tang --dry-run
  sifu add-node --from words.txt
""",
)
@click.argument("tokens", nargs=-1, metavar="[TOKEN ...]")
@click.option("--from", "source", metavar="FILE", help="Further tokens, one a line; - for stdin.")
@click.option("--like", metavar="NODE", help="Each gets this node's private edges both ways, its bias and counts.")
@click.option(
    "--corpus",
    multiple=True,
    metavar="FILE",
    help="Count their pairs in this text: the frequent ones become private, with the energies that the counts ask for. "
    "May be given again.",
)
@click.option("--kind", metavar="KIND", default="text", show_default=True, help="What they are: text, image, ...")
@click.option(
    "--train-steps",
    type=Number(int, least=0),
    metavar="N",
    default=0,
    show_default=True,
    help="Then train so many steps, only the edges that touch them.",
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
    tokens: tuple[str, ...],
    source: str | None,
    like: str | None,
    corpus: tuple[str, ...],
    kind: str,
    train_steps: int,
    dry_run: bool,
    store: Path,
    quiet: bool,
    as_json: bool,
) -> None:
    """Add a node for each TOKEN: a character, a word, or the name of anything else (<image:7>).

    A new node is a source and a target at once, and the tokenizer finds it before anything else, the longest first.
    Bare, all its edges are default. All nodes of one command are one commit, or none if an error is found.
    """
    every = [*tokens, *_lines(ctx, source)]
    if not every:
        raise click.UsageError("name at least one token, or a file of them with --from", ctx)
    with opened(store) as graph:
        report = graph.add_node(
            *every,
            like=like,
            corpus=list(corpus) or None,
            kind=kind,
            train_steps=train_steps,
            dry_run=dry_run,
            command=logged(ctx),
        )
    if report.missing:
        shown = ", ".join(report.missing[:10])
        say(f"note: {len(report.missing):,} of them never occur in the corpus ({shown}): all default", quiet=quiet)
    if as_json:
        print_json({**dataclasses.asdict(report), "dry_run": dry_run})
        return
    added = ", ".join(report.nodes_added[:8]) + (" ..." if len(report.nodes_added) > 8 else "")
    rows = [("added", number(len(report.nodes_added)), added)]
    rows.append(("new private edges", number(report.private_edges_added), f"like those of {like}" if like else ""))
    if report.occurrences is not None:
        rows.append(("occurrences", number(report.occurrences), "in the corpus"))
    print_table([*rows, *common_rows(report, store=store)])


def _lines(ctx: click.Context, source: str | None) -> list[str]:
    """The lines of a file that are not empty."""
    if source is None:
        return []
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{source} is not UTF-8: expected one token a line", ctx) from error
    return [line for line in text.removeprefix("\ufeff").splitlines() if line]
