"""One training step on one batch: the gradients of contests and propagation, and one update of every edge met.

It knows batches of node ids; it does not know corpora, schedules of commits, or files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sifu_store.layout import BIAS, WEIGHT
from torch import Tensor

from sifu_graph import device
from sifu_graph.arrays import Ids
from sifu_graph.config import OptimizerConfig, SignalConfig
from sifu_graph.model.forward import Batch, PathStage, carry, pages_of, path_of, plan, rows_in_memory, stage
from sifu_graph.model.parameters import Parameters
from sifu_graph.ops import contest, optim, propagation


@dataclass(frozen=True, slots=True)
class _Aside:
    """The edges whose gradients are summed over the contest and the path, and that are updated after both."""

    slots: NDArray[np.int64]  # [K]
    gradient_row: Tensor  # int64 [edges of the plan], which of them each edge is; -1: another edge
    path_row: Tensor  # int64 [B, I], which of them carries each signal at each step; -1: another edge

    @classmethod
    def on_path(cls, batch: Batch, staged: PathStage) -> _Aside:
        """The private edges that the text takes."""
        group, path_row = batch.plan, staged.place.T
        group_of = torch.repeat_interleave(torch.arange(len(group.source)), torch.diff(group.first_position))
        private = group.target >= 0
        gradient_row = torch.full((len(group.slot),), -1)
        of_target = path_row.reshape(-1)[batch.places]
        gradient_row[(group.first_edge[group_of] + group.target)[private]] = of_target[private]
        return cls(staged.slots, gradient_row, path_row)

    @classmethod
    def among(cls, batch: Batch, learns: Tensor) -> _Aside:
        """The edges of the plan that learn: a mask of the slots."""
        group = batch.plan
        taken = learns[group.slot].nonzero()[:, 0]
        slots, row = group.slot[taken], torch.arange(len(taken))
        gradient_row = torch.full((len(group.slot),), -1)
        gradient_row[taken] = row
        row_of_slot = torch.full_like(learns, -1, dtype=torch.int64)
        row_of_slot[slots] = row
        path_row = torch.where(batch.path_slots >= 0, row_of_slot[batch.path_slots.clamp_min(0)], -1)
        return cls(slots.numpy(), gradient_row, path_row)


def train(
    parameters: Parameters,
    config: SignalConfig,
    optimizer: OptimizerConfig,
    tokens: Ids,
    lengths: NDArray[np.int64],
    *,
    step: int,
    candidates: int | None = None,
    rng: np.random.Generator | None = None,
    following: Ids | None = None,
) -> tuple[float, int]:
    """One step (counted from 1), in place. Returns the mean loss in nats before it, and the number of positions.

    ``following``: the tokens of the next batch; its pages are kept or fetched while frames are free.
    """
    batch = plan(parameters, config, tokens, lengths, candidates=candidates, rng=rng)
    positions, pool = batch.plan.positions, parameters.working
    if not positions:  # every pair is forbidden
        return 0.0, 0
    parameters.note_usage(batch.plan.target_slot.numpy())
    upcoming = None
    if following is not None and pool.missing:
        upcoming = pages_of(parameters.index, following, pool.page_edges)
    # Of sampled candidates each update in the file would be a write of its own.
    in_file = parameters.backend.writes_in_file and optimizer.kind != "adamw-dense" and candidates is None
    return train_batch(parameters, config, optimizer, batch, step=step, upcoming=upcoming, in_file=in_file), positions


def train_batch(
    parameters: Parameters,
    config: SignalConfig,
    optimizer: OptimizerConfig,
    batch: Batch,
    *,
    step: int,
    upcoming: NDArray[np.int64] | None = None,
    in_file: bool = False,
    learns: Tensor | None = None,
) -> float:
    """One step on a planned batch with at least one position, in place. Returns the mean loss in nats before it.

    Parameters
    ----------
    upcoming
        The pages of the next batch.
    in_file
        Edges in the spill file are updated there, if the backend `writes_in_file`.
    learns
        bool [slots], the edges that learn; all other parameters keep their values. None: everything learns.
    """
    group, pool, backend, d = batch.plan, parameters.working, parameters.backend, parameters.width
    dense = optimizer.kind == "adamw-dense"
    staged = stage(parameters, batch)
    if dense:
        catch_up(optimizer, staged.values, torch.arange(len(staged.slots), device=pool.device), step - 1)
    sweep = carry(parameters, config, batch, staged)
    aside = _Aside.on_path(batch, staged) if learns is None else _Aside.among(batch, learns)
    everything = contest.Sink(
        aside.gradient_row,
        sweep.S.new_empty(len(aside.slots), d, d),
        sweep.S.new_empty(len(aside.slots), d),
        optimizer,
        step,
        edge_optimizer_state(pool.arrays, optimizer),
        past=pool.past if in_file else None,
    )

    def prepare(pages: NDArray[np.int64], places: Tensor) -> None:
        pool.touch(pages)
        if dense:
            catch_up(optimizer, pool.arrays, places.to(pool.device), step - 1)
            pool.arrays["optimizer/last_step"][places.to(pool.device)] = step

    if learns is None:
        sink, arrays = everything, tuple(pool.arrays) if in_file else ()
        parts = rows_in_memory(pool, batch, sweep.rows, upcoming=upcoming, in_file=arrays, prepare=prepare)
    else:
        sink = dataclasses.replace(everything, config=None)  # drops the gradients of all other edges
        parts = rows_in_memory(pool, batch, sweep.rows)
    outcome, grads = backend.train(sweep.rows, group, sweep.S, weight=1.0 / group.positions, sink=sink, parts=parts)

    d_mix = torch.zeros_like(sweep.tape.mix)
    d_mix.view(-1, d)[batch.places.to(pool.device)] = grads.dS
    back = propagation.backward(config, sweep.tape, d_mix, alpha=parameters.alpha, path=path_of(parameters, staged))
    path_row = aside.path_row[:, : back.dz.shape[1]].reshape(-1)
    backend.scatter(sink, path_row, back.drive.reshape(-1, d), back.dz.reshape(-1, d))
    values = staged.values if learns is None else pool.stage(aside.slots)
    place = torch.arange(len(aside.slots), device=pool.device)
    rows = dataclasses.replace(sweep.rows, W=values[WEIGHT], b=values[BIAS], place=place)
    backend.update_edges(rows, dataclasses.replace(everything, state=edge_optimizer_state(values, optimizer)))
    if dense:
        values["optimizer/last_step"][:] = step
    pool.unstage(aside.slots, values)
    if learns is None:
        _update_small(parameters, config, optimizer, step, first=batch.first, back=back, path_row=path_row, grads=grads)
    return outcome.mean_loss(sweep.rows.scale)


def edge_optimizer_state(arrays: Mapping[str, Tensor], optimizer: OptimizerConfig) -> dict[str, list[Tensor]]:
    """The state of private edges, from the pool's arrays or copies of them, by the names that `optim.update` uses."""
    if optimizer.kind == "rowwise":
        return {"v_row": [arrays["optimizer/v_edge"]]}
    return {name: [arrays[f"optimizer/weight_{name}"], arrays[f"optimizer/bias_{name}"]] for name in ("m", "v")}


