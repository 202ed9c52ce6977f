"""``sifu pull``: copies a branch with its history from another place."""

from __future__ import annotations

from pathlib import Path

import click

from sifu_cli.options import branch_option, common_options
from sifu_cli.output.copied import copying, show_branch


@click.command(
    "pull",
    short_help="Copy a branch with its history from another place.",
    epilog="""\b
Examples:
  sifu pull s3://bucket/graph
  sifu pull --branch trial s3://bucket/graph
""",
)
@click.argument("source", metavar="SOURCE")
@branch_option
@common_options
def command(*, source: str, branch: str | None, store: Path, quiet: bool, as_json: bool) -> None:
    """Copy a branch of the graph at SOURCE with its history, and the tags on it, to this graph.

    The reverse of sifu push: SOURCE is a directory, or a URL in a bucket. If there is no graph here, one is created.
    """
    from sifu_store.copying import push
    from sifu_store.places import require_store

    require_store(source)
    with copying(quiet=quiet) as progress:
        copied = push(source, store, branch=branch, progress=progress)
    show_branch(copied, str(store), as_json=as_json)
