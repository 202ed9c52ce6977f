"""What one document of a text is: a line, a paragraph, a file, or what is between two separators.

It knows text; it does not know files or tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from sifu_store.errors import OptionError

UNITS = ("line", "paragraph", "file")
SEPARATED = "separator:"
MOST_CHARACTERS = 1 << 22
"""A longer document is cut into pieces of this length, each a document of its own."""
LINE_END = re.compile("\r*\n|\r")
"""LF, CR, CR LF and CR CR LF."""
_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")
_ESCAPES = {r"\n": "\n", r"\t": "\t"}

LINES_OF_A_BLOCK = 2.0
"""Lines between two blank ones, on average, from which blocks are documents."""
MOST_LINES_OF_A_BLOCK = 50.0
"""Lines between two blank ones, on average, up to which blocks are documents: a log has a blank line now and then."""
BLOCKS = 8
"""Blocks from which they are documents."""
FILES = 300
"""Files from which each of them is a document, if blank lines separate blocks in them: of fewer, a share of 1 % that is
held out would have 2 or less."""
FILE_BYTES = 1 << 16
"""Mean size up to which a file is a document."""


def check_unit(unit: str) -> None:
    """Raise `OptionError` unless `unit` is one of `UNITS` or ``separator:STR``."""
    if unit not in UNITS and not (unit.startswith(SEPARATED) and len(unit) > len(SEPARATED)):
        raise OptionError(f"`document` is {unit!r}: it must be one of {', '.join(UNITS)} or {SEPARATED}STR")


def normal(text: str) -> str:
    """The text with every line end as ``\\n``, and without byte order marks (files that were joined have some)."""
    if "\r" in text:
        text = LINE_END.sub("\n", text)
    return text.replace("\ufeff", "") if "\ufeff" in text else text


def split(texts: Iterable[str], unit: str) -> Iterator[str]:
    """The documents of a text that comes in pieces, with ``\\n`` as line ends. Blank ones are left out.

    Line breaks at the beginning and the end of a document are not part of it, those inside are.
    """
    if unit == "line":
        for text in texts:
            yield from (line for line in text.split("\n") if line and not line.isspace())
        return
    pattern = _BLANK_LINES if unit == "paragraph" else None
    if unit.startswith(SEPARATED):
        separator = unit.removeprefix(SEPARATED)
        for written, meant in _ESCAPES.items():
            separator = separator.replace(written, meant)
        pattern = re.compile(re.escape(separator))
    rest = ""
    for text in texts:
        rest += text
        if pattern is not None:
            *whole, rest = pattern.split(rest)
            yield from _stripped(whole)
        while len(rest) > MOST_CHARACTERS:
            yield from _stripped([rest[:MOST_CHARACTERS]])
            rest = rest[MOST_CHARACTERS:]
    yield from _stripped([rest])


def _stripped(pieces: Iterable[str]) -> Iterator[str]:
    for piece in pieces:
        if (document := piece.strip("\n")) and not document.isspace():
            yield document


def guess(samples: Sequence[str], *, files: int, mean_bytes: float) -> tuple[str, str]:
    """The unit that a text looks as if it has, and why, in words.

    Parameters
    ----------
    samples
        The beginnings of some of its files.
    files, mean_bytes
        Number of its files, and their mean size.
    """
    blocks = [block for text in samples for block in _BLANK_LINES.split(normal(text).strip("\n")) if block.strip()]
    lines = sum(block.count("\n") + 1 for block in blocks)
    mean = lines / max(1, len(blocks))
    why = f"blank lines separate blocks of {mean:.1f} lines on average"
    if len(blocks) < max(BLOCKS, 2 * len(samples)) or not LINES_OF_A_BLOCK <= mean <= MOST_LINES_OF_A_BLOCK:
        return "line", ""
    if files >= FILES and mean_bytes <= FILE_BYTES:
        return "file", f"{files:,} files, in which {why}"
    return "paragraph", why
