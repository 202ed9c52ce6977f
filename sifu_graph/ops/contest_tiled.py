"""The contest in few, large launches, for a GPU: same results as `contest_torch`, on any torch device.

The positions of a group (one source) are cut into *tiles* of 256, 64, 16 or 4, its row into *blocks* of `BLOCK` edges.
A *unit* is one tile of positions against one block of edges: one product [tile, d] x [d, BLOCK * d]. A *launch* is
one batched product of many units of the same size. A tile of positions meets the blocks of its row one after another,
a *segment* of units, over which its softmax and its gradient are summed.

**The same bits however the groups are handed out** (and so under any budget of memory): which units there are depends
on their group alone; every launch has the same shape, the last one filled up with empty units, so that the
device takes the same way through it; sums over units run in the order of the row, sums over tiles in the order of
the positions, and none is left to the order in which threads arrive.

It knows positions, rows and places; the plan, the places and the sink's rows stay on the CPU, all
other tensors are on the device. The elementwise part can be compiled (`compiled`); the products can be rounded
(`precision`), nothing else is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sifu_graph.device import Precision, send
from sifu_graph.edge_index import RowPlaces
from sifu_graph.ops import contest, optim
from sifu_graph.ops.contest import Gradients, Outcome, Plan, Range, Rows, Sink
from sifu_graph.ops.functional import gelu, gelu_slope
from sifu_graph.ops.tiles import (
    BLOCK,
    CPU_LAUNCH_BYTES,
    LAUNCH_BYTES,
    PIECE_BLOCKS,
    PIECE_PAIRS,
    Cutter,
    Piece,
    Tiles,
    without_repeats,
)

SCATTER = 2048  # outer products formed at a time


@dataclass(slots=True)
class _Batch:
    """What a call works on: tensors of the device, each with one row more than there are positions."""

    rows: Rows
    scale: Tensor  # []
    S: Tensor  # [T + 1, d]
    pe_row: Tensor  # int64 [T + 1]
    target: Tensor  # int64 [T + 1]
    log_defaults: Tensor  # [T + 1]
    default_energy: Tensor  # [T + 1]
    logsumexp: Tensor  # [T + 1]; infinite in the last row, so that nothing has a share in it
    target_energy: Tensor  # [T + 1]
    best: Tensor  # int64 [T + 1]

    def outcome(self) -> Outcome:
        return Outcome(self.logsumexp[:-1], self.target_energy[:-1], self.default_energy[:-1], self.best[:-1])


class TiledContest:
    """The backend for the tensors of a device: see `contest.ContestBackend`.

    Parameters
    ----------
    device
        Where all tensors are but those of the plan and of the sink's ``gradient_row``.
    precision
        Of the products: ``float32``, ``tf32`` or ``bf16`` (sums and everything else in float32).
    compiled
        Compiles the elementwise part (`torch.compile`), where that works.
    launch_bytes
        It decides the shape of a launch, and so the last bits of the results.
    piece_blocks, piece_pairs
        What is held at a time. They change no result.
    """

    writes_in_file = False

    def __init__(
        self,
        device: torch.device,
        *,
        precision: Precision = "float32",
        compiled: bool = False,
        launch_bytes: int | None = None,
        piece_blocks: int = PIECE_BLOCKS,
        piece_pairs: int = PIECE_PAIRS,
    ) -> None:
        self.device, self.precision = device, precision
        usual = CPU_LAUNCH_BYTES if device.type == "cpu" else LAUNCH_BYTES
        launch = usual if launch_bytes is None else launch_bytes
        self._cut = Cutter(device, launch_bytes=launch, piece_blocks=piece_blocks, piece_pairs=piece_pairs)
        self._energies: Callable[..., Any] = torch.compile(_energies, dynamic=False) if compiled else _energies
        self._slopes: Callable[..., Any] = torch.compile(_slopes, dynamic=False) if compiled else _slopes

    # ---- the interface of `contest.ContestBackend`

    def forward(
        self, rows: Rows, group: Plan, S: Tensor, *, energies: bool = False, parts: Iterable[Range] | None = None
    ) -> tuple[Outcome, Tensor | None]:
        """See `contest.ContestBackend.forward`."""
        batch = self._batch(rows, group, S)
        ends = contest.energy_ends(group)
        flat = S.new_empty(int(ends[-1]) + 1) if energies else None
        for first, stop in group.whole if parts is None else parts:
            for piece in self._cut.pieces(group, rows, first, stop, ends):
                for tiles in piece.tiles:
                    self._rank(batch, piece, tiles, flat)
        return batch.outcome(), None if flat is None else flat[:-1]

    def train(
        self,
        rows: Rows,
        group: Plan,
        S: Tensor,
        *,
        weight: float,
        sink: Sink,
        parts: Iterable[Range] | None = None,
    ) -> tuple[Outcome, Gradients]:
        """See `contest.ContestBackend.train`."""
        batch = self._batch(rows, group, S)
        dS, d_scale = torch.zeros_like(batch.S), S.new_zeros(group.positions + 1)
        ends = contest.energy_ends(group)
        for first, stop in group.whole if parts is None else parts:
            for piece in self._cut.pieces(group, rows, first, stop, ends):
                self._train(batch, piece, weight, sink, dS, d_scale)
        outcome = batch.outcome()
        there = dataclasses.replace(
            group,
            first_position=self._send(group.first_position),
            target=self._send(group.target),
            log_defaults=self._send(group.log_defaults),
            pe_row=self._send(group.pe_row),
        )
        dS, d_scale = dS[:-1], d_scale[:-1]
        return outcome, contest.with_default(rows, there, S, outcome, weight=weight, dS=dS, d_scale=d_scale)

    def update_edges(self, rows: Rows, sink: Sink) -> None:
        """See `contest.ContestBackend.update_edges`."""
        assert sink.config is not None and sink.state is not None
        parts, grads = [rows.W, rows.b], [sink.dW, sink.db]
        if len(rows.place):
            optim.update(sink.config, step=sink.step, parts=parts, grads=grads, state=sink.state, rows=rows.place)

    def scatter(self, sink: Sink, row: Tensor, left: Tensor, right: Tensor) -> None:
        """See `contest.ContestBackend.scatter`. The order of the sums does not depend on threads."""
        rows = row.numpy()
        private = self._send(np.flatnonzero(rows >= 0))
        left, right = left[private], right[private]
        scatter(sink.dW, rows[rows >= 0], left, right)
        scatter(sink.db, rows[rows >= 0], left[:, :0], right)

    def row_contest(self, rows: Rows, *, largest: int) -> TiledRowContest:
        """See `contest.ContestBackend.row_contest`. The largest row does not matter here."""
        return TiledRowContest(rows)

    # ---- computing

    def _batch(self, rows: Rows, group: Plan, S: Tensor) -> _Batch:
        pe_row = self._send(group.pe_row)
        default = contest.default_energy(rows, S, pe_row)
        spread = np.repeat(np.arange(len(group.source)), np.diff(group.first_position.numpy()))
        log_defaults = self._send(group.log_defaults[torch.from_numpy(spread)])
        share = rows.scale * default + log_defaults
        return _Batch(
            rows=rows,
            scale=S.new_full((), rows.scale),
            S=torch.cat([S, S.new_zeros(1, S.shape[1])]),
            pe_row=_and(pe_row, 0),
            target=_and(self._send(group.target), -1),
            log_defaults=_and(log_defaults, 0.0),
            default_energy=_and(default, 0.0),
            logsumexp=_and(share, torch.inf),
            target_energy=_and(default, 0.0),
            best=torch.full((len(S) + 1,), -1, dtype=torch.int64, device=self.device),
        )

    def _send(self, tensor: Tensor | NDArray[Any]) -> Tensor:
        return send(tensor, self.device)

    def _rank(self, batch: _Batch, piece: Piece, tiles: Tiles, flat: Tensor | None = None) -> Tensor:
        """Fills the outcome of the tiles' positions. Returns the energies [units, filled up, size, BLOCK]."""
        like = batch.S
        shape = (len(tiles.block), tiles.size)
        E = like.new_empty(*shape, BLOCK)
        peak, share, high = (like.new_empty(shape) for _ in range(3))
        rank = torch.empty(shape, dtype=torch.int64, device=self.device)
        for at in self._launches(tiles, like):
            position, block, _, _, parts = self._products(batch, piece, tiles, at)
            E[at], peak[at], share[at], high[at], rank[at] = self._energies(
                *parts, piece.real[block], piece.base[block], batch.scale
            )
            if flat is not None:
                place = (
                    piece.flat[block][:, None] + piece.base[block][:, None] + position * piece.row[block][:, None]
                )[..., None] + torch.arange(BLOCK, device=self.device)
                known = (position >= 0)[..., None] & piece.real[block][:, None]
                flat[torch.where(known, place, len(flat) - 1)] = E[at]
        units, segments = tiles.units, len(tiles.lengths)
        of = tiles.segment[:units, None].expand(-1, tiles.size)
        lowest = like.new_full((segments, tiles.size), -torch.inf)
        top = lowest.scatter_reduce(0, of, peak[:units], "amax")
        total = _sums(share[:units] * torch.exp(peak[:units] - top[tiles.segment[:units]]), tiles.lengths)
        highest = lowest.scatter_reduce(0, of, high[:units], "amax")
        never = torch.iinfo(torch.int64).max
        first = torch.where(high[:units] == highest[tiles.segment[:units]], rank[:units], never)
        best = torch.full_like(highest, never, dtype=torch.int64).scatter_reduce(0, of, first, "amin")

        position = tiles.position[:segments]
        default, count = batch.default_energy[position], batch.log_defaults[position]
        # Not torch.logaddexp, whose last bit depends, on the CPU, on where in a tensor a number lies.
        share = batch.rows.scale * default + count
        peak = torch.maximum(top, share)
        batch.logsumexp[position] = peak + torch.log(total * torch.exp(top - peak) + torch.exp(share - peak))
        beaten = (default >= highest) & torch.isfinite(count)
        batch.best[position] = torch.where(beaten, -1, best)
        target = batch.target[position]
        at_target = target.clamp_min(0)
        unit = tiles.first_unit[:, None] + at_target // BLOCK
        own = E[unit, torch.arange(tiles.size, device=self.device), at_target % BLOCK]
        batch.target_energy[position] = torch.where(target >= 0, own, default)
        batch.logsumexp[-1] = torch.inf
        return E

    def _train(self, batch: _Batch, piece: Piece, weight: float, sink: Sink, dS: Tensor, d_scale: Tensor) -> None:
        """Fills dS [T + 1, d] and d_scale [T + 1] of the piece's positions, and updates its edges."""
        energies = [self._rank(batch, piece, tiles) for tiles in piece.tiles]
        each = dS.new_full((), weight)
        rows, d = batch.rows, batch.S.shape[1]
        norms = self._cut.launch(d, d, batch.S.element_size())  # blocks whose gradients are measured at a time
        blocks = -(-piece.blocks // norms) * norms
        dW, db = dS.new_zeros(blocks, BLOCK, d, d), dS.new_zeros(blocks, BLOCK, d)
        for tiles, E in zip(piece.tiles, energies, strict=True):
            unit_dS, unit_scale = dS.new_empty(len(tiles.block), tiles.size * d), dS.new_empty(len(tiles.block))
            for at in self._launches(tiles, dS):
                position, block, X, W, parts = self._products(batch, piece, tiles, at)
                dz, unit_db, unit_scale[at] = self._slopes(
                    *parts,
                    E=E[at],
                    real=piece.real[block],
                    base=piece.base[block],
                    logsumexp=batch.logsumexp[position],
                    target=batch.target[position],
                    weight=each,
                    scale=batch.scale,
                )
                dz = dz.flatten(2)  # [units, size, BLOCK * d]
                unit_dS[at] = self._product(dz, W.transpose(1, 2)).flatten(1)
                unit_dW = self._product(X.transpose(1, 2), dz).view(-1, d, BLOCK, d).transpose(1, 2)
                for part in without_repeats(tiles.turns, at):
                    here = slice(part.start - at.start, part.stop - at.start)
                    dW.index_add_(0, tiles.block[part], unit_dW[here])
                    db.index_add_(0, tiles.block[part], unit_db[here])
            position = tiles.position[: len(tiles.lengths)]
            dS[position] = _sums(unit_dS[: tiles.units], tiles.lengths).view(-1, tiles.size, d)
            d_scale[position[:, 0]] = _sums(unit_scale[: tiles.units, None], tiles.lengths)[:, 0]
        spans = (slice(begin, begin + norms) for begin in range(0, blocks, norms))
        norm2 = torch.cat([(dW[s].flatten(2).square().sum(2) + db[s].square().sum(2)).flatten() for s in spans])
        self._update(piece, rows, sink, dW.view(-1, d, d), db.view(-1, d), norm2)

    def _update(self, piece: Piece, rows: Rows, sink: Sink, dW: Tensor, db: Tensor, norm2: Tensor) -> None:
        row = sink.gradient_row[piece.edges].numpy()
        aside = np.flatnonzero(row >= 0)
        if len(aside):
            kept, into = piece.padded[self._send(aside)], self._send(row[aside])
            sink.dW[into], sink.db[into] = dW[kept], db[kept]
        if sink.config is not None and len(aside) < len(row):
            assert sink.state is not None
            chosen = self._send(np.flatnonzero(row < 0))
            padded = piece.padded[chosen]
            optim.update(
                sink.config,
                step=sink.step,
                parts=[rows.W, rows.b],
                grads=[dW[padded], db[padded]],
                state=sink.state,
                rows=piece.place.view(-1)[padded],
                norm2=norm2[padded],
            )

    def _launches(self, tiles: Tiles, like: Tensor) -> Iterator[slice]:
        each = self._cut.launch(tiles.size, like.shape[1], like.element_size())
        return (slice(begin, begin + each) for begin in range(0, tiles.units, each))

    def _products(
        self, batch: _Batch, piece: Piece, tiles: Tiles, at: slice
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Positions [units, size], blocks [units], S [units, size, d], W [units, d, BLOCK * d], what z consists of."""
        rows = batch.rows
        position, block = tiles.position[tiles.segment[at]], tiles.block[at]
        place = piece.place[block]  # [units, BLOCK]
        X = batch.S[position]
        W = rows.W[place].transpose(1, 2).flatten(2)
        z = self._product(X, W).view(*X.shape[:2], BLOCK, -1)
        return position, block, X, W, (z, rows.b[place], rows.pe[batch.pe_row[position]])

    def _product(self, a: Tensor, b: Tensor) -> Tensor:
        """The batched matrix product, rounded as `precision` says."""
        if self.precision == "bf16":
            return torch.bmm(a.bfloat16(), b.bfloat16()).to(a.dtype)
        with _matmul_precision(self.precision):
            return torch.bmm(a, b)


def _energies(
    z: Tensor, b: Tensor, pe: Tensor, real: Tensor, base: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Energies [units, size, BLOCK]; their greatest logit, the sum of exp(logit - greatest), the greatest energy and
    its first rank, each [units, size]."""
    z = z + b[:, None] + pe[:, :, None]
    E = gelu(z).square().sum(-1).sqrt()
    known = real[:, None]
    logits = torch.where(known, scale * E, -torch.inf)
    peak = logits.amax(-1)
    share = torch.exp(logits - peak[..., None]).sum(-1)
    high, rank = torch.where(known, E, -torch.inf).max(-1)
    return E, peak, share, high, rank + base[:, None]


def _slopes(
    z: Tensor,
    b: Tensor,
    pe: Tensor,
    *,
    E: Tensor,
    real: Tensor,
    base: Tensor,
    logsumexp: Tensor,
    target: Tensor,
    weight: Tensor,
    scale: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """dz [units, size, BLOCK, d], db [units, BLOCK, d] and the scale's gradient [units]."""
    z = z + b[:, None] + pe[:, :, None]
    p = torch.where(real[:, None], torch.exp(scale * E - logsumexp[..., None]), 0.0)
    rank = base[:, None] + torch.arange(BLOCK, device=z.device)
    d_logit = weight * (p - (target[..., None] == rank[:, None]).to(p.dtype))
    factor = torch.where(E > 0, scale * d_logit / E.clamp_min(1e-30), 0.0)
    dz = factor[..., None] * gelu(z) * gelu_slope(z)
    return dz, dz.sum(1), (d_logit * E).sum((1, 2))


class TiledRowContest:
    """The contest for decoding on a device: a few launches, and one copy back. See `contest.RowContest`."""

    found: NDArray[np.floating[Any]]
    values: memoryview

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._default = rows.default_W[None], rows.default_b[None]
        self._sign = 1.0 if rows.scale >= 0 else -1.0

    def run(self, row: RowPlaces, S: Tensor, pe: Tensor | None, *, S_at: int = 0) -> int:
        """See `contest.RowContest.run`."""
        place = send(row.places, S.device)
        W = torch.cat([self._rows.W[place], self._default[0]])
        z = torch.cat([self._rows.b[place], self._default[1]]) + torch.matmul(S, W)[:, 0]
        self.found = gelu(z if pe is None else z + pe).square().sum(-1).sqrt().cpu().numpy()
        self.values = self.found.data
        return int((self.found[: row.edges] * self._sign).argmax()) if row.edges else -1


def scatter(into: Tensor, rows: NDArray[np.int64], left: Tensor, right: Tensor) -> None:
    """Adds the outer products left[k]^T right[k] to ``into[rows[k]]`` [., d, d], those of one row in the order of k.

    Parameters
    ----------
    rows
        int64 [K], on the CPU.
    left, right
        [K, d]; with ``left`` [K, 0], ``right`` itself is added, to ``into`` [., d].
    """
    order = np.argsort(rows, kind="stable")
    for begin in range(0, len(order), SCATTER):
        some = order[begin : begin + SCATTER]
        row, length = np.unique(rows[some], return_counts=True)
        at = send(some, into.device)
        terms = right[at]
        if left.shape[1]:
            terms = (left[at][:, :, None] * terms[:, None]).flatten(1)
        sums = _sums(terms, send(length, into.device))
        into.index_add_(0, send(row, into.device), sums.view(-1, *into.shape[1:]))


def _and(values: Tensor, last: float) -> Tensor:
    """The values with one row more."""
    return torch.cat([values, values.new_full((1,), last)])


def _sums(values: Tensor, lengths: Tensor) -> Tensor:
    """Sums over runs of rows [runs, ...] of values [rows, ...], each run from its first row to its last."""
    return torch.segment_reduce(values, "sum", lengths=lengths, axis=0, initial=0.0, unsafe=True)


@contextmanager
def _matmul_precision(precision: Precision) -> Iterator[None]:
    """float32 products, rounded to TF32 or not, whatever the process has set."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
