"""Training of the vectors of some nodes only, in a graph whose edges share a base. All else keeps its bits.

It knows windows of text and nodes; it does not know working copies or commits.
"""

from __future__ import annotations

from itertools import count, islice

import numpy as np
import torch
from sifu_store.errors import CorpusError, DivergedError

from sifu_graph.arrays import Ints
from sifu_graph.config import BASE, OptimizerConfig
from sifu_graph.edge_index import EdgeIndex
from sifu_graph.model.base import Base
from sifu_graph.model.base_forward import tensors
from sifu_graph.ops import optim
from sifu_graph.text.encoded import Split
from sifu_graph.text.streams import windows
from sifu_graph.training.base_trainer import STEPS, STREAMS
from sifu_graph.training.pieces import Pieces

ROWS = ("node", "target", "bias", "repeat")
"""The parameters that have a row for each node."""


def tune(base: Base, index: EdgeIndex, text: Split, *, nodes: Ints, steps: int) -> None:
    """Trains e, n, c and g of nodes (int64 [k]), in place, on the documents of a text that have one of them.

    Raises
    ------
    CorpusError, DivergedError
    """
    has = np.isin(text.ids, nodes)
    documents = [k for k in range(text.documents) if has[text.offsets[k] : text.offsets[k + 1]].any()]
    chosen = Split.from_arrays([text.document(k) for k in documents])
    if not chosen.transitions:
        raise CorpusError("the corpus holds no two tokens in a row: there is nothing to train on")
    config, rows = OptimizerConfig(**{**BASE, "warmup_steps": 0}), torch.from_numpy(nodes)
    parts = [base.model.tensors()[name] for name in ROWS]
    state = {key: [torch.zeros_like(part) for part in parts] for key in optim.state_names(config)}
    signal, clones, pieces = torch.empty(0), base.pairs.tree, Pieces(chosen, base.pairs)
    every = (window for _ in count() for window in windows(chosen, streams=STREAMS, steps=STEPS, clones=clones))
    for number, window in enumerate(islice(every, steps), start=1):
        batch = tensors(window, base.pairs)
        if len(signal) != len(batch.token):
            signal = base.model.start.repeat(len(batch.token), 1)
        scored = max(1, int((batch.target >= 0).sum()))
        piece, out = pieces.at(window.place)
        losses, gradient = base.backend.gradients(base.model, batch, signal, piece=piece, out=out, weight=1.0 / scored)
        loss = float(losses.double().sum()) / scored
        if not np.isfinite(loss):
            raise DivergedError(f"the loss of step {number} is {loss}: nothing was changed; use fewer `train_steps`")
        found = [gradient.tensors()[name][rows] for name in ROWS]
        optim.update(config, step=number, parts=parts, grads=found, state=state, rows=rows)
