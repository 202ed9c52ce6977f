"""Copies of stores: their progress and their result, for ``sifu push``, ``sifu pull`` and ``sifu clone``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sifu_store.durable import format_bytes

from sifu_cli.output.formats import number
from sifu_cli.output.progress import Progress
from sifu_cli.output.results import print_json, print_table
from sifu_cli.output.terminal import echo

if TYPE_CHECKING:
    from sifu_store.copying import BranchCopy


@contextmanager
def copying(*, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Show the progress of a copy: a function of the number of files that are copied, and of all."""
    from sifu_graph.progress_bar import reporting

    with Progress(quiet=quiet) as progress, reporting(progress) as stages:
        yield stages.stage("copying files", unit="files").at


def show_branch(copied: BranchCopy, target: str, *, as_json: bool) -> None:
    """Print what was copied to `target`."""
    if as_json:
        print_json({**dataclasses.asdict(copied), "target": target})
    elif not copied.commits:
        echo(f"{copied.branch} of {target} is at {copied.snapshot[:8]} already: nothing was copied")
    else:
        before = "it was not there before" if copied.before is None else f"before: {copied.before[:8]}"
        print_table(
            [
                ("branch", copied.branch, f"of {target}"),
                ("commits", number(copied.commits), "that were not there"),
                ("copied", format_bytes(copied.size_bytes), f"{copied.files:,} files"),
                ("snapshot", copied.snapshot[:8], before),
            ]
        )
