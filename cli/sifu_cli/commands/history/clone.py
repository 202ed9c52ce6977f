"""``sifu clone``: copies a whole graph to another place."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click
from sifu_store.durable import format_bytes

from sifu_cli.failures import interrupted_as
from sifu_cli.options import common_options
from sifu_cli.output.copied import copying
from sifu_cli.output.results import print_json, print_table


@click.command(
    "clone",
    short_help="Copy a graph with all its history to a new place.",
    epilog="""\b
Examples:
  sifu clone s3://bucket/graph
  sifu clone --store s3://bucket/copy graph.sifu
""",
)
@click.argument("source", metavar="SOURCE")
@common_options
def command(*, source: str, store: Path, quiet: bool, as_json: bool) -> None:
    """Copy the graph at SOURCE, with all branches, tags and undone commits, to --store, where there is none.

    SOURCE and --store are directories, or URLs in a bucket. The commits keep their ids, so sifu push and sifu pull can
    copy later ones. The text beside the graph and the log of training are not copied.
    """
    from sifu_store.copying import clone
    from sifu_store.places import require_store

    require_store(source)
    with interrupted_as("nothing is left of the new graph"), copying(quiet=quiet) as progress:
        copied = clone(source, store, progress=progress)
    if as_json:
        print_json({**dataclasses.asdict(copied), "source": source, "target": str(store)})
        return
    print_table([("copied", format_bytes(copied.size_bytes), f"{copied.files:,} files"), ("store", str(store), "")])
