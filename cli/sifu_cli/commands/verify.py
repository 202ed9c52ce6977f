"""``sifu verify``: is everything in the store readable and consistent."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from sifu_cli.options import json_option, quiet_option, store_option
from sifu_cli.screen import Progress, number, print_json, print_table, size, warn


@click.command(
    "verify",
    short_help="Is everything in the store readable and consistent?",
    epilog="""\b
Example:
  sifu verify && echo sound
""",
)
@store_option
@quiet_option
@json_option
@click.pass_context
def command(ctx: click.Context, /, *, store: Path, quiet: bool, as_json: bool) -> None:
    """Read every array and every page and check them. Exit code 1, and a list, if anything is damaged."""
    from sifu_store.store import Store

    with Store.open(store) as opened, Progress(quiet=quiet) as progress:
        fallback = opened.recovered_from
        report = opened.verify(
            progress=lambda done, total: progress.show(f"checked {done:,} of {total:,} chunks, {done / total:.0%}")
        )
    if fallback:
        warn(fallback)
    sound = report.ok and not fallback
    if as_json:
        print_json({"ok": sound, **dataclasses.asdict(report), "fallback": fallback})
    else:
        for damage in report.damage:
            click.echo(f"damaged: {damage}")
        click.echo("sound: all of it can be read and agrees" if sound else "NOT sound")
        print_table(
            [
                ("arrays", number(report.arrays), ""),
                ("pages", number(report.pages), "stored"),
                ("read", size(report.size_bytes), ""),
                ("snapshot", report.snapshot[:8], ""),
            ]
        )
    if not sound:
        ctx.exit(1)
