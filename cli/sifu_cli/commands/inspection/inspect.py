"""``sifu inspect``: shows one node, or the edge between two nodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sifu_cli.number_types import Integer
from sifu_cli.opening import open_graph
from sifu_cli.options import at_option, common_options
from sifu_cli.output.formats import number, percent, printable, typed
from sifu_cli.output.messages import warn
from sifu_cli.output.results import Row, print_json, print_table
from sifu_cli.output.tables import Column, Grid, print_grids
from sifu_cli.output.terminal import echo

if TYPE_CHECKING:
    from sifu_graph.inspection.inspect import Change, EdgeReport, Neighbour, NodeReport, Similar
    from sifu_graph.inspection.inspect_clone import CloneReport, CloneSummary, CloneTarget

TOP = 10
Shown = tuple[str, "tuple[Neighbour, ...]", tuple[str, ...]]
"""Title of a list, its neighbours, and the columns to show."""


@click.command(
    "inspect",
    short_help="Show a node or an edge: counts, norms, neighbours, history.",
    epilog="""\b
Examples:
  sifu inspect 春
  sifu inspect 春 風
  sifu inspect '立>春'
""",
)
@click.argument("node", metavar="NODE")
@click.argument("target", required=False, metavar="[NODE]")
@click.option("--top", type=Integer(min=1), metavar="N", default=TOP, show_default=True, help="Neighbours per list.")
@at_option
@common_options
def command(
    *,
    node: str,
    target: str | None,
    top: int,
    at: str | None,
    store: Path,
    quiet: bool,
    as_json: bool,
) -> None:
    """Show NODE, or the edge from the first NODE to the second. In a graph with clones, '立>春' is 春 after 立.

    Energies and probabilities are those at rest: with a mix of zero, so that only the bias of an edge and the
    positional encoding of the first step count. The list "share vs. p" has
    the edges whose probability p differs most from their share of the counts. Clones take occurrences from their node,
    and p is that of the node where no clone speaks: it is compared with the "own share", of what the node still counts.
    """
    with open_graph(store, at=at) as graph:
        found = graph.inspect(node, target, top=top)
    for note in getattr(found, "notes", ()):  # a clone has none
        warn(note)
    if as_json:
        print_json(dataclasses.asdict(found))
    elif hasattr(found, "inherited"):
        _print_clone(found)  # type: ignore[arg-type]
    elif target is None:
        _print_node(found)  # type: ignore[arg-type]
    else:
        _print_edge(found)  # type: ignore[arg-type]


def _print_node(found: NodeReport) -> None:
    pages = "-" if found.pages is None else f"{found.pages[0]:,} - {found.pages[1]:,}"
    of_clones = found.own_transitions != found.transitions
    own = "of these; p follows them, and its clones have the others"
    print_table(
        [
            ("node", printable(found.name), f"number {found.node:,} by frequency"),
            ("count", number(found.count), "in the corpus of the graph"),
            ("targets", number(found.distinct_targets), f"distinct, in {found.transitions:,} transitions"),
            *([("  own counts", number(found.own_transitions), own)] if of_clones else []),
            ("private edges out", number(found.private_out), ""),
            ("sources", number(found.distinct_sources), "distinct"),
            ("private edges in", number(found.private_in), ""),
            ("bias", number(found.bias_norm, 3), "norm"),
            *([] if found.repeated is None else [("repetition", f"{found.repeated:+.3f}", REPEATED)]),
            ("default energy", number(found.default_energy, 3), f"{percent(found.default_p)} for each default edge"),
            ("pages of its row", pages, _changed(found.row_written, "last written")),
            ("bias changed", *_when(found.bias_changed)),
        ]
    )
    echo()
    out: list[Shown] = [
        ("out, by energy", found.targets_by_energy, ("energy", "p")),
        ("out, by count", found.targets_by_count, ("count", "share")),
        ("share vs. p", found.disagreements, ("own share" if of_clones else "share", "p")),
    ]
    print_grids(*map(_neighbours, out))
    echo()
    among = "" if found.private_in <= found.compared else f", of the {found.compared} most frequent"
    into: list[Shown] = [
        (f"in, by energy{among}", found.sources_by_energy, ("energy",)),
        ("in, by count", found.sources_by_count, ("count", "share")),
    ]
    print_grids(*map(_neighbours, into))
    if found.similar_targets:
        echo()
        print_grids(
            _cosines("similar as a target", found.similar_targets),
            _cosines("similar as a source", found.similar_sources),
        )
    _print_clones(found.clones)


REPEATED = "nats where it came once before in its document"


def _print_clone(found: CloneReport) -> None:
    parent = printable(found.parent)
    print_table(
        [
            ("clone", printable(found.name), f"of {parent}"),
            ("count", number(found.count), "as the clone counts its occurrences"),
            ("targets", number(found.distinct_targets), "distinct"),
            ("inherited", percent(found.inherited), f"of the probability is left to {parent}"),
            ("gain", number(found.gain, 1), "nats over a text like that of the build"),
        ]
    )
    echo()
    after = f"after {printable(found.parent)}"
    print_grids(
        _clone_targets("out, by p", found.targets, after), _clone_targets("largest changes", found.changes, after)
    )
    _print_clones(found.clones)


def _clone_targets(title: str, found: Sequence[CloneTarget], after: str) -> Grid:
    table = Grid([Column(title, right=False), Column("count"), Column("p"), Column(after)])
    for one in found:
        table.add(printable(one.name), number(one.count), percent(one.p), percent(one.p_parent))
    return table


def _print_clones(clones: tuple[CloneSummary, ...]) -> None:
    if not clones:
        return
    table = Grid([Column("clones, by gain", right=False), Column("count"), Column("nats")])
    for one in clones:
        table.add(printable(one.name), number(one.count), number(one.gain, 1))
    echo()
    print_grids(table)


def _cosines(title: str, found: Sequence[Similar]) -> Grid:
    table = Grid([Column(title, right=False), Column("cosine")])
    for one in found:
        table.add(printable(one.name), f"{one.cosine:.3f}")
    return table


def _neighbours(shown: Shown) -> Grid:
    title, found, columns = shown
    table = Grid([Column(title, right=False), *map(Column, columns)])
    for one in found:
        table.add(*_cells(one, columns))
    return table


def _cells(one: Neighbour, columns: tuple[str, ...]) -> list[str]:
    values = {
        "energy": f"{one.energy:.3f}",
        "p": "" if one.p is None else percent(one.p),
        "count": number(one.count),
        "share": percent(one.share),
        "own share": "" if one.own_share is None else percent(one.own_share),
    }
    return [printable(one.name), *(values[column] for column in columns)]


def _print_edge(found: EdgeReport) -> None:
    values = found.singular_values
    of_clone = "clones" in (found.parts or {})
    kind = "of a clone" if of_clone else "private" if found.private else "default"
    kind = "forbidden" if found.forbidden else kind
    default = "the default edge has" if found.parts is None else "the default edges have, on average,"
    rows: list[Row] = [
        ("edge", f"{printable(found.source)} {printable(found.target)}", kind),
        ("count", number(found.count), "" if found.count is not None else f"not recorded for {kind} edges"),
        ("share", "-" if found.share is None else percent(found.share), f"of what follows {printable(found.source)}"),
        ("probability", percent(found.p), "at rest"),
        ("energy", number(found.energy, 4), f"rank {found.rank:,}; {default} {found.default_energy:.4f}"),
    ]
    if found.parts is not None:
        rows += [
            ("  of the counts", number(found.parts["counts"], 4), "of pairs"),
            *([("  of the clone", number(found.parts["clones"], 4), "its counts")] if of_clone else []),
            ("  of the target", number(found.parts["bias"], 4), "its bias"),
            ("  of the edge", number(found.parts["edge"], 4), "what edits gave it"),
        ]
    else:
        rows += [
            ("|W|", number(found.weight_norm, 4), "Frobenius norm"),
            ("|b|", number(found.bias_norm, 4), ""),
            ("singular values", number(values[0], 4), " ".join(f"{value:.3g}" for value in values[1:8]) + " ..."),
        ]
    if found.page is not None and found.parts is None:
        kind = "stored" if found.page_stored else "not trained: generated from the counts"
        rows.append(("page", number(found.page), f"slot {found.slot:,}; {kind}"))
    if not of_clone:
        rows.append(("last changed", *_when(found.changed)))
    print_table(rows)


def _when(change: Change | None) -> tuple[str, str]:
    return ("-", "before the oldest commit") if change is None else (change.snapshot[:8], _changed(change, "by"))


def _changed(change: Change | None, label: str) -> str:
    if change is None:
        return ""
    time = change.time.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    by = f"{label} {change.snapshot[:8]}" if label != "by" else label
    return f"{by} {typed(change.command)}, {time}"
