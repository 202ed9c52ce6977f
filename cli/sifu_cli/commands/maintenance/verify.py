"""``sifu verify``: checks that the store is readable and consistent."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click
from sifu_store.durable import format_bytes

from sifu_cli.options import common_options
from sifu_cli.output.formats import number
from sifu_cli.output.messages import warn
from sifu_cli.output.progress import Progress
from sifu_cli.output.results import print_json, print_table


@click.command(
    "verify",
    short_help="Check that the store is readable and consistent.",
    epilog="""\b
Example:
  sifu verify && echo intact
""",
)
@common_options
@click.pass_context
def command(ctx: click.Context, /, *, store: Path, quiet: bool, as_json: bool) -> None:
    """Read and check every array and every page. If anything is damaged, lists it and exits with code 1."""
    from sifu_store.store import Store

    from sifu_graph.verification import verify

    with Store.open(store) as opened, Progress(quiet=quiet) as progress:
        fallback = opened.recovered_from
        report = verify(
            opened,
            progress=lambda done, total: progress.show(f"checked {done:,} of {total:,} chunks, {done / total:.0%}"),
        )
    if fallback:
        warn(fallback)
    intact = report.ok and not fallback
    if as_json:
        print_json({"ok": intact, **dataclasses.asdict(report), "fallback": fallback})
    else:
        for damage in report.damage:
            click.echo(f"damaged: {damage}")
        click.echo("intact: everything is readable and consistent" if intact else "NOT intact")
        print_table(
            [
                ("arrays", number(report.arrays), ""),
                ("pages", number(report.pages), "stored"),
                ("read", format_bytes(report.size_bytes), ""),
                ("snapshot", report.snapshot[:8], ""),
            ]
        )
    if not intact:
        ctx.exit(1)
