"""``sifu map``: a picture of the whole graph, as a page and as an image."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from sifu_cli.names import readable
from sifu_cli.options import Number, json_option, opened, quiet_option, store_option
from sifu_cli.screen import number, print_json, print_table, say, size, warn

SHOWN_COMMUNITIES = 12
SHOWN_NAMES = 12
SHOWN_UNWRITTEN = 10


@click.command(
    "map",
    short_help="Draw the graph: its most frequent nodes and strongest edges.",
    epilog="""\b
Examples:
  sifu map
  sifu map map.html map.png --nodes 500 --edges 3000 --by energy --force
""",
)
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE ...]")
@click.option(
    "--nodes", type=Number(int, least=2), metavar="N", default=2000, show_default=True, help="The most frequent nodes."
)
@click.option(
    "--edges",
    type=Number(int, least=1),
    metavar="N",
    default=10000,
    show_default=True,
    help="The strongest private edges among them.",
)
@click.option(
    "--by",
    type=click.Choice(["information", "energy", "count"]),
    metavar="NAME",
    default="information",
    show_default=True,
    help="What makes an edge strong: what it adds to the frequencies of its nodes (information), the energy that "
    "reaches its target in a neutral context, the source alone (energy), or how often the pair occurred (count).",
)
@click.option("--seed", type=Number(int, least=0), metavar="N", default=0, show_default=True, help="Of the layout.")
@click.option("--force", is_flag=True, help="Overwrite files.")
@store_option
@quiet_option
@json_option
def command(
    *,
    files: tuple[Path, ...],
    nodes: int,
    edges: int,
    by: Literal["information", "energy", "count"],
    seed: int,
    force: bool,
    store: Path,
    quiet: bool,
    as_json: bool,
) -> None:
    """Draw a map of the graph to FILEs (default: map.html): .html, .png, .svg or .pdf.

    Nodes that follow each other lie close together; a colour is a community of nodes. The page needs no network:
    search for a node, click it to see its strongest edges, click a community.
    """
    files = files or (Path("map.html"),)
    with opened(store) as graph:
        say(f"drawing {', '.join(map(str, files))}", quiet=quiet)
        drawn = graph.map(*files, nodes=nodes, edges=edges, by=by, seed=seed, force=force)
    groups = [[drawn.name[at] for at in (drawn.community == group).nonzero()[0]] for group in range(drawn.communities)]
    if as_json:
        print_json(
            {
                "files": [{"path": str(path), "bytes": path.stat().st_size} for path in files],
                "nodes": len(drawn.name),
                "edges": len(drawn.source),
                "by": drawn.by,
                "communities": [{"nodes": len(group), "most_frequent": group[:SHOWN_NAMES]} for group in groups],
                "unwritten": list(drawn.unwritten),
                "snapshot": drawn.snapshot,
            }
        )
    else:
        print_table(
            [
                *((path.suffix.removeprefix("."), size(path.stat().st_size), str(path)) for path in files),
                ("nodes", number(len(drawn.name)), f"of {drawn.graph_nodes:,}, the most frequent"),
                ("edges", number(len(drawn.source)), f"of {drawn.graph_edges:,} private ones, the strongest by {by}"),
                ("communities", number(len(groups)), "by their most frequent nodes:"),
                *(
                    ("", number(len(group)), " ".join(map(readable, group[:SHOWN_NAMES])))
                    for group in groups[:SHOWN_COMMUNITIES]
                ),
            ]
        )
    if drawn.unwritten:
        shown = " ".join(map(readable, drawn.unwritten[:SHOWN_UNWRITTEN]))
        warn(
            f"no font on this machine has all characters of {len(drawn.unwritten):,} names ({shown} ...): the picture "
            "shows points without them; install a font that has them (for Chinese: Noto Sans CJK), or draw a .html"
        )
