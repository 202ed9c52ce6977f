"""``sifu diff``: compares two snapshots."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sifu_cli.number_types import Integer
from sifu_cli.options import common_options
from sifu_cli.output.formats import number, printable
from sifu_cli.output.progress import Progress
from sifu_cli.output.results import Row, output_width, print_json, print_table, wrapped
from sifu_cli.output.tables import Column, Grid, print_grids
from sifu_cli.output.terminal import echo, styled

if TYPE_CHECKING:
    from sifu_store.history import Commit

    from sifu_graph.inspection.diff import Difference, EdgeChange

LARGEST = "largest changes of energy, at the first step of a text that starts with the source"
SHOWN_NAMES = 8
LONGEST = 40


@click.command(
    "diff",
    short_help="Compare two snapshots.",
    epilog="""\b
Examples:
  sifu diff
  sifu diff HEAD~2 HEAD
  sifu diff main trial --top 20 --json
""",
)
@click.argument("before", default="HEAD~1", metavar="[A]")
@click.argument("after", default="HEAD", metavar="[B]")
@click.option(
    "--top",
    type=Integer(min=0),
    metavar="N",
    default=10,
    show_default=True,
    help="List the N edges with the largest change of energy.",
)
@common_options
def command(*, before: str, after: str, top: int, store: Path, quiet: bool, as_json: bool) -> None:
    """Show the nodes, edges and settings that differ between A (default: HEAD~1) and B (default: HEAD).

    A and B are HEAD, a branch, a tag or the first characters of an id, optionally with ~N for the N-th commit before
    it. Energies are those at the first step of a text that starts with the source of the edge; an edge that is not
    private has the energy of a default edge, and one that is forbidden has none.
    """
    from sifu_store.places import require_store

    require_store(store)  # before torch is imported
    from sifu_graph.inspection.diff import diff

    with Progress(quiet=quiet, stages=False) as progress:
        found = diff(
            store,
            before,
            after,
            top=top,
            progress=progress,
        )
    if as_json:
        print_json(_fields(found))
        return
    print_table([_commit_row("from", found.before), _commit_row("to", found.after)])
    if found.empty:
        echo("no difference")
        return
    print_table(_rows(found))
    if largest := [edge for edge in found.largest if edge.energy_change != 0.0]:
        echo()
        _print_edges(largest)
    if found.settings:
        echo()
        print_table([(each.name, _short(each.before), f"-> {_short(each.after)}") for each in found.settings])


def _commit_row(label: str, commit: Commit) -> Row:
    time = commit.time.astimezone().strftime("%Y-%m-%d %H:%M")
    return label, commit.snapshot[:8], f"{commit.message} ({time})"


def _rows(found: Difference) -> list[Row]:
    renamed = [f"{printable(old)} -> {printable(new)}" for old, new in found.nodes_renamed]
    return [
        ("nodes", number(found.nodes_after), f"{found.nodes_before:,} before"),
        *_named("  added", list(map(printable, found.nodes_added))),
        *_named("  removed", list(map(printable, found.nodes_removed))),
        *_named("  renamed", renamed),
        *_named("  changed", list(map(printable, found.nodes_changed)), "count or bias: "),
        ("private edges", number(found.edges_after), f"{found.edges_before:,} before"),
        ("  added", number(found.edges_added), ""),
        ("  removed", number(found.edges_removed), ""),
        ("  changed", number(found.edges_changed), "other parameters"),
        *([("  recounted", number(found.edges_recounted), "another count")] if found.edges_recounted else []),
        *_named("  forbidden", [_edge(*pair) for pair in found.edges_forbidden], "now forbidden: "),
        *_named("  allowed", [_edge(*pair) for pair in found.edges_allowed], "no longer forbidden: "),
        *_named("  of clones", [_of_clone(*edge) for edge in found.clone_edges], "changed: "),
        *((name, "changed", "in shape" if gap is None else f"by up to {gap:.3g}") for name, gap in found.arrays),
    ]


def _edge(source: str, target: str) -> str:
    return f"{printable(source)} {printable(target)}"


def _of_clone(clone: str, target: str, before: float, after: float) -> str:
    nats = "forbidden" if math.isinf(after) else "allowed" if math.isinf(before) else f"{after - before:+g} nats"
    return f"{_edge(clone, target)} ({nats})"


def _named(label: str, names: Sequence[str], what: str = "") -> list[Row]:
    if not names:
        return []
    more = f" and {len(names) - SHOWN_NAMES:,} more" if len(names) > SHOWN_NAMES else ""
    return [(label, number(len(names)), what + " ".join(names[:SHOWN_NAMES]) + more)]


def _print_edges(edges: Sequence[EdgeChange]) -> None:
    for line in wrapped(LARGEST, output_width()):
        echo(styled(line, dim=True))
    columns = [Column("change", right=False), Column("before"), Column("after"), Column("by", drop=2)]
    table = Grid([*columns, Column("edge", right=False), Column("count", drop=1)])
    for edge in edges:
        was, now = (_energy(energy) for energy in (edge.energy_before, edge.energy_after))
        change = edge.energy_change
        by = "" if change is None or math.isinf(change) else f"{change:+.3f}"
        counts = [f"{count:,}" for count in (edge.count_before, edge.count_after) if count is not None]
        seen = counts[0] if len(set(counts)) == 1 else " -> ".join(counts)
        table.add(edge.change, was, now, by, _edge(edge.source, edge.target), seen)
    print_grids(table)


def _energy(energy: float | None) -> str:
    """An energy as text; that of a pair that is never chosen as a word."""
    return "forbidden" if energy == -math.inf else number(energy, 3)


def _short(value: Any) -> str:
    text = "-" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def _fields(found: Difference) -> dict[str, Any]:
    return {
        "before": found.before.snapshot,
        "after": found.after.snapshot,
        "empty": found.empty,
        "nodes": {
            "before": found.nodes_before,
            "after": found.nodes_after,
            "added": found.nodes_added,
            "removed": found.nodes_removed,
            "renamed": found.nodes_renamed,
            "changed": found.nodes_changed,
        },
        "edges": {
            "before": found.edges_before,
            "after": found.edges_after,
            "added": found.edges_added,
            "removed": found.edges_removed,
            "changed": found.edges_changed,
            "recounted": found.edges_recounted,
            "forbidden": found.edges_forbidden,
            "allowed": found.edges_allowed,
            "of_clones": found.clone_edges,
            "largest": [{**dataclasses.asdict(edge), "energy_change": edge.energy_change} for edge in found.largest],
        },
        "arrays": dict(found.arrays),
        "settings": {each.name: {"before": each.before, "after": each.after} for each in found.settings},
        "pages_read": found.pages_read,
    }
