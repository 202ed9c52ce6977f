"""``sifu score``: how probable a text is, token by token."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sifu_cli.opening import Resources, open_graph
from sifu_cli.options import text_options
from sifu_cli.output.formats import bits_remark, number, percent, printable
from sifu_cli.output.messages import say
from sifu_cli.output.results import Row, print_json, print_table
from sifu_cli.output.tables import Column, Grid, print_grids
from sifu_cli.output.terminal import echo
from sifu_cli.text_argument import read_text

if TYPE_CHECKING:
    from sifu_graph.inspection.predictions import Score


@click.command(
    "score",
    short_help="Show how probable a text is, token by token.",
    epilog="""\b
Examples:
  sifu score 春風吹雨
  echo 春風吹雨 | sifu score --json
""",
)
@click.argument("text", required=False)
@text_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    text: str | None,
    at: str | None,
    host_memory: str | None,
    store: Path,
    quiet: bool,
    as_json: bool,
) -> None:
    """Show the probability of each token of TEXT (default: read from stdin) after the tokens before it.

    TEXT is one document, scored as sifu eval scores a file: its end is a token too, and <unk> (text that is no node)
    has a probability, which sifu next and sifu trace leave out.
    """
    given = read_text(ctx, text, what="text")
    with open_graph(store, at=at, resources=Resources(host_memory=host_memory), modest=True) as graph:
        found = graph.score(given)
    if graph.memory_note is not None:
        say(graph.memory_note, quiet=quiet)
    if as_json:
        print_json({"text": given, **dataclasses.asdict(found)})
        return
    print_grids(score_table(found))
    echo()
    unknown = sum(token.unknown for token in found.tokens)
    rows: list[Row] = [
        ("log-probability", f"{found.log_p:.3f}", "nats: the sum over the tokens"),
        ("tokens", number(len(found.tokens)), "predicted, with the end of the text"),
        ("perplexity", number(found.perplexity, 1), "lower is better"),
    ]
    if found.bits_per_character is not None:
        remark = bits_remark(unknown / len(found.tokens))
        rows.append(("bits per character", number(found.bits_per_character, 3), remark))
    if unknown:
        rows.append(("unknown", number(unknown), "tokens that are not nodes of the graph"))
    print_table(rows)


def score_table(found: Score) -> Grid:
    """One row per token: its place, its name and its probability."""
    import math

    table = Grid([Column(""), Column("token", right=False), Column("p"), Column("nats")])
    for place, one in enumerate(found.tokens, 1):
        p = "forbidden" if one.log_p == -math.inf else percent(math.exp(one.log_p))
        table.add(str(place), printable(one.name), p, f"{one.log_p:.3f}")
    return table
