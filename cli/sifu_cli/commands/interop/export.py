"""``sifu export``: writes the graph in another format."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click
from sifu_store.durable import format_bytes

from sifu_cli.number_types import Integer
from sifu_cli.opening import open_graph
from sifu_cli.options import common_options, force_option
from sifu_cli.output.formats import duration, number
from sifu_cli.output.messages import say
from sifu_cli.output.progress import Progress
from sifu_cli.output.results import print_json, print_table


@click.command(
    "export",
    short_help="Write the graph in another format: brillm, safetensors, graphml, scipy.",
    epilog="""\b
Examples:
  sifu export safetensors
  sifu export graphml --clones 1000
  sifu export brillm for-brillm/
""",
)
@click.argument("format", type=click.Choice(["brillm", "safetensors", "graphml", "scipy"]), metavar="FORMAT")
@click.argument("path", required=False, metavar="[PATH]", type=click.Path(path_type=Path))
@click.option(
    "--clones",
    type=Integer(min=0),
    metavar="N",
    default=0,
    show_default=True,
    help="Of graphml: write the N clones that gain most as nodes of their own.",
)
@force_option("Replace an existing file or folder.")
@common_options
def command(
    *, format: str, path: Path | None, clones: int, force: bool, store: Path, quiet: bool, as_json: bool
) -> None:
    """Write the graph in another FORMAT to PATH (default: the name of the store, in the current folder).

    brillm: a folder for the released BriLLM code (model.bin, vocab.json, word_frequency.json), of graphs built with
    --signal brillm05. safetensors: one file, for sifu import. graphml: nodes and edges with counts and
    energies. scipy: a folder of sparse matrices of counts and of energies.
    """
    with open_graph(store) as graph:
        say(f"exporting {store} as {format}", quiet=quiet)
        with Progress(quiet=quiet) as progress:
            report = graph.export(
                format,
                path,
                clones=clones,
                force=force,
                on_bytes=lambda done, total: progress.show(f"{format_bytes(done)} of {format_bytes(total)}"),
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
            ("files", number(len(report.files)), ", ".join(report.files)),
            ("time", duration(report.seconds), ""),
        ]
    )
