"""Documents in lines of JSON: ``{"text": "..."}``, ``{"tokens": [...]}`` or a list of tokens.

It knows one line; it does not know files.
"""

from __future__ import annotations

import contextlib
import functools
import json
from typing import Any, cast

import msgspec
from sifu_store.errors import CorpusError

Document = str | list[str]

MOST_PLAIN_CHARACTERS = 1 << 20
"""Greatest length of a line of JSON with NaN or the like in it."""


@functools.lru_cache(maxsize=8)
def _text_line(field: str) -> msgspec.json.Decoder[Any]:
    """Reads a line of JSON with a text. Members that are not declared are skipped, and take no memory."""
    return msgspec.json.Decoder(msgspec.defstruct("_TextLine", [("text", str, msgspec.field(name=field))]))


class _TokenLine(msgspec.Struct):
    """A line of JSON with tokens."""

    tokens: list[str | int]


_TOKEN_LINE = msgspec.json.Decoder(_TokenLine)
_TOKEN_LIST = msgspec.json.Decoder(list[str | int])


def parse_line(line: str, *, tokens: bool, where: str, field: str = "text") -> Document:
    """The document in a line of JSON; ``tokens`` says which kind is expected, and ``where`` the line is.

    ``field`` is the name of the member with the text.

    Raises
    ------
    CorpusError
        It is not JSON, or has no such document.
    """
    try:
        if not tokens:
            return cast(str, _text_line(field).decode(line).text)
        found = _TOKEN_LINE.decode(line).tokens if line.lstrip()[:1] == "{" else _TOKEN_LIST.decode(line)
    except msgspec.ValidationError as error:
        if not tokens and line.lstrip()[:1] == "[":
            raise CorpusError(f'{where}: a list; expected {{"{field}": "..."}}, or the level `tokens`') from None
        expected = (
            'a list of tokens (text or whole numbers) or {"tokens": [...]}' if tokens else f'{{"{field}": "..."}}'
        )
        other = "" if tokens else "; `field` names another member"
        raise CorpusError(f"{where}: expected {expected} ({error}){other}") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, msgspec.DecodeError) and (plain := _plain(line, field)) is not None:
            return parse_line(plain, tokens=tokens, where=where, field=field)
        surrogate = r"; half a surrogate pair (\ud800-\udfff) is no character" if r"\ud" in line.lower() else ""
        raise CorpusError(f"{where}: not JSON ({error}{surrogate})") from None
    for place, token in enumerate(found):
        if token == "":
            raise CorpusError(f'{where}: "" is no token; expected text or a whole number')
        found[place] = str(token)  # 5 and "5" are one node
    return cast(list[str], found)


def _plain(line: str, field: str) -> str | None:
    """A short line that Python writes and JSON does not allow (NaN, half a surrogate pair) as JSON; None: none such.

    Only the members that are read are kept: in others, such values do no harm.
    """
    if len(line) > MOST_PLAIN_CHARACTERS or not any(mark in line for mark in ("NaN", "Infinity", "\\ud", "\\uD")):
        return None
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(line, parse_constant=lambda _: None)
        if isinstance(value, dict):
            value = {name: value[name] for name in (field, "tokens") if name in value}
        text = json.dumps(value)
        return None if text == line else text
    return None
