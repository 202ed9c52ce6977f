"""Signals through a graph whose edges share a base: as `walk.Walk`, with an energy of its own for every node.

The module knows nodes and choices; it does not know text. The energies are those of `ops.decoding_native`, or, without
a compiler, of `plain_decoding`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sifu_graph.arrays import Floats, Ints, distinct
from sifu_graph.config import SignalConfig
from sifu_graph.generation.plain_decoding import PlainText
from sifu_graph.generation.sampler import Sampler
from sifu_graph.generation.walk import Walk
from sifu_graph.kernels import native as kernel
from sifu_graph.model.parameters import Parameters
from sifu_graph.ops.decoding_native import NativeDecoding, NativeText


class BaseWalk:
    """A signal on a path through the graph. There are no default edges in its contests: every node is a candidate.

    Parameters
    ----------
    parameters, config, forbidden
        See `walk.Walk`.
    r_0
        The signal before the first token, float32 [d]; None: that of the graph.
    beside
        A walk of the same graph with the same forbidden nodes, with which it shares what both read. None: no other.

    Attributes
    ----------
    silent
        Steps after the next `start` whose nodes do not move the signal, and are not counted as repetition.
    """

    def __init__(
        self,
        parameters: Parameters,
        config: SignalConfig,
        *,
        forbidden: Sequence[int] = (),
        r_0: Tensor | None = None,
        beside: BaseWalk | None = None,
    ) -> None:
        base = parameters.base
        assert base is not None
        self.parameters, self.config = parameters, config
        self.forbidden = sorted(set(forbidden))
        self.silent: frozenset[int] = frozenset()
        self.node, self.step, self.scale = -1, 0, 1.0
        self._initial = base.model.start if r_0 is None else r_0
        self._nodes = np.arange(parameters.index.nodes, dtype=np.int64)
        self._never = np.array(self.forbidden, dtype=np.int64)
        shared = _decoding(parameters, self.forbidden) if beside is None else beside.decoding
        self.text: PlainText | NativeText = PlainText(base) if shared is None else shared.text()
        self._asked: Sampler | None = None

    @property
    def decoding(self) -> NativeDecoding | None:
        """What it shares with other walks of the graph; None: there is no compiler."""
        return self.text.decoding if isinstance(self.text, NativeText) else None

    @property
    def targets(self) -> Ints:
        """The nodes whose energies `energies` returns, int64 [n]: all."""
        return self._nodes

    @property
    def source(self) -> int:
        """The current node, or its clone after the nodes before."""
        return self.text.source

    @property
    def r(self) -> Tensor:
        """The signal after the current node, [d]; the next `start` or `carry` may change it."""
        return self.text.signal

    def start(self, node: int) -> None:
        """Starts the signal at a node."""
        self.node, self.step = node, 0
        self.text.begin(self._initial)
        self.text.carry(node, silent=0 in self.silent)

    def carry(self, node: int) -> None:
        """Carries the signal along the edge from the current node to ``node``."""
        self.node, self.step = node, self.step + 1
        self.text.carry(node, silent=self.step in self.silent)

    def energies(self) -> tuple[Floats, float]:
        """The energies of all nodes after the current one, float32 [n], and -inf: no node is reached otherwise.

        The array is valid until the next contest.
        """
        self.text.contest()
        return self.last_energies()

    def last_energies(self) -> tuple[Floats, float]:
        """The energies of the last contest (`energies` or `choose`), float32 [n], not computed again; and -inf."""
        return self.text.energy, -np.inf

    def repetition(self) -> Floats:
        """What the nodes before add to the energies of all nodes after the current one, float32 [n]."""
        return self.text.repetition()

    def choose(self, sampler: Sampler, rng: np.random.Generator) -> int:
        """Chooses the next node by a contest after the current one. The signal does not move."""
        text = self.text
        if isinstance(text, NativeText):
            self.ask(sampler, rng)
            text.decoding.contest([text.address], choose=True)
            return int(text.state.chosen)
        logits = self.energies()[0].copy()
        logits[self._never] = -np.inf
        return sampler.choose(logits, -np.inf, 0, rng)[0]

    def ask(self, sampler: Sampler, rng: np.random.Generator) -> None:
        """Write down how the kernel is to choose the next node."""
        assert isinstance(self.text, NativeText)
        state = self.text.state
        if sampler is not self._asked:
            self._asked = sampler
            state.temperature, state.top_k = sampler.temperature, sampler.top_k or 0
            state.top_p = 1.0 if sampler.top_p is None else sampler.top_p
        if not sampler.greedy:
            state.uniform = rng.random()

    def banned(self) -> NDArray[np.int64]:
        """The nodes that cannot be chosen after the current node, int64, ascending."""
        return distinct(np.concatenate([self._never, self.parameters.index.forbidden_after(self.node)]))


AnyWalk = Walk | BaseWalk
Draw = tuple[AnyWalk, Sampler, np.random.Generator]
"""A walk that is to choose its next node, by which rule, and with which random numbers."""


def walk_of(
    parameters: Parameters,
    config: SignalConfig,
    *,
    forbidden: Sequence[int] = (),
    r_0: Tensor | None = None,
    beside: AnyWalk | None = None,
) -> AnyWalk:
    """The walk of a graph, with or without a base. For the parameters, see `walk.Walk` and `BaseWalk`."""
    if config.base:
        other = beside if isinstance(beside, BaseWalk) else None
        return BaseWalk(parameters, config, forbidden=forbidden, r_0=r_0, beside=other)
    return Walk(parameters, config, forbidden=forbidden, r_0=r_0)


def choose_each(draws: Sequence[Draw], *, threads: int) -> list[int | Exception]:
    """The next nodes of walks, each as its `choose` finds it; those of one graph with a base side by side.

    An exception stands in the place of a walk whose `choose` raised it.
    """
    found: list[int | Exception] = [-1] * len(draws)
    together: dict[NativeDecoding, list[tuple[int, NativeText]]] = defaultdict(list)
    for place, (walk, sampler, rng) in enumerate(draws):
        if isinstance(walk, BaseWalk) and isinstance(walk.text, NativeText):
            walk.ask(sampler, rng)
            together[walk.text.decoding].append((place, walk.text))
        else:
            try:
                found[place] = walk.choose(sampler, rng)
            except Exception as error:
                found[place] = error
    for decoding, texts in together.items():
        decoding.contest([text.address for _, text in texts], choose=True, threads=threads)
        for place, text in texts:
            found[place] = text.state.chosen
    return found


def _decoding(parameters: Parameters, forbidden: Sequence[int]) -> NativeDecoding | None:
    base = parameters.base
    assert base is not None
    library = kernel.compiled("decoding", len(base.model.gain), base.model.W.dtype)
    if library is None:
        return None
    return NativeDecoding(library, base.model, base.pairs, weights=base.repeat_weights(), banned=forbidden)
