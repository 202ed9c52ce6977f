"""Tables of columns that fit the terminal: names and numbers are never cut.

rich takes a millisecond for a row, so the lines of a long table are made here, as rich makes them. A table that is too
wide loses columns of words that say little, and columns of numbers stand in a table below it. Tables side by side stand
one below the other. A name that is still too long continues in the next line. rich is imported when a table is printed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from sifu_cli.output.results import output_width, print_rich
from sifu_cli.output.terminal import echo, echo_text, styled, visible

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

GAP = 3
"""Columns of the terminal between two columns of a table."""
LONG = 1_000
"""Rows of a table from which it is printed line by line, where no name must continue in the next line."""
LEAST_NAME = 8
"""Least columns of the terminal for a name that continues in the next line."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes
    ----------
    title
        What stands above it.
    right
        Its cells are aligned to the right, as numbers are.
    drop
        Where there is no room, columns of a number above 0 leave the table, the lowest number first: words are left
        out, numbers stand in a table below, after the first column.
    """

    title: str
    right: bool = True
    drop: int = 0


@dataclass(slots=True)
class Grid:
    """The columns of a table, its rows (a cell for each column), and styles of rows by their number."""

    columns: list[Column]
    rows: list[Sequence[str]] = field(default_factory=list)
    styles: dict[int, str] = field(default_factory=dict)

    def add(self, *cells: str, style: str | None = None) -> None:
        """Append a row."""
        if style is not None:
            self.styles[len(self.rows)] = style
        self.rows.append([visible(cell) for cell in cells])


def print_grids(*grids: Grid) -> None:
    """Print tables side by side, as many as fit beside each other, and the others below them."""
    width, groups = output_width(), [[grids[0]]]
    for grid in grids[1:]:
        together = _side_by_side([*groups[-1], grid])
        if sum(_widths(together)) + GAP * len(together.columns) <= width:
            groups[-1].append(grid)
        else:
            groups.append([grid])
    for at, group in enumerate(groups):
        if at:
            echo()
        table = _side_by_side(group)
        if len(table.rows) < LONG or not _print_lines(table, width):
            print_rich(table_of(table, width))


def _print_lines(grid: Grid, width: int) -> bool:
    """Print a table as rich would, in less time. False: it has styles or is too wide, and is not printed."""
    from rich.cells import cell_len

    widths = _widths(grid)
    if grid.styles or sum(widths) + GAP * len(widths) > width:
        return False

    def line(cells: Sequence[str]) -> str:
        padded = []
        for cell, column, columns in zip(cells, grid.columns, widths, strict=True):
            space = " " * (columns - cell_len(cell))
            padded.append(space + cell if column.right else cell + space)
        return f" {(' ' * GAP).join(padded)}".rstrip()

    rule = "\u2500" * (sum(widths) + GAP * (len(widths) - 1))
    echo(styled(line([column.title for column in grid.columns]), dim=True))
    echo(f" {rule}")
    echo_text("\n".join(map(line, grid.rows)))
    return True


def table_of(grid: Grid, width: int) -> Group:
    """A table of rich that is at most `width` columns wide, or several, one below the other."""
    from rich.console import Group

    widths = _widths(grid)
    kept, below = list(range(len(grid.columns))), []

    def room() -> int:
        return width - sum(widths[at] + GAP for at in kept)

    for at in sorted((at for at in kept if grid.columns[at].drop), key=lambda at: grid.columns[at].drop):
        if room() < 0:
            kept.remove(at)
            below += [at] * grid.columns[at].right
    table = _table(grid, kept, width)
    if not below:
        return Group(table)
    rest = Grid([grid.columns[0], *(replace(grid.columns[at], drop=0) for at in sorted(below))])
    for row in grid.rows:
        rest.add(row[0], *(row[at] for at in sorted(below)))
    return Group(table, *table_of(rest, width).renderables)


def _table(grid: Grid, kept: Sequence[int], width: int) -> Table:
    """The `kept` columns of a table, as narrow as `width` where their names can be folded."""
    from rich import box
    from rich.table import Table

    widths = _widths(grid)

    def room() -> int:
        return width - sum(widths[at] + GAP for at in kept)

    if room() < 0:
        widths = _widths(grid, titles_in_lines=True)
    names = [at for at in kept if not grid.columns[at].right]
    if room() < 0 and names:
        longest = max(names, key=lambda at: widths[at])
        widths[longest] = max(LEAST_NAME, widths[longest] + room())
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for at in kept:
        column = grid.columns[at]
        justify, overflow = ("right", "fold") if column.right else ("left", "fold")
        table.add_column(column.title, justify=justify, overflow=overflow, width=widths[at])  # type: ignore[arg-type]
    for number, row in enumerate(grid.rows):
        table.add_row(*(row[at] for at in kept), style=grid.styles.get(number))
    return table


def _widths(grid: Grid, *, titles_in_lines: bool = False) -> list[int]:
    """Columns of the terminal that each column of a table needs for its cells and its title, or the title's words."""
    from rich.cells import cell_len

    found = []
    for at, column in enumerate(grid.columns):
        title = column.title.split() if titles_in_lines else [column.title]
        found.append(max([cell_len(text) for text in [*title, *(row[at] for row in grid.rows)]], default=0))
    return found


def _side_by_side(grids: Sequence[Grid]) -> Grid:
    """One table with the columns of several, whose rows stand side by side."""
    together = Grid([column for grid in grids for column in grid.columns])
    for at in range(max(len(grid.rows) for grid in grids)):
        together.rows.append(
            [cell for grid in grids for cell in (grid.rows[at] if at < len(grid.rows) else [""] * len(grid.columns))]
        )
    for grid in grids:
        together.styles |= grid.styles
    return together
