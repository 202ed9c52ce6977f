"""``sifu export``: writes the graph in another format."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from sifu_store.durable import format_bytes

from sifu_cli.failures import interrupted_as
from sifu_cli.number_types import Integer
from sifu_cli.opening import open_graph
from sifu_cli.options import common_options, force_option
from sifu_cli.output.formats import duration, number
from sifu_cli.output.messages import say
from sifu_cli.output.progress import Progress
from sifu_cli.output.results import Row, print_json, print_table

if TYPE_CHECKING:
    from sifu_graph.interop.slim import SlimScores


@click.command(
    "export",
    short_help="Write the graph to ship it (slim), or in another format.",
    epilog="""\b
Examples:
  sifu export slim --half
  sifu export safetensors
  sifu export graphml --clones 1000
  sifu export brillm for-brillm/
""",
)
@click.argument("format", type=click.Choice(["slim", "brillm", "safetensors", "graphml", "scipy"]), metavar="FORMAT")
@click.argument("path", required=False, metavar="[PATH]", type=click.Path(path_type=Path))
@click.option(
    "--clones",
    type=Integer(min=0),
    metavar="N",
    default=0,
    show_default=True,
    help="Of graphml: write the N clones that gain most as nodes of their own.",
)
@click.option("--half", is_flag=True, help="Of slim: write the trained parameters in 16 bits instead of 32.")
@force_option("Replace an existing file or folder.")
@common_options
def command(
    *, format: Any, path: Path | None, clones: int, half: bool, force: bool, store: Path, quiet: bool, as_json: bool
) -> None:
    """Write the graph in another FORMAT to PATH (default: the name of the store, in the current folder).

    slim: one packed file with this snapshot alone, for sifu import: no text, no history, no state of the optimizer; its
    perplexity is shown beside that of the graph. brillm: a folder for the released BriLLM code (model.bin, vocab.json,
    word_frequency.json), of graphs built with --signal brillm05. safetensors: one file, for sifu import. graphml: nodes
    and edges with counts and energies. scipy: a folder of sparse matrices of counts and of energies.
    """
    with open_graph(store) as graph:
        say(f"exporting {store} as {format}", quiet=quiet)
        with interrupted_as("nothing was written"), Progress(quiet=quiet, stages=False) as progress:
            report = graph.export(
                format,
                path,
                clones=clones,
                half=half,
                force=force,
                progress=progress,
            )
    for note in report.notes:
        say(f"note: {note}", quiet=quiet)
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    print_table(
        [
            ("format", report.format, ""),
            ("private edges", number(report.private_edges), ""),
            ("written", format_bytes(report.size_bytes), report.path),
            *_scores(report.scores),
            ("files", number(len(report.files)), ", ".join(report.files)),
            ("time", duration(report.seconds), ""),
        ]
    )


def _scores(scores: SlimScores | None) -> list[Row]:
    if scores is None:
        return []
    change = scores.slim_perplexity / scores.perplexity - 1
    return [
        ("perplexity", f"{scores.slim_perplexity:,.2f}", f"of the file, on {scores.tokens:,} held-out tokens"),
        ("", f"{scores.perplexity:,.2f}", f"of the graph; the file is {change:+.2%}"),
    ]
