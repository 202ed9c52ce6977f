"""The recurrence that all edges share in torch: the reference of the compiled kernel.

`recurrent` has the equations.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sifu_graph.ops.functional import gelu, normalised
from sifu_graph.ops.pair_model import LeftOut, PairModel
from sifu_graph.ops.recurrent import Recurrent, StreamBatch, repeated
from sifu_graph.ops.repetition import frequency_basis, repeat_weights


class TorchRecurrent:
    """The equations in torch, and their gradients by autograd. It holds the energies of a whole window."""

    def __init__(self, pairs: PairModel) -> None:
        self._pairs = pairs

    def carry(self, model: Recurrent, token: Tensor, restart: Tensor, signal: Tensor) -> Tensor:
        """See `RecurrentBackend.carry`."""
        r, signals = signal, []
        for step in range(token.shape[1]):
            r = torch.where(restart[:, step, None], model.start, r)
            r = gelu(model.gain * normalised(r @ model.W) + model.node[token[:, step].long()])
            signals.append(r)
        signal.copy_(r.detach())
        return torch.stack(signals, 1)

    def outcomes(self, model: Recurrent, batch: StreamBatch, r: Tensor) -> tuple[Tensor, Tensor]:
        """See `RecurrentBackend.outcomes`."""
        scored = batch.target >= 0
        energy, goal = self._energies(model, batch, r), batch.target[scored].long()[:, None]
        own = energy.gather(1, goal)
        wins = (energy > own) | ((energy == own) & (torch.arange(energy.shape[1]) < goal))
        ranks = torch.zeros(scored.shape, dtype=torch.int32)
        ranks[scored] = wins.sum(1, dtype=torch.int32)
        return self._losses(energy, batch), ranks

    def gradients(
        self,
        model: Recurrent,
        batch: StreamBatch,
        signal: Tensor,
        *,
        piece: Tensor,
        out: LeftOut,
        weight: float,
        keep: Tensor | None = None,
    ) -> tuple[Tensor, Recurrent]:
        """See `RecurrentBackend.gradients`."""
        leaf = Recurrent(**{name: value.detach().requires_grad_() for name, value in model.tensors().items()})
        with torch.enable_grad():
            r = self.carry(leaf, batch.token, batch.restart, signal)
            if keep is not None:
                r = r * keep
            losses = self._losses(self._energies(leaf, batch, r, piece=piece, out=out), batch)
            found = torch.autograd.grad(weight * losses.sum(), list(leaf.tensors().values()), materialize_grads=True)
        return losses.detach(), Recurrent(*found)

    def _energies(
        self,
        model: Recurrent,
        batch: StreamBatch,
        signals: Tensor,
        *,
        piece: Tensor | None = None,
        out: LeftOut | None = None,
    ) -> Tensor:
        """The energies of all nodes at the scored positions, [scored, n]."""
        scored = batch.target >= 0
        at = batch.source[scored].numpy().astype(np.int64)
        if piece is None or out is None:
            rows = self._pairs.rows(at)
        else:
            rows = self._pairs.rows_without(at, piece[scored].numpy().astype(np.int64), out)
        r = signals[scored]
        energy = model.scale * torch.from_numpy(rows).to(r.dtype) + r @ model.target.T + model.bias
        if self._pairs.added is not None:
            energy = energy + torch.from_numpy(self._pairs.added_rows(at)).to(r.dtype)
        before, *after = (times[scored].to(r.dtype) for times in repeated(batch, len(model.bias)))
        weight = repeat_weights(
            model.repeat, model.repeat_shared, torch.from_numpy(frequency_basis(self._pairs.log_lower)).to(r.dtype)
        )
        energy = energy + (before > 0) * (weight[:, 0] + weight[:, 1] * before.clamp(min=1).log())
        for factor, times in zip(model.repeat_after, after, strict=True):
            energy = energy + factor * torch.log1p(times)
        return energy

    @staticmethod
    def _losses(energy: Tensor, batch: StreamBatch) -> Tensor:
        scored = batch.target >= 0
        losses = energy.new_zeros(scored.shape)
        losses[scored] = torch.nn.functional.cross_entropy(energy, batch.target[scored].long(), reduction="none")
        return losses
