"""The only way out of the command line: text for stdout and stderr, in which no character acts on a terminal.

Names of nodes, texts, file names and the history of a store come from other people. A plain string is therefore escaped
when it is printed; colours are added by `styled`, and only here. No other module calls `click.echo`.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import click
from sifu_store.errors import StoreError

_CONTROL = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 without tab and line feed, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # order of writing (bidi)
    "\u2028\u2029\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb"  # line separators, invisible operators, annotations
    "\ud800-\udfff\U000e0000-\U000e007f"  # surrogates, tags
)
"""Characters that act on a terminal or cannot be seen there; not zero-width joiners, which some scripts need."""
_IN_TEXT = re.compile(f"[{_CONTROL}]")
_IN_LINE = re.compile(f"[{_CONTROL}\t\n]")
_COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")


@dataclass(frozen=True, slots=True)
class Styled:
    """A part of a line with a style of `click.style`."""

    text: str
    style: dict[str, Any] = field(default_factory=dict)


Part = str | Styled
"""A part of a line."""


def styled(text: str, **style: Any) -> Styled:
    """A part of a line with a style: ``styled("main", fg="green")``."""
    return Styled(text, style)


def visible(text: str, *, lines: bool = False) -> str:
    """Text with its control characters escaped: ``\\x1b``, ``\\u202e``. What is escaped already is unchanged.

    Parameters
    ----------
    lines
        The text may have several lines: tabs and line feeds are kept.
    """
    return (_IN_TEXT if lines else _IN_LINE).sub(lambda found: escaped(found[0]), text)


def escaped(character: str) -> str:
    """A character as the escape sequence of a Python string."""
    return character.encode("unicode_escape").decode("ascii")


def echo(*parts: Part, nl: bool = True, err: bool = False) -> None:
    """Print one line.

    Parameters
    ----------
    parts
        Its parts, printed one after the other.
    nl
        End the line.
    err
        Print to stderr. If that is closed, as when the terminal is gone, nothing is printed, and the command continues.
    """
    with contextlib.suppress(*((OSError,) if err else ())):
        _write("".join(_in_colour(part, visible) for part in parts), nl=nl, err=err)


def echo_text(*parts: Part, nl: bool = True, raw: bool = False, err: bool = False) -> None:
    """Print text that may have several lines.

    Parameters
    ----------
    parts
        Its parts, printed one after the other.
    nl
        End the last line.
    raw
        Print control characters unescaped.
    err
        Print to stderr.
    """
    if raw:
        text = "".join(part if isinstance(part, str) else part.text for part in parts)
        # With `color`, because click removes escape sequences where there is no terminal.
        _write(text, nl=nl, err=err, color=True)
    else:
        _write("".join(_in_colour(part, _visible_lines) for part in parts), nl=nl, err=err)


def echo_rendered(text: str) -> None:
    """Print what rich rendered: several lines with colours. Any other control character is escaped."""
    parts = _COLOUR.split(text)
    _write("".join(part if k % 2 else _visible_lines(part) for k, part in enumerate(parts)))


def echo_json(value: Any) -> None:
    """Print a value as JSON on one line. Characters that act on a terminal are escaped as JSON escapes them."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    _write(_IN_LINE.sub(lambda found: json.dumps(found[0])[1:-1], text))


def _write(text: str, *, nl: bool = True, err: bool = False, color: bool | None = None) -> None:
    if "/buckets/" in text:
        from sifu_store.places import with_urls  # only the name of a store in a bucket needs it

        text = with_urls(text)
    try:
        click.echo(text, nl=nl, err=err, color=color)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise error if err else unwritable(error) from error


def unwritable(error: OSError) -> StoreError:
    """The error that says that stdout cannot be written."""
    reason = error.strerror or error
    return StoreError(f"stdout cannot be written ({reason}); what was committed before remains: `sifu log` lists it")


def _visible_lines(text: str) -> str:
    return visible(text, lines=True)


def _in_colour(part: Part, shown: Callable[[str], str]) -> str:
    return shown(part) if isinstance(part, str) else click.style(shown(part.text), **part.style)
