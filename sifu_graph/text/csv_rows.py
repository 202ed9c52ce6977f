"""Documents in a column of a CSV file. It knows rows; it does not know files."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator

from sifu_store.errors import CorpusError

DELIMITERS = ",;\t|"
MOST_FIELD_CHARACTERS = 4 << 20
"""Greatest length of a field: a quotation mark that is never closed would make one field of the rest of a file."""
SHOWN_COLUMNS = 12


def column(
    lines: Iterable[str], *, field: str, kind: str, name: str, bad: Callable[[CorpusError], None]
) -> Iterator[str]:
    """The texts of one column, whose name the first line has.

    Parameters
    ----------
    lines
        The lines of the file, without their ends.
    field
        The name of the column.
    kind
        `.tsv` or `.csv`: see `delimiter_of`.
    name
        What messages call the file.
    bad
        Called with the error of a row that cannot be read; it may raise it.

    Raises
    ------
    CorpusError
        There is no such column.
    """
    ends = (line + "\n" for line in lines)
    first = next(ends, "")
    delimiter = delimiter_of(first, kind)

    def every() -> Iterator[str]:
        yield first
        yield from ends

    csv.field_size_limit(MOST_FIELD_CHARACTERS)
    rows = csv.reader(every(), delimiter=delimiter, strict=True)
    place = -1
    while True:
        try:
            row = next(rows, None)
            if row is None:
                return
            if place < 0:
                place = _place(row, field, name)
            elif row and place >= len(row):
                found = f"{len(row)} field{'s' * (len(row) != 1)}"
                raise CorpusError(f"{name}: line {rows.line_num}: {found}, expected at least {place + 1}")
            elif row:
                yield row[place]
        except csv.Error as error:
            bad(CorpusError(f"{name}: line {rows.line_num}: not CSV ({error})"))
        except CorpusError as error:
            if place < 0:
                raise
            bad(error)


def delimiter_of(first: str, kind: str) -> str:
    """What separates the fields: tabs in a `.tsv`; else of the usual ones that which the first line has most of."""
    return "\t" if kind == ".tsv" else max(DELIMITERS, key=first.count)


def _place(header: list[str], field: str, name: str) -> int:
    names = [each.strip() for each in header]
    if field in names:
        return names.index(field)
    some = ", ".join(names[:SHOWN_COLUMNS]) + (", ..." if len(names) > SHOWN_COLUMNS else "")
    raise CorpusError(f"{name}: no column {field!r} in its first line; there are {some}: `field` names the one to read")
