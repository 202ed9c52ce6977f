"""``sifu log``: lists the commits."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from sifu_store.durable import format_bytes

from sifu_cli.number_types import Integer
from sifu_cli.opening import open_store
from sifu_cli.options import common_options
from sifu_cli.output.formats import typed
from sifu_cli.output.messages import warn
from sifu_cli.output.results import output_width, print_json, wrapped
from sifu_cli.output.terminal import echo, styled, visible

if TYPE_CHECKING:
    from sifu_store.history import Commit, History

INDENT = " " * 10
"""Before the rows of a commit below its first."""


@click.command(
    "log",
    short_help="List the commits, newest first.",
    epilog="""\b
Examples:
  sifu log --limit 5
  sifu log trial
""",
)
@click.argument("snapshot", required=False, metavar="[SNAPSHOT]")
@click.option("--limit", type=Integer(min=1), metavar="N", help="List only the newest N.  [default: all]")
@common_options
def command(*, snapshot: str | None, limit: int | None, store: Path, quiet: bool, as_json: bool) -> None:
    """List the commits, newest first: snapshot id, time, added size on disk, message, command.

    Lists all branches, tags and undone commits; with SNAPSHOT (HEAD, a branch, a tag or the first characters of an id,
    optionally with ~N for the N-th commit before it), only that commit and its ancestors. Warns of damaged names.
    """
    with open_store(store) as opened:
        tree = opened.tree()
        commits = list(tree.commits) if snapshot is None else _line(tree, opened.resolve(snapshot))
    shown = commits[:limit]
    for fault in tree.faults:
        warn(fault)
    if as_json:
        print_json(
            {
                "branch": tree.branch,
                "branches": tree.branches,
                "tags": tree.tags,
                "redo": tree.redo,
                "faults": tree.faults,
                "commits": [
                    {
                        "snapshot": commit.snapshot,
                        "time": commit.time.isoformat(timespec="seconds"),
                        "message": commit.message,
                        "command": commit.command,
                        "changes": commit.changes,
                        "parent": commit.parent,
                        "size_bytes": commit.size_bytes,
                        "undone": commit.snapshot in tree.undone,
                    }
                    for commit in shown
                ],
            }
        )
        return
    drawn = list(_drawn(commits))
    straight = all(before == [] and line == "* " for before, line, _ in drawn)
    for commit, (before, line, after) in zip(shown, drawn, strict=False):
        for row in before:
            echo(row)
        lead, follow = ("", "") if straight else (line, after)
        _print_commit(tree, commit, lead, follow)


def _print_commit(tree: History, commit: Commit, lead: str, follow: str) -> None:
    """Print a commit in two rows, or in more on a terminal that is too narrow; a command is never broken.

    ``lead`` and ``follow`` are the parts of the drawing before the first row and before the others.
    """
    from rich.cells import cell_len

    undone = commit.snapshot in tree.undone
    time = commit.time.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    took = "-" if commit.size_bytes is None else format_bytes(commit.size_bytes)
    head, message, names = f"  {time}  {took:>9}", visible(commit.message), _names(tree, commit.snapshot)
    shown_id = styled(commit.snapshot[:8], fg="yellow", dim=undone)
    wide = cell_len(f"{lead}{commit.snapshot[:8]}{head}  {message}  {names}") <= output_width()
    if wide or not sys.stdout.isatty():
        gap = "  " if names else ""
        echo(lead, shown_id, head, "  ", styled(message, dim=undone), gap, styled(names, fg="green"))
    else:
        echo(lead, shown_id, head)
        room = output_width() - cell_len(follow) - len(INDENT)
        for row in wrapped(message, room):
            echo(follow, INDENT, styled(row, dim=undone))
        for row in wrapped(names, room) if names else []:
            echo(follow, INDENT, styled(row, fg="green"))
    echo(follow, INDENT, styled(typed(commit.command), dim=True))


def _names(tree: History, snapshot: str) -> str:
    """The names of a commit: `(HEAD -> main, tag v1)`."""
    names = [f"HEAD -> {tree.branch}"] if tree.head == snapshot else []
    names += [name for name, head in tree.branches.items() if head == snapshot and name != tree.branch]
    names += [f"tag {name}" for name, tagged in tree.tags.items() if tagged == snapshot]
    undone = ["undone"] if snapshot in tree.undone else []
    if snapshot in tree.redo:
        steps = tree.redo.index(snapshot) + 1
        undone.append(f"sifu undo --redo{f' --steps {steps}' if steps > 1 else ''} restores it")
    names += ["; ".join(undone)] if undone else []
    return f"({', '.join(names)})" if names else ""


def _line(tree: History, snapshot: str) -> list[Commit]:
    """A commit and its ancestors."""
    commits = {commit.snapshot: commit for commit in tree.commits}
    found: list[Commit] = []
    at: str | None = snapshot
    while at is not None and at in commits:
        found.append(commits[at])
        at = commits[at].parent
    return found


def _drawn(commits: list[Commit]) -> Iterator[tuple[list[str], str, str]]:
    """The drawing of the commit graph: for each commit the rows above it, and the prefixes of its two text rows.

    A column follows a branch from its newest commit to the commit where it joins another column.
    """
    columns: list[str | None] = []
    for commit in commits:
        before: list[str] = []
        mine = [k for k, wanted in enumerate(columns) if wanted == commit.snapshot]
        if not mine:
            columns.append(commit.snapshot)
            mine = [len(columns) - 1]
        for joins in reversed(mine[1:]):
            row = [" "] * (2 * len(columns))
            for k in range(len(columns)):
                row[2 * k if k < joins else 2 * k - 1] = "|" if k < joins else "/"
            for gap in range(2 * mine[0] + 1, 2 * joins - 1, 2):
                row[gap] = "_"
            before.append("".join(row).rstrip())
            del columns[joins]
        line = "".join("* " if k == mine[0] else "| " for k in range(len(columns)))
        columns[mine[0]] = commit.parent
        if commit.parent is None:
            after = "".join("  " if k == mine[0] else "| " for k in range(len(columns)))
            del columns[mine[0]]
        else:
            after = "| " * len(columns)
        yield before, line, after
