"""``sifu log``: the commits of the store."""

from __future__ import annotations

from pathlib import Path

import click

from sifu_cli.options import Number, json_option, quiet_option, store_option
from sifu_cli.screen import print_json, warn


@click.command(
    "log",
    short_help="What was done to the graph, the newest first.",
    epilog="""\b
Example:
  sifu log --limit 5
""",
)
@click.option("--limit", type=Number(int, least=1), metavar="N", help="Only the last N.  [default: all]")
@store_option
@quiet_option
@json_option
def command(*, limit: int | None, store: Path, quiet: bool, as_json: bool) -> None:
    """What was done to the graph, the newest first: snapshot, time, message, command."""
    from sifu_store.store import Store

    with Store.open(store) as opened:
        if opened.recovered_from:
            warn(opened.recovered_from)
        commits = opened.history(limit)
    if as_json:
        print_json(
            {
                "commits": [
                    {
                        "snapshot": commit.snapshot,
                        "time": commit.time.isoformat(timespec="seconds"),
                        "message": commit.message,
                        "command": commit.command,
                        "changes": commit.changes,
                    }
                    for commit in commits
                ]
            }
        )
        return
    for commit in commits:
        time = commit.time.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        click.echo(f"{click.style(commit.snapshot[:8], fg='yellow')}  {time}  {commit.message}")
        click.secho(f"{'':8}  sifu {commit.command.removeprefix('sifu ')}", dim=True)
