"""``sifu edit-edge``: changes one edge, or those of a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sifu_cli.command_line import logged
from sifu_cli.number_types import Float
from sifu_cli.opening import open_graph
from sifu_cli.options import common_options, dry_run_option
from sifu_cli.output.edit_reports import common_rows, print_edit
from sifu_cli.output.formats import number, percent, printable
from sifu_cli.output.tables import Column, Grid, print_grids
from sifu_cli.output.terminal import echo

if TYPE_CHECKING:
    from sifu_graph.edit.reports import EdgeState, EditEdgeReport, EditEdgesReport
    from sifu_graph.graph import Graph

SHOWN_EDGES = 20
"""Edges of a table that are listed."""
WAYS = ("scale", "boost", "copy_from", "to_default", "forbid", "allow")


@click.command(
    "edit-edge",
    short_help="Scale, boost, copy, forbid or reset one edge, or those of a table.",
    epilog="""\b
Examples:
  sifu edit-edge 春 風 --boost 2
  sifu edit-edge 春 風 --boost=-2
  sifu edit-edge 春 風 --copy-from 秋 風
  sifu edit-edge 春 風 --forbid --dry-run
  sifu edit-edge --from edges.csv
""",
)
@click.argument("u", required=False, metavar="[U")
@click.argument("v", required=False, metavar="V]")
@click.option(
    "--scale",
    type=Float(),
    metavar="X",
    help="Multiply its matrix and its bias by X; where all edges share a base, the energy that edits gave it.",
)
@click.option(
    "--boost",
    type=Float(),
    metavar="NATS",
    help="Raise its log-odds against all other candidates by NATS, at rest (without context). Negative: lower them.",
)
@click.option("--copy-from", nargs=2, metavar="A B", help="Copy the parameters of the private edge (A, B).")
@click.option("--to-default", is_flag=True, help="Make it a default edge.")
@click.option("--forbid", is_flag=True, help="Set its probability to 0 in training, evaluation and generation.")
@click.option(
    "--allow",
    is_flag=True,
    help="Make a forbidden edge what it was before, by the last snapshot in which it was allowed.",
)
@click.option(
    "--from",
    "table",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Change the edges of a table, as one commit: a CSV file or JSON lines with source, target and, in each row, a "
    "value in one of the columns scale, boost, copy_from, to_default, forbid, allow.",
)
@dry_run_option
@common_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    u: str | None,
    v: str | None,
    scale: float | None,
    boost: float | None,
    copy_from: tuple[str, str] | None,
    to_default: bool,
    forbid: bool,
    allow: bool,
    table: Path | None,
    dry_run: bool,
    store: Path,
    quiet: bool,
    as_json: bool,
) -> None:
    """Change the edge from U to V, in exactly one way, or all edges of a table (--from FILE).

    A table is checked as a whole before the first edge is changed; nothing is changed if a row is wrong.
    A default edge that is scaled, boosted or copied to becomes private. Where all edges share a base, only an
    edge that was boosted has something of its own to scale or to copy. Energy and probability are shown at rest: for
    a signal without context.
    """
    ways = {"scale": scale, "boost": boost, "copy_from": copy_from or None}
    chosen = sum(way is not None for way in ways.values()) + to_default + forbid + allow
    if table is not None:
        if u is not None or chosen:
            raise click.UsageError("--from FILE names the edges and how to change them: give nothing else", ctx)
        _edit_table(ctx, table, store=store, dry_run=dry_run, as_json=as_json)
        return
    if u is None or v is None:
        raise click.UsageError("name the edge: U V, or a table of edges: --from FILE", ctx)
    if chosen != 1:
        raise click.UsageError("give exactly one of " + ", ".join("--" + way.replace("_", "-") for way in WAYS), ctx)
    with open_graph(store) as graph:
        report = _changed(
            graph,
            u,
            v,
            scale=scale,
            boost=boost,
            copy_from=copy_from or None,
            to_default=to_default,
            forbid=forbid,
            dry_run=dry_run,
            command=logged(ctx),
        )
    before, after = report.before, report.after
    print_edit(
        report,
        [
            ("edge", f"{printable(u)} {printable(v)}", ""),
            ("kind", after.kind, f"before: {before.kind}"),
            ("energy", _energy(after), f"before: {_energy(before)} (at rest)"),
            ("probability", percent(after.probability), f"before: {percent(before.probability)} (at rest)"),
            *common_rows(report, store=store, nodes=False),
        ],
        as_json=as_json,
    )


def _edit_table(ctx: click.Context, table: Path, *, store: Path, dry_run: bool, as_json: bool) -> None:
    with open_graph(store) as graph:
        report = graph.edit_edges(table, dry_run=dry_run, command=logged(ctx))
    if not as_json:
        print_grids(_edited(report))
        echo()
    more = len(report.after) - SHOWN_EDGES
    shown = f"the first {SHOWN_EDGES} are shown; --json has all" if more > 0 else "energy and p at rest"
    rows = [("edges", number(len(report.after)), shown), *common_rows(report, store=store, nodes=False)]
    print_edit(report, rows, as_json=as_json)


def _edited(report: EditEdgesReport) -> Grid:
    columns = [Column("edge", right=False), Column("kind", right=False, drop=1), Column("energy", drop=2)]
    grid = Grid([*columns, Column("before", drop=2), Column("p"), Column("before")])
    for before, after in list(zip(report.before, report.after, strict=True))[:SHOWN_EDGES]:
        kind = after.kind if after.kind == before.kind else f"{before.kind} -> {after.kind}"
        energies, shares = (_energy(after), _energy(before)), (percent(after.probability), percent(before.probability))
        grid.add(f"{printable(after.source)} {printable(after.target)}", kind, *energies, *shares)
    return grid


def _energy(edge: EdgeState) -> str:
    """The energy of an edge as text; a dash for a forbidden edge."""
    return number(None if edge.kind == "forbidden" else edge.energy, 3)


def _changed(
    graph: Graph,
    u: str,
    v: str,
    *,
    scale: float | None,
    boost: float | None,
    copy_from: tuple[str, str] | None,
    to_default: bool,
    forbid: bool,
    dry_run: bool,
    command: str,
) -> EditEdgeReport:
    if scale is not None:
        return graph.scale_edge(u, v, scale, dry_run=dry_run, command=command)
    if boost is not None:
        return graph.boost_edge(u, v, boost, dry_run=dry_run, command=command)
    if copy_from is not None:
        return graph.copy_edge(u, v, source=copy_from, dry_run=dry_run, command=command)
    change = graph.default_edge if to_default else graph.forbid_edge if forbid else graph.allow_edge
    return change(u, v, dry_run=dry_run, command=command)
