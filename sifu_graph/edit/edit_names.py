"""The texts and tables of an edit, as the options of a command line name them. It does not read them."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from typing import TYPE_CHECKING

from sifu_graph.text.corpus import Corpora, Corpus
from sifu_graph.text.sources import TEXTS

if TYPE_CHECKING:
    from sifu_graph.command_text import Value
    from sifu_graph.edit.edge_table import EdgeTable

STDIN = "-"
"""Stands for texts that were in memory: they can be passed again, a document on each line."""
IN_MEMORY = "<a table in memory>"
"""The message of the commit has the numbers of its edits by kind."""


def text_options(corpus: Corpora | None) -> dict[str, Value]:
    """The options that name a text, and say how it is read."""
    if corpus is None:
        return {}
    if isinstance(corpus, Corpus):
        names = [STDIN if source.name == TEXTS else source.name for source in corpus.sources]
        reading = {"document": corpus.document, "field": corpus.field, "skip_bad": corpus.skip_bad}
        return {"corpus": names, **reading}
    several: Iterable[object] = [corpus] if isinstance(corpus, (str, PathLike)) else corpus
    return {"corpus": [str(each) for each in several]}


def table_name(table: str | PathLike[str] | EdgeTable) -> str:
    """The file of a table."""
    return str(table) if isinstance(table, (str, PathLike)) else IN_MEMORY
