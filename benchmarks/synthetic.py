"""A corpus as large as wanted, with the statistics of real text, made on the fly and never stored.

Frequencies follow Zipf and Mandelbrot's law, p(rank) ~ 1 / (rank + OFFSET). A hidden state walks a sparse Markov chain
and reorders the ranks: a token's successors depend on it. Everything follows from the seed: each pass is the same text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from sifu_graph.progress import SILENT, Stages
from sifu_graph.text.corpus import READING, Corpus, Skipped

FIRST = 0x20000  # the characters of CJK Unified Ideographs Extension B: 42,720 of them
OFFSET = 10.0
STATES, NEXT = 256, 8  # hidden states, and how many may follow each
NOISE = 1.0  # standard deviation of what a state adds to the logarithm of a rank
LENGTH = 100  # characters of a document
TOGETHER = 1 << 14  # documents that are made together
TABLE = 1 << 20  # of the distribution of ranks


class SyntheticCorpus(Corpus):
    """Documents of `LENGTH` characters, of about ``tokens`` characters in all and ``kinds`` different ones.

    Parameters
    ----------
    tokens
        Characters of all documents together.
    kinds
        Different characters, at most 42,720.
    seed
        Of the text.
    """

    def __init__(self, tokens: int, *, kinds: int, seed: int = 0) -> None:
        self.size, self.kinds, self.seed = tokens, kinds, seed
        self.tokens, self.document, self.field, self.skip_bad = False, "line", None, False
        self.sources, self._records, self._notes, self._origin, self.skipped = [], [], [], None, Skipped()

    @property
    def size_bytes(self) -> int:
        """Of the text in UTF-8."""
        return 4 * self.size

    def documents(self, stages: Stages = SILENT, what: str = READING) -> Iterator[str]:
        """Yields every document."""
        stage = stages.stage(what, self.size_bytes, "bytes")
        rng = np.random.default_rng(self.seed)
        rank = np.arange(self.kinds)
        law = np.cumsum(1 / (rank + OFFSET))
        rank_of = np.searchsorted(law / law[-1], (np.arange(TABLE) + 0.5) / TABLE).astype(np.int32)
        order = np.argsort(np.log(rank + OFFSET) + NOISE * rng.standard_normal((STATES, self.kinds)), axis=1)
        character = (FIRST + order).astype(np.uint32)
        following = rng.integers(0, STATES, (STATES, NEXT))
        for begin in range(0, self.size, TOGETHER * LENGTH):
            some = min(TOGETHER, -(-(self.size - begin) // LENGTH))
            state, text = rng.integers(0, STATES, some), np.empty((LENGTH, some), np.uint32)
            for line in text:
                state = following[state, rng.integers(0, NEXT, some)]
                line[:] = character[state, rank_of[rng.integers(0, TABLE, some)]]
            whole = np.ascontiguousarray(text.T).tobytes().decode("utf-32-le")
            yield from (whole[at : at + LENGTH] for at in range(0, len(whole), LENGTH))
            stage.advance(4 * some * LENGTH)

    def settled(self, *, tokens: bool, like: dict[str, Any] | None = None) -> SyntheticCorpus:
        """As it is."""
        return self
