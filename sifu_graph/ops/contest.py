"""Phase two: every candidate's energy, the softmax over all nodes, and the gradients - grouped by source.

All positions whose current node is u meet the same row of private edges, and all default edges of a position have the
same energy, so the softmax over all n nodes is

    log Z = logsumexp(private energies, E_default + log(n - private edges in the row))

It knows positions, rows and slots; it does not know how a mix came about, nor text. Two paths compute the same
results: the fused kernel (`kernels/contest.cpp`) where a compiler is found, and torch, which is the reference.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sifu_graph.arrays import ranges
from sifu_graph.config import OptimizerConfig
from sifu_graph.edge_index import EdgeIndex, RowPlaces
from sifu_graph.kernels import native as kernel
from sifu_graph.ops import optim
from sifu_graph.ops.functional import gelu, gelu_slope

TILE_BYTES = 32 << 20  # of energies' inputs held at a time by the torch path
OUTER = 256  # outer products summed at a time

Range = tuple[int, int]
"""Groups first .. stop - 1 of a plan. Where a contest takes an iterable of them, what it reads (`Rows.place` and the
places themselves) need only be there from the moment that a range is handed out until the next one is asked for."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Which position meets which candidates: the positions of a batch, sorted by source.

    A *group* is one source: its positions and the candidates of its row. With all candidates a row is the whole
    private row of the source; with sampled ones it is a part of it.
    """

    order: Tensor  # int64 [T], places of the positions in the batch
    source: NDArray[np.int64]  # [G]
    first_position: Tensor  # int64 [G + 1]
    first_edge: Tensor  # int64 [G + 1]
    slot: Tensor  # int64 [edges], the concatenated rows; where they are stored
    target: Tensor  # int64 [T], rank among the group's candidates, or -1: a default edge
    target_slot: Tensor  # int64 [T], or -1
    log_defaults: Tensor  # [G], log of the number of default candidates; -inf: none
    pe_row: Tensor  # int64 [T]

    @property
    def positions(self) -> int:
        """T."""
        return len(self.order)

    @property
    def whole(self) -> list[Range]:
        """All groups at once."""
        return [(0, len(self.source))]


def plan(
    index: EdgeIndex,
    *,
    source: NDArray[np.int64],
    target: NDArray[np.int64],
    pe_row: NDArray[np.int64],
    dtype: torch.dtype,
    candidates: int | None = None,
    rng: np.random.Generator | None = None,
) -> Plan:
    """Groups T positions (int64 [T] each) by their source.

    With ``candidates`` = K, every source gets K sampled candidates (without replacement, shared by its positions in
    this batch) and the true targets of its positions; otherwise all n nodes are candidates.
    """
    order = np.argsort(source, kind="stable")
    source, target, pe_row = source[order], target[order], pe_row[order]
    groups, first = np.unique(source, return_index=True)
    first_position = np.append(first, len(source))
    place = index.find(source, target)
    if candidates is None:
        row_start, size = index.row_start[groups], np.diff(index.row_start)[groups]
        first_edge = np.concatenate([[0], np.cumsum(size)])
        slot = index.slot[ranges(row_start, size)]
        group_of = np.repeat(np.arange(len(groups)), np.diff(first_position))
        rank = np.where(place >= 0, place - row_start[group_of], -1)
        defaults = index.defaults()[groups]
    else:
        assert rng is not None
        chosen, sizes, rank, defaults = [], [], np.full(len(source), -1), np.empty(len(groups), np.int64)
        for g, u in enumerate(groups):
            mine = slice(first_position[g], first_position[g + 1])
            drawn = rng.choice(index.nodes, size=min(candidates, index.nodes), replace=False)
            nodes = np.unique(np.concatenate([drawn, target[mine]]))
            nodes = nodes[~index.is_forbidden(u, nodes)]
            found = index.find(np.full(len(nodes), u), nodes)
            places = found[found >= 0]
            chosen.append(index.slot[places])
            sizes.append(len(places))
            defaults[g] = len(nodes) - len(places)
            rank[mine] = np.where(place[mine] >= 0, np.searchsorted(places, place[mine]), -1)
        first_edge = np.concatenate([[0], np.cumsum(sizes)])
        slot = np.concatenate(chosen)
    with np.errstate(divide="ignore"):
        log_defaults = np.log(defaults.astype(np.float64))
    target_slot = np.where(place >= 0, index.slot[np.maximum(place, 0)] if index.edges else -1, -1)
    return Plan(
        order=torch.from_numpy(order),
        source=groups,
        first_position=torch.from_numpy(first_position),
        first_edge=torch.from_numpy(first_edge),
        slot=torch.from_numpy(np.ascontiguousarray(slot)),
        target=torch.from_numpy(rank),
        target_slot=torch.from_numpy(target_slot),
        log_defaults=torch.from_numpy(log_defaults).to(dtype),
        pe_row=torch.from_numpy(pe_row),
    )


@dataclass(frozen=True, slots=True)
class Rows:
    """The parameters that a contest reads: pools of private edges, and the default edge."""

    W: Tensor  # [places, d, d]
    b: Tensor  # [places, d]
    place: Tensor  # int64 [edges], where the edges of `Plan.slot` lie in the pools
    default_W: Tensor  # [d, d]
    default_b: Tensor  # [d]
    pe: Tensor  # [..., d], rows for `Plan.pe_row`
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a contest tells of every position, in the order of the plan."""

    logsumexp: Tensor  # [T]
    target_energy: Tensor  # [T]
    default_energy: Tensor  # [T]
    best: Tensor  # int64 [T], rank of the winner, or -1: the default edges

    def cpu(self) -> Outcome:
        """The same on the CPU."""
        return Outcome(self.logsumexp.cpu(), self.target_energy.cpu(), self.default_energy.cpu(), self.best.cpu())

    def loss(self, scale: float) -> Tensor:
        """-log p(target) of every position [T]."""
        return self.logsumexp - scale * self.target_energy

    def mean_loss(self, scale: float) -> float:
        """The mean of `loss`."""
        return total(self.loss(scale)) / len(self.logsumexp)


