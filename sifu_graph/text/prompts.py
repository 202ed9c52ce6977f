"""A text that a caller gives to a graph: to be continued, scored or traced. One meaning for all of them.

The module knows texts and tokenizers; it does not know graphs.
"""

from __future__ import annotations

from collections.abc import Sequence

from sifu_store.errors import OptionError, OptionTypeError

from sifu_graph.arrays import Ids
from sifu_graph.text.corpus import Document
from sifu_graph.text.tokenizer import Tokenizer


def read_prompt(tokenizer: Tokenizer, text: str | Sequence[str], name: str) -> Document:
    """The text of a parameter ``name`` as a document that the tokenizer encodes.

    A list holds tokens, which only the level ``tokens`` reads; there, a str is split at white space.

    Raises
    ------
    OptionError
        It is empty.
    OptionTypeError
        It is a list, at another level.
    """
    if not isinstance(text, str):
        text = list(text)
        if tokenizer.level != "tokens":
            raise OptionTypeError(
                f"`{name}` is a list of tokens, but this graph reads text (level {tokenizer.level}): pass one str, "
                f'such as "".join({name})'
            )
    if not len(text):
        raise OptionError(f"the {name} is empty: give at least one token")
    return text


def known_ids(tokenizer: Tokenizer, document: Document, name: str) -> Ids:
    """The nodes of the document of a parameter ``name``, int32 [tokens].

    Raises
    ------
    OptionError
        None of its tokens is a node.
    """
    ids = tokenizer.encode(document)
    if not (ids != (-1 if tokenizer.unknown is None else tokenizer.unknown)).any():
        shown = "".join(tokenizer.unknown_characters(document)[:10])
        raise OptionError(f"the {name} consists of unknown characters only ({shown}): none of them is a node")
    return ids
