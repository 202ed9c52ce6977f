"""``sifu import``: imports a file that ``sifu export slim`` or ``sifu export safetensors`` wrote."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click
from sifu_store.durable import format_bytes

from sifu_cli.command_line import logged
from sifu_cli.failures import interrupted_as
from sifu_cli.options import common_options, force_option
from sifu_cli.output.formats import duration, number
from sifu_cli.output.messages import say
from sifu_cli.output.progress import Progress
from sifu_cli.output.results import print_json, print_table


@click.command(
    "import",
    short_help="Import a file of sifu export slim or safetensors.",
    epilog="""\b
Example:
  sifu export slim graph.safetensors
  sifu import --store copy.sifu graph.safetensors
""",
)
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@force_option("Replace an existing graph.")
@common_options
@click.pass_context
def command(ctx: click.Context, /, *, file: Path, force: bool, store: Path, quiet: bool, as_json: bool) -> None:
    """Import FILE, which ``sifu export slim`` or ``sifu export safetensors`` wrote, as a graph.

    A slim file has no text, no history and no state of the optimizer: the graph is ready to use, and to train on a text
    that is named. For BriLLM models: ``sifu import-brillm``.
    """
    from sifu_graph.interop.safetensors import import_safetensors

    say(f"reading {file.name}", quiet=quiet)
    with interrupted_as("nothing is left of the new graph"), Progress(quiet=quiet, stages=False) as progress:
        report = import_safetensors(
            file,
            store,
            force=force,
            command=logged(ctx),
            progress=progress,
        )
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    print_table(
        [
            ("nodes", number(report.nodes), ""),
            ("width", number(report.width), ""),
            ("private edges", number(report.private_edges), ""),
            ("read", format_bytes(report.read_bytes), file.name),
            ("store", format_bytes(report.store_bytes), report.path),
            ("time", duration(report.seconds), ""),
            ("snapshot", report.snapshot[:8], ""),
        ]
    )
