"""``sifu tag``: names for snapshots that never move."""

from __future__ import annotations

from pathlib import Path

import click

from sifu_cli.options import json_option, quiet_option, store_option
from sifu_cli.screen import commit_line, print_json, say, warn


@click.command(
    "tag",
    short_help="List, make or delete names for snapshots.",
    epilog="""\b
Examples:
  sifu tag
  sifu tag v1.0
  sifu tag before-pruning HEAD~1
""",
)
@click.argument("name", required=False, metavar="[NAME]")
@click.argument("snapshot", required=False, metavar="[SNAPSHOT]")
@click.option("--delete", is_flag=True, help="Delete the tag NAME. The name is never given again.")
@store_option
@quiet_option
@json_option
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
    """List the tags, or give SNAPSHOT (default: HEAD) the name NAME.

    A tag never moves, and sifu gc keeps what it names.

    SNAPSHOT is HEAD, a branch, a tag or the beginning of an id, each with ~N for the N-th commit before it.
    """
    from sifu_store.store import Store

    if delete and (name is None or snapshot is not None):
        raise click.UsageError("--delete takes the name of one tag", ctx)
    with Store.open(store, write=name is not None) as opened:
        if opened.recovered_from:
            warn(opened.recovered_from)
        if name is not None:
            found = opened.delete_tag(name) if delete else opened.create_tag(name, snapshot or "HEAD")
            at = opened.commit_of(found)
        tree = opened.tree()
    if as_json:
        print_json({"branch": tree.branch, "tags": tree.tags})
    elif name is not None:
        click.echo(f"deleted {name}, which was at  {commit_line(at)}" if delete else f"{name} is  {commit_line(at)}")
    else:
        commits = {commit.snapshot: commit for commit in tree.commits}
        width = max(map(len, tree.tags), default=0)
        for each, tagged in tree.tags.items():
            click.echo(f"{each:<{width}}  {commit_line(commits[tagged])}")
        if not tree.tags:
            say("there are no tags (sifu tag NAME makes one)", quiet=quiet)
