"""Results on stdout: JSON, aligned tables, and tables and trees of rich (imported only when one is printed)."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from sifu_cli.output.messages import in_options
from sifu_cli.output.terminal import echo, echo_json, echo_rendered, styled, visible

if TYPE_CHECKING:
    from rich.console import RenderableType

OFF_TERMINAL_WIDTH = 160
"""Width in columns of rich output that does not go to a terminal."""

LEAST_REMARK = 20
"""Columns of a terminal beside label and value from which a remark stands there."""
REMARK_BELOW = 4
"""Columns before a remark that stands below its label."""

SAID = ("note", "notes", "faults", "fallback", "repaired", "reason")
"""Fields of JSON objects that are messages of the library."""

Row = tuple[str, str, str]
"""Label, value, remark."""


def print_json(fields: Mapping[str, Any]) -> None:
    """Print one JSON object on one line. NaN and infinity become null; a value of another type becomes its text.

    What the library says (`SAID`) names options, as in `messages`.
    """
    echo_json(_finite(fields))


def print_table(rows: Iterable[Row]) -> None:
    """Print aligned rows: labels left-aligned, values right-aligned, then remarks.

    On a terminal a long remark continues below its beginning, or below the label where there is little room beside it.
    """
    from rich.cells import cell_len

    rows = [(visible(label), visible(value), visible(remark)) for label, value, remark in rows]
    label_width = max(cell_len(label) for label, _, _ in rows)
    value_width = max(cell_len(value) for _, value, _ in rows)
    beside = label_width + value_width + 4
    for label, value, remark in rows:
        lead = " " * (label_width - cell_len(label)) + "  " + " " * (value_width - cell_len(value)) + value
        lines, indent = [remark], beside
        if sys.stdout.isatty():
            lines = wrapped(remark, output_width() - beside)
            if output_width() - beside < max([LEAST_REMARK, *map(cell_len, lines)]) and len(remark) > 0:
                indent = REMARK_BELOW
                lines = ["", *wrapped(remark, output_width() - REMARK_BELOW)]
        echo(styled(label, dim=True), f"{lead}  {lines[0]}".rstrip())
        for line in lines[1:]:
            echo(" " * indent + line)


def wrapped(text: str, width: int) -> list[str]:
    """A text in lines of at most `width` columns of a terminal; a longer word is a line of its own and stays whole."""
    from rich.cells import cell_len

    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1] and cell_len(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def output_width() -> int:
    """Columns of the terminal; elsewhere `OFF_TERMINAL_WIDTH`."""
    from rich.console import Console

    return Console().width if sys.stdout.isatty() else OFF_TERMINAL_WIDTH


def print_rich(renderable: RenderableType) -> None:
    """Print a table or a tree of rich, as wide as the terminal; elsewhere at most `OFF_TERMINAL_WIDTH` columns."""
    from rich.console import Console

    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    console = Console(width=output_width(), highlight=False, markup=False, emoji=False, no_color=plain)
    with console.capture() as captured:
        console.print(renderable)
    echo_rendered("\n".join(line.rstrip() for line in captured.get().split("\n")).strip("\n"))


def _in_options(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_in_options(item) for item in value]
    return in_options(value) if isinstance(value, str) else _finite(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _in_options(item) if key in SAID else _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
