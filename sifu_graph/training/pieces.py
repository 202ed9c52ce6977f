"""The pieces of a text that training leaves out of the counts: documents, and parts of long ones.

A token must be predicted by counts of other text, or training would learn to trust counts more than they deserve on
text that is new: what a document says once, it often says again. The module knows texts and pair models; it does not
know parameters.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sifu_graph.arrays import Ints, ranges
from sifu_graph.ops.pair_model import LeftOut, PairModel
from sifu_graph.text.encoded import Split

MOST_TOKENS = 4096
"""Of a piece: a longer document is cut. The documents of the Brown corpus have 2,300 tokens."""


class Pieces:
    """What the counts lose without the piece that each place of a text is in.

    Parameters
    ----------
    text
        The documents.
    pairs
        The counts, those of the text among them.
    """

    def __init__(self, text: Split, pairs: PairModel) -> None:
        self._text, self._pairs = text, pairs
        sizes = np.diff(text.offsets)
        parts = -(-sizes // MOST_TOKENS)
        begins = np.repeat(text.offsets[:-1], parts) + MOST_TOKENS * ranges(np.zeros(len(parts), np.int64), parts)
        self._begin = np.append(begins, text.tokens).astype(np.int64)
        self._ends = text.begins()
        self._known: dict[int, LeftOut] = {}  # those of the last window

    def at(self, place: Ints) -> tuple[Tensor, LeftOut]:
        """The pieces of places, int64 [B, T]: their numbers, int32 [B, T], and what the counts lose without each."""
        number = np.searchsorted(self._begin, place.ravel(), side="right") - 1
        wanted, which = np.unique(number, return_inverse=True)
        new = np.array([x for x in wanted.tolist() if x not in self._known], np.int64)
        if len(new):
            found = self._counted(new)
            self._known |= {x: found.piece(k) for k, x in enumerate(new.tolist())}
        self._known = {x: self._known[x] for x in wanted.tolist()}
        piece = torch.from_numpy(which.reshape(place.shape).astype(np.int32))
        return piece, LeftOut.joined(list(self._known.values()))

    def _counted(self, numbers: Ints) -> LeftOut:
        """What the counts lose without these pieces, int64 [k]."""
        sizes = (self._begin[1:] - self._begin[:-1])[numbers]
        place, piece = ranges(self._begin[numbers], sizes), np.repeat(np.arange(len(numbers)), sizes)
        inside = ~self._ends[place + 1]
        place, piece = place[inside], piece[inside]
        source = self._pairs.tree.sources_at(self._text.ids, self._ends, place)
        target = self._text.ids[place + 1].astype(np.int64)
        return self._pairs.left_out(piece, source, target, pieces=len(numbers))
