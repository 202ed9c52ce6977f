"""Text to nodes and nodes to text: the base class of the tokenizers in `plain`, `words`, `bpe` and `imported`.

Node 0 is `<unk>` (text that is no node), node 1 is `<sep>` (start and end of a document; prints as a line break).
All other nodes are ordered by how often the training text uses them, ties by the token. Nodes added later
(`with_added`) are matched longest first, before the level's own rule; so is the text of nodes that were renamed or
merged into another. The module does not know files or edges.
"""

from __future__ import annotations

import codecs
import difflib
import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from sifu_store.errors import OptionError

from sifu_graph.arrays import Bools, Ids, Ints
from sifu_graph.text.corpus import Document, batched

UNKNOWN = 0
SEPARATOR = 1
SPECIAL = ("<unk>", "<sep>")
PRINTED = ("\ufffd", "\n")  # what the special nodes decode to
LEVELS = ("char", "word", "bpe", "tokens")
FORMAT = 1
Encoder = Callable[[Sequence[Document]], tuple[Ids, Ints]]
"""Encodes batches of documents, as `Tokenizer.encode_batch`."""
SURROGATE = re.compile("[\ud800-\udfff]")


def level_meant(level: str) -> str | None:
    """The level that is meant by a word that is none; None: it is not near to one."""
    word = level.lower()
    if any(part in word for part in ("piece", "byte", "sub")):
        return "bpe"
    inside = [each for each in LEVELS if each in word or (word and word in each)]
    return next(iter(inside or difflib.get_close_matches(word, LEVELS, n=1)), None)


def require_level(level: str, *, lowercase: bool = False) -> None:
    """Raise `OptionError` for a level that is not one of `LEVELS`, or one at which ``lowercase`` has no meaning."""
    if level not in LEVELS:
        meant = level_meant(level)
        asked = f"; did you mean {meant}?" if meant else ""
        raise OptionError(f"`level` is {level!r}: there are {', '.join(LEVELS)}{asked}")
    if lowercase and level != "word":
        raise OptionError(f"`lowercase` goes with level word, not {level}")


