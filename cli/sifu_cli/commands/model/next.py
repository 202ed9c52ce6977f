"""``sifu next``: the most probable next tokens after a text."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sifu_cli.number_types import Integer
from sifu_cli.opening import Resources, open_graph
from sifu_cli.options import text_options
from sifu_cli.output.formats import number, percent, printable
from sifu_cli.output.messages import say, say_left_out
from sifu_cli.output.results import print_json
from sifu_cli.output.tables import Column, Grid, print_grids
from sifu_cli.text_argument import read_text

if TYPE_CHECKING:
    from sifu_graph.inspection.predictions import NextNode


@click.command(
    "next",
    short_help="Show the most probable next tokens after a text.",
    epilog="""\b
Examples:
  sifu next 春風
  sifu next 春風 --top 50 --json
""",
)
@click.argument("text", required=False)
@click.option("--top", type=Integer(min=1), metavar="N", default=10, show_default=True, help="Number of tokens.")
@text_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    text: str | None,
    top: int,
    at: str | None,
    host_memory: str | None,
    store: Path,
    quiet: bool,
    as_json: bool,
) -> None:
    """Show the most probable next tokens after TEXT (default: read from stdin).

    The probabilities are those that sifu generate draws from, with --temperature 1 and --top-p 1. They leave <unk>
    (text that is no node) out, which sifu score and sifu eval keep: a note says so where <unk> has more than 2 %.
    """
    given = read_text(ctx, text, what="text")
    with open_graph(store, at=at, resources=Resources(host_memory=host_memory), modest=True) as graph:
        found = graph.next(given, k=top)
    if graph.memory_note is not None:
        say(graph.memory_note, quiet=quiet)
    say_left_out(found.unknown_p, "after this text", quiet=quiet)
    if as_json:
        following = [dataclasses.asdict(one) for one in found]
        print_json({"text": given, "next": following, "unknown_p": found.unknown_p})
        return
    print_grids(next_table(found))


def next_table(found: list[NextNode]) -> Grid:
    """One row per token: its name, probability and edge."""
    columns = [Column("token", right=False), Column("p"), Column("nats"), Column("count", drop=2)]
    table = Grid([*columns, Column("edge", right=False, drop=1)])
    for one in found:
        edge = "private" if one.private else "default"
        count = "" if one.count is None else number(one.count)
        table.add(printable(one.name), percent(one.p), f"{one.log_p:.3f}", count, edge)
    return table
