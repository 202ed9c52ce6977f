"""``sifu undo``: one commit back, or forward again."""

from __future__ import annotations

from pathlib import Path

import click

from sifu_cli.options import Number, dry_run_option, json_option, quiet_option, store_option
from sifu_cli.screen import commit_line, print_json, say, warn


@click.command(
    "undo",
    short_help="Take back the last commit, or do it again.",
    epilog="""\b
Examples:
  sifu undo
  sifu undo --steps 2 --dry-run
  sifu undo --redo
""",
)
@click.option(
    "--steps",
    type=Number(int, least=1),
    metavar="N",
    default=1,
    show_default=True,
    help="How many commits.",
)
@click.option("--redo", is_flag=True, help="Forward again, over what was undone.")
@dry_run_option
@store_option
@quiet_option
@json_option
def command(*, steps: int, redo: bool, dry_run: bool, store: Path, quiet: bool, as_json: bool) -> None:
    """Go back to the commit before the last one of the current branch: parameters, nodes, settings, training state.

    Undoing again goes back further. --redo goes forward again, as often as was gone back, until something else is
    committed on the branch; after that, what was undone can still be read or made a branch by its id (sifu log shows
    it, sifu gc keeps its edits).
    """
    from sifu_store.store import Store

    with Store.open(store, write=not dry_run) as opened:
        if opened.recovered_from:
            warn(opened.recovered_from)
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
        click.echo(f"{word}  {commit_line(commit)}")
    click.echo(f"{moved.branch} {'would be' if dry_run else 'is'} at  {commit_line(at)}")
    if not redo and not dry_run:
        say("(sifu undo --redo takes this back)", quiet=quiet)