class Tokenizer(ABC):
    """Text to nodes and back. Immutable; made by the functions of `registry`.

    Parameters
    ----------
    nodes
        The text of each node, in the order of the ids, the two special nodes first.
    added
        Ids of the nodes that are matched longest first, before the level's own rule.
    aliases
        Node by text: the names of nodes that were merged into it.
    """

    level: ClassVar[str]
    unknown: int | None = UNKNOWN
    """The node of text that is no node; None: such text is left out."""
    separator: int | None = SEPARATOR
    """The node at the start and the end of a document; None: there is none."""

    def __init__(
        self, nodes: Sequence[str], *, added: Iterable[int] = (), aliases: Mapping[str, int] | None = None
    ) -> None:
        self._nodes = list(nodes)
        self._added = sorted(added)
        self._aliases = dict(aliases or {})

    # ---- changed copies

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """The tokenizer of this kind that a record describes: the inverse of `to_json`."""
        return cls(record["nodes"], added=record["added"], aliases=record.get("aliases"), **cls._arguments(record))

    @classmethod
    def _arguments(cls, record: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of this kind's constructor besides nodes, added nodes and aliases."""
        return {}

    def with_added(self, tokens: Iterable[str]) -> Self:
        """A copy with more nodes, which take the next ids and are matched longest first.

        Raises
        ------
        OptionError
            A token is empty or is a node already.
        """
        known = set(self.vocabulary)
        fresh: list[str] = []
        for token in tokens:
            if not token or SURROGATE.search(token):
                raise OptionError(f"{token!r} cannot be a node: expected at least one character of text")
            if token in known:
                raise OptionError(f"{token!r} is a node already")
            known.add(token)
            fresh.append(token)
        record = self.to_json()
        record["added"] = [*self._added, *range(len(self), len(self) + len(fresh))]
        record["nodes"] = [*self._nodes, *fresh]
        record["aliases"] = {name: node for name, node in self._aliases.items() if name not in known}
        return self.from_record(record)

    def renamed(self, node: int, name: str) -> Self:
        """A copy with another name for one node: the new name is read as the node, the old one is not.

        Raises
        ------
        OptionError
            The name is empty, is a node already, or the node is a special one.
        """
        self._require_ordinary(node, "renamed")
        rest = self.with_added([name]).to_json()  # checks the name
        rest["nodes"] = [*self._nodes[:node], name, *self._nodes[node + 1 :]]
        rest["added"] = sorted({*self._added, node})
        return self.from_record(rest)

    def without(self, nodes: Iterable[int]) -> Self:
        """A copy with fewer nodes. The ids after a removed node move up; the text of removed nodes is unknown.

        Raises
        ------
        OptionError
            One of them is a special node.
        """
        gone = set(nodes)
        for node in gone:
            self._require_ordinary(node, "removed")
        kept = [node for node in range(len(self)) if node not in gone]
        place = {node: at for at, node in enumerate(kept)}
        record = self.to_json()
        record["nodes"] = [self._nodes[node] for node in kept]
        record["added"] = [place[node] for node in self._added if node in place]
        for key in ("aliases", "learned_aliases"):
            if key in record:
                record[key] = {name: place[node] for name, node in record[key].items() if node in place}
        return self.from_record(record)

    def merged(self, node: int, into: int) -> Self:
        """A copy without one node, whose text is read as another node.

        Raises
        ------
        OptionError
            One of them is a special node, or both are the same.
        """
        if node == into:
            raise OptionError(f"{self.vocabulary[node]!r} cannot be merged into itself: name another node")
        self._require_ordinary(node, "merged")
        self._require_ordinary(into, "merged into")
        record = self.to_json()
        for key in ("aliases", "learned_aliases"):  # of nodes that were merged into it before
            if key in record:
                record[key] = {name: into if old == node else old for name, old in record[key].items()}
        key = "aliases" if self.level != "bpe" or node in self._added else "learned_aliases"
        record.setdefault(key, {})[self._nodes[node]] = into
        return self.from_record(record).without([node])

    def _require_ordinary(self, node: int, what: str) -> None:
        if node < len(SPECIAL):
            raise OptionError(f"{SPECIAL[node]} is a special node: it cannot be {what}")

    def require_readable(self, node: int) -> None:
        """Raise `OptionError` for a node that no text encodes to."""
        name = self._nodes[node]
        broken = "\n" in name or "\r" in name
        if broken or self.encode(name).tolist() != [node]:
            why = "one line is one document" if broken else "white space separates tokens"
            raise OptionError(f"{name!r} can never be read from a text ({why}): choose another token")

    # ---- properties

    def __len__(self) -> int:
        return len(self._nodes)

    @property
    def vocabulary(self) -> list[str]:
        """The name of each node, all different. Bytes that are not text have a name like ``<0xE6 0x98>``."""
        return list(self._nodes)

    @property
    def added(self) -> list[str]:
        """The nodes that are matched longest first, before the level's own rule."""
        return [self._nodes[node] for node in self._added]

    @property
    def never_generated(self) -> list[int]:
        """Nodes that stand for no text."""
        return [] if self.unknown is None else [self.unknown]

    @property
    def raw(self) -> list[str]:
        """The text of each node as in a vocabulary file (level `bpe`: bytes as printable characters)."""
        return list(self._nodes)

    def token_id(self, token: str) -> int | None:
        """The id of the node of this name, or None."""
        return self._ids_by_name.get(token)

    @cached_property
    def _ids_by_name(self) -> dict[str, int]:
        return {name: node for node, name in enumerate(self.vocabulary)}

    def normal(self, text: str) -> str:
        """A text in the form in which it is read."""
        return text

    def to_json(self) -> dict[str, Any]:
        """The whole tokenizer as a JSON object; `registry.read_tokenizer` reads it."""
        record = {"format": FORMAT, "level": self.level, "nodes": self._nodes, "added": self._added}
        return {**record, "aliases": self._aliases} if self._aliases else record

    @cached_property
    def fingerprint(self) -> str:
        """A hash (hex) of everything that the encoding depends on."""
        text = json.dumps(self.to_json(), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def character_counts(self) -> Ints | None:
        """Characters in the text of each node, int64 [n]; None at level `tokens`, where documents are not text.

        A character whose bytes are in several nodes counts for the node of its first byte.
        """
        if self.level == "tokens":
            return None
        return np.array([sum(byte & 0xC0 != 0x80 for byte in piece) for piece in self.decoder().pieces])

    # ---- text -> nodes

    def encode(self, document: Document) -> Ids:
        """The nodes of a text, int32 [tokens], without separators. Text that is no node becomes node 0."""
        if not isinstance(document, str):
            document = "".join(document)
        if self._pattern is None or self._pattern.search(document) is None:
            return self._encode_plain(document)
        parts: list[Ids] = []
        for plain, match in self._split(document):
            if plain:
                parts.append(self._encode_plain(plain))
            if match is not None:
                parts.append(np.array([match], dtype=np.int32))
        return np.concatenate(parts)

    def encode_document(self, document: Document) -> Ids:
        """The nodes of a document, int32 [tokens + 2]: a separator, its tokens, a separator."""
        edge = np.array([SEPARATOR], dtype=np.int32)
        return np.concatenate([edge, self.encode(document), edge])

    def encode_batch(self, documents: Sequence[Document]) -> tuple[Ids, Ints]:
        """The nodes of several documents, as `encode_document` gives them, but faster.

        Returns
        -------
        ids : int32 [sum of lengths]
            The documents one after another, separators included.
        lengths : int64 [len(documents)]
            The number of nodes of each.
        """
        parts = [self.encode(document) for document in documents]
        return framed(np.concatenate([*parts, np.empty(0, np.int32)]), [len(part) for part in parts])

    def encoder(self) -> Encoder:
        """`encode_batch` for all batches of one corpus; what it remembers between them is freed with it."""
        return self.encode_batch

    def unknown_characters(self, document: Document) -> list[str]:
        """The distinct characters (at level `tokens`: tokens) that are no node, in order of appearance."""
        return []

    @abstractmethod
    def _encode_plain(self, text: str) -> Ids: ...

    @cached_property
    def _matched(self) -> dict[str, int]:
        """Node by name, for the names that are matched longest first."""
        return {**self._aliases, **{self._nodes[node]: node for node in self._added}}

    @cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        longest_first = sorted(self._matched, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def _split(self, text: str) -> Iterable[tuple[str, int | None]]:
        """Pairs (text before, added node), the last with None: the matches from left to right."""
        assert self._pattern is not None
        start = 0
        for match in self._pattern.finditer(text):
            yield text[start : match.start()], self._matched[match.group()]
            start = match.end()
        yield text[start:], None

    # ---- nodes -> text

    def decode(self, ids: Iterable[int] | Ids) -> str:
        """The text of nodes [tokens]: separators as line breaks, node 0 and broken bytes as U+FFFD."""
        decoder = self.decoder()
        return "".join([decoder.push(int(node)) for node in ids]) + decoder.flush()

    def decoder(self) -> Decoder:
        """A `Decoder` for a sequence of nodes."""
        return Decoder([(PRINTED[node] if node < 2 else name).encode() for node, name in enumerate(self._nodes)])


class Decoder:
    """Decodes nodes one at a time into complete characters.

    Parameters
    ----------
    pieces
        The UTF-8 bytes of each node.
    before, after
        Whether each node asks for a space before it, and after it; None: no node does. A space is between two nodes
        if the first asks for one after it and the second for one before it.
    """

    def __init__(
        self,
        pieces: list[bytes],
        *,
        before: Sequence[bool] | Bools | None = None,
        after: Sequence[bool] | Bools | None = None,
    ) -> None:
        self.pieces = pieces
        none = [False] * len(pieces)
        self._before = none if before is None else before
        self._after = none if after is None else after
        self._asked = False  # for a space by the last node
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, node: int) -> str:
        """The characters that one more node completes; empty while a character lacks bytes."""
        gap = " " if self._asked and self._before[node] else ""
        self._asked = bool(self._after[node])
        return gap + self._utf8.decode(self.pieces[node])

    def flush(self) -> str:
        """The rest at the end: U+FFFD for bytes of an incomplete character."""
        return self._utf8.decode(b"", final=True)


# ---- arrays of nodes


def count_nodes(tokenizer: Tokenizer, documents: Iterable[Document]) -> Ints:
    """How often documents use each node, int64 [n]."""
    encode, counts = tokenizer.encoder(), np.zeros(len(tokenizer), dtype=np.int64)
    for batch in batched(documents):
        counts += np.bincount(encode(batch)[0], minlength=len(tokenizer))
    return counts


def by_use(counts: Ints) -> Ints:
    """The special nodes, then all others by how often they are used, ties by the id, int64 [n]."""
    order = np.argsort(-counts[len(SPECIAL) :], kind="stable")
    return np.concatenate([np.arange(len(SPECIAL)), len(SPECIAL) + order])


def framed(ids: Ids, lengths: list[int]) -> tuple[Ids, Ints]:
    """Puts a separator before and after each document.

    Parameters
    ----------
    ids
        int32 [tokens], the documents one after another.
    lengths
        The number of nodes of each document.

    Returns
    -------
    ids : int32 [tokens + 2 * documents]
        With separators.
    lengths : int64 [documents]
        The numbers of nodes with separators.
    """
    framed_lengths = np.array(lengths, dtype=np.int64) + 2
    ends = np.cumsum(framed_lengths)
    out = np.empty(len(ids) + 2 * len(lengths), dtype=np.int32)
    inner = np.ones(len(out), dtype=bool)
    inner[ends - 1] = inner[ends - framed_lengths] = False
    out[inner] = ids
    out[~inner] = SEPARATOR
    return out, framed_lengths
