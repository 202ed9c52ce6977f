"""Tokenizers without a learned model: one node per character, or one node per token of a list.

They know the counts of characters and tokens; they do not know files or edges.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from sifu_store.errors import CorpusError

from sifu_graph.arrays import Ids, Ints
from sifu_graph.text.corpus import Document, batched
from sifu_graph.text.tokenizer import PRINTED, SEPARATOR, SPECIAL, UNKNOWN, Decoder, Tokenizer, framed

_CODES = 0x110000  # Unicode code points


class CharTokenizer(Tokenizer):
    """One node per Unicode character. A line break that is no node of its own is the separator."""

    level = "char"

    @cached_property
    def _table(self) -> Ids:
        """Code point -> node, [1,114,112]; added nodes of one character are found here as well."""
        table = np.zeros(_CODES, dtype=np.int32)
        table[ord("\n")] = SEPARATOR
        for name, node in self._aliases.items():
            if len(name) == 1:
                table[ord(name)] = node
        for node, name in enumerate(self._nodes):
            if node >= len(SPECIAL) and len(name) == 1:
                table[ord(name)] = node
        return table

    @cached_property
    def _matched(self) -> dict[str, int]:
        """Names of several characters only; those of one character are found in the table, which is faster."""
        every = {**self._aliases, **{self._nodes[node]: node for node in self._added}}
        return {name: node for name, node in every.items() if len(name) > 1}

    def _encode_plain(self, text: str) -> Ids:
        return self._table[_codes(text)]

    def encode_batch(self, documents: Sequence[Document]) -> tuple[Ids, Ints]:
        """The nodes of several documents, int32 [sum of lengths], and the length of each, int64 [len(documents)].

        The documents are encoded in one table look-up, unless a node has several characters.
        """
        if self._pattern is not None:
            return super().encode_batch(documents)
        texts = [document if isinstance(document, str) else "".join(document) for document in documents]
        return framed(self._encode_plain("".join(texts)), [len(text) for text in texts])

    def unknown_characters(self, document: Document) -> list[str]:
        """The distinct characters that are no node, in order of appearance."""
        text = document if isinstance(document, str) else "".join(document)
        if self._pattern is not None:
            text = "".join(plain for plain, _ in self._split(text))
        return [character for character in dict.fromkeys(text) if self._table[ord(character)] == UNKNOWN]


def _codes(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def frequent_characters(documents: Iterable[Document], *, limit: int) -> list[str]:
    """The special nodes and the `limit` most frequent characters, ties by code point.

    Raises
    ------
    CorpusError
        There is no character.
    """
    counts = np.zeros(_CODES, dtype=np.int64)
    for batch in batched(documents):
        block = np.bincount(_codes("".join(["".join(document) for document in batch])))
        counts[: len(block)] += block
    found = np.flatnonzero(counts)
    if len(found) == 0:
        raise CorpusError("there is no document to choose nodes from; expected at least one")
    order = np.lexsort((found, -counts[found]))[:limit]
    return [*SPECIAL, *map(chr, found[order])]


class ListTokenizer(Tokenizer):
    """Documents are lists of tokens; a text is split at white space.

    `<unk>` and `<sep>` in a list mean the special nodes.
    """

    level = "tokens"

    def encode(self, document: Document) -> Ids:
        """The nodes of a list of tokens, or of a text split at white space, int32 [tokens].

        Unknown tokens become node 0.
        """
        tokens = document.split() if isinstance(document, str) else document
        find = {**self._aliases, **self._ids_by_name}.get if self._aliases else self._ids_by_name.get
        return np.fromiter((find(token, UNKNOWN) for token in tokens), dtype=np.int32, count=len(tokens))

    def _encode_plain(self, text: str) -> Ids:
        return self.encode(text)

    def unknown_characters(self, document: Document) -> list[str]:
        """The distinct tokens that are no node, in order of appearance."""
        tokens = document.split() if isinstance(document, str) else document
        known = {*self._ids_by_name, *self._aliases}
        return [token for token in dict.fromkeys(tokens) if token not in known]

    def decoder(self) -> Decoder:
        """A `Decoder` that writes a space between tokens."""
        pieces = [SPECIAL[0].encode(), PRINTED[1].encode(), *(name.encode() for name in self._nodes[2:])]
        spaced = [node != SEPARATOR for node in range(len(pieces))]
        return Decoder(pieces, before=spaced, after=spaced)


def frequent_tokens(documents: Iterable[Document], *, limit: int) -> list[str]:
    """The special nodes and the `limit` most frequent tokens, ties by the token.

    Raises
    ------
    CorpusError
        There is no token.
    """
    counts: Counter[str] = Counter()
    for document in documents:
        counts.update(document.split() if isinstance(document, str) else document)
    if not counts:
        raise CorpusError("there is no document to choose nodes from; expected at least one")
    for name in SPECIAL:
        counts.pop(name, None)
    return [*SPECIAL, *sorted(counts, key=lambda token: (-counts[token], token))[:limit]]
