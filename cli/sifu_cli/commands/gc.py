"""``sifu gc``: disk space of what is no longer wanted."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from sifu_cli.options import Number, json_option, quiet_option, store_option
from sifu_cli.screen import number, print_json, print_table, say, size, warn


@click.command(
    "gc",
    short_help="Free the disk space of old training commits.",
    epilog="""\b
Example:
  sifu gc --yes
""",
)
@click.option(
    "--keep-training",
    type=Number(int, least=0),
    metavar="N",
    default=2,
    show_default=True,
    help="Training commits that stay, the newest.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@store_option
@quiet_option
@json_option
@click.pass_context
def command(ctx: click.Context, /, *, keep_training: int, yes: bool, store: Path, quiet: bool, as_json: bool) -> None:
    """Free the disk space of old training commits, and of what killed processes left behind.

    Builds and edits stay in the history, and the newest state of the graph is never touched.
    """
    from sifu_store.history import TRAIN
    from sifu_store.store import Store

    if not yes and (sys.stdin is None or not sys.stdin.isatty()):
        raise click.UsageError("it asks before it drops anything, and nobody is there to answer: say --yes", ctx)
    with Store.open(store, write=True) as opened:
        if opened.recovered_from:
            warn(opened.recovered_from)
        before = opened.size_bytes()
        training = sum(commit.kind == TRAIN for commit in opened.history())
        dropped = max(0, training - keep_training)
        say(
            f"{store}: {size(before)}; drops {dropped:,} of {training:,} training commits for good",
            quiet=quiet and yes,
        )
        if not yes and not click.confirm("Go on?", err=True):
            say("nothing was changed")
            ctx.exit(1)
        garbage = opened.collect_garbage(keep_training)
        after = opened.size_bytes()
    if as_json:
        counts = {"snapshots_dropped": garbage.snapshots, "chunks_dropped": garbage.chunks}
        print_json({"bytes_freed": before - after, "store_bytes": after, **counts})
        return
    print_table(
        [
            ("freed", size(max(0, before - after)), ""),
            ("snapshots", number(garbage.snapshots), "dropped"),
            ("chunks", number(garbage.chunks), "dropped"),
            ("store", size(after), str(store)),
        ]
    )
