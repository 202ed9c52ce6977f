"""Training of some edges only: those that touch given nodes. All else keeps its bits.

It knows batches and nodes; the step is `step.train_batch`. It does not know working copies or commits.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from sifu_store.errors import CorpusError, DivergedError

from sifu_graph.config import OptimizerConfig, SignalConfig
from sifu_graph.model import forward
from sifu_graph.model.parameters import Parameters
from sifu_graph.text.batches import Batches
from sifu_graph.text.encoded import Split
from sifu_graph.training.step import train_batch

BATCH = 128


def tune(
    parameters: Parameters,
    config: SignalConfig,
    optimizer: OptimizerConfig,
    text: Split,
    *,
    nodes: NDArray[np.int64],
    steps: int,
    length: int,
    seed: int,
) -> NDArray[np.int64]:
    """Trains the private edges into and out of ``nodes``, in place. Returns the slots of those that a step met.

    The optimizer's state of edges (`step.edge_state_arrays`) must be in the pool. AdamW is the lazy one here.

    Raises
    ------
    CorpusError, DivergedError
    """
    batches = Batches(text, length=length, batch=BATCH, seed=seed)
    if not batches.chunks:
        raise CorpusError("the corpus holds no two tokens in a row: there is nothing to train on")
    learns = torch.zeros(parameters.edges.slots, dtype=torch.bool)
    touched = np.isin(np.repeat(np.arange(parameters.index.nodes), parameters.index.row_sizes()), nodes)
    touched |= np.isin(parameters.index.target, nodes)
    learns[torch.from_numpy(parameters.index.slots(np.flatnonzero(touched)))] = True
    met = torch.zeros_like(learns)
    for number in range(steps):
        batch = batches.batch_at(number)
        planned = forward.plan(parameters, config, batch.tokens, batch.lengths.astype(np.int64))
        if not planned.plan.positions:
            continue
        loss = train_batch(parameters, config, optimizer, planned, step=number + 1, learns=learns)
        if not np.isfinite(loss):
            raise DivergedError(
                f"the loss of step {number + 1} is {loss}: nothing was changed; use fewer `train_steps`"
            )
        met[planned.plan.slot] = True
    met &= learns
    return np.flatnonzero(met.numpy())
