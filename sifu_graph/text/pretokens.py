"""Pre-tokens of byte-level BPE: where the pattern of GPT-2 cuts a text before any merge.

A text is cut here only where that pattern cuts it in every version of Unicode, so that what is left whole is for the
`tokenizers` library to cut. It knows text; it does not know merges, nodes or that library.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

from sifu_graph.arrays import Ids, Ints, ranges

MOST_CHARACTERS = 1 << 22
"""Of distinct pre-tokens that are kept; some 600,000 of English, which take 100 MB."""

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


class PretokenCounts:
    """How often each pre-token occurs in the texts that were added.

    Attributes
    ----------
    counts
        By pre-token; None: there are too many (`MOST_CHARACTERS`), and nothing is counted any more.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] | None = Counter()
        self._characters = 0

    def add(self, texts: Iterable[str]) -> None:
        """Count the pre-tokens of some texts."""
        for text in texts:
            if self.counts is None:
                return
            known = len(self.counts)
            self.counts.update(pretokens(text))
            self._characters += sum(map(len, islice(reversed(self.counts), len(self.counts) - known)))
            if self._characters > MOST_CHARACTERS:
                self.counts = None


class PretokenEncoder:
    """Encodes batches of texts; each distinct pre-token once, unless there are more than `MOST_CHARACTERS` of them.

    Parameters
    ----------
    encode
        The ids of each of some pre-tokens.
    """

    def __init__(self, encode: Callable[[Sequence[str]], Sequence[Sequence[int]]]) -> None:
        self._encode = encode
        self._forget()

    def _forget(self) -> None:
        self._numbers: dict[str, int] = {}  # pre-token -> its number, in the order of the first occurrences
        self._characters = 0
        self._ids = np.empty(0, np.int32)  # of all pre-tokens, one after another
        self._lengths = np.empty(0, np.int64)

    def __call__(self, texts: Iterable[str]) -> tuple[Ids, Ints]:
        """Encode some texts.

        Returns
        -------
        ids : int32 [sum of lengths]
            The texts one after another.
        lengths : int64 [texts]
            The number of ids of each.
        """
        if self._characters > MOST_CHARACTERS:
            self._forget()
        numbers, found, sizes = self._numbers, list[int](), list[int]()
        known = len(numbers)
        for text in texts:
            parts = pretokens(text)
            found += [numbers.setdefault(part, len(numbers)) for part in parts]
            sizes.append(len(parts))
        self._learn(list(islice(numbers, known, None)))
        first = np.cumsum(self._lengths) - self._lengths
        parts_of = np.array(found, dtype=np.int64)
        lengths = self._lengths[parts_of]
        ends = np.concatenate([[0], np.cumsum(lengths)])  # of every pre-token, in ids
        of_texts = np.diff(ends[np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])])
        return self._ids[ranges(first[parts_of], lengths)], of_texts

    def _learn(self, new: list[str]) -> None:
        encoded = [np.array(ids, dtype=np.int32) for ids in self._encode(new)]
        self._ids = np.concatenate([self._ids, *encoded])
        self._lengths = np.concatenate([self._lengths, np.array([len(ids) for ids in encoded], dtype=np.int64)])
        self._characters += sum(map(len, new))
