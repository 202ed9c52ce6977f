"""One training step on one batch: the gradients of contests and propagation, and one update of every edge met.

It knows batches of node ids; it does not know corpora, schedules of commits, or files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from sifu_store.layout import BIAS, WEIGHT
from torch import Tensor

from sifu_graph import device
from sifu_graph.arrays import Ids
from sifu_graph.config import OptimizerConfig, SignalConfig
from sifu_graph.model.forward import carry, engine, pages_of, path_of, plan, rows_in_memory, stage
from sifu_graph.model.parameters import Parameters
from sifu_graph.ops import contest, contest_tiled, optim, propagation

SCATTER = 2048  # path gradients formed at a time: 8 MiB for d = 32


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
    """One step (counted from 1), in place. Returns the mean loss in nats before it, and the positions seen.

    ``following``: the tokens of the batch after this one; its pages are kept or fetched where there is room.
    """
    batch = plan(parameters, config, tokens, lengths, candidates=candidates, rng=rng)
    group, pool = batch.plan, parameters.working
    if not group.positions:  # every pair is forbidden
        return 0.0, 0
    parameters.note_usage(group.target_slot.numpy())
    dense = optimizer.kind == "adamw-dense"
    staged = stage(parameters, batch)
    taken = torch.arange(len(staged.slots), device=pool.device)
    if dense:
        catch_up(optimizer, staged.values, taken, step - 1)
    sweep = carry(parameters, config, batch, staged)

    # Gradients of the edges that the text takes are set aside: the propagation has its share to add.
    group_of = torch.repeat_interleave(torch.arange(len(group.source)), torch.diff(group.first_position))
    private = group.target >= 0
    row_of = staged.place.T.reshape(-1)[batch.places][private]
    gradient_row = torch.full((len(group.slot),), -1)
    gradient_row[(group.first_edge[group_of] + group.target)[private]] = row_of
    d = parameters.width
    # Only the kernel's own updates are written in the file; of sampled candidates each would be a write of its own.
    kernel_alone = contest.native(d, sweep.S.dtype, sweep.S.device) is not None and not dense and candidates is None
    in_file = tuple(pool.arrays) if kernel_alone else ()
    sink = contest.Sink(
        gradient_row,
        sweep.S.new_empty(len(taken), d, d),
        sweep.S.new_empty(len(taken), d),
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

    upcoming = None
    if following is not None and pool.missing:
        upcoming = pages_of(parameters.index, following, pool.page_edges)
    work = engine(parameters)
    parts = rows_in_memory(pool, batch, sweep.rows, upcoming=upcoming, in_file=in_file, prepare=prepare)
    outcome, grads = work.train(sweep.rows, group, sweep.S, weight=1.0 / group.positions, sink=sink, parts=parts)

    d_mix = torch.zeros_like(sweep.tape.mix)
    d_mix.view(-1, d)[batch.places.to(pool.device)] = grads.dS
    back = propagation.backward(config, sweep.tape, d_mix, alpha=parameters.alpha, path=path_of(parameters, staged))
    scatter = _scatter if parameters.tier is None else _scatter_on_device
    default_W, default_b = scatter(sink, back, staged.place.T, grads)
    values = staged.values
    rows = dataclasses.replace(sweep.rows, W=values[WEIGHT], b=values[BIAS], place=taken)
    work.update_edges(rows, dataclasses.replace(sink, state=edge_optimizer_state(values, optimizer)))
    if dense:
        values["optimizer/last_step"][:] = step
    pool.unstage(staged.slots, values)
    _update_small(parameters, config, optimizer, step, back, batch.first, default_W, default_b, grads.scale)
    return outcome.mean_loss(sweep.rows.scale), group.positions


def _scatter(
    sink: contest.Sink, back: propagation.PathGradient, row_at: Tensor, grads: contest.Gradients
) -> tuple[Tensor, Tensor]:
    """Adds the propagation's gradients to those of the edges set aside; returns the default edge's."""
    steps = back.dz.shape[1]
    row = row_at[:, :steps].reshape(-1)
    d = back.dz.shape[-1]
    drive, dz = back.drive.reshape(-1, d), back.dz.reshape(-1, d)
    private = (row >= 0).nonzero()[:, 0]
    for part in torch.split(private, SCATTER):
        sink.dW.index_add_(0, row[part], drive[part, :, None] * dz[part, None, :])
        sink.db.index_add_(0, row[part], dz[part])
    default = row < 0
    return grads.default_W + contest.outer_sum(drive[default], dz[default]), grads.default_b + dz[default].sum(0)


def _scatter_on_device(
    sink: contest.Sink, back: propagation.PathGradient, row_at: Tensor, grads: contest.Gradients
) -> tuple[Tensor, Tensor]:
    """As `_scatter`, with sums whose order does not depend on threads."""
    row = row_at[:, : back.dz.shape[1]].reshape(-1).numpy()
    d = back.dz.shape[-1]
    drive, dz = back.drive.reshape(-1, d), back.dz.reshape(-1, d)
    private, default = (device.send(np.flatnonzero(which), dz.device) for which in (row >= 0, row < 0))
    left, right = drive[private], dz[private]
    contest_tiled.scatter(sink.dW, row[row >= 0], left, right)
    contest_tiled.scatter(sink.db, row[row >= 0], left[:, :0], right)
    return grads.default_W + contest.outer_sum(drive[default], dz[default]), grads.default_b + dz[default].sum(0)


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
    back: propagation.PathGradient,
    first: Tensor,
    default_W: Tensor,
    default_b: Tensor,
    scale: float,
) -> None:
    """The step of alpha, the node biases, the default edge and the energy's scale, as far as they are trained."""

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
        one("default/weight", default_W.cpu())
        one("default/bias", default_b.cpu())
    if config.learn_scale:
        one("signal/scale", torch.full_like(parameters.scale, scale))
