"""The texts of an edit: the graph's own and those that are given, encoded by the working copy's tokenizer, and the
perplexity of their held-out parts under the working copy.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

from sifu_store.errors import CorpusError, OptionError

from sifu_graph.disk_arrays import DiskArrays
from sifu_graph.edit.working_copy import WorkingCopy
from sifu_graph.progress import SILENT, Stages
from sifu_graph.text.corpus import Corpora, Corpus
from sifu_graph.text.encoded import CACHE, Split, TokenFile, encode_corpus
from sifu_graph.text.own_text import NAME_ONE, own_corpus

EVAL_TOKENS = 20_000
"""Held-out tokens that a perplexity is computed over, as in training."""


class EditTexts:
    """The texts of a working copy. Encoding and evaluating them are ``stages``."""

    def __init__(self, copy: WorkingCopy, stages: Stages = SILENT) -> None:
        self._copy, self._stages = copy, stages

    def corpus(self, corpus: Corpora | None, *, instead: str | None = NAME_ONE) -> Corpus:
        """A text as a corpus; None: the text that the graph was built from. ``instead`` as of `own_corpus`."""
        own = self._copy.settings["build"]["corpus"]
        if corpus is None:
            return own_corpus(self._copy.settings["build"], self._copy.graph.path / CACHE, instead=instead)
        given = corpus if isinstance(corpus, Corpus) else Corpus(corpus)
        return given.settled(tokens=self._copy.tokenizer.level == "tokens", like=own)

    def tokens(self, corpus: Corpora | None, *, instead: str | None = NAME_ONE) -> TokenFile:
        """A text (see `corpus`), encoded. One so short that all of it would be held out is not, if it was given."""
        encode = partial(
            encode_corpus,
            self.corpus(corpus, instead=instead),
            self._copy.tokenizer,
            directory=self._copy.graph.path / CACHE,
            stages=self._stages,
        )
        holdout = self._copy.settings["build"]["holdout"]
        try:
            return encode(holdout=holdout)
        except CorpusError:
            if corpus is None or holdout == 0:
                raise
            return encode(holdout=0.0)  # other errors recur

    def arrays(self) -> DiskArrays:
        """Where the n-grams of a text are: with the pages that leave memory."""
        return DiskArrays(self._copy.graph._scratch_folder())

    def is_own(self, corpus: Corpus) -> bool:
        """Whether a text is the one that the graph was built from."""
        return _hashes(corpus.record()) == _hashes(self._records()[0])

    def knows(self, corpus: Corpus) -> bool:
        """Whether the graph has counted a text. Raises `OptionError` if it has counted some of its files."""
        mine = {found for record in self._records() for found in _hashes(record)}
        known = [found in mine for found in _hashes(corpus.record())]
        if any(known) and not all(known):
            raise OptionError("some of the files were counted before, and some were not: name the new ones alone")
        return all(known)

    def others(self, corpus: Corpus) -> tuple[list[Split], list[str]]:
        """The training parts of the other texts that the graph has counted; and what is missing if some are gone."""
        found, lost = [], []
        for record in self._records():
            if record["sources"] and not set(_hashes(record)) & set(_hashes(corpus.record())):
                try:
                    found.append(self.tokens(Corpus.from_record(record)).train)
                except CorpusError as error:
                    lost.append(f"the new clones lack their occurrences in another text of the graph: {error}")
        return found, lost

    def _records(self) -> list[dict[str, Any]]:
        build = self._copy.settings["build"]
        return [build["corpus"], *build.get("counted", [])]

    def heldout(self, tokens: TokenFile | None = None, name: str = "", *, wanted: bool) -> HeldOut:
        """The held-out part of a text; None: of the graph's own. Of a text that is not ``wanted``, nothing is read.

        ``name`` is how `HeldOut.note` calls it.
        """
        what = f"no perplexity of {name}" if name else "no perplexity"
        try:
            text = (self.tokens(None, instead=None) if tokens is None else tokens).heldout if wanted else None
            return HeldOut(self._copy, text, what, stages=self._stages)
        except CorpusError as error:
            return HeldOut(self._copy, None, what, f"{what}: {error}")


def _hashes(record: dict[str, Any]) -> list[str]:
    return [source["sha256"] for source in record["sources"]]


@dataclass
class HeldOut:
    """The held-out part of a text, or None; ``note`` says why it has no perplexity, if one is wanted.

    ``what`` is the beginning of such a note.
    """

    copy: WorkingCopy
    text: Split | None
    what: str
    note: str | None = None
    stages: Stages = SILENT

    def perplexity(self) -> float | None:
        """The current perplexity under the working copy, over up to `EVAL_TOKENS` tokens; None: there is none."""
        if self.text is None:
            return None
        from sifu_graph.edit.preview import parameters_of
        from sifu_graph.evaluation import evaluate_split, evaluated_tokens

        copy, length = self.copy, self.copy.settings["build"]["length"]
        parameters = parameters_of(copy)
        with closing(parameters.edges):
            try:
                copy.graph._fit_memory(parameters=parameters, evaluated_edges=evaluated_tokens(parameters, length))
                return evaluate_split(
                    parameters, copy.config, self.text, length, EVAL_TOKENS, stages=self.stages
                ).perplexity
            except CorpusError as error:
                self.text, self.note = None, f"{self.what}: {error}"
                return None
