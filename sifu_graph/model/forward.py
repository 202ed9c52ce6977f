"""The forward pass of one batch: its plan, the edges that its text takes, the signals, and the rows that they meet.

Data flow: tokens -> plan (positions by source, path slots) -> stage (copies of the path edges) -> carry (mixes S) ->
rows in memory, part by part -> contest (losses). Plans and small parameters are on the CPU; all other tensors are on
the device of `Parameters.working`. It knows batches of node ids; it does not know corpora, gradients or files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sifu_store.layout import BIAS, WEIGHT
from torch import Tensor

from sifu_graph.arrays import Ids, ranges
from sifu_graph.config import SignalConfig
from sifu_graph.edge_index import EdgeIndex
from sifu_graph.model.parameters import Parameters
from sifu_graph.ops import contest, propagation
from sifu_graph.ops.positional import positional_encoding
from sifu_graph.ops.signal import PathEdges
from sifu_graph.paging.pool import Pool


@dataclass(frozen=True, slots=True)
class Positions:
    """A batch cut at the signal's resets: B sequences of at most I positions."""

    tokens: NDArray[np.int64]  # [B, I + 1], padded with 0
    real: NDArray[np.bool_]  # [B, I], the position is not padding

    @classmethod
    def cut(cls, tokens: Ids, lengths: NDArray[np.int64], reset_after: int | None) -> Positions:
        """From padded tokens [B, L] and their lengths [B].

        Parameters
        ----------
        tokens, lengths
            The sequences.
        reset_after
            Steps after which the signal restarts: there a new sequence begins, with the last token of the one before.
            None: never.
        """
        wide = tokens.astype(np.int64)
        steps = wide.shape[1] - 1
        real = np.arange(steps)[None] < (lengths[:, None] - 1)
        if reset_after is None or steps <= reset_after:
            return cls(np.where(np.arange(steps + 1)[None] < lengths[:, None], wide, 0), real)
        pieces, masks = [], []
        for begin in range(0, steps, reset_after):
            piece = np.zeros((len(wide), reset_after + 1), np.int64)
            mask = np.zeros((len(wide), reset_after), bool)
            end = min(begin + reset_after, steps)
            piece[:, : end - begin + 1] = wide[:, begin : end + 1]
            mask[:, : end - begin] = real[:, begin:end]
            used = mask.any(1)
            pieces.append(piece[used])
            masks.append(mask[used])
        return cls(np.concatenate(pieces), np.concatenate(masks))


@dataclass(frozen=True, slots=True)
class Batch:
    """A planned batch: its positions, the rows that they meet, and the edges that the text takes."""

    first: Tensor  # int64 [B], the nodes where the signals start
    path_slots: Tensor  # int64 [B, I], slot of the edge from every position to the next token; -1: default
    places: Tensor  # int64 [T], flat places in [B, I] of the plan's positions
    plan: contest.Plan

    @property
    def steps(self) -> int:
        """I."""
        return self.path_slots.shape[1]


@dataclass(frozen=True, slots=True)
class PathStage:
    """Copies of the edges that the text takes, for the forward and the backward pass of the signals."""

    slots: NDArray[np.int64]  # [taken], ascending
    values: dict[str, Tensor]  # every array of the pool, [taken, ...]
    place: Tensor  # int64 [I, B], which of them carries each signal at each step; -1: the default edge


@dataclass(frozen=True, slots=True)
class Sweep:
    """The signals of a batch, and the rows that they meet: the input of the contest."""

    stage: PathStage
    tape: propagation.Tape
    S: Tensor  # [T, d], in the order of the plan
    rows: contest.Rows


def plan(
    parameters: Parameters,
    config: SignalConfig,
    tokens: Ids,
    lengths: NDArray[np.int64],
    *,
    candidates: int | None = None,
    rng: np.random.Generator | None = None,
) -> Batch:
    """Cuts padded tokens [B, L] with their lengths [B] at the resets, and groups the positions by source.

    Parameters
    ----------
    parameters, config
        The graph.
    tokens, lengths
        The sequences.
    candidates
        Sampled candidates per position; None: the whole row.
    rng
        Draws the candidates.
    """
    cut = Positions.cut(tokens, lengths, config.reset_after)
    steps = cut.real.shape[1]
    pe_row = np.broadcast_to(np.arange(steps) + config.train_offset, cut.real.shape)
    # A pair that is never chosen has no probability to speak of: the signal passes, but its position is not scored.
    scored = cut.real & ~parameters.index.is_forbidden(cut.tokens[:, :-1], cut.tokens[:, 1:])
    group = contest.plan(
        parameters.index,
        source=cut.tokens[:, :-1][scored],
        target=cut.tokens[:, 1:][scored],
        pe_row=pe_row[scored],
        dtype=parameters.r_0.dtype,
        candidates=candidates,
        rng=rng,
    )
    places = torch.from_numpy(np.flatnonzero(scored))[group.order]
    path_slots = torch.full(cut.real.shape, -1)
    path_slots.view(-1)[places] = group.target_slot
    return Batch(torch.from_numpy(cut.tokens[:, 0].copy()), path_slots, places, group)


