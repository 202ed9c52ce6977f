"""Command lines as text: what the history records of an operation, so that it can be typed again.

It knows words, options and a shell's quotes; it does not know what a command does.
"""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Sequence

Value = str | float | bool | tuple[str, ...] | Sequence[str] | None
"""Of an option: None or False: it is left out; True: a flag; a tuple: one option with several words; a list: the option
for each word."""


def command_text(name: str, *arguments: str, **options: Value) -> str:
    """A command line, without ``sifu``: the name, options with their values, and arguments.

    Parameters
    ----------
    name
        The command.
    arguments
        Its arguments, which come last.
    options
        Its options by their names in Python (``to_default``).
    """
    words = [name]
    for option, value in options.items():
        if value is None or value is False:
            continue
        for each in value if isinstance(value, list) else [value]:
            words.append("--" + option.replace("_", "-"))
            words += [] if each is True else map(str, each) if isinstance(each, tuple) else [str(each)]
    if any(argument.startswith("-") and argument != "-" for argument in arguments):
        words.append("--")
    return " ".join(map(quoted, [*words, *arguments]))


def quoted(word: str) -> str:
    """A word quoted for a shell if necessary. `shlex.quote` would quote every letter that is not ASCII.

    A word with control characters is quoted as ``$'...'`` (bash, zsh), with the characters escaped.
    """
    if any(map(_is_control, word)):
        escaped = word.replace("\\", "\\\\").replace("'", "\\'")
        parts = (each.encode("unicode_escape").decode("ascii") if _is_control(each) else each for each in escaped)
        return f"$'{''.join(parts)}'"
    return word if re.fullmatch(r"[\w@%+=:,./-]+", word) else shlex.quote(word)


def _is_control(character: str) -> bool:
    """Whether a terminal may obey a character instead of showing it."""
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
