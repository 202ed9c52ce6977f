"""The forward pass of a text through the base of a graph: one stream of documents, in windows.

It knows node ids and figures of positions; it does not know corpora, gradients or files.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from sifu_graph.arrays import Ints
from sifu_graph.edge_index import EdgeIndex
from sifu_graph.model.base import Base
from sifu_graph.model.forward import Examined
from sifu_graph.ops.pair_model import PairModel
from sifu_graph.ops.recurrent import StreamBatch
from sifu_graph.text.encoded import Split
from sifu_graph.text.streams import Window, windows

WINDOW = 256  # tokens that are examined at a time


def tensors(window: Window, pairs: PairModel) -> StreamBatch:
    """A window as tensors; the target of a forbidden pair is -1."""
    target = np.where(pairs.is_banned(window.source, window.target), np.int32(-1), window.target)
    arrays = (window.token, window.source, target, window.restart, window.past, window.reach)
    return StreamBatch(*map(torch.from_numpy, arrays))


def examine(base: Base, index: EdgeIndex, split: Split) -> Iterator[tuple[Examined, Ints]]:
    """The figures of the positions of a text, window after window, and their places in ``split.ids``, int64 [T].

    A document is one sequence: `Examined.step` counts from its beginning.
    """
    model, signal, at = base.model, base.model.start[None].clone(), 0
    since = 0  # steps since the beginning of the document, before the window
    for window in windows(split, streams=1, steps=WINDOW, clones=base.pairs.tree):
        batch = tensors(window, base.pairs)
        r = base.backend.carry(model, batch.token, batch.restart, signal)
        losses, ranks = base.backend.outcomes(model, batch, r)
        length = r.shape[1]
        begin = np.where(window.restart[0], np.arange(length), -since)
        step = np.arange(length) - np.maximum.accumulate(begin)
        since = int(step[-1]) + 1
        scored = (batch.target[0] >= 0).numpy()
        goal = batch.target[0].numpy()[scored]
        yield (
            Examined(
                loss=losses[0][torch.from_numpy(scored)],
                rank=ranks[0].numpy()[scored].astype(np.int64),
                private=index.find(window.token[0][scored].astype(np.int64), goal.astype(np.int64)) >= 0,
                step=step[scored].astype(np.int64),
                target=goal,
            ),
            at + 1 + np.flatnonzero(scored),
        )
        at += length


def documents_of(split: Split, limit: int | None, *, seed: int) -> tuple[Split, Ints]:
    """Documents of a text with ``limit`` predicted tokens, and where each token was, int64 [tokens].

    The order of the documents depends on the seed alone; the last one is cut off at the limit. None: the whole text.
    """
    if limit is None or split.transitions <= limit:
        return split, np.arange(split.tokens)
    order = np.random.default_rng(seed).permutation(split.documents)
    sizes = np.diff(split.offsets)[order]
    predicted = np.cumsum(np.maximum(sizes - 1, 0))
    kept = 1 + int(np.searchsorted(predicted, limit))
    sizes = sizes[:kept]
    sizes[-1] -= predicted[kept - 1] - limit
    begins = split.offsets[order[:kept]]
    place = np.concatenate([np.arange(begin, begin + size) for begin, size in zip(begins, sizes, strict=True)])
    return Split(np.asarray(split.ids)[place], np.append(0, np.cumsum(sizes)).astype(np.int64)), place
