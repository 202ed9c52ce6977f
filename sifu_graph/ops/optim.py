"""Optimizers for parameters of which a step touches only some rows.

It knows rows of parameters and their state; it does not know what a row means. The functions here are the reference
and the path for machines without a compiler; `kernels/contest.cpp` has the same updates, fused, and a property test
compares the two.

``rowwise``
    Row-wise AdaGrad (Duchi et al. 2011, with one second moment per row: an edge, a node bias), the usual optimizer of
    sparse embeddings: ``v += |g|^2`` (or its running mean where beta2 < 1), ``w -= lr g / (sqrt(v) + eps)``.
``adamw``
    AdamW (Loshchilov & Hutter 2019) on the rows that a step touches; the others keep their values ("lazy").
``adamw-dense``
    AdamW with the result that `torch.optim.AdamW` has on the dense graph: before a row is read, it catches up with
    the steps that it missed.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from sifu_graph.config import OptimizerConfig


def state_names(config: OptimizerConfig) -> tuple[str, ...]:
    """The state kept per row: ``v_row`` [rows], or ``m`` and ``v`` in the shape of the parameters."""
    return ("v_row",) if config.kind == "rowwise" else ("m", "v")


def update(
    config: OptimizerConfig,
    *,
    step: int,
    parts: list[Tensor],
    grads: list[Tensor],
    state: dict[str, list[Tensor]],
    rows: Tensor | slice,
    norm2: Tensor | None = None,
) -> None:
    """One step, counted from 1, of the rows ``rows`` of a parameter that consists of ``parts`` ([rows, ...] each).

    It changes ``parts`` and ``state`` in place.

    ``grads[j]`` is the gradient of ``parts[j][rows]``; ``state`` holds per name one tensor per part, but a single
    one for ``v_row``. ``norm2`` [K]: the squared length of every row's gradient over all parts, where it is known.
    """
    grads = [g.flatten(1) if g.dim() > 1 else g[:, None] for g in grads]
    lr = config.rate(step)
    if norm2 is None and (config.clip or config.kind == "rowwise"):
        norm2 = sum((g.square().sum(1) for g in grads), grads[0].new_zeros(grads[0].shape[0]))
    if config.clip and norm2 is not None:
        factor = torch.clamp(config.clip / norm2.sqrt().clamp_min(1e-30), max=1.0)
        grads = [g * factor[:, None] for g in grads]
        norm2 = norm2 * factor.square()
    keep = 1.0 - lr * config.weight_decay
    if config.kind == "rowwise" and norm2 is not None:
        new = 1.0 - config.beta2 if config.beta2 < 1 else 1.0
        v = config.beta2 * state["v_row"][0][rows] + new * norm2
        state["v_row"][0][rows] = v
        rate = lr / (v.sqrt() + config.eps)
        for part, g in zip(parts, grads, strict=True):
            part[rows] = part[rows] * keep - (rate[:, None] * g).reshape(part[rows].shape)
        return
    correction1, correction2 = 1.0 - config.beta1**step, 1.0 - config.beta2**step
    for j, (part, g) in enumerate(zip(parts, grads, strict=True)):
        m, v, values = state["m"][j][rows], state["v"][j][rows], part[rows]  # views of a slice, else copies
        grad = g.reshape(values.shape)
        m.mul_(config.beta1).add_((1.0 - config.beta1) * grad)
        v.mul_(config.beta2).add_(grad.square().mul_(1.0 - config.beta2))
        divisor = v.sqrt().div_(math.sqrt(correction2)).add_(config.eps)
        values.mul_(keep).sub_((m * (lr / correction1)).div_(divisor))
        if not isinstance(rows, slice):
            state["m"][j][rows], state["v"][j][rows], part[rows] = m, v, values


def catch_up(
    config: OptimizerConfig,
    *,
    parts: list[Tensor],
    state: dict[str, list[Tensor]],
    rows: Tensor,
    last_step: Tensor,
    step: int,
) -> None:
    """Gives the rows (int64 [K]) the AdamW steps that they missed, in place: from ``last_step[rows]`` to ``step``.

    A missed step has a zero gradient: the moments decay, and the row moves by the decayed moments.
    """
    behind = last_step[rows]
    for missed in range(int(behind.min().item()) + 1 if len(rows) else step + 1, step + 1):
        late = rows[behind < missed]
        zeros = [part.new_zeros(len(late), part[0].numel()) for part in parts]
        update(
            dataclasses.replace(config, clip=0.0),
            step=missed,
            parts=parts,
            grads=zeros,
            state=state,
            rows=late,
        )
    last_step[rows] = step
