"""One signal that flows and chooses its way: O(1) memory and time a token, however long the text is.

It knows nodes, rows and energies; it does not know text. Every step of the signal is `Signal.carry`, every contest
the kernel of training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sifu_graph import contest
from sifu_graph.parameters import Parameters
from sifu_graph.sampling import DEFAULT, Sampler
from sifu_graph.signal import Signal, SignalConfig
from sifu_graph.step import rows_of


class Walk:
    """A signal on its way through the graph.

    Parameters
    ----------
    forbidden
        Nodes that are never chosen.
    r_0
        The initial signal [d]; None: the graph's.

    Attributes
    ----------
    silent
        Steps after the next `start` whose signal never enters the mix.
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
        self.r_0 = parameters.r_0 if r_0 is None else r_0
        self.forbidden = sorted(set(forbidden))
        self.silent: frozenset[int] = frozenset()
        self.node = -1
        self.scale = float(parameters.scale)
        self._alpha = parameters.alpha.tolist()
        self._contest = contest.RowContest(
            rows_of(parameters, config, 1), largest=int(parameters.index.row_sizes().max(initial=0))
        )
        self._signal: Signal | None = None

    @property
    def signal(self) -> Signal:
        """The signal; there is one after `start`."""
        assert self._signal is not None
        return self._signal

    def start(self, node: int) -> None:
        """Begins anew at a node."""
        self.node = node
        self._signal = Signal.start(
            self.config,
            r_0=self.r_0,
            node_bias=self.parameters.node_bias[node : node + 1],
            alpha=self._alpha,
            offset=self.config.decode_offset,
            silent=self.silent,
        )

    def carry(self, node: int) -> None:
        """Along the edge to a node."""
        self._restart_if_due()
        slot = self.parameters.index.slot_of(self.node, node)
        if slot is None:
            self.signal.carry(self.parameters.default_W[None], self.parameters.default_b[None])
        else:
            edges = self.parameters.edges
            edges.require(np.array([slot]))
            self.signal.carry(edges.W[slot : slot + 1], edges.b[slot : slot + 1])
        self.node = node

    def _restart_if_due(self) -> None:
        if self.config.reset_after is not None and self.signal.step >= self.config.reset_after:
            self.start(self.node)

    def energies(self) -> tuple[NDArray[np.floating[Any]], float]:
        """Energies of the row of the current node [k], in the order of the row, and that of its default edges.

        The array is valid until the next call.
        """
        self._restart_if_due()
        slots = self.parameters.index.slot[self.parameters.index.row(self.node)]
        self.parameters.edges.require(slots)
        pe = None if self.config.positional == "none" else self.signal.encoding
        return self._contest.energies(slots, self.signal.mix, pe)

    def choose(self, sampler: Sampler, rng: np.random.Generator) -> int:
        """The next node. Does not move."""
        energies, default_energy = self.energies()
        index = self.parameters.index
        targets = index.target[index.row(self.node)]
        banned = self.forbidden if self.config.self_decode else sorted({*self.forbidden, self.node})
        logits = energies * self.scale
        private = 0
        for node in banned:
            at = int(targets.searchsorted(node))
            if at < len(targets) and targets[at] == node:
                logits[at] = -np.inf
                private += 1
        defaults = index.nodes - len(targets) - (len(banned) - private)
        rank, which = sampler.choose(logits, default_energy * self.scale, defaults, rng)
        if rank != DEFAULT:
            return int(targets[rank])
        return nth_missing(np.union1d(targets, np.array(banned, dtype=np.int64)), which)


def nth_missing(present: np.ndarray, which: int) -> int:
    """The ``which``-th number from 0 on that is not among the sorted ``present``: nodes by frequency."""
    missing_before = present - np.arange(len(present))  # how many numbers below present[i] are missing
    return which + int(np.searchsorted(missing_before, which, side="right"))