@dataclass(frozen=True, slots=True)
class Gradients:
    """What a contest's backward pass hands back; edges' gradients went to the optimizer or to ``dW``, ``db``."""

    dS: Tensor  # [T, d], in the order of the plan
    default_W: Tensor  # [d, d]
    default_b: Tensor  # [d]
    scale: float


@dataclass(frozen=True, slots=True)
class Sink:
    """Where an edge's gradient goes: row ``gradient_row[edge]`` of dW and db, or, at -1, into the optimizer at once.

    Without an optimizer the gradients of edges at -1 are dropped. ``past``: places from ``past.beyond`` on are written
    to a file (the kernel alone does that).
    """

    gradient_row: Tensor  # int64 [edges]
    dW: Tensor  # [rows, d, d]
    db: Tensor  # [rows, d]
    config: OptimizerConfig | None = None
    step: int = 0
    state: dict[str, list[Tensor]] | None = None
    past: kernel.Past | None = None


def default_energy(rows: Rows, S: Tensor, pe_row: Tensor) -> Tensor:
    """The energy of the default edges at every position [T]: they all share one."""
    energy: Tensor = gelu(S @ rows.default_W + rows.default_b + rows.pe[pe_row]).norm(dim=-1)
    return energy


def default_backward(
    rows: Rows, group: Plan, S: Tensor, outcome: Outcome, weight: float
) -> tuple[Tensor, Tensor, Tensor, float]:
    """dS [T, d], dW0, db0 and the scale's gradient, of the default edge's share in the contest."""
    positions = torch.diff(group.first_position)
    log_count = torch.repeat_interleave(group.log_defaults, positions)
    energy = outcome.default_energy
    p = torch.exp(rows.scale * energy + log_count - outcome.logsumexp)
    d_logit = weight * (p - (group.target < 0).to(p.dtype))
    z = S @ rows.default_W + rows.default_b + rows.pe[group.pe_row]
    factor = torch.where(energy > 0, rows.scale * d_logit / energy.clamp_min(1e-30), 0.0)
    dz = factor[:, None] * gelu(z) * gelu_slope(z)
    return dz @ rows.default_W.T, outer_sum(S, dz), dz.sum(0), total(d_logit * energy)


def outer_sum(left: Tensor, right: Tensor) -> Tensor:
    """left^T right [d, e] of rows [T, d] and [T, e]; on the CPU in an order that the number of threads does not change.

    One product over all rows is cut among the threads there, one over few rows is not.
    """
    if left.device.type != "cpu":
        return left.T @ right
    out = left.new_zeros(left.shape[1], right.shape[1])
    for some, others in zip(torch.split(left, OUTER), torch.split(right, OUTER), strict=True):
        out += some.T @ others
    return out


def total(values: Tensor) -> float:
    """The sum in float64, in an order that the number of threads does not change."""
    return float(values.double().cpu().numpy().sum())


def native(width: int, dtype: torch.dtype, device: torch.device) -> ctypes.CDLL | None:
    """The fused kernel, where it can be used."""
    return kernel.load(width, dtype) if device.type == "cpu" else None


