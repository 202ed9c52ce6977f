"""The contest in torch on the CPU: the reference for the other backends, used where there is no compiler."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sifu_graph.edge_index import RowPlaces
from sifu_graph.ops import contest, optim
from sifu_graph.ops.contest import Gradients, Outcome, Plan, Range, Rows, Sink
from sifu_graph.ops.functional import gelu, gelu_slope

TILE_BYTES = 32 << 20  # of the candidates' inputs held at a time
SCATTER = 2048  # outer products formed at a time: 8 MiB for d = 32


class TorchContest:
    """The reference backend: see `contest.ContestBackend`."""

    writes_in_file = False

    def forward(
        self, rows: Rows, group: Plan, S: Tensor, *, energies: bool = False, parts: Iterable[Range] | None = None
    ) -> tuple[Outcome, Tensor | None]:
        """See `contest.ContestBackend.forward`."""
        outcome, ends = contest.empty_outcome(rows, group, S), contest.energy_ends(group)
        flat = S.new_empty(int(ends[-1])) if energies else None
        for first, stop in group.whole if parts is None else parts:
            start = int(ends[first])
            for g, tile in _tiles(group, first, stop, S.shape[1], S.element_size()):
                E = _forward_tile(rows, group, S, outcome, g, tile)[1]
                if flat is not None:
                    flat[start : start + E.numel()] = E.reshape(-1)
                    start += E.numel()
        return outcome, flat

    def train(
        self, rows: Rows, group: Plan, S: Tensor, *, weight: float, sink: Sink, parts: Iterable[Range] | None = None
    ) -> tuple[Outcome, Gradients]:
        """See `contest.ContestBackend.train`."""
        outcome = contest.empty_outcome(rows, group, S)
        dS, d_scale = torch.empty_like(S), S.new_zeros(len(group.source))
        for part in group.whole if parts is None else parts:
            _train_part(rows, group, S, outcome, part, weight=weight, sink=sink, dS=dS, d_scale=d_scale)
        return outcome, contest.with_default(rows, group, S, outcome, weight=weight, dS=dS, d_scale=d_scale)

    def update_edges(self, rows: Rows, sink: Sink) -> None:
        """See `contest.ContestBackend.update_edges`."""
        if len(rows.place):
            _update(rows, sink, rows.place, sink.dW, sink.db)

    def scatter(self, sink: Sink, row: Tensor, left: Tensor, right: Tensor) -> None:
        """See `contest.ContestBackend.scatter`."""
        scatter(sink, row, left, right)

    def row_contest(self, rows: Rows, *, largest: int) -> TorchRowContest:
        """See `contest.ContestBackend.row_contest`."""
        return TorchRowContest(rows, largest=largest)


def scatter(sink: Sink, row: Tensor, left: Tensor, right: Tensor) -> None:
    """As `contest.ContestBackend.scatter`, on the CPU: into [rows, d, d] and [rows, d]."""
    private = (row >= 0).nonzero()[:, 0]
    for part in torch.split(private, SCATTER):
        sink.dW.index_add_(0, row[part], left[part, :, None] * right[part, None, :])
        sink.db.index_add_(0, row[part], right[part])


class TorchRowContest:
    """See `contest.RowContest`."""

    def __init__(self, rows: Rows, *, largest: int) -> None:
        self._rows, self._sign = rows, 1.0 if rows.scale >= 0 else -1.0
        self._out = rows.default_b.new_zeros(largest + 1)
        self.found: NDArray[np.floating[Any]] = self._out.numpy()
        self.values = self.found.data

    def run(self, row: RowPlaces, S: Tensor, pe: Tensor | None, *, S_at: int = 0) -> int:
        """See `contest.RowContest.run`."""
        at, edges = torch.from_numpy(row.places), row.edges
        W = torch.cat([self._rows.W[at].to(S.dtype), self._rows.default_W[None]])
        b = torch.cat([self._rows.b[at], self._rows.default_b[None]])
        z = torch.matmul(S, W)[:, 0] + b
        self._out[: edges + 1] = gelu(z if pe is None else z + pe).norm(dim=-1)
        return int((self.found[:edges] * self._sign).argmax()) if edges else -1


def _tiles(group: Plan, first: int, stop: int, width: int, item_bytes: int) -> list[tuple[int, slice]]:
    """(group, positions) such that one tile's candidates stay within `TILE_BYTES`."""
    tiles: list[tuple[int, slice]] = []
    for g in range(first, stop):
        begin, end = int(group.first_position[g]), int(group.first_position[g + 1])
        edges = int(group.first_edge[g + 1] - group.first_edge[g])
        step = max(1, TILE_BYTES // max(1, edges * width * item_bytes))
        tiles.extend((g, slice(at, min(at + step, end))) for at in range(begin, end, step))
    return tiles


def _forward_tile(rows: Rows, group: Plan, S: Tensor, outcome: Outcome, g: int, tile: slice) -> tuple[Tensor, Tensor]:
    """z [n, k, d] and energies [n, k] of a tile; fills the outcome."""
    place = rows.place[group.first_edge[g] : group.first_edge[g + 1]]
    z = torch.einsum("ni,kio->nko", S[tile], rows.W[place]) + rows.b[place] + rows.pe[group.pe_row[tile]][:, None]
    E = gelu(z).norm(dim=-1)
    share = rows.scale * outcome.default_energy[tile, None] + group.log_defaults[g]
    outcome.logsumexp[tile] = torch.cat([rows.scale * E, share], 1).logsumexp(1)
    target = group.target[tile]
    private = target >= 0
    if private.any():
        outcome.target_energy[tile] = torch.where(
            private, E.gather(1, target.clamp_min(0)[:, None])[:, 0], outcome.default_energy[tile]
        )
    if len(place):
        high, best = E.max(1)
        beaten = outcome.default_energy[tile] >= high
        outcome.best[tile] = torch.where(beaten & torch.isfinite(group.log_defaults[g]), -1, best)
    return z, E


def _train_part(
    rows: Rows,
    group: Plan,
    S: Tensor,
    outcome: Outcome,
    part: Range,
    *,
    weight: float,
    sink: Sink,
    dS: Tensor,
    d_scale: Tensor,
) -> None:
    """Fills dS and d_scale of the part's positions and groups."""
    tiles = _tiles(group, *part, S.shape[1], S.element_size())
    for at, (g, tile) in enumerate(tiles):
        edges = slice(int(group.first_edge[g]), int(group.first_edge[g + 1]))
        place = rows.place[edges]
        if at == 0 or tiles[at - 1][0] != g:
            dW = torch.zeros_like(rows.W[place])
            db = torch.zeros_like(rows.b[place])
        z, E = _forward_tile(rows, group, S, outcome, g, tile)
        p = torch.exp(rows.scale * E - outcome.logsumexp[tile, None])
        private = group.target[tile] >= 0
        hit = torch.zeros_like(p)
        if private.any():
            hit[private] = torch.nn.functional.one_hot(group.target[tile][private], len(place)).to(p.dtype)
        d_logit = weight * (p - hit)
        d_scale[g] += (d_logit * E).sum()
        factor = torch.where(E > 0, rows.scale * d_logit / E.clamp_min(1e-30), 0.0)
        dz = factor[..., None] * gelu(z) * gelu_slope(z)
        dS[tile] = torch.einsum("nko,kio->ni", dz, rows.W[place])
        dW += torch.einsum("ni,nko->kio", S[tile], dz)
        db += dz.sum(0)
        if at + 1 == len(tiles) or tiles[at + 1][0] != g:
            aside = sink.gradient_row[edges]
            kept = aside >= 0
            sink.dW[aside[kept]], sink.db[aside[kept]] = dW[kept], db[kept]
            if sink.config is not None:
                _update(rows, sink, place[~kept], dW[~kept], db[~kept])


def _update(rows: Rows, sink: Sink, place: Tensor, dW: Tensor, db: Tensor) -> None:
    assert sink.config is not None and sink.state is not None
    optim.update(sink.config, step=sink.step, parts=[rows.W, rows.b], grads=[dW, db], state=sink.state, rows=place)
