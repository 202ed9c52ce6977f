"""How results show themselves: one short line in a console, tables in a notebook.

It knows dataclasses and lists of them; it does not know what their fields mean.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, TypeVar

MOST_LINE = 400
"""Characters of the line of a result, at most: fields that do not fit are left out, as those that are None."""
MOST_TEXT = 120
"""Characters of a text in a field, at most."""
MOST_ITEMS = 3
"""Items of a sequence of numbers or texts that are written out; of a longer one, their number."""
MOST_ROWS = 20
"""Rows of a table in a notebook."""

C = TypeVar("C", bound=type)


def short_repr(cls: C) -> C:
    """A decorator of a dataclass: ``repr`` is one short line, and notebooks show its fields as tables.

    Apply it above ``@dataclass``. All values stay in the fields; only what is shown is short. Fields with
    ``repr=False`` are not shown, and a class that has a ``_repr_html_`` keeps it.
    """
    cls.__repr__ = _line  # type: ignore[assignment,method-assign]
    if not hasattr(cls, "_repr_html_"):
        cls._repr_html_ = fields_html  # type: ignore[attr-defined]
    return cls


def table_html(rows: Sequence[Any]) -> str:
    """A table in HTML of dataclasses of one class: a row for each, a column for each field that is short."""
    fields = [field.name for field in dataclasses.fields(rows[0]) if _is_short(getattr(rows[0], field.name))]
    head = "".join(f"<th>{escape(_title(name))}</th>" for name in fields)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(_text(getattr(row, name)))}</td>' for name in fields)}</tr>"
        for row in rows[:MOST_ROWS]
    )
    more = f"<p>{len(rows) - MOST_ROWS:,} more</p>" if len(rows) > MOST_ROWS else ""
    return f"<table><tr>{head}</tr>{body}</table>{more}"


def _line(self: Any) -> str:
    name, parts, room = type(self).__name__, [], MOST_LINE
    for field in dataclasses.fields(self):
        value = getattr(self, field.name)
        if value is None or not field.repr:
            continue
        part = f"{field.name}={_short(value)}"
        room -= len(part) + 2
        if room < 0:
            parts.append("...")
            break
        parts.append(part)
    return f"{name}({', '.join(parts)})"


def fields_html(self: Any) -> str:
    """The fields of a dataclass as tables in HTML."""
    rows, tables = [], []
    for field in (each for each in dataclasses.fields(self) if each.repr):
        value, title = getattr(self, field.name), escape(_title(field.name))
        if isinstance(value, list | tuple) and value and dataclasses.is_dataclass(value[0]):
            tables.append(f"<p><b>{title}</b></p>{table_html(value)}")
        elif not (isinstance(value, list | tuple | dict | set | frozenset) and not value):
            rows.append(f"<tr><th>{title}</th><td>{escape(_text(value))}</td></tr>")
    return f"<table>{''.join(rows)}</table>{''.join(tables)}"


def _title(name: str) -> str:
    return name.replace("_", " ")


def _is_short(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _text(value: Any) -> str:
    """A value in a table. Texts are whole."""
    if isinstance(value, list | tuple) and value and all(isinstance(item, str) for item in value):
        return "; ".join(value) if len(value) <= MOST_ITEMS else _short(value)
    if isinstance(value, bool) or value is None or not isinstance(value, int | str):
        return "" if value is None else repr(value) if dataclasses.is_dataclass(value) else _short(value)
    return f"{value:,}" if isinstance(value, int) else value


def _short(value: Any) -> str:
    """A value on a part of a line."""
    if isinstance(value, str):
        shown = value if len(value) <= MOST_TEXT else value[: MOST_TEXT - 3] + "..."
        return repr(shown)
    if isinstance(value, float):
        return f"{value:.6g}"
    if _is_short(value):
        return repr(value)
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"<{str(value.dtype).removeprefix('torch.')} {list(value.shape)}>"
    if dataclasses.is_dataclass(value):
        return f"<{type(value).__name__}>"
    if isinstance(value, Sequence | Mapping | set | frozenset):
        return _collection(value)
    return repr(value)


def _collection(value: Any) -> str:
    """A few numbers or texts, or how many items there are."""
    if len(value) <= MOST_ITEMS and not isinstance(value, Mapping) and all(map(_is_short, value)):
        left, right = "()" if isinstance(value, tuple) else "[]"
        return f"{left}{', '.join(map(_short, value))}{right}"
    first = None if isinstance(value, Mapping) else next(iter(value))
    what = type(first).__name__ if dataclasses.is_dataclass(first) else type(value).__name__
    return f"<{len(value):,} {what}>" if dataclasses.is_dataclass(first) else f"<{what} of {len(value):,}>"
