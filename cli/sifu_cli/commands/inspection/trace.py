"""``sifu trace``: shows why each token of a text wins or loses, position by position."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click
from sifu_store.durable import format_bytes

from sifu_cli.number_types import Integer
from sifu_cli.opening import Resources, open_graph
from sifu_cli.options import force_option, text_options
from sifu_cli.output.formats import quoted
from sifu_cli.output.messages import say, say_left_out, warn
from sifu_cli.output.results import output_width, print_json, print_rich
from sifu_cli.output.trace_view import position_tree, positions_table

LAST = 64
"""Positions of a longer text that are shown by default."""
TOP = 5
"""Candidates of a position that are shown by default."""


@click.command(
    "trace",
    short_help="Show why each token wins: energies and their contributions, position by position.",
    epilog="""\b
Examples:
  sifu trace 春風
  sifu trace 春風吹雨 --position 2 --also 來
  sifu trace 春風 --what-if "node 春 off"
  sifu trace 春風吹雨 --html trace.html
""",
)
@click.argument("text", metavar="TEXT")
@click.option(
    "--position", type=Integer(min=0), metavar="N", help="Explain this position in detail.  [default: the last]"
)
@click.option(
    "--top",
    type=Integer(min=1),
    metavar="N",
    help="Candidates per position to analyse.  [default: 5; with --html 16]",
)
@click.option(
    "--also", multiple=True, metavar="NODE", help="Also analyse this node, whatever its rank. Can be repeated."
)
@click.option(
    "--last",
    type=Integer(min=1),
    metavar="N",
    default=LAST,
    show_default=True,
    help="Show only the last N positions.",
)
@click.option(
    "--what-if",
    multiple=True,
    metavar="CHANGE",
    help='Compare before and after a change, which is made in memory only: "edge U V = default", "edge U V forbid", '
    '"edge U V boost NATS", "node X off", "position K off". Can be repeated.',
)
@click.option(
    "--like",
    type=click.Choice(["generate", "eval"]),
    metavar="COMMAND",
    default="generate",
    show_default=True,
    help="Compute like sifu generate or like sifu eval; some settings of the signal make them differ.",
)
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Also write an HTML page.")
@force_option("Overwrite an existing page.")
@text_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    text: str,
    position: int | None,
    top: int | None,
    also: tuple[str, ...],
    last: int,
    what_if: tuple[str, ...],
    like: Literal["generate", "eval"],
    html: Path | None,
    force: bool,
    at: str | None,
    host_memory: str | None,
    store: Path,
    quiet: bool,
    as_json: bool,
) -> None:
    """Follow the signal through TEXT: show the mix of each position, the winning candidate, and its margin.

    TEXT is read like a prompt of sifu generate; position 0 is the separator before it. As there, the probabilities
    leave <unk> (text that is no node) out; --like eval keeps it, as sifu score and sifu eval do. The margin of the
    winner over the second candidate is split exactly into contributions of the signals in the mix, the biases and the
    positional encoding.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise click.UsageError("the text is not UTF-8", ctx) from None
    with open_graph(store, at=at, resources=Resources(host_memory=host_memory), modest=True) as graph:
        found = graph.trace(text, top=top, last=last, like=like, also=also, what_if=what_if, html=html, force=force)
    if graph.memory_note is not None:
        say(graph.memory_note, quiet=quiet)
    if unknown := (found.before or found).unknown:
        say(f"not among the nodes of this graph, read as unknown: {quoted(unknown)}", quiet=quiet)
    say_left_out(found.unknown_p, "at these positions (on average)", quiet=quiet)
    if found.positions[0].position > 0:
        say(f"the last {len(found.positions):,} of {found.text_positions:,} positions; --last shows more", quiet=quiet)
    if found.unchanged:
        warn(f"what-if {', '.join(found.what_if)} changes nothing at the positions shown")
    if html is not None:
        assert found.page_bytes is not None
        say(f"{html}: {format_bytes(found.page_bytes)}", quiet=quiet)
    if as_json:
        print_json(found.to_json())
        return
    before = found.before or found
    places = {one.position: one for one in found.positions}
    chosen = found.positions[-1].position if position is None else position
    if chosen not in places or chosen not in {one.position for one in before.positions}:
        shown = f"{found.positions[0].position} to {found.positions[-1].position}"
        shown += ", except those whose next node is forbidden" if len(places) <= max(places) - min(places) else ""
        raise click.BadParameter(f"{chosen} is not shown: expected {shown}", ctx, param_hint="'--position'")
    print_rich(positions_table(found, output_width()))
    earlier = next(one for one in before.positions if one.position == chosen)
    print_rich(
        position_tree(found, places[chosen], earlier if found.before is not None else None, top or TOP, output_width())
    )
