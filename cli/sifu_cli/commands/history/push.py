"""``sifu push``: copies a branch with its history to another place."""

from __future__ import annotations

from pathlib import Path

import click

from sifu_cli.options import branch_option, common_options
from sifu_cli.output.copied import copying, show_branch


@click.command(
    "push",
    short_help="Copy a branch with its history to another place.",
    epilog="""\b
Examples:
  sifu push s3://bucket/graph
  sifu push --branch trial s3://bucket/graph
""",
)
@click.argument("target", metavar="TARGET")
@branch_option
@common_options
def command(*, target: str, branch: str | None, store: Path, quiet: bool, as_json: bool) -> None:
    """Copy a branch of this graph with its history, and the tags on it, to TARGET: a directory, or a URL in a bucket.

    The commits keep their ids. A graph at TARGET gets the branch, or its branch continues with the commits that it does
    not have; if it has commits that are missing here, nothing is changed. If there is no graph at TARGET, one is
    created. The text beside the graph and the log of training are not copied.
    """
    from sifu_store.copying import push
    from sifu_store.places import require_store

    require_store(store)
    with copying(quiet=quiet) as progress:
        copied = push(store, target, branch=branch, progress=progress)
    show_branch(copied, target, as_json=as_json)
