"""``sifu map``: draws the graph as an HTML page or an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click
from sifu_store.durable import format_bytes

from sifu_cli.number_types import Integer
from sifu_cli.opening import open_graph
from sifu_cli.options import common_options, force_option, seed_option
from sifu_cli.output.formats import number, printable
from sifu_cli.output.messages import say, warn
from sifu_cli.output.progress import Progress
from sifu_cli.output.results import print_json, print_table

SHOWN_COMMUNITIES = 12
SHOWN_NAMES = 12
SHOWN_UNWRITTEN = 10


@click.command(
    "map",
    short_help="Draw the graph: its most frequent nodes and strongest edges.",
    epilog="""\b
Examples:
  sifu map
  sifu map --unfold 春 --nodes 300
  sifu map map.html map.png --nodes 500 --edges 3000 --by energy --force
""",
)
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE ...]")
@click.option(
    "--nodes", type=Integer(min=2), metavar="N", default=2000, show_default=True, help="Draw the N most frequent nodes."
)
@click.option(
    "--edges",
    type=Integer(min=1),
    metavar="N",
    default=10000,
    show_default=True,
    help="Draw the N strongest private edges among them.",
)
@click.option(
    "--by",
    type=click.Choice(["information", "energy", "count"]),
    metavar="NAME",
    default="information",
    show_default=True,
    help="Measure of strength: information (pointwise mutual information of the pair), energy (of the edge, at rest) "
    "or count (of the pair).",
)
@click.option(
    "--unfold",
    multiple=True,
    metavar="NODE",
    help="Draw the clones of this node too, those that gain most. Can be repeated.",
)
@seed_option("Seed of the layout.", default=0)
@force_option("Overwrite existing files.")
@common_options
def command(
    *,
    files: tuple[Path, ...],
    nodes: int,
    edges: int,
    by: Literal["information", "energy", "count"],
    unfold: tuple[str, ...],
    seed: int,
    force: bool,
    store: Path,
    quiet: bool,
    as_json: bool,
) -> None:
    """Draw a map of the graph to FILEs (default: map.html): .html, .png, .svg or .pdf.

    Nodes that often follow each other are close together; each colour is a community of nodes. The page needs no
    network: search for a node, click a node to see its strongest edges, or click a community.
    """
    files = files or (Path("map.html"),)
    with open_graph(store) as graph:
        say(f"drawing {', '.join(map(str, files))}", quiet=quiet)
        options: dict[str, Any] = {"nodes": nodes, "edges": edges, "by": by, "unfold": unfold, "seed": seed}
        with Progress(quiet=quiet, stages=False) as progress:
            drawn = graph.map(*files, **options, force=force, progress=progress)
    groups = [[drawn.name[at] for at in (drawn.community == group).nonzero()[0]] for group in range(drawn.communities)]
    if as_json:
        print_json(
            {
                "files": [{"path": str(path), "bytes": path.stat().st_size} for path in files],
                "nodes": len(drawn.name) - drawn.clones,
                "clones": drawn.clones,
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
                *((path.suffix.removeprefix("."), format_bytes(path.stat().st_size), str(path)) for path in files),
                ("nodes", number(len(drawn.name) - drawn.clones), f"of {drawn.graph_nodes:,}, the most frequent"),
                *([("clones", number(drawn.clones), f"of {', '.join(map(printable, unfold))}")] if unfold else []),
                ("edges", number(len(drawn.source)), f"of {drawn.graph_edges:,} private ones, the strongest by {by}"),
                ("communities", number(len(groups)), "their most frequent nodes:"),
                *(
                    ("", number(len(group)), " ".join(map(printable, group[:SHOWN_NAMES])))
                    for group in groups[:SHOWN_COMMUNITIES]
                ),
            ]
        )
    if drawn.unwritten:
        shown = " ".join(map(printable, drawn.unwritten[:SHOWN_UNWRITTEN]))
        warn(
            f"no font on this machine has all characters of {len(drawn.unwritten):,} names ({shown} ...): the image "
            "shows these nodes without names; install a font with the characters (Chinese: Noto Sans CJK), or draw a "
            ".html file"
        )