def forward(
    rows: Rows, group: Plan, S: Tensor, *, energies: bool = False, parts: Iterable[Range] | None = None
) -> tuple[Outcome, Tensor | None]:
    """The contest of T positions with mixes S [T, d] (in the order of the plan).

    With ``energies`` the energies of all private candidates come along, flat: group after group,
    [positions of the group, candidates of its row].
    """
    outcome = _empty_outcome(default_energy(rows, S, group.pe_row))
    sizes = torch.diff(group.first_position) * torch.diff(group.first_edge)
    ends = [0, *torch.cumsum(sizes, 0).tolist()]
    flat = S.new_empty(ends[-1]) if energies else None
    library = native(S.shape[1], S.dtype, S.device)
    batch = _Native(rows, group, S, outcome, weight=0.0) if library is not None else None
    for first, stop in group.whole if parts is None else parts:
        if library is not None and batch is not None:
            into = flat.data_ptr() + ends[first] * flat.itemsize if flat is not None else None
            library.sifu_forward(batch.pointer(first, stop), into, torch.get_num_threads())
            continue
        start = ends[first]
        for g, tile in _tiles(group, first, stop, S.shape[1], S.element_size()):
            E = _forward_tile(rows, group, S, outcome, g, tile)[1]
            if flat is not None:
                flat[start : start + E.numel()] = E.reshape(-1)
                start += E.numel()
    return outcome, flat


def train(
    rows: Rows, group: Plan, S: Tensor, *, weight: float, sink: Sink, parts: Iterable[Range] | None = None
) -> tuple[Outcome, Gradients]:
    """The contest, its gradients, and the optimizer's step of every edge that ``sink`` does not set aside.

    ``weight`` is the weight of one position in the loss: 1 / T for a mean.
    """
    outcome = _empty_outcome(default_energy(rows, S, group.pe_row))
    dS, d_scale = torch.empty_like(S), S.new_zeros(len(group.source))
    library = native(S.shape[1], S.dtype, S.device)
    batch = _Native(rows, group, S, outcome, weight=weight) if library is not None else None
    for first, stop in group.whole if parts is None else parts:
        if library is not None and batch is not None:
            update = native_update(sink, dS=dS, dscale=d_scale[first:])
            library.sifu_train(batch.pointer(first, stop), ctypes.byref(update), torch.get_num_threads())
        else:
            _train_torch(rows, group, S, outcome, weight, sink, (first, stop), dS, d_scale)
    d_default, default_W, default_b, d_default_scale = default_backward(rows, group, S, outcome, weight)
    scale_gradient = total(d_scale) + d_default_scale
    return outcome, Gradients(dS + d_default, default_W, default_b, scale_gradient)


class RowContest:
    """The contest of one signal at a time, for decoding: its buffers are made once.

    Between two contests of a large row little of the program is still in the processor's caches: the way from one to
    the next is kept short, and what is asked for at every token is found with few steps.

    Parameters
    ----------
    rows
        What the contest reads; the encoding comes with every call.
    largest
        Private edges in the largest row.

    Attributes
    ----------
    found : [largest + 1]
        The energies of the private edges of the last row, in its order; after them that of the default edge.
    values : memoryview
        The same; an item is a float.
    """

    def __init__(self, rows: Rows, *, largest: int) -> None:
        self._rows, self._sign = rows, 1.0 if rows.scale >= 0 else -1.0
        width = rows.default_b.shape[0]
        self._library = native(width, rows.W.dtype, rows.W.device)
        self._no_pe = rows.default_b.new_zeros(width)
        self._out = rows.default_b.new_zeros(largest + 1)
        self.found: NDArray[np.floating[Any]] = self._out.numpy()
        self.values = self.found.data
        self._edges = tuple(t.contiguous() for t in (rows.W, rows.b, rows.default_W, rows.default_b))
        self._W, self._b, *rest = [t.data_ptr() for t in self._edges]
        self._best = ctypes.c_int64(-1)
        self._after = (*rest, self._out.data_ptr(), torch.get_num_threads(), self._sign, ctypes.byref(self._best))
        self._no_pe_at = self._no_pe.data_ptr()

    def run(self, row: RowPlaces, S: Tensor, pe: Tensor | None, *, S_at: int = 0) -> int:
        """Fills `found` for a mix S [1, d]; returns the rank of the first of the best private edges, or -1.

        The best is that of the greatest scaled energy. ``pe`` is the positional encoding [d], or None for none;
        ``S_at`` is the address of S, where it is known.
        """
        places, pointer, edges = row
        if self._library is not None:
            encoding = self._no_pe_at if pe is None else pe.data_ptr()
            mix = S_at or S.data_ptr()
            self._library.sifu_energies(mix, encoding, self._W, self._b, pointer, edges, *self._after)
            return self._best.value
        at = torch.from_numpy(places)
        W = torch.cat([self._rows.W[at], self._rows.default_W[None]])
        b = torch.cat([self._rows.b[at], self._rows.default_b[None]])
        z = torch.matmul(S, W)[:, 0] + b
        self._out[: edges + 1] = gelu(z if pe is None else z + pe).norm(dim=-1)
        return int((self.found[:edges] * self._sign).argmax()) if edges else -1


