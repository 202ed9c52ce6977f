"""How values are written: numbers, shares, durations, names of nodes, commits. Sizes: `sifu_store.durable`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sifu_cli.commands import COMMANDS
from sifu_cli.output.terminal import Part, escaped, styled
from sifu_graph.progress import duration as duration

if TYPE_CHECKING:
    from sifu_store.history import Commit

SHOWN_NAMES = 20
"""Names of nodes that `quoted` lists."""


def number(value: float | None, digits: int = 0) -> str:
    """A number with thousands separators, `1,234.5`; a dash for None, NaN and infinity."""
    return "-" if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def percent(share: float) -> str:
    """A share (0 to 1) as `12.3 %`; two significant digits below 0.1 %."""
    return f"{100 * share:.1f} %" if share == 0 or share >= 0.001 else f"{100 * share:.2g} %"


def printable(name: str) -> str:
    """The name of a node with visible spaces; other characters that cannot be seen are escaped."""
    return "".join(
        "\u2423" if character == " " else character if character.isprintable() else escaped(character)
        for character in name
    )


def source_name(nodes: Sequence[str]) -> str:
    """The name of a source from those of its nodes: `春`, or `立>春` for the clone of 春 after 立."""
    return ">".join(map(printable, nodes))


def shared_note(base_parameters: int | None) -> str:
    """What the number of stored parameters counts in a graph whose edges share a base."""
    if base_parameters is None:
        return ""
    return f"{base_parameters:,} that all edges share, and the energies of private edges"


def bits_remark(unknown_share: float) -> str:
    """What is to be said beside bits per character of a text, some of whose tokens are unknown."""
    from sifu_graph.text.unknown import NOTED_SHARE

    if unknown_share <= NOTED_SHARE:
        return ""
    return "too low to compare: what is unknown costs little, however many characters it has"


def quoted(names: Sequence[str]) -> str:
    """The first names of a list in quotes, and the number of the others."""
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return " ".join(map(repr, names[:SHOWN_NAMES])) + more


def typed(command: str) -> str:
    """A command of the history as a user types it: `sifu train`; what no command line does: `edit (Python)`."""
    words = command.removeprefix("sifu ")
    return f"sifu {words}" if words.split(" ", 1)[0] in COMMANDS else f"{words} (Python)"


def commit_line(commit: Commit) -> tuple[Part, ...]:
    """`ZNTDTQ0Q  train: step 16 (2026-11-22 00:15)`, as parts of a line."""
    time = commit.time.astimezone().strftime("%Y-%m-%d %H:%M")
    return styled(commit.snapshot[:8], fg="yellow"), f"  {commit.message} ({time})"
