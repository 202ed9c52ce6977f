"""``sifu tag``: lists, creates or deletes tags."""

from __future__ import annotations

from pathlib import Path

import click

from sifu_cli.opening import open_store
from sifu_cli.options import common_options
from sifu_cli.output.formats import commit_line
from sifu_cli.output.messages import say, warn
from sifu_cli.output.results import print_json
from sifu_cli.output.terminal import echo


@click.command(
    "tag",
    short_help="List, create or delete tags: permanent names of snapshots.",
    epilog="""\b
Examples:
  sifu tag
  sifu tag v1.0
  sifu tag before-pruning HEAD~1
""",
)
@click.argument("name", required=False, metavar="[NAME]")
@click.argument("snapshot", required=False, metavar="[SNAPSHOT]")
@click.option("--delete", is_flag=True, help="Delete the tag NAME. The name cannot be used again.")
@common_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    name: str | None,
    snapshot: str | None,
    delete: bool,
    store: Path,
    quiet: bool,
    as_json: bool,
) -> None:
    """List the tags, or create the tag NAME at SNAPSHOT (default: HEAD).

    A tag always refers to the same snapshot, and sifu gc keeps that snapshot.

    SNAPSHOT is HEAD, a branch, a tag or the first characters of an id, optionally with ~N for the N-th commit before
    it.
    """
    if delete and (name is None or snapshot is not None):
        raise click.UsageError("--delete needs the name of one tag and no SNAPSHOT", ctx)
    with open_store(store, write=name is not None) as opened:
        if name is not None:
            found = opened.delete_tag(name) if delete else opened.create_tag(name, snapshot or "HEAD")
            at = opened.commit_of(found)
        tree = opened.tree()
    for fault in tree.faults:
        warn(fault)
    if as_json:
        print_json({"branch": tree.branch, "tags": tree.tags})
    elif name is not None:
        echo(f"deleted {name}, which was at  " if delete else f"{name} is  ", *commit_line(at))
    else:
        commits = {commit.snapshot: commit for commit in tree.commits}
        width = max(map(len, tree.tags), default=0)
        for each, tagged in tree.tags.items():
            echo(f"{each:<{width}}  ", *commit_line(commits[tagged]))
        if not tree.tags:
            say("there are no tags (sifu tag NAME creates one)", quiet=quiet)
