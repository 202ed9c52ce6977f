"""The naive oracle: DESIGN's formulas, one text, one position, one edge at a time. Plain and slow on purpose.

It shares no code with the package but the settings. Gradients come from autograd.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sifu_graph.config import SignalConfig


@dataclass
class Model:
    """A graph as plain tensors and a dictionary from (u, v) to the row of W and b."""

    nodes: int
    private: dict[tuple[int, int], int]
    W: Tensor
    b: Tensor
    default_W: Tensor
    default_b: Tensor
    node_bias: Tensor
    alpha: Tensor
    r_0: Tensor
    scale: Tensor

    def edge(self, u: int, v: int) -> tuple[Tensor, Tensor]:
        row = self.private.get((u, v))
        return (self.default_W, self.default_b) if row is None else (self.W[row], self.b[row])

    def parameters(self) -> list[Tensor]:
        return [self.W, self.b, self.default_W, self.default_b, self.node_bias, self.alpha, self.scale]


def positional(config: SignalConfig, position: int, width: int, dtype: torch.dtype) -> Tensor:
    out = torch.zeros(width, dtype=dtype)
    if config.positional == "none":
        return out
    for j in range(width // 2):
        power = torch.tensor(10000.0) ** (torch.tensor(2.0 * j) / width)
        rate = power if config.positional == "brillm05" else 1.0 / power
        angle = torch.tensor(float(position)) * rate
        out[2 * j], out[2 * j + 1] = torch.sin(angle), torch.cos(angle)
    return out


def gelu(z: Tensor) -> Tensor:
    return 0.5 * z * (1.0 + torch.erf(z / math.sqrt(2.0)))


def mix_of(config: SignalConfig, alpha: Tensor, signals: list[Tensor]) -> Tensor:
    """S_i from r_1 .. r_i, by the definition."""
    past = signals[:-1] if config.skip_current else signals
    kept = past[config.mix_from - 1 :] or signals[-1:]
    logits = torch.stack([alpha[min(k, len(alpha) - 1)] for k in range(len(kept))])
    weights = torch.softmax(logits, 0)
    total = sum((w * r for w, r in zip(weights, kept, strict=True)), torch.zeros_like(kept[0]))
    if config.normalise_mix:
        total = total - total.mean()
        total = total / torch.sqrt((total * total).mean() + 1e-6)
    return total


def run(model: Model, config: SignalConfig, tokens: list[int], *, training: bool = True) -> tuple[list[Tensor], Tensor]:
    """Energies of every node at every position ([n] each), and the loss of every position [L - 1]."""
    width, dtype = model.default_b.shape[0], model.default_b.dtype
    offset = config.train_offset if training else config.decode_offset
    energies, losses = [], []
    signals: list[Tensor] = []
    step = 0
    for i in range(len(tokens) - 1):
        if config.reset_after is not None and step == config.reset_after:
            signals, step = [], 0
        if not signals:
            z = model.r_0 + model.node_bias[tokens[i]] + positional(config, 0, width, dtype)
            signals = [gelu(z) if config.first == "biased" else model.r_0]
        S = mix_of(config, model.alpha, signals)
        pe = positional(config, step + offset, width, dtype)
        row = []
        for v in range(model.nodes):
            W, b = model.edge(tokens[i], v)
            row.append(torch.sqrt((gelu(S @ W + b + pe) ** 2).sum()))
        E = torch.stack(row)
        energies.append(E)
        losses.append(torch.logsumexp(model.scale * E, 0) - model.scale * E[tokens[i + 1]])
        W, b = model.edge(tokens[i], tokens[i + 1])
        drive = S if config.drive == "mix" else signals[-1]
        signals.append(gelu(drive @ W + b + pe))
        step += 1
    return energies, torch.stack(losses)