def update_edges(rows: Rows, sink: Sink) -> None:
    """The optimizer's step of the edges at ``rows.place``, whose gradients are the rows of the sink."""
    place = rows.place
    assert sink.config is not None and sink.state is not None
    library = native(rows.W.shape[1], rows.W.dtype, rows.W.device)
    if library is not None:
        update = native_update(sink, dS=sink.dW, dscale=sink.dW)
        library.sifu_update(
            len(place),
            place.data_ptr(),
            rows.W.data_ptr(),
            rows.b.data_ptr(),
            ctypes.byref(update),
            torch.get_num_threads(),
        )
    elif len(place):
        _update_torch(rows, sink, place, sink.dW, sink.db)


def _empty_outcome(E_default: Tensor) -> Outcome:
    best = torch.full(E_default.shape, -1, dtype=torch.int64, device=E_default.device)
    return Outcome(torch.empty_like(E_default), E_default.clone(), E_default, best)


# ---- the torch path ---------------------------------------------------------------------------------------------


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


def _train_torch(
    rows: Rows,
    group: Plan,
    S: Tensor,
    outcome: Outcome,
    weight: float,
    sink: Sink,
    part: Range,
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
                _update_torch(rows, sink, place[~kept], dW[~kept], db[~kept])


def _update_torch(rows: Rows, sink: Sink, place: Tensor, dW: Tensor, db: Tensor) -> None:
    assert sink.config is not None and sink.state is not None
    optim.update(sink.config, step=sink.step, parts=[rows.W, rows.b], grads=[dW, db], state=sink.state, rows=place)


# ---- the fused kernel --------------------------------------------------------------------------------------------


class _Native:
    """A filled `struct Batch`, and the tensors that it points into."""

    def __init__(self, rows: Rows, group: Plan, S: Tensor, outcome: Outcome, *, weight: float) -> None:
        structure = kernel.BatchDouble if S.dtype == torch.float64 else kernel.BatchFloat
        self.keep = [
            t.contiguous()
            for t in (
                group.first_position, group.first_edge, rows.place, S, rows.pe, group.pe_row,
                outcome.default_energy, group.log_defaults, group.target, rows.W, rows.b,
            )
        ]  # fmt: skip
        self.batch = structure(
            len(group.source), *(t.data_ptr() for t in self.keep), rows.scale, weight,
            outcome.logsumexp.data_ptr(), outcome.target_energy.data_ptr(), outcome.best.data_ptr(),
        )  # fmt: skip

    def pointer(self, first: int, stop: int) -> object:
        """For the groups first .. stop - 1; positions and edges are numbered as in the whole plan."""
        first_position, first_edge, log_defaults = self.keep[0], self.keep[1], self.keep[7]
        self.batch.groups = stop - first
        self.batch.first_position = first_position[first:].data_ptr()
        self.batch.first_edge = first_edge[first:].data_ptr()
        self.batch.log_defaults = log_defaults[first:].data_ptr()
        return ctypes.byref(self.batch)


def native_update(sink: Sink, *, dS: Tensor, dscale: Tensor) -> ctypes.Structure:
    """`struct Update` for a sink."""
    config = sink.config or OptimizerConfig()
    structure = kernel.UpdateDouble if sink.dW.dtype == torch.float64 else kernel.UpdateFloat
    kind = 0 if sink.config is None else 1 if config.kind == "rowwise" else 2
    pointers = [0, 0, 0, 0, 0, 0 if sink.past is None else ctypes.addressof(sink.past)]
    if kind == 1:
        assert sink.state is not None
        pointers[4] = sink.state["v_row"][0].data_ptr()
    elif kind == 2:
        assert sink.state is not None
        (m_W, m_b), (v_W, v_b) = sink.state["m"], sink.state["v"]
        pointers[:4] = [m_W.data_ptr(), v_W.data_ptr(), m_b.data_ptr(), v_b.data_ptr()]
    step = max(1, sink.step)
    return structure(
        kind, sink.gradient_row.data_ptr(), sink.dW.data_ptr(), sink.db.data_ptr(), dS.data_ptr(), dscale.data_ptr(),
        config.rate(step), config.beta1, config.beta2, config.eps, config.weight_decay, config.clip,
        1.0 - config.beta1**step, 1.0 - config.beta2**step, *pointers,
    )  # fmt: skip
