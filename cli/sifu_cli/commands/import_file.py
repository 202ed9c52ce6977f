"""``sifu import``: a file that ``sifu export`` wrote in, a graph out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from sifu_cli.options import json_option, logged, quiet_option, store_option
from sifu_cli.screen import Progress, duration, number, print_json, print_table, say, size


@click.command(
    "import",
    short_help="A .safetensors file of sifu becomes a graph again.",
    epilog="""\b
Example:
  sifu import --store copy.sifu graph.safetensors
""",
)
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace the graph that is there.")
@store_option
@quiet_option
@json_option
@click.pass_context
def command(ctx: click.Context, /, *, file: Path, force: bool, store: Path, quiet: bool, as_json: bool) -> None:
    """Make a graph of FILE, which ``sifu export safetensors`` wrote (BriLLM's own models: ``sifu import-brillm``)."""
    from sifu_graph.interop.safetensors import import_safetensors

    say(f"reading {file.name}", quiet=quiet)
    with Progress(quiet=quiet) as progress:
        report = import_safetensors(
            file,
            store,
            force=force,
            command=logged(ctx),
            on_bytes=lambda done, total: progress.show(f"{size(done)} of {size(total)}"),
        )
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    print_table(
        [
            ("nodes", number(report.nodes), ""),
            ("width", number(report.width), ""),
            ("private edges", number(report.private_edges), ""),
            ("read", size(report.read_bytes), file.name),
            ("store", size(report.store_bytes), report.path),
            ("time", duration(report.seconds), ""),
            ("snapshot", report.snapshot[:8], ""),
        ]
    )
