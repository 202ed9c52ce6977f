"""``sifu verify``: checks that the store is readable and consistent, and repairs references."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click
from sifu_store.durable import format_bytes

from sifu_cli.confirmation import confirm, require_answer
from sifu_cli.options import common_options, yes_option
from sifu_cli.output.formats import number
from sifu_cli.output.messages import in_options, say, warn
from sifu_cli.output.progress import Progress
from sifu_cli.output.results import print_json, print_table
from sifu_cli.output.terminal import echo

if TYPE_CHECKING:
    from sifu_store.repair import Repair
    from sifu_store.verify import VerifyReport


@click.command(
    "verify",
    short_help="Check that the store is readable and consistent.",
    epilog="""\b
Examples:
  sifu verify && echo intact
  sifu verify --repair
""",
)
@click.option(
    "--repair",
    is_flag=True,
    help="Repair missing and damaged references: branches, tags, and the order of the commits. Shows first what it "
    "will change and what it cannot repair, and asks for confirmation.",
)
@yes_option
@common_options
@click.pass_context
def command(ctx: click.Context, /, *, repair: bool, yes: bool, store: Path, quiet: bool, as_json: bool) -> None:
    """Read and check every array, every page and the history. If anything is damaged, lists it and exits with code 1.

    --repair changes no data and deletes no commit.
    """
    from sifu_store.places import require_store

    require_store(store)  # before Icechunk and Zarr are imported
    from sifu_store.store import Store

    if repair:
        require_answer(ctx, yes=yes)
    report, fallback, planned = _check(store, quiet=quiet, repair=repair)
    if planned is not None:
        if planned.actions:
            for line in planned.actions:
                say(f"will repair: {line}", quiet=quiet and yes)
            for line in planned.left:
                say(f"cannot repair: {line}", quiet=quiet and yes)
            say("no parameter and no commit is changed", quiet=quiet and yes)
            if not yes:
                confirm(ctx)
            with Store.open(store, write=True) as opened:
                opened.repair()
            report, fallback, _ = _check(store, quiet=quiet, repair=False)
        else:
            say("there is nothing to repair", quiet=quiet)
    _show(report, fallback, planned, as_json=as_json)
    if not report.ok or fallback:
        ctx.exit(1)


def _check(store: Path, *, quiet: bool, repair: bool) -> tuple[VerifyReport, str | None, Repair | None]:
    """The damage of a store, what was wrong with its newest commit, and what a ``repair`` would do."""
    from sifu_store.store import Store

    from sifu_graph.verification import verify

    with Store.open(store) as opened, Progress(quiet=quiet, stages=False) as progress:
        report = verify(opened, progress=progress)
        return report, opened.recovered_from, opened.would_repair() if repair else None


def _show(report: VerifyReport, fallback: str | None, repair: Repair | None, *, as_json: bool) -> None:
    intact = report.ok and not fallback
    if fallback:
        warn(fallback)
    if as_json:
        repaired = {} if repair is None else {"repaired": repair.actions}
        print_json({"ok": intact, **dataclasses.asdict(report), "fallback": fallback, **repaired})
        return
    for path in report.unchecked:
        warn(f"not checked: {path}, which this user may not read")
    for damage in report.damage:
        echo(in_options(f"damaged: {damage}"))
    everything = "everything that this user may read" if report.unchecked else "everything"
    echo(f"intact: {everything} is readable and consistent" if intact else "NOT intact")
    print_table(
        [
            ("arrays", number(report.arrays), ""),
            ("pages", number(report.pages), "stored"),
            ("read", format_bytes(report.size_bytes), ""),
            ("snapshot", report.snapshot[:8], ""),
        ]
    )
