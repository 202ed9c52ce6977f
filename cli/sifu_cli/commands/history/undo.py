"""``sifu undo``: undoes the last commits, or restores undone commits."""

from __future__ import annotations

from pathlib import Path

import click

from sifu_cli.number_types import Integer
from sifu_cli.opening import open_store
from sifu_cli.options import common_options, dry_run_option
from sifu_cli.output.formats import commit_line
from sifu_cli.output.messages import say
from sifu_cli.output.results import print_json
from sifu_cli.output.terminal import echo


@click.command(
    "undo",
    short_help="Undo the last commit, or redo it.",
    epilog="""\b
Examples:
  sifu undo
  sifu undo --steps 2 --dry-run
  sifu undo --redo
""",
)
@click.option(
    "--steps",
    type=Integer(min=1),
    metavar="N",
    default=1,
    show_default=True,
    help="Number of commits.",
)
@click.option("--redo", is_flag=True, help="Restore undone commits.")
@dry_run_option
@common_options
def command(*, steps: int, redo: bool, dry_run: bool, store: Path, quiet: bool, as_json: bool) -> None:
    """Return to the commit before the last one of the current branch: parameters, nodes, settings, training state.

    Each undo goes one commit further back. --redo restores undone commits, until another commit is made on the branch;
    after that, an undone commit can still be read, or made a branch, by its id (sifu log lists it; sifu gc keeps
    undone edits).
    """
    with open_store(store, write=not dry_run) as opened:
        if dry_run:
            moved = opened.would_redo(steps) if redo else opened.would_undo(steps)
        else:
            moved = opened.redo(steps) if redo else opened.undo(steps)
        at = opened.commit_of(moved.snapshot)
    if as_json:
        print_json(
            {
                "branch": moved.branch,
                "before": moved.before,
                "snapshot": moved.snapshot,
                "redo": redo,
                "commits": [
                    {"snapshot": commit.snapshot, "message": commit.message, "command": commit.command}
                    for commit in moved.commits
                ],
                "dry_run": dry_run,
            }
        )
        return
    word = ("would redo" if dry_run else "redone") if redo else ("would undo" if dry_run else "undone")
    for commit in moved.commits:
        echo(f"{word}  ", *commit_line(commit))
    echo(f"{moved.branch} {'would be' if dry_run else 'is'} at  ", *commit_line(at))
    if not redo and not dry_run:
        say(
            f"(sifu undo --redo{f' --steps {steps}' if steps > 1 else ''} restores {'them' if steps > 1 else 'it'})",
            quiet=quiet,
        )
