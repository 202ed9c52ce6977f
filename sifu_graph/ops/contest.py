"""The contest: which candidates every position meets, their energies, the softmax over all nodes and its gradients.

All positions whose current node is u meet the same row of private edges, and all default edges of a position have the
same energy, so the softmax over all n nodes is

    log Z = logsumexp(private energies, E_default + log(n - private edges in the row))

This module has the data of a contest, the interface of what computes it (`ContestBackend`) and the part of the default
edge, which all backends share. The backends are `contest_torch` (the reference), `contest_native` (the compiled kernel)
and `contest_tiled` (devices). It knows positions, rows and slots; it does not know how a mix is computed, nor text.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sifu_graph.arrays import Ints, distinct, ranges
from sifu_graph.config import OptimizerConfig
from sifu_graph.edge_index import EdgeIndex, RowPlaces
from sifu_graph.kernels.native import Past
from sifu_graph.ops.functional import gelu, gelu_slope
from sifu_graph.ops.threads import product

OUTER = 256  # outer products summed at a time

Range = tuple[int, int]
"""Groups first .. stop - 1 of a plan. Where a backend takes an iterable of ranges, what it reads of a range
(`Rows.place` and the edges at these places) must stay valid until it requests the next one."""


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
        slot = index.slots(ranges(row_start, size))
        group_of = np.repeat(np.arange(len(groups)), np.diff(first_position))
        rank = np.where(place >= 0, place - row_start[group_of], -1)
        defaults = index.defaults()[groups]
    else:
        assert rng is not None
        chosen, sizes, rank, defaults = [], [], np.full(len(source), -1), np.empty(len(groups), np.int64)
        for g, u in enumerate(groups):
            mine = slice(first_position[g], first_position[g + 1])
            drawn = rng.choice(index.nodes, size=min(candidates, index.nodes), replace=False)
            nodes = distinct(np.concatenate([drawn, target[mine]]))
            nodes = nodes[~index.is_forbidden(u, nodes)]
            found = index.find(np.full(len(nodes), u), nodes)
            places = found[found >= 0]
            chosen.append(index.slots(places))
            sizes.append(len(places))
            defaults[g] = len(nodes) - len(places)
            rank[mine] = np.where(place[mine] >= 0, np.searchsorted(places, place[mine]), -1)
        first_edge = np.concatenate([[0], np.cumsum(sizes)])
        slot = np.concatenate(chosen)
    with np.errstate(divide="ignore"):
        log_defaults = np.log(defaults.astype(np.float64))
    target_slot = np.where(place >= 0, index.slots(np.maximum(place, 0)) if index.edges else -1, -1)
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
    place: Tensor  # int64 [edges], places of the edges of `Plan.slot` in the pools
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
    past: Past | None = None


def default_energy(rows: Rows, S: Tensor, pe_row: Tensor) -> Tensor:
    """The energy of the default edges at every position [T]: they all share one."""
    energy: Tensor = gelu(product(S, rows.default_W) + rows.default_b + rows.pe[pe_row]).norm(dim=-1)
    return energy


def with_default(
    rows: Rows, group: Plan, S: Tensor, outcome: Outcome, *, weight: float, dS: Tensor, d_scale: Tensor
) -> Gradients:
    """The gradients of a contest, from those of its private edges: adds the share of the default edge.

    Parameters
    ----------
    rows, group, S, outcome, weight
        As in `ContestBackend.train`; the tensors of ``group`` are where S is.
    dS, d_scale
        Of the private edges: [T, d], and the terms of the scale's gradient, of any length.
    """
    positions = torch.diff(group.first_position)
    log_count = torch.repeat_interleave(group.log_defaults, positions)
    energy = outcome.default_energy
    p = torch.exp(rows.scale * energy + log_count - outcome.logsumexp)
    d_logit = weight * (p - (group.target < 0).to(p.dtype))
    z = product(S, rows.default_W) + rows.default_b + rows.pe[group.pe_row]
    factor = torch.where(energy > 0, rows.scale * d_logit / energy.clamp_min(1e-30), 0.0)
    dz = factor[:, None] * gelu(z) * gelu_slope(z)
    scale = total(d_scale) + total(d_logit * energy)
    return Gradients(dS + product(dz, rows.default_W.T), outer_sum(S, dz), dz.sum(0), scale)


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


def empty_outcome(rows: Rows, group: Plan, S: Tensor) -> Outcome:
    """An outcome [T] of which only the energies of the default edges are known, with these as targets and winners."""
    energy = default_energy(rows, S, group.pe_row)
    best = torch.full(energy.shape, -1, dtype=torch.int64, device=energy.device)
    return Outcome(torch.empty_like(energy), energy.clone(), energy, best)


def energy_ends(group: Plan) -> Ints:
    """Where the energies of each group begin in the flat result of `ContestBackend.forward`, and the end [G + 1]."""
    sizes = np.diff(group.first_position.numpy()) * np.diff(group.first_edge.numpy())
    return np.concatenate([[0], np.cumsum(sizes)])


class RowContest(Protocol):
    """The contest of one signal at a time, for decoding.

    Attributes
    ----------
    found : [edges + 1, or more]
        The energies of the private edges of the last row, in its order; after them that of the default edge.
    values : memoryview
        The same; an item is a float.
    """

    found: NDArray[np.floating[Any]]
    values: memoryview

    def run(self, row: RowPlaces, S: Tensor, pe: Tensor | None, *, S_at: int = 0) -> int:
        """Computes `found` for a mix S [1, d]; returns the rank of the first of the best private edges, or -1.

        The best edge has the greatest scaled energy. ``pe`` is the positional encoding [d], or None for none;
        ``S_at`` is the address of S on the CPU, 0: not known.
        """


class ContestBackend(Protocol):
    """What computes contests.

    The tensors of `Rows`, of `Sink.dW`, `Sink.db` and `Sink.state`, and S are on the device of the backend; the plan,
    `Rows.place` and `Sink.gradient_row` are on the CPU.
    """

    @property
    def writes_in_file(self) -> bool:
        """Whether its updates reach edges in the spill file (`Sink.past`). Otherwise their pages must be in memory."""

    def forward(
        self, rows: Rows, group: Plan, S: Tensor, *, energies: bool = False, parts: Iterable[Range] | None = None
    ) -> tuple[Outcome, Tensor | None]:
        """The contest of T positions with mixes S [T, d] (in the order of the plan).

        With ``energies``, the second result has the energies of all private candidates, flat: group after group,
        [positions of the group, candidates of its row].
        """

    def train(
        self, rows: Rows, group: Plan, S: Tensor, *, weight: float, sink: Sink, parts: Iterable[Range] | None = None
    ) -> tuple[Outcome, Gradients]:
        """The contest, its gradients, and the optimizer's step of every edge that ``sink`` does not set aside.

        ``weight`` is the weight of one position in the loss: 1 / T for a mean.
        """

    def update_edges(self, rows: Rows, sink: Sink) -> None:
        """The optimizer's step of the edges at ``rows.place``, whose gradients are the rows of the sink."""

    def scatter(self, sink: Sink, row: Tensor, left: Tensor, right: Tensor) -> None:
        """Adds left[k]^T right[k] to ``sink.dW[row[k]]`` and right[k] to ``sink.db[row[k]]``, in the order of k.

        ``row`` is int64 [K] on the CPU; -1: added nowhere. ``left`` and ``right`` are [K, d].
        """

    def row_contest(self, rows: Rows, *, largest: int) -> RowContest:
        """The contest for decoding: ``rows`` is what it reads, ``largest`` the number of edges of the largest row."""
