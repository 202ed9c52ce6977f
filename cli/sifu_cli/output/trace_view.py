"""A trace as text: a table of its positions, and a tree that explains one position. rich is imported when needed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from sifu_cli.output.formats import number, percent, printable, source_name
from sifu_cli.output.tables import GAP, Column, Grid, table_of

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.tree import Tree

    from sifu_graph.inspection.attribution import Account
    from sifu_graph.inspection.trace import Candidate, Position, Trace

CANDIDATES_IN_TABLE = 4
"""Candidates per position in the table."""
SIGNALS_IN_TREE = 8
"""Signals that are listed one by one; the others are summed in one line."""
SIDE_BY_SIDE = 140
"""Columns of a terminal that holds what was before and after changes side by side."""
INDENT = 8  # columns before what is at the second level of the tree
BAR = 20  # columns of the longest bar
LEAST_ROOM = 24  # columns for the strongest candidates


def _strongest(position: Position, room: int | None = None) -> str:
    """The strongest candidates, in lines of at most `room` columns with at least one each."""
    from rich.cells import cell_len

    lines: list[str] = []
    for one in position.candidates[: min(CANDIDATES_IN_TABLE, position.contenders)]:
        text = f"{_name(one)} {percent(one.p * one.among)}"
        if lines and (room is None or cell_len(f"{lines[-1]}  {text}") <= room):
            lines[-1] += f"  {text}"
        else:
            lines.append(text)
    return "\n".join(lines)


def _name(candidate: Candidate) -> str:
    """The name of a candidate. A default edge represents all default edges, because they share one energy."""
    name = printable(candidate.name)
    if candidate.private:
        return name
    return f"({name} ...)" if candidate.among > 1 else f"({name})"


def positions_table(trace: Trace, width: int) -> RenderableType:
    """One row per position: token, next token with its probability, rank and loss, and the strongest candidates.

    On a terminal of few columns, what changes make of a position stands in a row below it, and columns for which there
    is no room stand in a second table.
    """
    if width < SIDE_BY_SIDE:
        return _narrow_table(trace, width)
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for name, right in (("", True), ("token", False), ("next", False), ("p", True), ("rank", True), ("nats", True)):
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
        cells = [*_outcome(one), _strongest(one)]
        if after is not None and _seen(after) != _seen(one):
            table.add_row(*cells, *_outcome(after)[3:], _strongest(after))
        else:
            table.add_row(*cells, "", "", "", "" if after is None else "same", style="dim")
    return table


def _narrow_table(trace: Trace, width: int) -> RenderableType:
    """The same for `width` columns: what names and probabilities leave no room for stands in a second table."""
    from rich import box
    from rich.cells import cell_len
    from rich.console import Group
    from rich.table import Table

    after = {one.position: one for one in trace.positions}
    rows: list[tuple[list[str], Position, str | None]] = []
    for one in (trace.before or trace).positions:
        changed = None if trace.before is None else after.get(one.position)
        same = changed is None or _seen(changed) == _seen(one)
        rows.append(([*_outcome(one), _margin(one)], one, "dim" if same and trace.before is not None else None))
        if changed is not None and not same:
            rows.append((["", "  after", "", *_outcome(changed)[3:], _margin(changed)], changed, None))
    names = ["", "token", "next", "p", "rank", "nats", "margin"]
    widths = [max(cell_len(text) for text in [name, *(row[0][at] for row in rows)]) for at, name in enumerate(names)]
    wanted = max(cell_len(line) for _, one, _ in rows for line in _strongest(one, 0).splitlines())
    kept = [at for at in range(len(names)) if at < len(names) - 1 or trace.before is None]

    def room() -> int:
        return width - GAP - sum(widths[at] + GAP for at in kept)

    for dropped in (6, 4, 5):
        if room() < max(wanted, LEAST_ROOM) and dropped in kept:
            kept.remove(dropped)
    below = [at for at in (4, 5, 6) if at not in kept and (at < len(names) - 1 or trace.before is None)]
    if room() < wanted:
        kept.remove(2)
        below.insert(0, 2)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for at in kept:
        left = names[at] in ("token", "next")
        table.add_column(names[at], justify="left" if left else "right", no_wrap=not left, overflow="fold")
    table.add_column("strongest", overflow="fold")
    for cells, one, style in rows:
        table.add_row(*(cells[at] for at in kept), _strongest(one, room()), style=style)
    if not below:
        return table
    rest = Grid([Column(names[at], right=names[at] not in ("token", "next")) for at in (0, 1, *below)])
    for cells, _, style in rows:
        rest.add(*(cells[at] for at in (0, 1, *below)), style=style)
    return Group(table, table_of(rest, width))


def _seen(position: Position) -> tuple[object, ...]:
    return (position.name, position.rank, position.loss, [(one.name, one.energy, one.p) for one in position.candidates])


def _outcome(position: Position) -> list[str]:
    came = position.candidates[position.came_at] if position.came_at is not None else None
    return [
        str(position.position),
        printable(position.name),
        "" if position.came_name is None else printable(position.came_name),
        "" if came is None else percent(came.p),
        "" if position.came is None else number(position.rank),
        "" if position.came is None else number(position.loss, 2),
    ]


def _margin(position: Position) -> str:
    margin = position.margin
    return "-" if margin is None else f"{float(margin.energy[0]):.3f}"


def position_tree(trace: Trace, position: Position, before: Position | None, top: int, width: int) -> Tree:
    """The mix, the candidates and the contributions of one position.

    Parameters
    ----------
    trace
        The trace; after the changes of ``--what-if``, if there are any.
    position
        A position of the trace.
    before
        The same position before the changes; None: there are no changes.
    top
        Number of candidates.
    width
        Columns of the terminal.
    """
    from rich.text import Text
    from rich.tree import Tree

    root = Tree(Text(f"position {position.position}: the row of {source_name(position.source)}", style="bold"))
    others = "every node has an energy of its own" if trace.base else "all others share the default edge"
    root.add(Text(f"{position.private_edges:,} private edges; {others}", style="dim"))
    root.add(_mix(trace, position))
    root.add(_candidates(trace, position, top, width))
    if before is not None and trace.before is not None:
        root.add(_account(trace.before, before, "before: ", width))
        root.add(_account(trace, position, "after: ", width))
    else:
        root.add(_account(trace, position, "", width))
    if position.came_at is not None and position.came_at > 1:
        root.add(_pair(trace, position, position.came_at, 0, "", width))
    return root


def _mix(trace: Trace, position: Position) -> Tree:
    from rich.text import Text
    from rich.tree import Tree

    order = (-position.weights).argsort(kind="stable")
    mixed = [int(k) for k in order if position.weights[k] > 0]
    what = "the signal was moved by" if trace.base else "the mix:"
    signals = f"{what} {len(mixed)} {'position' if trace.base else 'signal'}{'s' * (len(mixed) != 1)}"
    tree = Tree(Text(signals if mixed else "the mix is empty: only the biases contribute"))
    for k in mixed[:SIGNALS_IN_TREE]:
        at = position.begin + k
        tree.add(Text(f"{percent(float(position.weights[k])):>8}  {at} {printable(trace.names[trace.nodes[at]])}"))
    if rest := mixed[SIGNALS_IN_TREE:]:
        tree.add(Text(f"{percent(float(position.weights[rest].sum())):>8}  {len(rest)} more", style="dim"))
    return tree


def _candidates(trace: Trace, position: Position, top: int, width: int) -> Tree:
    from rich.text import Text
    from rich.tree import Tree

    from sifu_graph.text.unknown import NOTED_SHARE

    columns = [Column("", right=False), Column("energy", drop=3), Column("p"), Column("rank", drop=1)]
    table = Grid([*columns, Column("edge", right=False)])
    for k, one in enumerate(position.candidates):
        if top <= k < position.contenders and k != position.came_at:
            continue
        default = "default" if trace.base else f"default, one of {one.among:,}"
        after = f" after {printable(position.name)}" if len(position.source) > 1 else ""  # a clone counts less
        private = f"private, count {one.count:,}{after}" if one.private else default
        if one.energy == -math.inf:
            private = "forbidden"
        came = "bold" if k == position.came_at else None
        table.add(printable(one.name), f"{one.energy:.4f}", percent(one.p), number(one.rank), private, style=came)
    tree = Tree(Text("the contest" + (f"; next token: {printable(position.came_name)}" if position.came_name else "")))
    tree.add(table_of(table, width - INDENT))
    if position.unknown_p > NOTED_SHARE:
        tree.add(Text(f"without <unk>, which has {percent(position.unknown_p)} in evaluation", style="dim"))
    return tree


def _account(trace: Trace, position: Position, label: str, width: int) -> Tree:
    from rich.text import Text
    from rich.tree import Tree

    if position.margin is None:
        return Tree(Text(f"{label}{_no_margin(position)}"))
    return _pair(trace, position, 0, 1, label, width)


def _no_margin(position: Position) -> str:
    only = position.candidates[0]
    if only.among > 1:
        return f"{only.among:,} candidates have the same energy, that of the default edge: no margin to explain"
    return "there is only one candidate: no margin to explain"


def _pair(trace: Trace, position: Position, a: int, b: int, label: str, width: int) -> Tree:
    """The contributions to the energy of candidate a minus that of candidate b (indices of the candidates)."""
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text
    from rich.tree import Tree

    margin: Account = position.account.margin(a, b)
    energy = float(margin.energy[0])
    names = [printable(position.candidates[k].name) for k in (a, b)]
    if not math.isfinite(energy):
        return Tree(Text(f"{label}{names[0]} against {names[1]}: a pair that is forbidden has no energy to explain"))
    nats = energy * trace.scale
    ratio = f"{math.exp(min(700.0, abs(nats))):.3g} times {'as' if nats >= 0 else 'less'} likely"
    side = "ahead of" if energy >= 0 else "behind"
    tree = Tree(Text(f"{label}{names[0]} {side} {names[1]}: {energy:+.4f} energy, {nats:+.3f} nats, {ratio}"))
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(no_wrap=True, overflow="crop")
    signals = margin.signals[0]
    mixed = [k for k in range(len(signals)) if position.weights[k] > 0]
    strong = sorted(sorted(mixed, key=lambda k: -abs(float(signals[k])))[:SIGNALS_IN_TREE], reverse=True)
    rest = [k for k in mixed if k not in strong]
    lines = [
        (float(signals[k]), f"signal of {position.begin + k} {printable(trace.names[trace.nodes[position.begin + k]])}")
        for k in strong
    ]
    if rest:
        lines.append((float(signals[rest].sum()), f"{len(rest)} other signals"))
    if trace.base:
        lines.append((float(margin.together[0]), "the positions together"))
    if float(margin.counts[0]):
        lines.append((float(margin.counts[0]), f"counts after {printable(position.name)}"))
    for nodes, value in enumerate(margin.clones[0].tolist(), 2):
        lines.append((value, f"counts after {source_name(position.source[-nodes:])}"))
    lines.append((float(margin.bias[0]), "biases of the nodes and edges" if trace.base else "biases of the edges"))
    if float(margin.repeated[0]):
        lines.append((float(margin.repeated[0]), "repetition of what the text said before"))
    if float(margin.encoding[0]):
        lines.append((float(margin.encoding[0]), "positional encoding"))
    most = max(abs(value) for value, _ in lines) or 1.0
    longest = max(cell_len(f"{value:+.4f}  {name}") for value, name in lines)
    cells = min(BAR, max(0, width - INDENT - 1 - longest))
    for value, name in lines:
        bar = "\u2588" * min(cells, max(1, round(cells * abs(value) / most))) if abs(value) > 5e-5 else ""
        table.add_row(f"{value:+.4f}", name, Text(bar, style="red" if value >= 0 else "blue"))
    table.add_row(f"{float(margin.remainder[0]):+.0e}", "remainder (rounding)", "", style="dim")
    tree.add(table)
    return tree
