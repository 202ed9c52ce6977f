"""``sifu branch``: lists, creates or deletes branches."""

from __future__ import annotations

from pathlib import Path

import click

from sifu_cli.opening import open_store
from sifu_cli.options import common_options
from sifu_cli.output.formats import commit_line
from sifu_cli.output.messages import say, warn
from sifu_cli.output.results import print_json
from sifu_cli.output.terminal import echo, styled


@click.command(
    "branch",
    short_help="List, create or delete branches.",
    epilog="""\b
Examples:
  sifu branch
  sifu branch trial HEAD~2
  sifu branch --delete trial
""",
)
@click.argument("name", required=False, metavar="[NAME]")
@click.argument("snapshot", required=False, metavar="[SNAPSHOT]")
@click.option("--delete", is_flag=True, help="Delete the branch NAME; its commits become undone commits.")
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
    """List the branches, or create the branch NAME at SNAPSHOT (default: HEAD). The current branch does not change.

    SNAPSHOT is HEAD, a branch, a tag or the first characters of an id, optionally with ~N for the N-th commit before
    it.
    """
    if delete and (name is None or snapshot is not None):
        raise click.UsageError("--delete needs the name of one branch and no SNAPSHOT", ctx)
    with open_store(store, write=name is not None) as opened:
        if name is not None and delete:
            at = opened.delete_branch(name)
        elif name is not None:
            at = opened.commit_of(opened.create_branch(name, snapshot or "HEAD"))
        tree = opened.tree()
    for fault in tree.faults:
        warn(fault)
    if as_json:
        print_json({"branch": tree.branch, "branches": tree.branches})
        return
    if name is None:
        commits = {commit.snapshot: commit for commit in tree.commits}
        width = max(map(len, tree.branches))
        for each, head in tree.branches.items():
            mark = styled("*", fg="green") if each == tree.branch else " "
            echo(mark, f" {each:<{width}}  ", *commit_line(commits[head]))
    elif delete:
        echo(f"deleted {name}, which was at  ", *commit_line(at))
    else:
        echo(f"{name} is at  ", *commit_line(at))
        say(f"(sifu switch {name} makes it the current branch)", quiet=quiet)
