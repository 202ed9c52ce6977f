"""Tokenizers of an imported vocabulary: its tokens keep their ids, and no separator is added.

One class for each level: characters (longer tokens are matched first), byte-level BPE by a file of the `tokenizers`
library that is stored unchanged, and lists of tokens. Unlike with the tokenizers of `plain` and `bpe`, a document is
its tokens only, and every node can be generated, as in the released BriLLM code. A vocabulary with the separator
``<sep>`` was exported from a graph of sifu: its documents have separators. The module knows names and text; it does
not know checkpoints.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tokenizers
from sifu_store.errors import ForeignFileError

from sifu_graph.arrays import Ids, Ints
from sifu_graph.text.bpe import ALPHABET, BYTE_OF, name_of_bytes, no_surrogates
from sifu_graph.text.corpus import Document
from sifu_graph.text.tokenizer import PRINTED, SPECIAL, Decoder, Tokenizer
from sifu_graph.text.words import WordTokenizer, words_of_vocabulary

UNKNOWN_NAMES = ("<unk>", "[UNK]", "<UNK>")
SPACE = "Ġ"  # how byte-level BPE writes a space
MOST_LIBRARY_ID = 1 << 22
"""The ids of a tokenizer file are below it: a table has a place for each."""
_SPECIAL = re.compile(r"<[^<>\s]+>|\[[A-Z]+\]")


def is_special(name: str) -> bool:
    """Whether a token of a vocabulary file stands for no text: ``<unk>``, ``[PAD]``."""
    return _SPECIAL.fullmatch(name) is not None


def read_vocabulary(names: Sequence[str], *, level: str, library: dict[str, Any] | None = None) -> Tokenizer:
    """The tokenizer of a vocabulary file.

    Parameters
    ----------
    names
        The tokens, in the order of their ids.
    level
        ``char``, ``word``, ``bpe`` or ``tokens``.
    library
        For ``bpe`` and ``word``: the content of the tokenizer file.

    Raises
    ------
    ForeignFileError
        The tokenizer file is not byte-level BPE, or knows none of the tokens.
    """
    if level == "word":
        return words_of_vocabulary(names, library=library)
    unknown = next((names.index(name) for name in UNKNOWN_NAMES if name in names), None)
    separator = names.index(SPECIAL[1]) if SPECIAL[1] in names else None  # exported from a graph of sifu
    if level == "bpe":
        _check_library(library, names)
    own = {} if library is None else library["model"]["vocab"]
    added = [
        node
        for node, name in enumerate(names)
        if level != "tokens" and name not in own and len(name) > 1 and not is_special(name)
    ]
    return KINDS[level](names, added=added, unknown=unknown, separator=separator, library=library)


def level_of_library(library: dict[str, Any]) -> str:
    """The level that a tokenizer file is for: ``word`` if sifu exported it at that level, else ``bpe``."""
    model = library.get("model")
    return "word" if isinstance(model, dict) and model.get("type") == "WordLevel" else "bpe"


def _check_library(library: dict[str, Any] | None, names: Sequence[str]) -> None:
    """Raise `ForeignFileError` unless the content of a tokenizer file is byte-level BPE of the tokens `names`."""
    model = library.get("model") if isinstance(library, dict) else None
    if not isinstance(library, dict) or not isinstance(model, dict):
        raise ForeignFileError("not a file of the tokenizers library (no model in it); expected byte-level BPE")
    kind = model.get("type", "BPE" if "merges" in model else None)
    if kind != "BPE":
        raise ForeignFileError(f"its model is {kind}; sifu reads byte-level BPE")
    first = library.get("pre_tokenizer")
    steps = first.get("pretokenizers", [first]) if isinstance(first, dict) else []
    kinds = [step.get("type") for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []
    if "ByteLevel" not in kinds:
        found = " and ".join(map(str, kinds)) or "no pre-tokenizer"
        raise ForeignFileError(f"it is BPE with {found}; sifu reads byte-level BPE (the pre-tokenizer ByteLevel)")
    vocabulary = model.get("vocab")
    if not isinstance(vocabulary, dict) or not all(type(own) is int for own in vocabulary.values()):
        raise ForeignFileError("its model.vocab is not token -> id")
    if vocabulary and not 0 <= min(vocabulary.values()) <= max(vocabulary.values()) < MOST_LIBRARY_ID:
        raise ForeignFileError(f"its model.vocab has ids beyond 0 to {MOST_LIBRARY_ID - 1:,}")
    if vocabulary.keys().isdisjoint(names):
        raise ForeignFileError("none of its tokens is in the vocabulary: give the tokenizer file that belongs to it")


def _read_library(content: dict[str, Any]) -> Any:
    """The tokenizer of a tokenizer file."""
    try:
        found = tokenizers.Tokenizer.from_str(json.dumps(content))
        found.no_truncation()
        found.no_padding()
        vocabulary = found.get_vocab(with_added_tokens=True)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # the library raises Exception, and where it panics a class below BaseException
        raise ForeignFileError(f"the tokenizers library cannot read it: {error}") from error
    if max(vocabulary.values(), default=0) >= MOST_LIBRARY_ID:
        raise ForeignFileError(f"its added tokens have ids beyond 0 to {MOST_LIBRARY_ID - 1:,}")
    return found


class ImportedTokenizer(Tokenizer):
    """Base class of the tokenizers of an imported vocabulary.

    Parameters
    ----------
    nodes, added, aliases
        As in `Tokenizer`.
    unknown, separator
        Ids, or None. Text that is no node becomes ``unknown``; without an unknown node it is left out.
    library
        The content of the tokenizer file; None at other levels than ``bpe``.
    """

    def __init__(
        self,
        nodes: Sequence[str],
        *,
        added: Iterable[int] = (),
        aliases: Mapping[str, int] | None = None,
        unknown: int | None,
        separator: int | None,
        library: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(nodes, added=added, aliases=aliases)
        self.unknown, self.separator, self._library = unknown, separator, library

    @classmethod
    def _arguments(cls, record: Mapping[str, Any]) -> dict[str, Any]:
        return dict(record["imported"])

    @property
    def never_generated(self) -> list[int]:
        """Nodes that are never chosen.

        The unknown node if the vocabulary has a separator; else none, as in the released BriLLM code.
        """
        return [] if self.unknown is None or self.separator is None else [self.unknown]

    def to_json(self) -> dict[str, Any]:
        """The whole tokenizer as a JSON object, with the content of the tokenizer file."""
        imported = {"unknown": self.unknown, "separator": self.separator, "library": self._library}
        return {**super().to_json(), "imported": imported}

    def encode_document(self, document: Document) -> Ids:
        """The nodes of a document, int32 [tokens]; with separators only if the vocabulary has one."""
        ids = self.encode(document)
        if self.separator is None:
            return ids
        edge = np.array([self.separator], dtype=np.int32)
        return np.concatenate([edge, ids, edge])

    def encode_batch(self, documents: Sequence[Document]) -> tuple[Ids, Ints]:
        """The nodes of several documents, int32 [sum of lengths], and the length of each, int64 [len(documents)]."""
        parts = [self.encode_document(document) for document in documents]
        return np.concatenate([*parts, np.empty(0, np.int32)]), np.array([len(part) for part in parts], dtype=np.int64)

    def decoder(self) -> Decoder:
        """A `Decoder` with the names as text; at level ``tokens`` with a space between nodes."""
        pieces = [PRINTED[1] if node == self.separator else name for node, name in enumerate(self._nodes)]
        spaced = [self.level == "tokens" and node != self.separator for node in range(len(pieces))]
        return Decoder([piece.encode() for piece in pieces], before=spaced, after=spaced)

    def _known(self, ids: Ids) -> Ids:
        """The ids with -1 (text that is no node) replaced by the unknown node, or left out."""
        if self.unknown is None:
            return ids[ids >= 0]
        return np.where(ids >= 0, ids, self.unknown).astype(np.int32)


class ImportedChars(ImportedTokenizer):
    """One node per character; tokens of several characters are matched first, the longest first."""

    level = "char"

    def _find(self, text: str) -> Ids:
        find = self._ids_by_name.get
        line_break = -1 if self.separator is None else self.separator
        return np.fromiter(
            (find(character, line_break if character == "\n" else -1) for character in text), np.int32, len(text)
        )

    def _encode_plain(self, text: str) -> Ids:
        return self._known(self._find(text))

    def unknown_characters(self, document: Document) -> list[str]:
        """The distinct characters that are no node, in order of appearance."""
        text = document if isinstance(document, str) else "".join(document)
        if self._pattern is not None:
            text = "".join(plain for plain, _ in self._split(text))
        distinct = list(dict.fromkeys(text))
        return [character for character, node in zip(distinct, self._find("".join(distinct)), strict=True) if node < 0]


class ImportedTokens(ImportedTokenizer):
    """Documents are lists of tokens; a text is split at white space."""

    level = "tokens"

    def encode(self, document: Document) -> Ids:
        """The nodes of a list of tokens, or of a text split at white space, int32 [tokens]."""
        tokens = document.split() if isinstance(document, str) else document
        find = self._ids_by_name.get
        return self._known(np.fromiter((find(token, -1) for token in tokens), np.int32, len(tokens)))

    def _encode_plain(self, text: str) -> Ids:
        return self.encode(text)

    def unknown_characters(self, document: Document) -> list[str]:
        """The distinct tokens that are no node, in order of appearance."""
        tokens = document.split() if isinstance(document, str) else document
        return [token for token in dict.fromkeys(tokens) if token not in self._ids_by_name]


class ImportedBpe(ImportedTokenizer):
    """Byte-level BPE by a tokenizer file, with the file's normalisation and special tokens.

    Raises
    ------
    ForeignFileError
        The `tokenizers` library cannot read the file.
    """

    level = "bpe"

    def __init__(self, nodes: Sequence[str], **options: Any) -> None:
        super().__init__(nodes, **options)
        self._model = _read_library(self._library or {})
        node_of = {name: node for node, name in enumerate(nodes)}
        vocabulary = self._model.get_vocab(with_added_tokens=True)
        self._node_of = np.full(max(vocabulary.values(), default=-1) + 1, -1, dtype=np.int32)
        for name, own in vocabulary.items():
            self._node_of[own] = node_of.get(name, -1)
        written = set(self._added)
        self._pieces = [
            name.encode()
            if node in written or is_special(name) or any(character not in BYTE_OF for character in name)
            else bytes(BYTE_OF[character] for character in name)
            for node, name in enumerate(nodes)
        ]
        if self.separator is not None:
            self._pieces[self.separator] = PRINTED[1].encode()

    @property
    def vocabulary(self) -> list[str]:
        """The name of each node: its text, or ``<0xE6 0x98>`` for bytes that are not text."""
        plain = {*self._added, *(node for node, name in enumerate(self._nodes) if is_special(name))}
        taken = {self._nodes[node] for node in plain}
        return [
            name if node in plain else name_of_bytes(self._pieces[node], taken=taken)
            for node, name in enumerate(self._nodes)
        ]

    def _encode_plain(self, text: str) -> Ids:
        found = self._model.encode(no_surrogates(text), add_special_tokens=False).ids
        return self._known(self._node_of[np.array(found, dtype=np.int64)])

    def encode_batch(self, documents: Sequence[Document]) -> tuple[Ids, Ints]:
        """The nodes of several documents, int32 [sum of lengths], and the length of each, int64 [len(documents)].

        The `tokenizers` library encodes the documents in parallel, unless there are added nodes or separators.
        """
        if self._pattern is not None or self.separator is not None:
            return super().encode_batch(documents)
        texts = [no_surrogates(text if isinstance(text, str) else "".join(text)) for text in documents]
        encoded = self._model.encode_batch_fast(texts, add_special_tokens=False)
        parts = [self._known(self._node_of[np.array(found.ids, dtype=np.int64)]) for found in encoded]
        return np.concatenate([*parts, np.empty(0, np.int32)]), np.array([len(part) for part in parts], dtype=np.int64)

    def unknown_characters(self, document: Document) -> list[str]:
        """The distinct characters at which unknown pieces begin, in order of appearance."""
        text = document if isinstance(document, str) else "".join(document)
        if self._pattern is not None:
            text = "".join(plain for plain, _ in self._split(text))
        text = no_surrogates(text)
        found = self._model.encode(text, add_special_tokens=False)
        nodes = self._node_of[np.array(found.ids, dtype=np.int64)]
        missed = [begin for node, (begin, _) in zip(nodes, found.offsets, strict=True) if node in (-1, self.unknown)]
        return list(dict.fromkeys(text[begin] for begin in missed if begin < len(text)))

    def decoder(self) -> Decoder:
        """A `Decoder` with the bytes of each node."""
        return Decoder(self._pieces)


KINDS: dict[str, type[ImportedTokenizer]] = {"char": ImportedChars, "bpe": ImportedBpe, "tokens": ImportedTokens}
"""The class of each level."""


def library_file(tokenizer: Tokenizer) -> dict[str, Any] | None:
    """The tokenizer file of a graph at level ``bpe`` or ``word``, for the library `tokenizers`; None at others."""
    if isinstance(tokenizer, WordTokenizer):
        return tokenizer.library
    if tokenizer.level != "bpe":
        return None
    if isinstance(tokenizer, ImportedTokenizer):
        return tokenizer._library
    record = tokenizer.to_json()
    merges = [(left, right) for left, right in record["merges"]]
    tokens = dict.fromkeys([*ALPHABET, *(left + right for left, right in merges)])
    model = tokenizers.Tokenizer(tokenizers.models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    model.decoder = tokenizers.decoders.ByteLevel()
    written: dict[str, Any] = json.loads(model.to_str())
    return written
