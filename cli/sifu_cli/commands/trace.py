"""``sifu trace``: why this token? Position by position, with an account that adds up."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from sifu_cli.names import readable, spelled_out
from sifu_cli.options import Number, at_option, json_option, looking_option, opened, quiet_option, store_option
from sifu_cli.screen import number, percent, print_json, print_rich, say, size

if TYPE_CHECKING:
    from rich.table import Table
    from rich.tree import Tree

    from sifu_graph.inspection.attribution import Account
    from sifu_graph.inspection.trace import Candidate, Position, Trace

LAST = 64
IN_TABLE = 4  # candidates a position
SIGNALS = 8  # of an account; what is less is one line


@click.command(
    "trace",
    short_help="Why this token: energies and their accounts, position by position.",
    epilog="""\b
Examples:
  sifu trace 春風
  sifu trace 春風吹雨 --position 2 --also 來
  sifu trace 春風 --what-if "edge 春 風 = default"
  sifu trace 春風吹雨 --html trace.html
""",
)
@click.argument("text", metavar="TEXT")
@click.option("--position", type=Number(int, least=0), metavar="N", help="Account for this one.  [default: the last]")
@click.option(
    "--top",
    type=Number(int, least=1),
    metavar="N",
    help="Candidates a position that are looked at closely.  [default: 5; for a page 16]",
)
@click.option("--also", multiple=True, metavar="NODE", help="Look at this node too, however weak. Can be repeated.")
@click.option(
    "--last",
    type=Number(int, least=1),
    metavar="N",
    default=LAST,
    show_default=True,
    help="Only the last positions of a longer text.",
)
@click.option(
    "--what-if",
    multiple=True,
    metavar="CHANGE",
    help='Before and after a change, made in memory only: "edge U V = default", "node X off", "position K off". '
    "Can be repeated.",
)
@click.option(
    "--like",
    type=click.Choice(["generate", "eval"]),
    metavar="COMMAND",
    default="generate",
    show_default=True,
    help="Compute as sifu generate or as sifu eval: they differ where the signal's settings say so.",
)
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Also write a page for a browser.")
@click.option("--force", is_flag=True, help="Overwrite that page.")
@at_option
@looking_option
@store_option
@quiet_option
@json_option
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
    """Follow the signal through TEXT: what each position's mix holds, who wins, and by what.

    TEXT is taken as sifu generate takes a prompt; position 0 is the separator before it. The account splits the margin
    of the winner over the runner-up exactly over the signals in the mix, the biases and the positional encoding.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise click.UsageError("the text is not UTF-8", ctx) from None
    with opened(store, at=at, host_memory=host_memory, modest=True) as graph:
        given = text.split() if graph.tokenizer.level == "tokens" else text
        found = graph.trace(
            given, top=top, last=last, like=like, also=also, what_if=what_if, html=html, force=force
        )  # fmt: skip
    if graph.memory_note is not None:
        say(graph.memory_note, quiet=quiet)
    if unknown := (found.before or found).unknown:
        say(f"not among the nodes of this graph, read as unknown: {spelled_out(unknown)}", quiet=quiet)
    if found.positions[0].position > 0:
        said = f"the last {len(found.positions):,} of {found.text_positions:,} positions; --last shows more"
        say(said, quiet=quiet)
    if html is not None:
        assert found.page_bytes is not None
        say(f"{html}: {size(found.page_bytes)}", quiet=quiet)
    if as_json:
        print_json(found.to_json())
        return
    before = found.before or found
    places = {one.position: one for one in found.positions}
    chosen = found.positions[-1].position if position is None else position
    if chosen not in places or chosen not in {one.position for one in before.positions}:
        shown = f"{found.positions[0].position} to {found.positions[-1].position}"
        raise click.BadParameter(f"{chosen} is not shown: expected {shown}", ctx, param_hint="'--position'")
    print_rich(_table(found))
    earlier = next(one for one in before.positions if one.position == chosen)
    print_rich(_tree(found, places[chosen], earlier if found.before is not None else None, top or 5))


def _strongest(position: Position) -> str:
    shown = position.candidates[: min(IN_TABLE, position.contenders)]
    return "  ".join(f"{_name(one)} {percent(one.p * one.among)}" for one in shown)


def _name(candidate: Candidate) -> str:
    """A default edge stands for all of them: they share one energy."""
    name = readable(candidate.name)
    if candidate.private:
        return name
    return f"({name} ...)" if candidate.among > 1 else f"({name})"


def _table(trace: Trace) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for name, right in (("", True), ("at", False), ("came", False), ("p", True), ("rank", True), ("nats", True)):
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    if trace.before is None:
        table.add_column("strongest")
        table.add_column("margin", justify="right", no_wrap=True)
        for one in trace.positions:
            table.add_row(*_outcome(one), _strongest(one), _margin(one))
        return table
    table.add_column("strongest before")
    table.add_column("p", justify="right", no_wrap=True)
    table.add_column("rank", justify="right", no_wrap=True)
    table.add_column("nats", justify="right", no_wrap=True)
    table.add_column("strongest after")
    by_position = {one.position: one for one in trace.positions}
    for one in trace.before.positions:
        after = by_position.get(one.position)
        changed = after is not None and _seen(after) != _seen(one)
        cells = [*_outcome(one), _strongest(one)]
        cells += ["", "", "", "same" if after is not None else ""] if not changed else [
            *_outcome(after)[3:], _strongest(after)  # type: ignore[arg-type]
        ]  # fmt: skip
        table.add_row(*cells, style=None if changed else "dim")
    return table


