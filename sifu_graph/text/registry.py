"""The kinds of tokenizers: how one is trained, and how one is read from a graph's store.

The module knows every kind; no kind imports it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NotRequired, TypedDict

import msgspec
from sifu_store.errors import OptionError, StoreDamagedError, StoreVersionError

from sifu_graph.progress import SILENT, Stages
from sifu_graph.text.corpus import Document
from sifu_graph.text.plain import CharTokenizer, ListTokenizer, frequent_characters, frequent_tokens
from sifu_graph.text.tokenizer import FORMAT, SPECIAL, Tokenizer, require_level


def train_tokenizer(
    documents: Iterable[Document], *, level: str, vocab: int, lowercase: bool = False, stages: Stages = SILENT
) -> Tokenizer:
    """Choose the nodes from documents.

    Parameters
    ----------
    documents
        The training part of a corpus: text, or lists of tokens at level `tokens`. Levels `bpe` and `word` read it
        twice, so it must be an iterable that can be read twice (a list, `Corpus.training(...)`).
    level
        `char`, `word`, `bpe` or `tokens`.
    vocab
        Number of nodes, the two special ones included. If the text has fewer, all are used: compare
        `len(tokenizer)` with it.
    lowercase
        Level `word` reads upper-case letters as lower-case ones.
    stages
        Of what takes long between the passes over the documents.

    Raises
    ------
    OptionError
        `level` is not known, or `vocab` is too small (3; for `word` 5; for `bpe` 258: the special nodes and all
        bytes), or `lowercase` is given at another level than `word`.
    CorpusError
        There is no document.
    """
    require_level(level, lowercase=lowercase)
    least = len(SPECIAL) + {"bpe": 256, "word": 3}.get(level, 1)
    if vocab < least:
        raise OptionError(f"the vocabulary has {vocab} nodes; level {level} needs at least {least}")
    if level == "char":
        return CharTokenizer(frequent_characters(documents, limit=vocab - len(SPECIAL)))
    if level == "bpe":
        from sifu_graph.text.bpe import train_bpe  # the library behind it loads slowly

        return train_bpe(documents, vocab=vocab, stages=stages)
    if level == "word":
        from sifu_graph.text.words import train_words

        return train_words(documents, vocab=vocab, lowercase=lowercase)
    return ListTokenizer(frequent_tokens(documents, limit=vocab - len(SPECIAL)))


def read_tokenizer(record: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that `Tokenizer.to_json` wrote.

    Raises
    ------
    StoreVersionError
        It was written by a newer release.
    StoreDamagedError
        It is not what `to_json` writes.
    """
    try:
        if record["format"] != FORMAT:
            raise StoreVersionError(f"the tokenizer has format {record['format']!r}; this release reads {FORMAT}")
        msgspec.convert(record, _Record)
        nodes, imported = record["nodes"], record.get("imported")
        named = [*record["added"]]
        for key in ("aliases", "learned_aliases"):
            named += record.get(key, {}).values()
        if imported is not None:
            named += [node for node in (imported["unknown"], imported["separator"]) if node is not None]
        elif tuple(nodes[:2]) != SPECIAL or min(named, default=2) < 2:
            raise ValueError("its nodes are not in order")
        if not all(0 <= node < len(nodes) for node in named):
            raise ValueError("it names nodes that it does not have")
        return _kind(record["level"], imported=imported is not None).from_record(record)
    except StoreVersionError:
        raise
    except Exception as error:  # the library `tokenizers` raises errors of many classes
        raise StoreDamagedError(f"the tokenizer cannot be read ({error!r})") from error


class _Imported(TypedDict):
    """What an imported tokenizer has besides its nodes."""

    unknown: int | None
    separator: int | None
    library: dict[str, Any] | None


class _Record(TypedDict):
    """What `Tokenizer.to_json` writes."""

    format: int
    level: Literal["char", "word", "bpe", "tokens"]
    nodes: list[str]
    added: list[int]
    aliases: NotRequired[dict[str, int]]
    learned_aliases: NotRequired[dict[str, int]]
    merges: NotRequired[list[tuple[str, str]]]
    lowercase: NotRequired[bool]
    imported: NotRequired[_Imported]


def _kind(level: str, *, imported: bool) -> type[Tokenizer]:
    """The class of tokenizers of a level; those of `bpe`, `word` and `imported` load the library `tokenizers`."""
    if imported:
        from sifu_graph.text.imported import KINDS

        return KINDS[level]
    if level == "bpe":
        from sifu_graph.text.bpe import BpeTokenizer

        return BpeTokenizer
    if level == "word":
        from sifu_graph.text.words import WordTokenizer

        return WordTokenizer
    return {"char": CharTokenizer, "tokens": ListTokenizer}[level]
