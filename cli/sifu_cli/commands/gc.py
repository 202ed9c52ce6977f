"""``sifu gc``: disk space of what is no longer wanted."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sifu_cli.options import Number, dry_run_option, json_option, quiet_option, store_option
from sifu_cli.screen import commit_line, number, print_json, print_table, say, size, warn

if TYPE_CHECKING:
    from sifu_store.collecting import Garbage

SHOWN = 10


@click.command(
    "gc",
    short_help="Free the disk space of old training commits.",
    epilog="""\b
Examples:
  sifu gc --dry-run
  sifu gc --keep-training 1 --yes
""",
)
@click.option(
    "--keep-training",
    type=Number(int, least=0),
    metavar="N",
    default=2,
    show_default=True,
    help="Training commits that stay: the newest N of every branch, and of what was undone.",
)
@click.option("--undone", is_flag=True, help="Drop what was undone, edits too: it can then not be redone.")
@dry_run_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@store_option
@quiet_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    keep_training: int,
    undone: bool,
    dry_run: bool,
    yes: bool,
    store: Path,
    quiet: bool,
    as_json: bool,
) -> None:
    """Free the disk space of old training commits, and of what killed processes left behind.

    Every build, every edit, every tagged commit and the newest commit of every branch stay. It says first what it will
    drop and how much that frees, and asks.
    """
    from sifu_store.history import TRAIN
    from sifu_store.store import Store

    if not (yes or dry_run) and (sys.stdin is None or not sys.stdin.isatty()):
        raise click.UsageError("it asks before it drops anything, and nobody is there to answer: say --yes", ctx)
    with Store.open(store, write=not dry_run) as opened:
        if opened.recovered_from:
            warn(opened.recovered_from)
        before = opened.size_bytes()
        plan = opened.would_collect(keep_training, keep_undone=not undone)
        commits = opened.tree().commits
        training = sum(commit.kind == TRAIN for commit in commits)
        dropped = sum(commit.kind == TRAIN for commit in plan.commits)
        edits = len(plan.commits) - dropped
        say(
            f"{store}: {size(before)}; drops {dropped:,} of {training:,} training commits"
            f"{f' and {edits:,} undone others' if edits else ''} for good, which frees {size(plan.size_bytes)}",
            quiet=quiet and (yes or dry_run),
        )
        for commit in plan.commits[:SHOWN]:
            say(f"  {commit_line(commit)}", quiet=quiet and (yes or dry_run))
        if len(plan.commits) > SHOWN:
            say(f"  and {len(plan.commits) - SHOWN:,} more", quiet=quiet and (yes or dry_run))
        if dry_run:
            _report(plan, plan.size_bytes, before - plan.size_bytes, store, dry_run=True, as_json=as_json)
            return
        if not yes and plan.size_bytes and not click.confirm("Go on?", err=True):
            say("nothing was changed")
            ctx.exit(1)
        garbage = opened.collect_garbage(keep_training, keep_undone=not undone)
        after = opened.size_bytes()
    _report(garbage, before - after, after, store, dry_run=False, as_json=as_json)


def _report(garbage: Garbage, freed: int, after: int, store: Path, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "bytes_freed": freed,
                "store_bytes": after,
                "snapshots_dropped": garbage.snapshots,
                "chunks_dropped": garbage.chunks,
                "commits_dropped": [commit.snapshot for commit in garbage.commits],
                "dry_run": dry_run,
            }
        )
        return
    would = "would be " if dry_run else ""
    print_table(
        [
            ("freed", size(max(0, freed)), would.strip()),
            ("snapshots", number(garbage.snapshots), would + "dropped"),
            ("chunks", number(garbage.chunks), would + "dropped"),
            ("store", size(after), str(store)),
        ]
    )
