"""``sifu edit-edge``: changes one edge."""

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

if TYPE_CHECKING:
    from sifu_graph.edit.reports import EdgeState, EditEdgeReport
    from sifu_graph.graph import Graph

WAYS = ("scale", "boost", "copy_from", "to_default", "forbid", "allow")


@click.command(
    "edit-edge",
    short_help="Scale, boost, copy, forbid or reset one edge.",
    epilog="""\b
Examples:
  sifu edit-edge 春 風 --boost 2
  sifu edit-edge 春 風 --boost=-2
  sifu edit-edge 春 風 --copy-from 秋 風
  sifu edit-edge 春 風 --forbid --dry-run
""",
)
@click.argument("u", metavar="U")
@click.argument("v", metavar="V")
@click.option("--scale", type=Float(), metavar="X", help="Multiply its matrix and its bias by X.")
@click.option(
    "--boost",
    type=Float(),
    metavar="NATS",
    help="Raise its log-odds against all other candidates by NATS, at rest (without context). Negative: lower them.",
)
@click.option("--copy-from", nargs=2, metavar="A B", help="Copy the parameters of the private edge (A, B).")
@click.option("--to-default", is_flag=True, help="Make it a default edge.")
@click.option("--forbid", is_flag=True, help="Set its probability to 0 in training, evaluation and generation.")
@click.option("--allow", is_flag=True, help="Make a forbidden edge a default edge.")
@dry_run_option
@common_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    u: str,
    v: str,
    scale: float | None,
    boost: float | None,
    copy_from: tuple[str, str] | None,
    to_default: bool,
    forbid: bool,
    allow: bool,
    dry_run: bool,
    store: Path,
    quiet: bool,
    as_json: bool,
) -> None:
    """Change the edge from U to V, in exactly one way.

    A default edge that is scaled, boosted or copied to becomes private. Energy and probability are shown at rest: for
    a signal without context.
    """
    ways = {"scale": scale, "boost": boost, "copy_from": copy_from or None}
    if sum(way is not None for way in ways.values()) + to_default + forbid + allow != 1:
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
        dry_run=dry_run,
        as_json=as_json,
    )


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