def stage(parameters: Parameters, batch: Batch, names: Sequence[str] | None = None) -> PathStage:
    """Copies the edges that the text of a batch takes.

    Parameters
    ----------
    parameters, batch
        The graph and the batch.
    names
        Names of the arrays to copy. None: all arrays of the pool, with the optimizer's state.
    """
    private = batch.path_slots >= 0
    taken, which = torch.unique(batch.path_slots[private], return_inverse=True)
    place = torch.full_like(batch.path_slots, -1)
    place[private] = which
    slots = taken.numpy()
    return PathStage(slots, parameters.working.stage(slots, names), place.T.contiguous())


def carry(parameters: Parameters, config: SignalConfig, batch: Batch, staged: PathStage | None = None) -> Sweep:
    """Carries the signals along the sequences of a batch. ``staged``: the copies; None: they are made here."""
    staged = stage(parameters, batch, (WEIGHT, BIAS)) if staged is None else staged
    pool = parameters.working
    tape = propagation.forward(
        config,
        positions=batch.steps,
        r_0=parameters.r_0.to(pool.device),
        node_bias=parameters.node_bias[batch.first].to(pool.device),
        alpha=parameters.alpha,
        path=path_of(parameters, staged),
    )
    S = tape.mix.reshape(-1, parameters.width)[batch.places.to(pool.device)]
    place = batch.plan.slot if pool.resident else torch.full_like(batch.plan.slot, -1)
    return Sweep(staged, tape, S, rows_of(parameters, config, batch.steps, place))


def path_of(parameters: Parameters, staged: PathStage) -> propagation.Path:
    """The edges of every step, from their copies; default edges have the place -1."""
    W, b = staged.values[WEIGHT], staged.values[BIAS]
    default_W, default_b, place = (x.to(W.device) for x in (parameters.default_W, parameters.default_b, staged.place))
    return lambda step: PathEdges(W, b, default_W, default_b, place[step])


def rows_of(parameters: Parameters, config: SignalConfig, steps: int, place: Tensor | None = None) -> contest.Rows:
    """The tensors that a contest reads, with the positional encodings of ``steps`` steps of training.

    ``place`` int64 [edges]: places of the plan's edges in the pool; None: none.
    """
    pe = positional_encoding(config, torch.arange(steps + 1), parameters.width, parameters.r_0.dtype)
    pool = parameters.working
    place = torch.empty(0, dtype=torch.int64) if place is None else place
    W, b, pe = (x.to(pool.device) for x in (parameters.default_W, parameters.default_b, pe))
    return contest.Rows(pool.W, pool.b, place, W, b, pe, float(parameters.scale))


def rows_in_memory(
    pool: Pool,
    batch: Batch,
    rows: contest.Rows,
    *,
    upcoming: NDArray[np.int64] | None = None,
    in_file: Sequence[str] = (WEIGHT, BIAS),
    prepare: Callable[[NDArray[np.int64], Tensor], None] | None = None,
) -> Iterator[contest.Range]:
    """Yields ranges of groups of the plan whose rows are ready, and fills ``rows.place`` for them.

    Parameters
    ----------
    pool, batch, rows
        Where the edges are, the planned batch, and its rows.
    upcoming, in_file
        See `RowPager.sweep`.
    prepare
        Called with the pages [k] of each part and the places [edges] of its edges before it is yielded.

    Raises
    ------
    StoreDamagedError, DiskFullError
        See `RowPager.sweep`.
    """
    slot, first_edge = batch.plan.slot, batch.plan.first_edge.numpy()
    positions = np.diff(batch.plan.first_position.numpy())
    for part in pool.sweep(pool.parts(slot.numpy(), first_edge, positions), upcoming=upcoming, in_file=in_file):
        edges = slice(int(first_edge[part.first]), int(first_edge[part.stop]))
        if not pool.resident:
            rows.place[edges] = pool.place(slot[edges])
        if prepare is not None:
            prepare(part.pages, rows.place[edges])
        yield part.first, part.stop


