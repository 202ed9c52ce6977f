"""Edits of edges as a table: one row for an edge, from a CSV file, JSON lines, a list of dicts or a pandas DataFrame.

The columns are ``source`` and ``target``, and one for each way to edit (`WAYS`); each row has a value in exactly one of
them. A whole table is read and checked before the first edge is edited. The module knows rows; it does not know graphs.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sifu_store.errors import OptionError, OptionTypeError

from sifu_graph.input_file import open_regular
from sifu_graph.text.csv_rows import delimiter_of

ENDS = ("source", "target")
WAYS = ("scale", "boost", "copy_from", "to_default", "forbid", "allow")
OTHER_NAMES = {
    **dict.fromkeys(("from", "src", "u"), "source"),
    **dict.fromkeys(("to", "dst", "v"), "target"),
    **dict.fromkeys(("default",), "to_default"),
}
"""Columns by names that other programs give them, for messages."""
MOST_BYTES = 256 << 20
"""Greatest size of a file: its rows are in memory at once."""
_TRUE, _FALSE = ("true", "1", "yes", "x"), ("false", "0", "no")

EdgeTable = Iterable[Mapping[str, Any]]
"""Rows with the columns ``source``, ``target`` and ways to edit: a list of dicts, or a pandas DataFrame."""


@dataclass(frozen=True, slots=True)
class EdgeRow:
    """One edit of an edge.

    Attributes
    ----------
    where
        The row in the table, for messages: ``edges.csv: line 7``.
    u, v
        Names of the ends.
    way
        One of `WAYS`.
    values
        What this way needs: a number, two names, or nothing.
    """

    where: str
    u: str
    v: str
    way: str
    values: list[Any]


def read_rows(table: Any) -> list[EdgeRow]:
    """The rows of a table, all checked.

    Parameters
    ----------
    table
        A path to a CSV file (commas, semicolons, tabs or bars, as the first line has; ``.tsv``: tabs) or to JSON lines,
        a list of dicts, or a pandas DataFrame.

    Raises
    ------
    OptionError
        The file cannot be read, a column is not known, or a row is not one edit; the message names line and column.
    """
    if isinstance(table, str | Path):
        found = _of_file(Path(table))
    else:
        records = table.to_dict("records") if hasattr(table, "to_dict") else table
        if not isinstance(records, Iterable) or isinstance(records, Mapping):
            kind = type(table).__name__
            raise OptionTypeError(f"`table` is a {kind}: expected a path, a list of dicts or a pandas DataFrame")
        found = ((f"table[{at}]", row) for at, row in enumerate(records))
    rows, seen = [], dict[tuple[str, str], str]()
    for where, cells in found:
        row = _row(where, cells)
        if (first := seen.setdefault((row.u, row.v), where)) != where:
            raise OptionError(f"{where}: the edge {row.u} {row.v} is edited by {first} already: each edge once")
        rows.append(row)
    if not rows:
        name = table if isinstance(table, str | Path) else "the table"
        raise OptionError(f"{name}: no row; expected at least one edge to edit")
    return rows


@contextmanager
def located(where: str) -> Iterator[None]:
    """Puts the place of a row before the message of an `OptionError`."""
    try:
        yield
    except OptionError as error:
        raise OptionError(f"{where}: {error}") from error


def _of_file(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of a file with their places."""
    try:
        with open_regular(path) as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise OptionError(f"{path}: {error.strerror or error}") from error
    if len(content) > MOST_BYTES:
        raise OptionError(f"{path}: larger than {MOST_BYTES >> 20} MiB: edit in several tables")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise OptionError(f"{path}: byte {error.start:,} is not UTF-8") from None
    if path.suffix.lower() not in (".csv", ".tsv") and text.lstrip()[:1] in ("{", "["):
        for line, row in enumerate(text.splitlines(), 1):
            if row.strip():
                yield f"{path}: line {line}", _object(row, f"{path}: line {line}")
        return
    delimiter = delimiter_of(text.partition("\n")[0], path.suffix.lower())
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_columns(f"{path}: line 1", header)
        for cells in reader:
            where = f"{path}: line {reader.line_num}"
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise OptionError(f"{where}: {len(cells)} fields, expected {len(header)} as in the first line")
            yield where, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise OptionError(f"{path}: line {reader.line_num}: not CSV ({error})") from None


def _object(line: str, where: str) -> Mapping[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{where}: not JSON ({error})") from None
    if not isinstance(found, dict):
        raise OptionError(f'{where}: expected an object such as {{"source": "A", "target": "B", "boost": 1}}')
    return found


def _check_columns(where: str, names: Iterable[Any]) -> None:
    """Raise `OptionError` unless the columns are the ends of an edge and ways to edit it."""
    names = [str(name) for name in names]
    every = (*ENDS, *WAYS)
    for name in names:
        if name not in every:
            usual = OTHER_NAMES.get(name.lower())
            near = [usual] if usual else difflib.get_close_matches(name, every, n=1)
            meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(every)}"
            raise OptionError(f"{where}: no column {name!r}; {meant}")
        if names.count(name) > 1:
            raise OptionError(f"{where}: two columns {name!r}")
    for name in ENDS:
        if name not in names:
            raise OptionError(f"{where}: the column {name!r} is missing")


def _row(where: str, cells: Any) -> EdgeRow:
    """The edit of a row, whose values are checked."""
    if not isinstance(cells, Mapping):
        raise OptionError(f"{where}: a {type(cells).__name__}; expected a dict with source, target and a way to edit")
    _check_columns(where, cells)
    ends = [cells[name] for name in ENDS]
    for name, value in zip(ENDS, ends, strict=True):
        if not isinstance(value, str) or not value:
            raise OptionError(f"{where}, column {name!r}: {value!r}; expected the name of a node")
    given = {way: value for way in WAYS if (value := _value(where, way, cells.get(way))) is not None}
    if len(given) != 1:
        found = f"values for {' and '.join(given)}" if given else "no value"
        raise OptionError(f"{where}: {found}; expected one in exactly one of the columns {', '.join(WAYS)}")
    [(way, value)] = given.items()
    return EdgeRow(where, ends[0], ends[1], way, value)


def _value(where: str, way: str, cell: Any) -> list[Any] | None:
    """What the cell of a way says, as `EdgeRow.values`; None: it is empty, NaN or false."""
    if cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell)):
        return None
    wrong = f"{where}, column {way!r}: {cell!r}; expected "
    if way in ("scale", "boost"):
        try:
            number = math.nan if isinstance(cell, bool) else float(cell)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise OptionError(wrong + "a finite number")
        return [number]
    if way != "copy_from":
        word = str(cell).strip().lower()
        if word not in (*_TRUE, *_FALSE, "1.0", "0.0"):
            raise OptionError(wrong + "true or false")
        return [] if word in (*_TRUE, "1.0") else None
    names = cell.split() if isinstance(cell, str) else list(cell) if isinstance(cell, list | tuple) else []
    if len(names) != 2 or not all(isinstance(name, str) for name in names):
        raise OptionError(wrong + "the names of two nodes")
    return names
