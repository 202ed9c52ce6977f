"""The text that a graph was built from, and what to do where it is not there.

It knows the record of a build; it does not know what the text is read for.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sifu_store.errors import CorpusError

from sifu_graph.text.corpus import Corpus

if TYPE_CHECKING:
    from sifu_graph.settings import BuildSettings


NAME_ONE = "name a text as `corpus`"


def own_corpus(build: BuildSettings, copies: Path, *, instead: str | None = NAME_ONE) -> Corpus:
    """The text that a graph was built from.

    Parameters
    ----------
    build
        What the graph records of its build.
    copies
        The folder with copies of what was standard input or in memory.
    instead
        What the user can do where the text is not there, for the message; None: nothing but put it there.

    Raises
    ------
    CorpusError
        There was none, or a file is missing or has changed.
    """
    imported = build.get("imported")
    if not build["corpus"]["sources"]:
        raise CorpusError(f"the graph was imported, with no text of its own: {instead or 'build one from a text'}")
    try:
        return Corpus.from_record(build["corpus"], copies)
    except CorpusError as error:
        ways = " or ".join(filter(None, ("put it back", instead)))
        if imported is None:
            raise CorpusError(f"{error}: {ways}") from error
        raise CorpusError(
            f"the graph was imported from {imported['file']}, which carries no text, and the text that it was built "
            f"from is not here ({error}): {ways}"
        ) from error
