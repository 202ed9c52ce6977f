"""``sifu plot``: plots properties of the graph and its training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sifu_cli.opening import open_graph
from sifu_cli.options import common_options, force_option
from sifu_cli.output.formats import number, percent
from sifu_cli.output.messages import say
from sifu_cli.output.results import Row, print_json, print_table

KINDS = ("loss", "rows", "counts", "energy", "alpha", "pages")
REMARKS = {  # number of a plot -> format, and remark
    "steps": ("", "of training"),
    "loss": (".3f", "nats per token of the training text, smoothed"),
    "heldout_perplexity": (".1f", "at the end"),
    "rows": ("", "one per node"),
    "empty_rows": ("", "without private edges"),
    "median": (".0f", "private edges in a row"),
    "mean": (".1f", "private edges in a row"),
    "largest": ("", "private edges in a row"),
    "private_edges": ("", ""),
    "pairs_that_occur": ("", "in the text of the build"),
    "pairs": ("", "of nodes"),
    "private_share": ("%", "of all pairs are private edges"),
    "rarest_private": ("", "count of the rarest private edge: the threshold"),
    "coverage": ("%", "of the pairs in the text have a private edge"),
    "edges": ("", "private edges in the plot"),
    "correlation": (".3f", "of the energy with the logarithm of the count"),
    "default_energy": (".2f", "of the default edge, median over the rows"),
    "below_default": ("%", "of the private edges have less energy than the default edge"),
    "positions": ("", "mixing logits"),
    "moved": (".3g", "greatest change of one of them by training"),
    "last_weight": ("%", "weight of the last signal in a full mix"),
    "pages": ("", "of 512 edges"),
    "stored_pages": ("", "trained and stored; the others are generated when needed"),
    "busiest_tenth": ("%", "of the pairs in the text are in the most used tenth of the pages"),
    "page_reads": ("", "reads of a page into memory by the last training"),
    "page_writes": ("", "writes of a page by the last training, for a commit or to free memory"),
}


@click.command(
    "plot",
    short_help="Plot training, rows, counts, energies, alpha or pages.",
    epilog="""\b
Examples:
  sifu plot counts
  sifu plot loss training.svg --force
  sifu plot rows --dark
""",
)
@click.argument("kind", type=click.Choice(KINDS), metavar="KIND")
@click.argument("file", required=False, type=click.Path(path_type=Path), metavar="[FILE]")
@click.option("--dark", is_flag=True, help="On a dark background.")
@force_option("Overwrite an existing file.")
@common_options
def command(*, kind: Any, file: Path | None, dark: bool, force: bool, store: Path, quiet: bool, as_json: bool) -> None:
    """Write a plot to FILE (default: KIND.png): .png, .svg or .pdf.

    \b
    loss    training and held-out loss by step, up to the current snapshot
    rows    number of private edges out of and into each node
    counts  counts of the pairs, and the threshold between private and default edges
    energy  energy of the private edges by count
    alpha   the learned mixing logits by position
    pages   stored pages, how often the text uses each page, and the page traffic of the last training

    There is no alpha and there are no pages in a graph whose edges share a base (--signal recurrent).
    """
    out = file or Path(f"{kind}.png")
    with open_graph(store) as graph:
        figures = graph.plot(kind, out, dark=dark, force=force).figures
    say(f"wrote {out}", quiet=quiet)
    if as_json:
        print_json({"kind": kind, "file": str(out), "bytes": out.stat().st_size, **figures})
    else:
        print_table([_row(name, value) for name, value in figures.items()])


def _row(name: str, value: float | None) -> Row:
    style, remark = REMARKS[name]
    if value is None:
        shown = "-"
    elif style == "%":
        shown = percent(value)
    else:
        shown = format(value, style) if style else number(value)
    return name.replace("_", " ").replace("heldout", "held-out"), shown, remark