def _seen(position: Position) -> tuple[object, ...]:
    return (position.name, position.rank, position.loss, [(one.name, one.energy, one.p) for one in position.candidates])


def _outcome(position: Position) -> list[str]:
    came = position.candidates[position.came_at] if position.came_at is not None else None
    return [
        str(position.position),
        readable(position.name),
        "" if position.came_name is None else readable(position.came_name),
        "" if came is None else percent(came.p),
        "" if position.came is None else number(position.rank),
        "" if position.came is None else number(position.loss, 2),
    ]


def _margin(position: Position) -> str:
    margin = position.margin
    return "-" if margin is None else f"{float(margin.energy[0]):.3f}"


def _tree(trace: Trace, position: Position, before: Position | None, top: int) -> Tree:
    from rich.text import Text
    from rich.tree import Tree

    root = Tree(Text(f"position {position.position}: the row of {readable(position.name)}", style="bold"))
    root.add(Text(f"{position.private_edges:,} private edges; all others share the default edge", style="dim"))
    root.add(_mix(trace, position))
    root.add(_candidates(position, top))
    if before is not None and trace.before is not None:
        root.add(_account(trace.before, before, "before: "))
        root.add(_account(trace, position, "after: "))
    else:
        root.add(_account(trace, position, ""))
    if position.came_at is not None and position.came_at > 1:
        root.add(_pair(trace, position, position.came_at, 0, ""))
    return root


def _mix(trace: Trace, position: Position) -> Tree:
    from rich.text import Text
    from rich.tree import Tree

    order = (-position.weights).argsort(kind="stable")
    mixed = [int(k) for k in order if position.weights[k] > 0]
    signals = f"the mix: {len(mixed)} signal{'s' * (len(mixed) != 1)}"
    tree = Tree(Text(signals if mixed else "the mix is empty: the biases decide alone"))
    for k in mixed[:SIGNALS]:
        at = position.begin + k
        tree.add(Text(f"{percent(float(position.weights[k])):>8}  {at} {readable(trace.names[trace.nodes[at]])}"))
    if rest := mixed[SIGNALS:]:
        tree.add(Text(f"{percent(float(position.weights[rest].sum())):>8}  {len(rest)} more", style="dim"))
    return tree


def _candidates(position: Position, top: int) -> Tree:
    from rich import box
    from rich.table import Table
    from rich.text import Text
    from rich.tree import Tree

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for name in ("", "energy", "p", "rank", "edge"):
        table.add_column(name, justify="left" if name in ("", "edge") else "right", no_wrap=True)
    for k, one in enumerate(position.candidates):
        if top <= k < position.contenders and k != position.came_at:
            continue
        private = f"private, counted {one.count:,} times" if one.private else f"default, one of {one.among:,}"
        came = "bold" if k == position.came_at else None
        table.add_row(readable(one.name), f"{one.energy:.4f}", percent(one.p), number(one.rank), private, style=came)
    tree = Tree(Text("the contest" + (f", in which {readable(position.came_name)} came" if position.came_name else "")))
    tree.add(table)
    return tree


def _account(trace: Trace, position: Position, label: str) -> Tree:
    from rich.text import Text
    from rich.tree import Tree

    if position.margin is None:
        return Tree(Text(f"{label}there is one candidate: nothing to account for"))
    return _pair(trace, position, 0, 1, label)


def _pair(trace: Trace, position: Position, a: int, b: int, label: str) -> Tree:
    """Why a is that much ahead of b (or behind it)."""
    from rich.table import Table
    from rich.text import Text
    from rich.tree import Tree

    margin: Account = position.account.margin(a, b)
    energy = float(margin.energy[0])
    nats = energy * trace.scale
    ratio = f"{math.exp(min(700.0, abs(nats))):.3g} times {'as' if nats >= 0 else 'less'} likely"
    names = [readable(position.candidates[k].name) for k in (a, b)]
    side = "ahead of" if energy >= 0 else "behind"
    tree = Tree(Text(f"{label}{names[0]} {side} {names[1]}: {energy:+.4f} energy, {nats:+.3f} nats, {ratio}"))
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right")
    table.add_column()
    table.add_column()
    signals = margin.signals[0]
    mixed = [k for k in range(len(signals)) if position.weights[k] > 0]
    strong = sorted(sorted(mixed, key=lambda k: -abs(float(signals[k])))[:SIGNALS], reverse=True)
    rest = [k for k in mixed if k not in strong]
    lines = [
        (float(signals[k]), f"signal of {position.begin + k} {readable(trace.names[trace.nodes[position.begin + k]])}")
        for k in strong
    ]
    if rest:
        lines.append((float(signals[rest].sum()), f"{len(rest)} other signals"))
    lines.append((float(margin.bias[0]), "biases of the edges"))
    if float(margin.encoding[0]):
        lines.append((float(margin.encoding[0]), "positional encoding"))
    most = max(abs(value) for value, _ in lines) or 1.0
    for value, name in lines:
        bar = "\u2588" * max(1, round(20 * abs(value) / most)) if abs(value) > 5e-5 else ""
        table.add_row(f"{value:+.4f}", name, Text(bar, style="red" if value >= 0 else "blue"))
    table.add_row(f"{float(margin.remainder[0]):+.0e}", "remainder (rounding)", "", style="dim")
    tree.add(table)
    return tree
