"""One node per word, punctuation mark or symbol, with the rule by which spaces come back.

A word is a run of letters, digits, combining marks and ``_``, with apostrophes between letters (``don't``) and points
and commas between digits (``3.14``). A character of a script that is written without spaces (Chinese, Japanese, Thai)
is a word of its own. Text is in Unicode's composed form (NFC), and in lower case if that is asked for.

A space between two nodes is not stored where the rule of `asks_for_spaces` expects it: between two words, after a
comma, before an opening bracket. Where a text has other white space, each character of it is a node; where it has none
although the rule expects one, the node `JOIN` says so. So a text comes back exactly. A character that cannot be seen is
a node of its own and has a name like ``<U+00AD>``: no two nodes differ by it. The module knows text; it does not know
files or edges.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import tokenizers
from sifu_store.errors import CorpusError, ForeignFileError, OptionError

from sifu_graph.arrays import Ids, Ints
from sifu_graph.text.bpe import no_surrogates
from sifu_graph.text.corpus import Document, batched
from sifu_graph.text.tokenizer import PRINTED, SEPARATOR, SPECIAL, UNKNOWN, Decoder, Tokenizer, by_use, count_nodes

JOIN, SPACE = "<join>", " "
"""The node of a missing space, and that of a space that the rule does not expect."""
ALWAYS = (SPACE, JOIN)
"""Nodes that every tokenizer of words has."""
_IGNORABLE = "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef"
"""Marks, letters and symbols that cannot be seen."""
_TIGHT = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u312f\u31a0-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff01-\uffef"
    "\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
"""Scripts without spaces between words: Thai, Lao, Burmese, Khmer, Chinese and Japanese, with wide punctuation."""
_LETTER = rf"[\p{{L}}\p{{M}}\p{{N}}_&&[^{_TIGHT}{_IGNORABLE}]]"
_INSIDE = r"(?:(?<=\p{N})[.,](?=\p{N})|(?<=[\p{L}\p{M}])['’](?=\p{L}))"
_PIECE = tokenizers.Regex(
    rf"[\s\p{{Z}}\p{{C}}{_IGNORABLE}]|[{_TIGHT}][\p{{M}}&&[^{_IGNORABLE}]]*|{_LETTER}+(?:{_INSIDE}{_LETTER}+)*|."
)
_IS_IGNORABLE, _IS_TIGHT = re.compile(f"[{_IGNORABLE}]"), re.compile(f"[{_TIGHT}]")
_NAMED = re.compile(r"<U\+([0-9A-F]{4,6})>")
_SPACE_AFTER, _SPACE_BEFORE = frozenset(".,;:!?%…"), frozenset("#@¿¡")


class WordTokenizer(Tokenizer):
    """One node per word, punctuation mark or symbol.

    Parameters
    ----------
    nodes, added, aliases
        As in `Tokenizer`. Added nodes may have several words; they begin and end where words do.
    lowercase
        Upper-case letters are read as lower-case ones.
    """

    level = "word"

    def __init__(
        self,
        nodes: Sequence[str],
        *,
        added: Iterable[int] = (),
        aliases: Mapping[str, int] | None = None,
        lowercase: bool = False,
    ) -> None:
        super().__init__(nodes, added=added, aliases=aliases)
        self.lowercase = lowercase
        is_added = set(self._added)
        self._texts = [name if node in is_added else _text_of(name) for node, name in enumerate(nodes)]
        self._texts[: len(SPECIAL)] = PRINTED
        self._library = library_of({}, lowercase=lowercase)
        read = {_text_of(name): node for name, node in self._aliases.items()}
        read |= {text: node for node, text in enumerate(self._texts) if node >= len(SPECIAL) and text}
        pieces = {text: [piece for piece, _ in self._library.pre_tokenizer.pre_tokenize_str(text)] for text in read}
        own = {piece: index for index, piece in enumerate(dict.fromkeys(sum(pieces.values(), ["\n"])), start=1)}
        self._library = library_of(own, lowercase=lowercase)
        self._node_of = np.full(1 + len(own), UNKNOWN, dtype=np.int32)  # by the library's own id; 0: unknown
        self._node_of[own["\n"]] = SEPARATOR
        longer: dict[int, list[tuple[list[int], int]]] = {}
        for text, node in read.items():
            ids = [own[piece] for piece in pieces[text]]
            if len(ids) == 1:
                self._node_of[ids[0]] = node
            else:
                longer.setdefault(ids[0], []).append((ids, node))
        self._longer = {first: sorted(found, key=lambda each: -len(each[0])) for first, found in longer.items()}
        self._before, self._after = (np.array(each) for each in zip(*map(_edges, self._texts), strict=True))
        self._before[UNKNOWN] = self._after[UNKNOWN] = True  # most probably a word
        self._join, self._space = (self._ids_by_name.get(name, UNKNOWN) for name in (JOIN, SPACE))

    @classmethod
    def _arguments(cls, record: Mapping[str, Any]) -> dict[str, Any]:
        return {"lowercase": record["lowercase"]}

    def to_json(self) -> dict[str, Any]:
        """The whole tokenizer as a JSON object, with the setting of the case."""
        return {**super().to_json(), "lowercase": self.lowercase}

    def with_added(self, tokens: Iterable[str]) -> WordTokenizer:
        """A copy with more nodes of one word or several, in the form in which texts are read.

        Raises
        ------
        OptionError
            A token is empty, begins or ends with white space, or is a node already.
        """
        read = [self.normal(token) for token in tokens]
        for token in read:
            if token != token.strip():
                raise OptionError(f"{token!r} begins or ends with white space: a node of level word does not")
        return super().with_added(read)

    def renamed(self, node: int, name: str) -> WordTokenizer:
        """A copy with another name for one node, in the form in which texts are read."""
        return super().renamed(node, self.normal(name))

    def _require_ordinary(self, node: int, what: str) -> None:
        super()._require_ordinary(node, what)
        if self._nodes[node] in ALWAYS:
            raise OptionError(f"{self._nodes[node]!r} keeps the spaces of texts: it cannot be {what}")

    def token_id(self, token: str) -> int | None:
        """The id of the node of this name, in the form in which texts are read if there is none of it; or None."""
        node = super().token_id(token)
        return super().token_id(self.normal(token)) if node is None else node

    def normal(self, text: str) -> str:
        """A text in the form in which it is read: composed (NFC), and in lower case if that is asked for."""
        normal: str = self._library.normalizer.normalize_str(no_surrogates(text))
        return normal if text not in (*SPECIAL, JOIN) else text

    def encode(self, document: Document) -> Ids:
        """The nodes of a text, int32 [tokens], without separators. Text that is no node becomes node 0."""
        return self._read(np.array(self._found(document).ids, dtype=np.int32))[0]

    def _encode_plain(self, text: str) -> Ids:
        return self.encode(text)

    def encode_batch(self, documents: Sequence[Document]) -> tuple[Ids, Ints]:
        """The nodes of several documents, int32 [sum of lengths], and the length of each, int64 [len(documents)].

        The `tokenizers` library reads the documents in parallel.
        """
        texts = [no_surrogates(text if isinstance(text, str) else "".join(text)) for text in documents]
        edge = np.array([-1], dtype=np.int32)
        parts = [
            np.concatenate([edge, np.array(found.ids, dtype=np.int32), edge])
            for found in self._library.encode_batch_fast(texts)
        ]
        ids, source = self._read(np.concatenate([*parts, np.empty(0, np.int32)]))
        document = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        return ids, np.bincount(document[source], minlength=len(parts)).astype(np.int64)

    def unknown_characters(self, document: Document) -> list[str]:
        """The distinct words and characters that are no node, in order of appearance."""
        text = no_surrogates(document if isinstance(document, str) else "".join(document))
        found = self._found(text)
        ids, source = self._read(np.array(found.ids, dtype=np.int32))
        return list(dict.fromkeys(text[slice(*found.offsets[at])] for at in source[ids == UNKNOWN]))

    def _found(self, document: Document) -> Any:
        """What the library finds in a text: its own ids, and where they are."""
        return self._library.encode(no_surrogates(document if isinstance(document, str) else "".join(document)))

    def _read(self, own: Ids) -> tuple[Ids, Ints]:
        """The nodes of pieces, by the library's own ids, int32 [pieces], -1 at the edge of a document.

        Returns
        -------
        ids : int32 [nodes]
            Without the spaces that the rule expects, and with `JOIN` where it expects one that is missing.
        source : int64 [nodes]
            The piece that each is, or begins with, or follows.
        """
        nodes, source = np.where(own < 0, SEPARATOR, self._node_of[own]).astype(np.int32), np.arange(len(own))
        if self._longer:
            kept = np.ones(len(own), dtype=bool)
            pieces, end = own.tolist(), 0
            for at in np.flatnonzero(np.isin(own, list(self._longer))).tolist():
                match = next(
                    (each for each in self._longer[pieces[at]] if pieces[at : at + len(each[0])] == each[0]), None
                )
                if match is not None and at >= end:
                    nodes[at], end = match[1], at + len(match[0])
                    kept[at + 1 : end] = False
            nodes, source = nodes[kept], source[kept]
        before, after = self._before[nodes], self._after[nodes]
        expected = np.zeros(len(nodes), dtype=bool)
        expected[1:-1] = (nodes[1:-1] == self._space) & after[:-2] & before[2:]
        joined = 1 + np.flatnonzero(after[:-1] & before[1:])
        kept = np.insert(~expected, joined, values=True)
        return np.insert(nodes, joined, self._join)[kept], np.insert(source, joined, source[joined - 1])[kept]

    def decoder(self) -> Decoder:
        """A `Decoder` that writes the spaces which the rule expects."""
        return Decoder([text.encode() for text in self._texts], before=self._before, after=self._after)

    @cached_property
    def library(self) -> dict[str, Any]:
        """The words as a file of the `tokenizers` library, without nodes of several words and the rule of spaces."""
        single = {text: node for node, text in enumerate(self._texts) if node >= len(SPECIAL) and text}
        written: dict[str, Any] = json.loads(library_of(single, lowercase=self.lowercase).to_str())
        return written


def library_of(vocabulary: dict[str, int], *, lowercase: bool) -> Any:
    """A tokenizer of the `tokenizers` library for a vocabulary piece -> id; id 0 is that of unknown pieces."""
    library = tokenizers.Tokenizer(tokenizers.models.WordLevel({SPECIAL[0]: 0, **vocabulary}, unk_token=SPECIAL[0]))
    forms = [tokenizers.normalizers.Lowercase()] if lowercase else []
    library.normalizer = tokenizers.normalizers.Sequence([*forms, tokenizers.normalizers.NFC()])
    library.pre_tokenizer = tokenizers.pre_tokenizers.Split(_PIECE, "isolated")
    return library


def _edges(text: str) -> tuple[bool, bool]:
    """Whether the rule expects a space before a node, if the one before it asks for one too, and after it."""
    return (asks_for_spaces(text[0])[0], asks_for_spaces(text[-1])[1]) if text else (False, False)


def asks_for_spaces(character: str) -> tuple[bool, bool]:
    """Whether a character of a node asks for a space before it, and after it.

    There is a space between two nodes if the first asks for one after it and the second for one before it: words ask
    for both, closing marks (``, . )``) for one after them, opening marks (``( #``) for one before them. Other symbols,
    white space and scripts without spaces ask for none.
    """
    kind = unicodedata.category(character)
    if _unseen(character) or _IS_TIGHT.match(character):
        return False, False
    if kind[0] in "LMN" or character == "_":
        return True, True
    return (
        kind in ("Ps", "Pi", "Sc") or character in _SPACE_BEFORE,
        kind in ("Pe", "Pf") or character in _SPACE_AFTER,
    )


def _unseen(piece: str) -> bool:
    """Whether a piece is one character that cannot be seen."""
    if len(piece) != 1:
        return False
    return piece.isspace() or unicodedata.category(piece)[0] in "CZ" or _IS_IGNORABLE.match(piece) is not None


def _name_of(piece: str) -> str:
    """The name of the node of a piece: ``<U+00AD>`` for one that cannot be seen, but a space for a space."""
    return f"<U+{ord(piece):04X}>" if _unseen(piece) and piece != SPACE else piece


def _text_of(name: str) -> str:
    """The text of the node of a name: the inverse of `_name_of`; none of `JOIN`."""
    named = _NAMED.fullmatch(name)
    if named is not None and int(named[1], 16) < 0x110000:
        return chr(int(named[1], 16))
    return "" if name == JOIN else name


def train_words(documents: Iterable[Document], *, vocab: int, lowercase: bool) -> WordTokenizer:
    """Choose the most frequent words of documents, which are read twice. Nodes are ordered by how often they are used.

    Parameters
    ----------
    documents
        An iterable that can be read twice (a list, `Corpus.training(...)`).
    vocab
        Number of nodes, the special ones, `SPACE` and `JOIN` included.
    lowercase
        Read upper-case letters as lower-case ones.

    Raises
    ------
    CorpusError
        There is no document.
    TypeError
        ``documents`` is an iterator.
    """
    if iter(documents) is documents:
        raise TypeError("level word reads the documents twice; give a list or Corpus.training(...)")
    library = library_of({}, lowercase=lowercase)
    limit = vocab - len(SPECIAL) - len(ALWAYS)
    trainer = tokenizers.trainers.WordLevelTrainer(vocab_size=limit + 1, show_progress=False)  # a space may be one
    library.train_from_iterator(
        ([no_surrogates("".join(document)) for document in batch] for batch in batched(documents)), trainer
    )
    found: dict[str, int] = library.get_vocab()
    found.pop(SPACE, None)
    learned = sorted(found, key=lambda piece: found[piece])[:limit]
    if not learned:
        raise CorpusError("there is no document to choose nodes from; expected at least one")
    nodes = [*SPECIAL, *sorted([*map(_name_of, learned), *ALWAYS])]
    unordered = WordTokenizer(nodes, lowercase=lowercase)
    return WordTokenizer([nodes[node] for node in by_use(count_nodes(unordered, documents))], lowercase=lowercase)


def words_of_vocabulary(names: Sequence[str], *, library: dict[str, Any] | None) -> WordTokenizer:
    """The tokenizer of a vocabulary that was exported from a graph of this level.

    Parameters
    ----------
    names
        The names of the nodes, in the order of their ids.
    library
        The content of the tokenizer file that was exported with it, which says whether the words are in lower case.

    Raises
    ------
    ForeignFileError
        The vocabulary is not one of a graph of this level.
    """
    if tuple(names[: len(SPECIAL)]) != SPECIAL or not {*ALWAYS} <= {*names}:
        raise ForeignFileError(f"level word reads a vocabulary that sifu exported: {', '.join(SPECIAL)} first, {JOIN}")
    lowercase = '"Lowercase"' in json.dumps((library or {}).get("normalizer"))
    plain = library_of({}, lowercase=lowercase).pre_tokenizer
    added = [
        node
        for node, name in enumerate(names)
        if node >= len(SPECIAL) and name != JOIN and len(plain.pre_tokenize_str(_text_of(name))) > 1
    ]
    return WordTokenizer(names, added=added, lowercase=lowercase)
