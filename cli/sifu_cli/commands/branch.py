"""``sifu branch``: the branches, a new one, or one less."""

from __future__ import annotations

from pathlib import Path

import click

from sifu_cli.options import json_option, quiet_option, store_option
from sifu_cli.screen import commit_line, print_json, say, warn


@click.command(
    "branch",
    short_help="List, make or delete branches.",
    epilog="""\b
Examples:
  sifu branch
  sifu branch trial HEAD~2
  sifu branch --delete trial
""",
)
@click.argument("name", required=False, metavar="[NAME]")
@click.argument("snapshot", required=False, metavar="[SNAPSHOT]")
@click.option("--delete", is_flag=True, help="Delete the branch NAME; its commits then count as undone.")
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
    """List the branches, or make the branch NAME at SNAPSHOT (default: HEAD). The current branch stays the current one.

    SNAPSHOT is HEAD, a branch, a tag or the beginning of an id, each with ~N for the N-th commit before it.
    """
    from sifu_store.store import Store

    if delete and (name is None or snapshot is not None):
        raise click.UsageError("--delete takes the name of one branch", ctx)
    with Store.open(store, write=name is not None) as opened:
        if opened.recovered_from:
            warn(opened.recovered_from)
        if name is not None and delete:
            at = opened.delete_branch(name)
        elif name is not None:
            at = opened.commit_of(opened.create_branch(name, snapshot or "HEAD"))
        tree = opened.tree()
    if as_json:
        print_json({"branch": tree.branch, "branches": tree.branches})
        return
    if name is None:
        commits = {commit.snapshot: commit for commit in tree.commits}
        width = max(map(len, tree.branches))
        for each, head in tree.branches.items():
            mark = click.style("*", fg="green") if each == tree.branch else " "
            click.echo(f"{mark} {each:<{width}}  {commit_line(commits[head])}")
    elif delete:
        click.echo(f"deleted {name}, which was at  {commit_line(at)}")
    else:
        click.echo(f"{name} is at  {commit_line(at)}")
        say(f"(sifu switch {name} goes there)", quiet=quiet)
