"""How the name of a node reads in a terminal: what cannot be printed is spelled out, so that nothing in it acts."""

from __future__ import annotations

from collections.abc import Sequence

SHOWN = 20


def readable(name: str) -> str:
    """The name with a visible space, and control characters as escapes."""
    return "".join(
        "\u2423" if character == " " else character if character.isprintable() else ascii(character)[1:-1]
        for character in name
    )


def spelled_out(names: Sequence[str]) -> str:
    """Some names, quoted, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return " ".join(map(repr, names[:SHOWN])) + more
