"""``sifu export``: the graph in another format."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from sifu_cli.options import json_option, opened, quiet_option, store_option
from sifu_cli.screen import Progress, duration, number, print_json, print_table, say, size


@click.command(
    "export",
    short_help="The graph in another format: brillm, safetensors, graphml, scipy.",
    epilog="""\b
Examples:
  sifu export safetensors
  sifu export brillm for-brillm/
""",
)
@click.argument("format", type=click.Choice(["brillm", "safetensors", "graphml", "scipy"]), metavar="FORMAT")
@click.argument("path", required=False, metavar="[PATH]", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace what is at PATH.")
@store_option
@quiet_option
@json_option
def command(*, format: str, path: Path | None, force: bool, store: Path, quiet: bool, as_json: bool) -> None:
    """Write the graph in another FORMAT to PATH (default: the store's name, here).

    brillm: a folder that the released BriLLM code loads (model.bin, vocab.json, word_frequency.json), for graphs with
    --signal brillm05. safetensors: one file, read back by sifu import. graphml: nodes and edges with counts and
    energies. scipy: a folder of sparse matrices of counts and of energies.
    """
    with opened(store) as graph:
        say(f"exporting {store} as {format}", quiet=quiet)
        with Progress(quiet=quiet) as progress:
            report = graph.export(
                format,
                path,
                force=force,
                on_bytes=lambda done, total: progress.show(f"{size(done)} of {size(total)}"),
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
            ("written", size(report.size_bytes), report.path),
            ("files", number(len(report.files)), ", ".join(report.files)),
            ("time", duration(report.seconds), ""),
        ]
    )
