"""Pre-tokens of byte-level BPE: where the pattern of GPT-2 cuts a text before any merge.

A text is cut here only where that pattern cuts it in every version of Unicode, so that what is left whole is for the
`tokenizers` library to cut. It knows text; it does not know merges, nodes or that library.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

ASCII = re.compile(
    r"'(?:[stmd]|re|ve|ll)| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+",
    re.ASCII,
)
"""The pattern on text of ASCII alone: its classes \\p{L}, \\p{N} and \\s are these."""
BEFORE_A_SPACE = re.compile(r"(?<=\S)(?= )")
"""Between a space and what is no space before it: no alternative of the pattern matches across."""


def pretokens(text: str) -> list[str]:
    """The pre-tokens of a text; what is not ASCII stays with its neighbours up to the next space.

    Returns
    -------
    list of str
        Their concatenation is the text. The `tokenizers` library gives the same nodes for the parts as for the whole.
    """
    return ASCII.findall(text) if text.isascii() else list(_parts(text))


def _parts(text: str) -> Iterator[str]:
    for part in BEFORE_A_SPACE.split(text):
        if part.isascii():
            yield from ASCII.findall(part)
        else:
            yield part


def numbered(texts: Iterable[str]) -> tuple[dict[str, int], list[int], list[int]]:
    """The distinct pre-tokens of some texts, and which of them each text has.

    Returns
    -------
    distinct : dict
        Pre-token -> its number, in the order of the first occurrences.
    numbers : list of int
        The pre-tokens of all texts, one after another.
    sizes : list of int
        How many each text has.
    """
    distinct: dict[str, int] = {}
    numbers: list[int] = []
    sizes = []
    for text in texts:
        found = pretokens(text)
        numbers += [distinct.setdefault(part, len(distinct)) for part in found]
        sizes.append(len(found))
    return distinct, numbers, sizes
