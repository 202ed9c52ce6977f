"""``sifu gc``: deletes old training commits to free disk space."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from sifu_store.durable import format_bytes

from sifu_cli.confirmation import confirm, require_answer
from sifu_cli.number_types import Integer
from sifu_cli.opening import open_store
from sifu_cli.options import common_options, dry_run_option, yes_option
from sifu_cli.output.formats import commit_line, number
from sifu_cli.output.messages import say
from sifu_cli.output.progress import Progress
from sifu_cli.output.results import print_json, print_table

if TYPE_CHECKING:
    from sifu_store.collecting import Garbage

SHOWN_COMMITS = 10


@click.command(
    "gc",
    short_help="Delete old training commits to free disk space.",
    epilog="""\b
Examples:
  sifu gc --dry-run
  sifu gc --keep-training 1 --yes
""",
)
@click.option(
    "--keep-training",
    type=Integer(min=0),
    metavar="N",
    default=2,
    show_default=True,
    help="Keep the newest N training commits of every branch, and of the undone commits.",
)
@click.option(
    "--undone", is_flag=True, help="Delete all undone commits, including edits: they can no longer be restored."
)
@dry_run_option
@yes_option
@common_options
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
    """Delete old training commits and the remains of killed processes, and free their disk space.

    Builds, edits, tagged commits and the newest commit of every branch are kept. The command shows what it will delete
    and how much space that frees, and asks for confirmation.
    """
    from sifu_graph.progress import Stages

    require_answer(ctx, yes=yes or dry_run)
    with open_store(store, write=not dry_run) as opened:
        from sifu_store.history import TRAIN

        size = opened.size_bytes()
        with Progress(quiet=quiet, stages=False) as progress:
            Stages(progress).stage("looking for what can be deleted")
            plan = opened.would_collect(keep_training, keep_undone=not undone)
        before = size + plan.builds_bytes
        training = sum(commit.kind == TRAIN for commit in opened.tree().commits)
        _say_plan(plan, training, store, before, quiet=quiet and (yes or dry_run))
        if dry_run:
            _report(plan, plan.size_bytes, before - plan.size_bytes, store, dry_run=True, as_json=as_json)
            return
        if not yes and plan.size_bytes:
            confirm(ctx)
        with Progress(quiet=quiet, stages=False) as progress:
            Stages(progress).stage("deleting")
            garbage = opened.collect_garbage(keep_training, keep_undone=not undone)
        after = opened.size_bytes()
    _report(garbage, before - after, after, store, dry_run=False, as_json=as_json)


def _say_plan(plan: Garbage, training: int, store: Path, before: int, *, quiet: bool) -> None:
    """Show what will be deleted. `training` is the number of training commits, `before` the size in bytes."""
    from sifu_store.history import TRAIN

    dropped = sum(commit.kind == TRAIN for commit in plan.commits)
    others = len(plan.commits) - dropped
    say(
        f"{store}: {format_bytes(before)}; deletes {dropped:,} of {training:,} training commits"
        f"{f' and {others:,} other undone commits' if others else ''}, which frees {format_bytes(plan.size_bytes)}",
        quiet=quiet,
    )
    if plan.builds:
        say(
            f"  and what {plan.builds:,} killed build{'s' * (plan.builds != 1)} left beside it "
            f"({format_bytes(plan.builds_bytes)})",
            quiet=quiet,
        )
    for commit in plan.commits[:SHOWN_COMMITS]:
        say("  ", *commit_line(commit), quiet=quiet)
    if len(plan.commits) > SHOWN_COMMITS:
        say(f"  and {len(plan.commits) - SHOWN_COMMITS:,} more", quiet=quiet)


def _report(garbage: Garbage, freed: int, after: int, store: Path, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "bytes_freed": freed,
                "store_bytes": after,
                "snapshots_dropped": garbage.snapshots,
                "chunks_dropped": garbage.chunks,
                "commits_dropped": [commit.snapshot for commit in garbage.commits],
                "builds_dropped": garbage.builds,
                "dry_run": dry_run,
            }
        )
        return
    would = "would be " if dry_run else ""
    print_table(
        [
            ("freed", format_bytes(max(0, freed)), would.strip()),
            ("snapshots", number(garbage.snapshots), would + "deleted"),
            ("chunks", number(garbage.chunks), would + "deleted"),
            *([("builds", number(garbage.builds), would + "deleted; killed ones left them")] if garbage.builds else []),
            ("store", format_bytes(after), str(store)),
        ]
    )
