"""``sifu switch``: changes the current branch."""

from __future__ import annotations

from pathlib import Path

import click

from sifu_cli.opening import open_store
from sifu_cli.options import common_options
from sifu_cli.output.formats import commit_line
from sifu_cli.output.messages import say
from sifu_cli.output.results import print_json
from sifu_cli.output.terminal import echo


@click.command(
    "switch",
    short_help="Change the current branch.",
    epilog="""\b
Examples:
  sifu switch trial
  sifu switch --create trial
""",
)
@click.argument("branch", metavar="BRANCH")
@click.option("-c", "--create", is_flag=True, help="Create the branch first, at the current snapshot.")
@common_options
def command(*, branch: str, create: bool, store: Path, quiet: bool, as_json: bool) -> None:
    """Make BRANCH the current branch: commands read its newest snapshot and commit to it."""
    with open_store(store, write=True) as opened:
        before = opened.branch
        snapshot = opened.create_branch(branch, switch=True) if create else opened.switch(branch)
        at = opened.commit_of(snapshot)
    if as_json:
        print_json({"branch": branch, "before": before, "snapshot": snapshot, "created": create})
        return
    if before == branch:
        say(f"{branch} is already the current branch", quiet=quiet)
    echo(f"{branch} is at  ", *commit_line(at))
