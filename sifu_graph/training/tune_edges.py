"""Training of some edges only: those that touch given nodes. All else keeps its bits.

The way of a batch is that of `step.train`, with one difference: the gradients of the edges that learn are set aside,
those of all others are dropped. It knows batches and nodes; it does not know working copies or commits.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from sifu_store.errors import CorpusError, DivergedError
from sifu_store.layout import BIAS, WEIGHT
from torch import Tensor

from sifu_graph.config import OptimizerConfig, SignalConfig
from sifu_graph.model import forward
from sifu_graph.model.parameters import Parameters
from sifu_graph.ops import contest, propagation
from sifu_graph.text.batches import Batches
from sifu_graph.text.encoded import Split
from sifu_graph.training.step import edge_optimizer_state

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

    The optimizer's state of edges (`steps.edge_state_arrays`) must be in the pool. AdamW is the lazy one here.

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
    learns[torch.from_numpy(parameters.index.slot[touched])] = True
    met = torch.zeros_like(learns)
    for number in range(steps):
        batch = batches.batch_at(number)
        planned = forward.plan(parameters, config, batch.tokens, batch.lengths.astype(np.int64))
        if planned.plan.positions:
            met[_step(parameters, config, optimizer, planned, learns, number + 1)] = True
    return np.flatnonzero(met.numpy())


def _step(
    parameters: Parameters,
    config: SignalConfig,
    optimizer: OptimizerConfig,
    batch: forward.Batch,
    learns: Tensor,
    at: int,
) -> Tensor:
    """One step of the edges that learn. Returns their slots."""
    group, d = batch.plan, parameters.width
    sweep = forward.carry(parameters, config, batch)
    taken = learns[group.slot].nonzero()[:, 0]  # of the candidates of all groups
    gradient_row = torch.full((len(group.slot),), -1)
    gradient_row[taken] = torch.arange(len(taken))
    dW, db = sweep.S.new_zeros(len(taken), d, d), sweep.S.new_zeros(len(taken), d)
    aside = contest.Sink(gradient_row, dW, db)
    parts = forward.rows_in_memory(parameters.edges, batch, sweep.rows)
    outcome, grads = contest.train(sweep.rows, group, sweep.S, weight=1.0 / group.positions, sink=aside, parts=parts)
    loss = outcome.mean_loss(sweep.rows.scale)
    if not np.isfinite(loss):
        raise DivergedError(f"the loss of step {at} is {loss}: nothing was changed; try fewer `train_steps`")
    d_mix = torch.zeros_like(sweep.tape.mix)
    d_mix.view(-1, d)[batch.places] = grads.dS
    path_of = forward.path_of(parameters, sweep.stage)
    back = propagation.backward(config, sweep.tape, d_mix, alpha=parameters.alpha, path=path_of)
    row_of_slot = torch.full_like(learns, -1, dtype=torch.int64)
    row_of_slot[group.slot[taken]] = torch.arange(len(taken))
    steps = back.dz.shape[1]
    path = batch.path_slots[:, :steps].reshape(-1)
    row = torch.where(path >= 0, row_of_slot[path.clamp_min(0)], -1)
    drive, dz = back.drive.reshape(-1, d), back.dz.reshape(-1, d)
    learned = (row >= 0).nonzero()[:, 0]
    dW.index_add_(0, row[learned], drive[learned, :, None] * dz[learned, None, :])
    db.index_add_(0, row[learned], dz[learned])
    slots = group.slot[taken]
    values = parameters.edges.stage(slots.numpy())
    rows = dataclasses.replace(sweep.rows, W=values[WEIGHT], b=values[BIAS], place=torch.arange(len(taken)))
    state = edge_optimizer_state(values, optimizer)
    contest.update_edges(rows, contest.Sink(gradient_row, dW, db, optimizer, at, state))
    parameters.edges.unstage(slots.numpy(), values)
    return slots
