"""``sifu plot``: pictures of the graph and of its training, one of a kind."""

from __future__ import annotations

from pathlib import Path

import click

from sifu_cli.options import json_option, opened, quiet_option, store_option
from sifu_cli.screen import Row, number, percent, print_json, print_table, say

KINDS = ("loss", "rows", "counts", "energy", "alpha", "pages")
REMARKS = {  # figure -> how it reads, and what it says
    "steps": ("", "of training"),
    "loss": (".3f", "nats a token of the training text, smoothed"),
    "heldout_perplexity": (".1f", "at the end"),
    "rows": ("", "one a node"),
    "empty_rows": ("", "have no private edge"),
    "median": (".0f", "private edges in a row"),
    "mean": (".1f", "private edges in a row"),
    "largest": ("", "private edges in a row"),
    "private_edges": ("", ""),
    "pairs_that_occur": ("", "in the text of the build"),
    "pairs": ("", "of nodes"),
    "private_share": ("%", "of all pairs are private edges"),
    "rarest_private": ("", "occurrences of the rarest private edge: the cut"),
    "coverage": ("%", "of the pairs in the text run over private edges"),
    "edges": ("", "private edges in the picture"),
    "correlation": (".3f", "of the energy with the logarithm of the count"),
    "default_energy": (".2f", "of the default edge, the median over the rows"),
    "below_default": ("%", "of the private edges have less than the default edge"),
    "positions": ("", "mixing logits"),
    "moved": (".3g", "the most that training added to one of them"),
    "last_weight": ("%", "of a full mix is its last signal"),
    "pages": ("", "of 512 edges"),
    "stored_pages": ("", "trained and stored; the others are generated when they are needed"),
    "busiest_tenth": ("%", "of the text's pairs are in the busiest tenth of the pages"),
    "page_reads": ("", "times that the last training brought a page into memory"),
    "page_writes": ("", "times that it wrote one, by a commit or to make room"),
}


@click.command(
    "plot",
    short_help="Draw training, rows, counts, energies, alpha or pages.",
    epilog="""\b
Examples:
  sifu plot counts
  sifu plot loss training.svg --force
""",
)
@click.argument("kind", type=click.Choice(KINDS), metavar="KIND")
@click.argument("file", required=False, type=click.Path(path_type=Path), metavar="[FILE]")
@click.option("--force", is_flag=True, help="Overwrite the file.")
@store_option
@quiet_option
@json_option
def command(*, kind: str, file: Path | None, force: bool, store: Path, quiet: bool, as_json: bool) -> None:
    """Draw one picture to FILE (default: KIND.png): .png, .svg or .pdf.

    \b
    loss    loss and held-out loss over the steps of training that led to the current snapshot
    rows    private edges out of and into every node: how sparse it is
    counts  how often pairs occurred, and where the cut between private and default edges is
    energy  energy of the private edges against their counts
    alpha   the learned mixing logits over the position
    pages   which pages are stored, how often the text of the build needs each, and what the last training did
    """
    out = file or Path(f"{kind}.png")
    with opened(store) as graph:
        figures = graph.plot(kind, out, force=force)
    say(f"drew {out}", quiet=quiet)
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
