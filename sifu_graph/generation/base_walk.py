"""One signal through a graph whose edges share a base: as `walk.Walk`, with an energy of its own for every node.

Each step of the signal is the kernel of training. The module knows nodes and energies; it does not know text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sifu_graph.arrays import Floats, Ints, distinct
from sifu_graph.config import SignalConfig
from sifu_graph.generation.sampler import Sampler
from sifu_graph.generation.walk import Walk
from sifu_graph.model.parameters import Parameters
from sifu_graph.ops.threads import padded, product
from sifu_graph.text.clones import MOST_NODES


class BaseWalk:
    """A signal on a path through the graph. There are no default edges in its contests: every node is a candidate.

    Parameters
    ----------
    parameters, config, forbidden
        See `walk.Walk`.
    r_0
        The signal before the first token, float32 [d]; None: that of the graph.

    Attributes
    ----------
    silent
        Steps after the next `start` whose nodes do not move the signal, and are not counted as repetition.
    source
        The current node, or its clone after the nodes before.
    r
        The signal after the current node, [d].
    repetition
        What the nodes before add.
    """

    def __init__(
        self,
        parameters: Parameters,
        config: SignalConfig,
        *,
        forbidden: Sequence[int] = (),
        r_0: Tensor | None = None,
    ) -> None:
        base = parameters.base
        assert base is not None
        self.parameters, self.config = parameters, config
        self.forbidden = sorted(set(forbidden))
        self.silent: frozenset[int] = frozenset()
        self.node, self.source, self.step, self.scale = -1, -1, 0, 1.0
        model = base.model if r_0 is None else dataclasses.replace(base.model, start=r_0.contiguous())
        self._base = base
        self._step, self._initial = base.backend.stepper(model), model.start
        self._vectors = padded(model.target).T
        self._rest = base.at_rest.lower()
        self._nodes = np.arange(parameters.index.nodes, dtype=np.int64)
        self._never = np.array(self.forbidden, dtype=np.int64)
        self._found: Floats = np.zeros(len(self._nodes), np.float32)
        self._begins = True  # the next node is the first one that moves the signal
        self.repetition = base.repetition()
        self._path: list[int] = []  # the nodes since the start, as many as a source can depend on
        self.r = self._initial

    @property
    def targets(self) -> Ints:
        """The nodes whose energies `energies` returns, int64 [n]: all."""
        return self._nodes

    def start(self, node: int) -> None:
        """Starts the signal at a node."""
        self.step, self._begins, self.r, self._path = 0, True, self._initial, []
        self.repetition.start(node, silent=0 in self.silent)
        self._advance(node)

    def carry(self, node: int) -> None:
        """Carries the signal along the edge from the current node to ``node``."""
        self.step += 1
        self.repetition.carry(node, silent=self.step in self.silent)
        self._advance(node)

    def _advance(self, node: int) -> None:
        self.node = node
        self._path = [*self._path[1 - MOST_NODES :], node]
        self.source = self._base.pairs.tree.source_of(self._path)
        if self.step not in self.silent:
            self.r, self._begins = self._step(node, self._begins), False

    def energies(self) -> tuple[Floats, float]:
        """The energies of all nodes after the current one, float32 [n], and -inf: no node is reached otherwise."""
        found: Floats = product(self.r[None], self._vectors)[0, : len(self._nodes)].numpy()
        found += self._rest
        self._base.add_row(found, self.source)
        self.repetition.add_to(found)
        self._found = found
        return found, -np.inf

    def last_energies(self) -> tuple[Floats, float]:
        """The energies of the last contest (`energies` or `choose`), float32 [n], not computed again; and -inf."""
        return self._found, -np.inf

    def choose(self, sampler: Sampler, rng: np.random.Generator) -> int:
        """Chooses the next node by a contest after the current one. The signal does not move."""
        logits = self.energies()[0].copy()
        logits[self._never] = -np.inf
        return sampler.choose(logits, -np.inf, 0, rng)[0]

    def banned(self) -> NDArray[np.int64]:
        """The nodes that cannot be chosen after the current node, int64, ascending."""
        return distinct(np.concatenate([self._never, self.parameters.index.forbidden_after(self.node)]))


AnyWalk = Walk | BaseWalk


def walk_of(
    parameters: Parameters, config: SignalConfig, *, forbidden: Sequence[int] = (), r_0: Tensor | None = None
) -> AnyWalk:
    """The walk of a graph, with or without a base. For the parameters, see `walk.Walk`."""
    kind = BaseWalk if config.base else Walk
    return kind(parameters, config, forbidden=forbidden, r_0=r_0)