def edge_state_arrays(optimizer: OptimizerConfig, width: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes per edge of the state that an optimizer keeps."""
    if optimizer.kind == "rowwise":
        return {"optimizer/v_edge": ()}
    shapes: dict[str, tuple[int, ...]] = {f"optimizer/weight_{name}": (width, width) for name in ("m", "v")}
    shapes |= {f"optimizer/bias_{name}": (width,) for name in ("m", "v")}
    if optimizer.kind == "adamw-dense":
        shapes["optimizer/last_step"] = ()
    return shapes


def catch_up(optimizer: OptimizerConfig, arrays: Mapping[str, Tensor], places: Tensor, step: int) -> None:
    """Dense-equivalent AdamW: the missed steps of the edges at these places, up to and including ``step``."""
    optim.catch_up(
        optimizer,
        parts=[arrays[WEIGHT], arrays[BIAS]],
        state=edge_optimizer_state(arrays, optimizer),
        rows=places,
        last_step=arrays["optimizer/last_step"],
        step=step,
    )


def _update_small(
    parameters: Parameters,
    config: SignalConfig,
    optimizer: OptimizerConfig,
    step: int,
    *,
    first: Tensor,
    back: propagation.PathGradient,
    path_row: Tensor,
    grads: contest.Gradients,
) -> None:
    """The step of alpha, the node biases, the default edge and the energy's scale, if they are trained.

    ``path_row`` is int64 [B (I - 1)], negative where a signal took the default edge.
    """
    slower = dataclasses.replace(optimizer, lr=optimizer.lr * optimizer.shared_rate)

    def one(name: str, grad: Tensor, rows: Tensor | slice = slice(None)) -> None:
        parameter = parameters.small[name]
        state = {}
        for key in optim.state_names(optimizer):
            full = f"optimizer/{name}/{key}"
            if full not in parameters.state:
                shape = parameter.shape[:1] if key == "v_row" else parameter.shape
                parameters.state[full] = torch.zeros(shape, dtype=parameter.dtype)
            state[key] = [parameters.state[full]]
        optim.update(slower, step=step, parts=[parameter], grads=[grad], state=state, rows=rows)

    one("signal/alpha", back.d_alpha)
    if config.first == "biased":
        grad = torch.zeros_like(parameters.node_bias).index_add_(0, first, back.d_node_bias.cpu())
        nodes = torch.arange(len(grad)) if optimizer.kind == "adamw-dense" else torch.unique(first)
        one("nodes/bias", grad[nodes], nodes)
    if config.train_default:
        default = device.send(np.flatnonzero(path_row.numpy() < 0), back.dz.device)
        drive, dz = (x.reshape(-1, x.shape[-1])[default] for x in (back.drive, back.dz))
        one("default/weight", (grads.default_W + contest.outer_sum(drive, dz)).cpu())
        one("default/bias", (grads.default_b + dz.sum(0)).cpu())
    if config.learn_scale:
        one("signal/scale", torch.full_like(parameters.scale, grads.scale))
