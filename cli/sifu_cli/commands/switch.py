"""``sifu switch``: which branch is the current one."""

from __future__ import annotations

from pathlib import Path

import click

from sifu_cli.options import json_option, quiet_option, store_option
from sifu_cli.screen import commit_line, print_json, say, warn


@click.command(
    "switch",
    short_help="Go to another branch.",
    epilog="""\b
Examples:
  sifu switch trial
  sifu switch --create trial
""",
)
@click.argument("branch", metavar="BRANCH")
@click.option("-c", "--create", is_flag=True, help="Make the branch first, where the current one is.")
@store_option
@quiet_option
@json_option
def command(*, branch: str, create: bool, store: Path, quiet: bool, as_json: bool) -> None:
    """Make BRANCH the current branch: every command then reads its newest snapshot, and commits go there."""
    from sifu_store.store import Store

    with Store.open(store, write=True) as opened:
        if opened.recovered_from:
            warn(opened.recovered_from)
        before = opened.branch
        if create:
            opened.create_branch(branch)
        snapshot = opened.switch(branch)
        at = opened.commit_of(snapshot)
    if as_json:
        print_json({"branch": branch, "before": before, "snapshot": snapshot, "created": create})
        return
    if before == branch:
        say(f"{branch} was the current branch already", quiet=quiet)
    click.echo(f"{branch} is at  {commit_line(at)}")
