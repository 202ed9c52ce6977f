"""Phase one: the signal along the path edges of a batch of texts, and the gradient back along them.

It knows sequences and steps; it does not know where edge parameters are kept (a callback hands them over, step by
step), nor what happens to a mix in the contest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sifu_graph.config import SignalConfig
from sifu_graph.ops.functional import gelu_slope, mixing_matrix, normalised_backward
from sifu_graph.ops.positional import first_encoding
from sifu_graph.ops.signal import PathEdges, Signal

Path = Callable[[int], PathEdges]
"""Step s (0 carries x_1 to x_2) -> every sequence's path edge."""


@dataclass(frozen=True, slots=True)
class Tape:
    """What the backward pass needs of the forward pass. I = positions, the tokens but the last."""

    mix: Tensor  # [B, I, d], S as the candidates see it
    raw_mix: Tensor  # [B, I, d]
    r: Tensor  # [B, I, d]
    drive: Tensor  # [B, I, d]
    z: Tensor  # [B, I, d]; z[:, 0] belongs to r_1


@dataclass(frozen=True, slots=True)
class PathGradient:
    """The gradient of the propagation, as factors: dW of step s is ``drive[:, s]^T dz[:, s]``, db is ``dz[:, s]``."""

    drive: Tensor  # [B, I - 1, d]
    dz: Tensor  # [B, I - 1, d]
    d_node_bias: Tensor  # [B, d], for the first node of every sequence
    d_alpha: Tensor  # [K]


def forward(config: SignalConfig, *, positions: int, r_0: Tensor, node_bias: Tensor, alpha: Tensor, path: Path) -> Tape:
    """Carries B signals over ``positions`` positions, from the biases [B, d] of their first nodes."""
    signal = Signal.start(config, r_0=r_0, node_bias=node_bias, alpha=alpha.tolist(), offset=config.train_offset)
    mixes, raw_mixes, rs, drives = [signal.mix], [signal.raw_mix], [signal.r], [signal.drive]
    zs = [r_0 + node_bias + first_encoding(config, node_bias)]
    for step in range(positions - 1):
        zs.append(signal.carry(path(step)))
        mixes.append(signal.mix)
        raw_mixes.append(signal.raw_mix)
        rs.append(signal.r)
        drives.append(signal.drive)
    return Tape(*(torch.stack(rows, 1) for rows in (mixes, raw_mixes, rs, drives, zs)))


def backward(config: SignalConfig, tape: Tape, d_mix: Tensor, *, alpha: Tensor, path: Path) -> PathGradient:
    """The gradient of the loss along the path, given that with respect to every mix, d_mix [B, I, d].

    Hand-written, in the reverse order of the steps; equal to autograd (a test holds it to 1e-12 in float64).
    """
    batch, positions, width = d_mix.shape
    A = mixing_matrix(config, alpha, positions).to(d_mix.device)
    d_r = torch.zeros_like(tape.r)
    dz = torch.empty_like(tape.z)
    d_drive = torch.zeros(batch, width, dtype=d_mix.dtype, device=d_mix.device)
    d_A = torch.zeros_like(A)
    for i in reversed(range(positions)):
        d_s = d_mix[:, i]
        if config.drive == "mix":
            d_s = d_s + d_drive
        if config.normalise_mix:
            d_s = normalised_backward(tape.raw_mix[:, i], d_s)
        d_r[:, : i + 1] += A[i, : i + 1, None] * d_s[:, None]
        d_A[i, : i + 1] = (tape.r[:, : i + 1] * d_s[:, None]).sum(2).sum(0)  # in an order that no thread changes
        d_here = d_r[:, i] + d_drive if config.drive == "chain" else d_r[:, i]
        dz[:, i] = d_here * gelu_slope(tape.z[:, i])
        if i > 0:
            W, _ = path(i - 1).gather()
            d_drive = torch.einsum("bo,bio->bi", dz[:, i], W)
    d_logits = (A * (d_A - (A * d_A).sum(1, keepdim=True))).sum(0)  # softmax backward, summed over rows
    slots = torch.arange(positions, device=alpha.device) + (1 - config.mix_from)
    d_logits = d_logits.to(alpha.device)  # which may be the CPU: sums there have one order
    d_alpha = torch.zeros_like(alpha).index_add_(0, slots.clamp(0, alpha.shape[0] - 1), d_logits)
    first = dz[:, 0] if config.first == "biased" else torch.zeros_like(dz[:, 0])
    return PathGradient(tape.drive[:, : positions - 1], dz[:, 1:], first, d_alpha)
