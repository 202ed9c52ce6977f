"""Chunks of an encoded text, and batches of them in an order that follows from seed and epoch.

It knows node ids and lengths; it does not know tokenizers or files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from sifu_store.errors import CorpusError, OptionError

from sifu_graph.arrays import Ids, Ints
from sifu_graph.text.encoded import Split


def chunk_table(split: Split, *, length: int) -> tuple[Ints, NDArray[np.int32]]:
    """Cut documents into chunks of at most `length` tokens that overlap by one.

    Chunk j of a document covers its tokens from j * (length - 1), so that every pair of neighbours is in
    exactly one chunk. A chunk has at least two tokens.

    Returns
    -------
    start : int64 [chunks]
        Where each chunk begins in `split.ids`.
    n_tokens : int32 [chunks]
        How many tokens it has, 2 to `length`.
    """
    if length < 2:
        raise OptionError(f"the length is {length}; expected at least 2 tokens")
    stride = length - 1
    size = np.diff(split.offsets)  # [documents]
    chunks = np.maximum(size - 1 + stride - 1, 0) // stride  # ceil((size - 1) / stride) per document
    document = np.repeat(np.arange(len(size)), chunks)  # [chunks]
    index = np.arange(len(document)) - np.repeat(np.cumsum(chunks) - chunks, chunks)  # within the document
    begin = index * stride
    start = split.offsets[:-1][document] + begin
    return start, np.minimum(size[document] - begin, length).astype(np.int32)


@dataclass(frozen=True, slots=True)
class Batch:
    """Some chunks of a text.

    Attributes
    ----------
    tokens : int32 [B, length]
        Node ids, padded with 0.
    lengths : int32 [B]
        Number of tokens of each chunk, 2 to ``length``.
    start : int64 [B]
        Where each chunk begins in the split.
    """

    tokens: Ids
    lengths: NDArray[np.int32]
    start: Ints


class Batches:
    """All chunks of a split, in an order that follows from seed and epoch; each batch is computed from its number.

    Parameters
    ----------
    split
        The encoded text.
    length
        Tokens a chunk, at most.
    batch
        Chunks a batch; the last batch of an epoch has the remaining ones.
    seed
        Each epoch is shuffled by PCG64 seeded with (seed, epoch).
    """

    def __init__(self, split: Split, *, length: int, batch: int, seed: int) -> None:
        if batch < 1:
            raise OptionError(f"the batch is {batch}; expected at least 1 chunk")
        if seed < 0:
            raise OptionError(f"the seed is {seed}; expected 0 or more")
        self._split = split
        self._length = length
        self._batch = batch
        self._seed = seed
        self._start, self._n_tokens = chunk_table(split, length=length)
        self._order: tuple[int, Ints] | None = None

    @property
    def chunks(self) -> int:
        """Chunks in an epoch."""
        return len(self._start)

    @cached_property
    def per_epoch(self) -> int:
        """Batches in an epoch."""
        return -(-self.chunks // self._batch)

    def batch_at(self, step: int) -> Batch:
        """Batch number `step`, counted from 0 through all epochs.

        Raises
        ------
        CorpusError
            The text has no two tokens in a row.
        """
        if self.chunks == 0:
            raise CorpusError("the text has no two tokens in a row; expected at least one pair")
        epoch, index = divmod(step, self.per_epoch)
        if self._order is None or self._order[0] != epoch:
            random = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self._seed, epoch])))
            self._order = epoch, random.permutation(self.chunks)
        chosen = self._order[1][index * self._batch : (index + 1) * self._batch]
        lengths = self._n_tokens[chosen]
        place = np.arange(self._length)  # [length]
        present = place < lengths[:, None]  # [B, length]
        at = np.where(present, self._start[chosen][:, None] + place, 0)
        return Batch(np.where(present, self._split.ids[at], 0).astype(np.int32), lengths, self._start[chosen])

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """All batches of one epoch."""
        return (self.batch_at(epoch * self.per_epoch + index) for index in range(self.per_epoch))
