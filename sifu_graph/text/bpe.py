"""Byte-level BPE with the `tokenizers` library: every text has nodes, which decode to exactly that text.

It knows bytes, merges and that library; it does not know files or edges.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import tokenizers
from sifu_store.errors import CorpusError

from sifu_graph.arrays import Ids, Ints
from sifu_graph.progress import SILENT, Stages
from sifu_graph.text.corpus import Document, batched
from sifu_graph.text.pretokens import PretokenCounts, PretokenEncoder
from sifu_graph.text.tokenizer import (
    PRINTED,
    SPECIAL,
    SURROGATE,
    UNKNOWN,
    Decoder,
    Encoder,
    Tokenizer,
    by_use,
    count_nodes,
    framed,
)


def _byte_alphabet() -> list[str]:
    """The printable character that stands for each byte in the `tokenizers` library (GPT-2's choice)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


ALPHABET = _byte_alphabet()
BYTE_OF = {character: byte for byte, character in enumerate(ALPHABET)}


class BpeTokenizer(Tokenizer):
    """Byte-level BPE. Every text has nodes, which decode to exactly that text.

    Parameters
    ----------
    nodes, added, aliases
        As in `Tokenizer`. Learned nodes are pieces of bytes, each byte as its printable character (`ALPHABET`).
    merges
        The pairs that were learned, in order.
    learned_aliases
        Node by piece: the pieces of learned nodes that were merged into other nodes.
    """

    level = "bpe"

    def __init__(
        self,
        nodes: Sequence[str],
        *,
        added: Iterable[int] = (),
        aliases: Mapping[str, int] | None = None,
        merges: Sequence[tuple[str, str]],
        learned_aliases: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(nodes, added=added, aliases=aliases)
        self._merges = list(merges)
        self._learned_aliases = dict(learned_aliases or {})
        is_added = set(self._added)
        # the library's own ids: the bytes, then the merges in order; a node may be missing (it was removed)
        own = dict.fromkeys([*ALPHABET, *(left + right for left, right in self._merges)])
        vocabulary = {token: index for index, token in enumerate(own)}
        self._model = _byte_level(tokenizers.models.BPE(vocabulary, self._merges))
        learned = {name: node for node, name in enumerate(nodes) if node > 1 and node not in is_added}
        learned = {**self._learned_aliases, **learned}
        self._node_of = np.array([learned.get(token, UNKNOWN) for token in vocabulary], dtype=np.int32)
        self._pieces = [text.encode() for text in PRINTED]
        for node, name in enumerate(self._nodes[2:], start=2):
            self._pieces.append(
                name.encode() if node in is_added else bytes([BYTE_OF[character] for character in name])
            )

    @classmethod
    def _arguments(cls, record: Mapping[str, Any]) -> dict[str, Any]:
        merges = [(left, right) for left, right in record["merges"]]
        return {"merges": merges, "learned_aliases": record.get("learned_aliases")}

    @cached_property
    def _names(self) -> list[str]:
        is_added = set(self._added)
        taken = {*SPECIAL, *(self._nodes[node] for node in self._added)}
        return [
            name if node < 2 or node in is_added else name_of_bytes(self._pieces[node], taken=taken)
            for node, name in enumerate(self._nodes)
        ]

    @property
    def vocabulary(self) -> list[str]:
        """The name of each node: its text, or ``<0xE6 0x98>`` for bytes that are not text."""
        return list(self._names)

    def to_json(self) -> dict[str, Any]:
        """The whole tokenizer as a JSON object, with its merges."""
        record = {**super().to_json(), "merges": [list(pair) for pair in self._merges]}
        return {**record, "learned_aliases": self._learned_aliases} if self._learned_aliases else record

    def _encode_plain(self, text: str) -> Ids:
        found: list[int] = self._model.encode(no_surrogates(text)).ids
        return self._node_of[np.array(found, dtype=np.int32)]

    def encode_batch(self, documents: Sequence[Document]) -> tuple[Ids, Ints]:
        """The nodes of several documents, int32 [sum of lengths], and the length of each, int64 [len(documents)]."""
        return self.encoder()(documents)

    def encoder(self) -> Encoder:
        """Encodes batches; unless there are added nodes, each distinct pre-token once.

        They are about a tenth of all pre-tokens, and most of the work.
        """
        if self._pattern is not None:
            return super().encode_batch
        pieces = PretokenEncoder(self._library_ids)

        def encode(documents: Sequence[Document]) -> tuple[Ids, Ints]:
            texts = (no_surrogates(text if isinstance(text, str) else "".join(text)) for text in documents)
            ids, lengths = pieces(texts)
            return framed(self._node_of[ids], lengths.tolist())

        return encode

    def _library_ids(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoded.ids for encoded in self._model.encode_batch_fast(list(texts))]

    def node_counts(self, counts: Mapping[str, int]) -> Ints:
        """How often texts use each node, int64 [n], from how often each of their pre-tokens occurs."""
        encoded = self._library_ids(list(counts))
        times = np.repeat(np.array(list(counts.values()), np.float64), [len(ids) for ids in encoded])
        nodes = self._node_of[[node for ids in encoded for node in ids]]
        return np.bincount(nodes, times, minlength=len(self)).astype(np.int64)

    def decoder(self) -> Decoder:
        """A `Decoder` with the bytes of each node."""
        return Decoder(self._pieces)


def _byte_level(model: Any) -> Any:
    library = tokenizers.Tokenizer(model)
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return library


def no_surrogates(text: str) -> str:
    """The text with U+FFFD for each half of a surrogate pair, which has no bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return SURROGATE.sub("\ufffd", text)
    return text


def name_of_bytes(piece: bytes, *, taken: set[str]) -> str:
    """The bytes as text, or as ``<0xE6 0x98>`` if they are no text or another node could have that name."""
    try:
        text = piece.decode()
    except UnicodeDecodeError:
        text = ""
    if not text or text in taken or text.startswith("<0x"):
        return "<" + " ".join(f"0x{byte:02X}" for byte in piece) + ">"
    return text


def train_bpe(documents: Iterable[Document], *, vocab: int, stages: Stages = SILENT) -> BpeTokenizer:
    """Learns merges from documents, which are read twice. Nodes are ordered by how often the documents use them.

    Parameters
    ----------
    documents
        An iterable that can be read twice (a list, `Corpus.training(...)`).
    vocab
        Number of nodes, the two special ones included.
    stages
        The merges are a stage.

    Raises
    ------
    CorpusError
        There is no document.
    TypeError
        ``documents`` is an iterator.
    """
    if iter(documents) is documents:
        raise TypeError("level bpe reads the documents twice; give a list or Corpus.training(...)")
    library = _byte_level(tokenizers.models.BPE())
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab - len(SPECIAL),
        initial_alphabet=ALPHABET,
        show_progress=False,
    )
    seen, pretokens = 0, PretokenCounts()

    def texts() -> Iterable[list[str]]:
        nonlocal seen
        for batch in batched(documents):
            seen += len(batch)
            read = [no_surrogates("".join(document)) for document in batch]
            pretokens.add(read)
            yield read
        stages.stage("learning the merges of bytes")

    library.train_from_iterator(texts(), trainer)
    if seen == 0:
        raise CorpusError("there is no document to choose nodes from; expected at least one")
    model = json.loads(library.to_str())["model"]
    # a pair is a list of two, or in older releases one string with a space (which the alphabet does not have)
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    merges: list[tuple[str, str]] = [(left, right) for left, right in pairs]
    learned = sorted(model["vocab"], key=lambda token: [BYTE_OF[character] for character in token])
    nodes = [*SPECIAL, *learned]  # ties stay in the order of their bytes
    unordered = BpeTokenizer(nodes, merges=merges)
    counts = pretokens.counts
    order = by_use(count_nodes(unordered, documents) if counts is None else unordered.node_counts(counts))
    return BpeTokenizer([nodes[node] for node in order], merges=merges)
