"""Texts in memory as a corpus: any iterable of them, such as a list, a generator or a column of a table.

It knows texts and the temporary file that they are copied to; reading that file is the work of `corpus`.
"""

from __future__ import annotations

import json
import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sifu_store.errors import CorpusError, OptionError, OptionTypeError

from sifu_graph.text.corpus import Corpora, Corpus, Skipped
from sifu_graph.text.sources import TEXTS, Source
from sifu_graph.text.text_blocks import MAX_LINE_BYTES

PIECE = MAX_LINE_BYTES // 4
"""Characters of a document, at most: a longer text is cut in several, as a long line of a file is."""
MOST_PATH = 1000
"""Characters of a text that may be the name of a file."""


class TextCorpus(Corpus):
    """Texts that are in memory, or that an iterator makes, as a corpus. Each text is one document.

    The texts are copied to a temporary file, because a corpus is read more than once: an iterator is used up, and
    memory holds one text at a time. A graph that is built from them keeps a copy beside the encoded text.

    Parameters
    ----------
    texts
        Any iterable of texts: a list, a generator, a column of a table (``frame["text"]``); a str is one text. Texts
        without a character other than spaces are left out.
    tokens
        Each document is a list of tokens (text or whole numbers), instead of a text.

    Raises
    ------
    OptionTypeError
        ``texts`` is no iterable, one of them is no text, or the only or first one is the name of a file.
    CorpusError
        A text has half a surrogate pair in it, which is no character.
    """

    def __init__(self, texts: Iterable[str | Sequence[str]], *, tokens: bool = False) -> None:
        handle, name = tempfile.mkstemp(prefix="sifu-texts-")
        weakref.finalize(self, Path(name).unlink, missing_ok=True)
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            for line in _lines(texts, tokens=tokens):
                file.write(line + "\n")
        self.tokens, self.document, self.field, self.skip_bad = tokens, None, None, False
        self._notes, self._origin, self.skipped = [], None, Skipped()
        self.sources = [Source(name=TEXTS, kind=".jsonl", compression="", location=Path(name))]
        self._records = None


def chosen(corpus: Corpora | None, texts: Iterable[str | Sequence[str]] | None, *, tokens: bool) -> Corpora | None:
    """The corpus of a call that takes files or texts; None: neither is given.

    Raises
    ------
    OptionError
        Both are given; or as `TextCorpus`.
    """
    if texts is None:
        return corpus
    if corpus is not None:
        raise OptionError("both `corpus` and `texts` are given: pass one of them")
    return TextCorpus(texts, tokens=tokens)


def _lines(texts: Any, *, tokens: bool) -> Iterator[str]:
    """The texts as lines of JSON."""
    for place, text in enumerate(_iterable(texts, tokens=tokens)):
        where = f"texts[{place}]"
        if tokens:
            yield json.dumps([_token(token, where) for token in _iterable_of_tokens(text, where)], ensure_ascii=False)
            continue
        if isinstance(text, str) and place == 0 and _names_a_file(text):
            raise OptionTypeError(f"`{where}` is {text!r}, the name of a file: pass names of files as `corpus`")
        if not isinstance(text, str):
            raise OptionTypeError(f"`{where}` is {text!r}, of type {type(text).__name__}: expected a str")
        for at in range(0, len(text), PIECE):
            yield json.dumps({"text": _unicode(text[at : at + PIECE], where)}, ensure_ascii=False)


def _iterable(texts: Any, *, tokens: bool) -> Iterable[Any]:
    """The texts one by one; a single text is one of them, as a single path is one file."""
    if isinstance(texts, str) and _names_a_file(texts):
        raise OptionTypeError(f"`texts` is {texts!r}, the name of a file: pass it as `corpus`")
    if isinstance(texts, str) and not tokens:
        return [texts]
    if isinstance(texts, os.PathLike):
        raise OptionTypeError(f"`texts` is the path {os.fspath(texts)!r}: pass the names of files as `corpus`")
    if hasattr(texts, "columns"):  # iterated, it gives the names of its columns
        raise OptionTypeError('`texts` is a table: pass one of its columns, such as texts=table["text"]')
    if isinstance(texts, (str, bytes, Mapping)) or not isinstance(texts, Iterable):
        raise OptionTypeError(
            f"`texts` is of type {type(texts).__name__}: expected an iterable of texts, such as a list"
        )
    return texts


def _names_a_file(text: str) -> bool:
    """Whether a text is the name of a file or folder that is there, with a suffix or a folder in it."""
    if len(text) > MOST_PATH or not text.isprintable():
        return False
    path = Path(text)
    return (bool(path.suffix) or len(path.parts) > 1) and path.exists()


def _iterable_of_tokens(text: Any, where: str) -> Iterable[Any]:
    if isinstance(text, (str, bytes, Mapping)) or not isinstance(text, Iterable):
        raise OptionTypeError(f"`{where}` is of type {type(text).__name__}: the graph reads lists of tokens")
    return text


def _token(token: Any, where: str) -> str:
    if isinstance(token, bool) or (not isinstance(token, str) and not hasattr(token, "__index__")):
        raise OptionTypeError(f"a token of `{where}` is {token!r}: expected a str or an int")
    return _unicode(str(token), where)


def _unicode(text: str, where: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        found = f"{text[error.start]!r} at character {error.start:,}"
        raise CorpusError(f"{where}: {found} is half a surrogate pair, no character: remove it") from None
    return text
