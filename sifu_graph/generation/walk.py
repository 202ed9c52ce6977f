"""One signal that chooses its path: memory and time per token do not depend on the length of the text.

The module knows nodes, rows and energies; it does not know text. Each step of the signal is `Signal.carry`, each
contest is the kernel of training.
"""

from __future__ import annotations

import copy
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sifu_graph.arrays import Slot, distinct
from sifu_graph.config import SignalConfig
from sifu_graph.edge_index import RowPlaces
from sifu_graph.generation.sampler import DEFAULT, Sampler
from sifu_graph.model.forward import rows_of
from sifu_graph.model.parameters import Parameters
from sifu_graph.ops.signal import PathEdges, Signal, Vectors
from sifu_graph.paging.row_pager import KnownRow


class Field(NamedTuple):
    """The candidates after a node."""

    targets: NDArray[np.integer[Any]]  # [k], the targets of its private edges
    never: NDArray[np.int64]  # the nodes that cannot be chosen, ascending
    banned: list[int]  # their places in `targets`
    defaults: int  # number of default edges that can be chosen


class Walk:
    """A signal on a path through the graph.

    Parameters
    ----------
    parameters, config
        The parameters of the graph, and its settings of the signal.
    forbidden
        Nodes that are never chosen.
    r_0
        The initial signal, float32 [d]; None: that of the graph.

    Attributes
    ----------
    silent
        Steps after the next `start` whose signal does not enter the mix.
    """

    def __init__(
        self,
        parameters: Parameters,
        config: SignalConfig,
        *,
        forbidden: Sequence[int] = (),
        r_0: Tensor | None = None,
    ) -> None:
        self.parameters, self.config = parameters, config
        pool = parameters.working
        self._device = pool.device
        self.r_0 = (parameters.r_0 if r_0 is None else r_0).to(pool.device)
        self.forbidden = sorted(set(forbidden))
        self.silent: frozenset[int] = frozenset()
        self.node = -1
        self.scale = float(parameters.scale)
        self._alpha = parameters.alpha.tolist()
        self._pool, self._resident = pool, pool.resident
        self._rows: dict[int, RowPlaces] = {}  # places of the rows
        self._known: dict[int, KnownRow] = {}  # their last known places, under a budget
        self._reset, self._has_pe = config.reset_after, config.positional != "none"
        rows = rows_of(parameters, config, 1)
        largest = int(parameters.index.row_sizes().max(initial=0))
        self._contest = parameters.backend.row_contest(rows, largest=largest)
        # Read at every token: lists and buffers, whose items Python reads faster than those of arrays.
        index = parameters.index
        self._row_start: list[int] = index.row_start.tolist()
        self._targets = index.target.view(np.int32).data
        self._slot = None if index.moved is None else cast("Sequence[Slot]", index.moved.data)
        self._place = torch.full((1,), -1)
        self._place_value = self._place.numpy().data
        self._own: tuple[Tensor, Tensor] | None = None  # of rows in another type than the signal: a copy of one edge
        if pool.W.dtype != self.r_0.dtype:
            self._own = self.r_0.new_empty(1, *pool.W.shape[1:]), self.r_0.new_empty(1, *pool.b.shape[1:])
        self._path = PathEdges(*(self._own or (pool.W, pool.b)), rows.default_W, rows.default_b, self._place)
        self._never = np.array(self.forbidden, dtype=np.int64)
        self._fields: dict[int, Field] = {}
        first, second = (Vectors.like(self.r_0[None], normalised=config.normalise_mix) for _ in range(2))
        self._rooms = first, second
        self._starts: dict[int, Signal] = {}
        self._signal: Signal | None = None
        self._edges = 0  # private candidates of the last contest

    @property
    def signal(self) -> Signal:
        """The current signal; `start` must have been called."""
        assert self._signal is not None
        return self._signal

    @property
    def targets(self) -> NDArray[np.integer[Any]]:
        """The nodes whose energies `energies` returns, [k]: the targets of the current node's private edges."""
        return self.parameters.index.target[self.parameters.index.row(self.node)]

    def start(self, node: int) -> None:
        """Starts the signal at a node."""
        self.node = node
        known = self._starts.get(node)
        if known is None or known.silent != self.silent:
            known = self._starts[node] = Signal.start(
                self.config,
                r_0=self.r_0,
                node_bias=self.parameters.node_bias[node : node + 1].to(self._device),
                alpha=self._alpha,
                offset=self.config.decode_offset,
                silent=self.silent,
                rooms=None if self.silent else self._rooms,  # a silent step keeps the vectors of earlier steps
            )
        self._signal = copy.copy(known)

    def carry(self, node: int) -> None:
        """Carries the signal along the edge from the current node to ``node``."""
        self._restart_if_due()
        start, stop = self._row_start[self.node : self.node + 2]
        at = bisect_left(self._targets, node, start, stop)
        if at < stop and self._targets[at] == node:
            slot = Slot(at) if self._slot is None else self._slot[at]
            place: int = slot
            if not self._resident:
                place = self._pool.edge(slot)
            elif self._pool.missing:
                self._pool.require(np.array([slot]))
            if self._own is not None:
                self._own[0][0], self._own[1][0], place = self._pool.W[place], self._pool.b[place], 0
            self._place_value[0] = place
        else:
            self._place_value[0] = -1
        path = self._path
        self.signal.carry(path if self._device.type == "cpu" else path.at(self._place.to(self._device)))
        self.node = node

    def _restart_if_due(self) -> None:
        if self._reset is not None and self.signal.step >= self._reset:
            self.start(self.node)

    def energies(self) -> tuple[NDArray[np.floating[Any]], float]:
        """Energies [k] of the row of the current node, in the order of the row, and the energy of its default edges.

        The array is valid until the next call.
        """
        self._compete()
        return self.last_energies()

    def last_energies(self) -> tuple[NDArray[np.floating[Any]], float]:
        """The energies [k] of the last contest (`energies` or `choose`), not computed again.

        The array is valid until the next contest.
        """
        return self._contest.found[: self._edges], self._contest.values[self._edges]

    def _compete(self) -> tuple[int, int]:
        """Runs the contest after the current node. Returns the best private candidate (-1: none), and their number."""
        self._restart_if_due()
        row, signal = self._row(self.node), self._signal
        assert signal is not None
        pe = signal.encoding if self._has_pe else None
        self._edges = row.edges
        return self._contest.run(row, signal.mix, pe, S_at=signal.mix_at), row.edges

    def _row(self, node: int) -> RowPlaces:
        row = self._rows.get(node)
        if row is not None:
            return row
        slots, pool = self.parameters.index.slots(slice(*self._row_start[node : node + 2])), self._pool
        if self._resident:
            pool.require(slots)
            row = self._rows[node] = RowPlaces(slots, slots.ctypes.data, len(slots))
            return row
        known = pool.place_row(slots, self._known.get(node))
        self._known[node] = known
        return known.row

    def choose(self, sampler: Sampler, rng: np.random.Generator) -> int:
        """Chooses the next node by a contest after the current one. The signal does not move."""
        best, edges = self._compete()
        field = self._fields.get(self.node)
        if field is None:
            field = self._fields[self.node] = self._field()
        values = self._contest.values
        default_logit = values[edges] * self.scale
        if sampler.greedy and best not in field.banned:
            by_default = best < 0 or (field.defaults and default_logit >= values[best] * self.scale)
            rank, which = (DEFAULT, 0) if by_default else (best, 0)
        else:
            logits = self._contest.found[:edges] * np.float64(self.scale)
            logits[field.banned] = -np.inf
            rank, which = sampler.choose(logits, default_logit, field.defaults, rng)
        if rank != DEFAULT:
            return int(field.targets[rank])
        return self.default_node(distinct(np.concatenate([field.targets, field.never])), which)

    def _field(self) -> Field:
        index = self.parameters.index
        targets, never = index.target[index.row(self.node)], self.banned()
        first, after = (np.searchsorted(targets, never, side) for side in ("left", "right"))
        banned = first[first < after]
        return Field(targets, never, banned.tolist(), index.nodes - len(targets) - (len(never) - len(banned)))

    def banned(self) -> NDArray[np.int64]:
        """The nodes that cannot be chosen after the current node, int64, ascending."""
        never = self.parameters.index.forbidden_after(self.node)
        if not len(never) and self.config.self_decode:
            return self._never
        nodes = {*self.forbidden, *never.tolist()}
        if not self.config.self_decode:
            nodes.add(self.node)
        return np.array(sorted(nodes), dtype=np.int64)

    def default_node(self, others: NDArray[np.integer[Any]], which: int) -> int:
        """Node number ``which``, by frequency, of the nodes that are not in ``others`` (integers [k], ascending)."""
        order = self.parameters.index.by_frequency
        if order is None:
            return nth_missing(others, which)
        return int(order[~np.isin(order, others)][which])


def nth_missing(present: np.ndarray, which: int) -> int:
    """Number ``which`` (from 0) of the natural numbers that are not in ``present`` (integers [k], ascending)."""
    missing_before = present - np.arange(len(present))  # how many numbers below present[i] are missing
    return which + int(np.searchsorted(missing_before, which, side="right"))