def pages_of(index: EdgeIndex, tokens: Ids, page_edges: int) -> NDArray[np.int64]:
    """The pages of the rows of these tokens, int64 [k], in the order in which a batch meets them."""
    nodes = np.unique(tokens)
    start, size = index.row_start[nodes], np.diff(index.row_start)[nodes]
    page = index.slots(ranges(start, size)) // page_edges
    first = np.unique(page, return_index=True)[1]
    return page[np.sort(first)]


def evaluate(
    parameters: Parameters, config: SignalConfig, tokens: Ids, lengths: NDArray[np.int64]
) -> tuple[Tensor, Tensor, Ids]:
    """Evaluates padded tokens [B, L] with their lengths [B].

    Returns the loss in nats of every position [T], whether the target had the greatest energy, bool [T], and the
    target, int32 [T].
    """
    batch = plan(parameters, config, tokens, lengths)
    if not batch.plan.positions:  # every pair is forbidden
        return torch.zeros(0), torch.zeros(0, dtype=torch.bool), np.empty(0, np.int32)
    sweep = carry(parameters, config, batch)
    parts = rows_in_memory(parameters.working, batch, sweep.rows)
    outcome = parameters.backend.forward(sweep.rows, batch.plan, sweep.S, parts=parts)[0].cpu()
    hit = (outcome.best == batch.plan.target) & (outcome.best >= 0)
    return outcome.loss(sweep.rows.scale), hit, _targets(batch, config, tokens, lengths)


def _targets(batch: Batch, config: SignalConfig, tokens: Ids, lengths: NDArray[np.int64]) -> Ids:
    """The next node of every position, int32 [T], in the order of the plan."""
    cut = Positions.cut(tokens, lengths, config.reset_after)
    target: Ids = cut.tokens[:, 1:].reshape(-1)[batch.places.numpy()].astype(np.int32)
    return target


@dataclass(frozen=True, slots=True)
class Examined:
    """The results of the T positions of a batch, in the order of the plan."""

    loss: Tensor  # [T], nats
    rank: NDArray[np.int64]  # [T], 0: the target is what greedy decoding takes, 1: the next one, ...
    private: NDArray[np.bool_]  # [T], the edge to the target is a private one
    step: NDArray[np.int64]  # [T], edges that the signal was carried along before
    target: NDArray[np.int32]  # [T]


def examine(parameters: Parameters, config: SignalConfig, tokens: Ids, lengths: NDArray[np.int64]) -> Examined:
    """As `evaluate`, with the figures of a report for each position. The energies of the whole batch are in memory."""
    batch = plan(parameters, config, tokens, lengths)
    sweep = carry(parameters, config, batch)
    parts = rows_in_memory(parameters.working, batch, sweep.rows)
    found, energies = parameters.backend.forward(sweep.rows, batch.plan, sweep.S, energies=True, parts=parts)
    assert energies is not None
    outcome, flat = found.cpu(), energies.cpu()
    group, index, begin = batch.plan, parameters.index, 0
    target = _targets(batch, config, tokens, lengths)
    rank, choices = np.empty(group.positions, np.int64), index.defaults()
    for g, source in enumerate(group.source):
        row = index.target[index.row(int(source))]
        mine = slice(int(group.first_position[g]), int(group.first_position[g + 1]))
        here, edges = mine.stop - mine.start, len(row)
        E = flat[begin : begin + here * edges].view(here, edges)
        begin += here * edges
        place, default = group.target[mine], outcome.default_energy[mine]
        private = place >= 0
        if edges:
            own = torch.where(private, E.gather(1, place.clamp_min(0)[:, None])[:, 0], default)
            before = torch.arange(edges)[None] < place[:, None]  # of equals the first wins
            above = (own[:, None] < E).sum(1) + ((own[:, None] == E) & before).sum(1)
        else:
            own, above = default, torch.zeros(here, dtype=torch.int64)
        defaults = torch.where(
            private,
            (default >= own) * int(choices[source]),  # a default edge wins over its equals
            torch.from_numpy(target[mine] - np.searchsorted(row, target[mine])),  # the first of them first
        )
        rank[mine] = (above + defaults).numpy()
    return Examined(
        loss=outcome.loss(sweep.rows.scale),
        rank=rank,
        private=(group.target >= 0).numpy(),
        step=(batch.places % batch.steps).numpy(),
        target=target,
    )
