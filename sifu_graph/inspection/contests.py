"""The contests of one text, computed as generation or as evaluation does, and the candidates of each.

A contest gives an energy for every node that can follow a position of the text. The module calls what generation
(`walk.Walk`) and evaluation (`forward.carry`, `ContestBackend.forward`) call, so the energies have the same bits.
The module knows nodes and energies; it does not know names, texts or how an energy is decomposed (`attribution`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sifu_store.errors import CorpusError
from torch import Tensor

from sifu_graph.arrays import Doubles, Ints
from sifu_graph.config import SignalConfig
from sifu_graph.generation.walk import Walk
from sifu_graph.model import forward
from sifu_graph.model.parameters import Parameters
from sifu_graph.text.tokenizer import UNKNOWN

Like = Literal["generate", "eval"]


@dataclass(frozen=True, slots=True)
class Contest:
    """One position: the energies after its node, as generation or evaluation computed them.

    ``begin`` is the position where the signal started, ``came`` the next node of the text (None at its end),
    ``default`` the energy of the default edges, ``loss`` the loss of ``came`` in nats (evaluation only).
    """

    position: int
    begin: int
    node: int
    came: int | None
    mix: Tensor  # [d]
    offset: int  # of the positional encoding
    energies: NDArray[np.floating[Any]]  # [private edges of the row]
    default: float
    loss: float | None  # in nats; evaluation only
    without: Tensor | None = None
    """[m, d], of a graph with a base: the signal here, had each of the m positions from ``begin`` on been silent. The
    energies are then those of all nodes."""
    source: int = -1
    """With a base: the node, or its clone after the nodes before."""
    repeated: NDArray[np.float32] | None = None
    """With a base: what repetition adds to the energies, [n]."""


# ---- the two ways to compute


def as_generation(
    parameters: Parameters,
    config: SignalConfig,
    ids: Sequence[int],
    restart: int,
    last: int | None,
    silent: frozenset[int],
) -> tuple[dict[int, Tensor], list[Contest]]:
    """The contest after every node of a prompt, computed as generation does.

    Parameters
    ----------
    parameters, config
        The parameters of the graph, and its settings of the signal.
    ids
        The nodes, with the separator at the beginning.
    restart
        The signal starts again after this number of nodes.
    last
        Number of last positions whose contests are returned. None: all.
    silent
        Positions whose signal does not enter the mix.

    Returns
    -------
    signals
        The signal r [d] by position, from the last restart before the first returned contest.
    contests
        In the order of their positions.
    """
    window = 0 if last is None else max(0, len(ids) - last)
    walk = Walk(parameters, config, forbidden=[UNKNOWN])
    signals: dict[int, Tensor] = {}
    contests: list[Contest] = []
    begin = window // restart * restart
    for position in range(begin, len(ids)):
        if (position - begin) % restart == 0:
            begin = position
            walk.silent = frozenset(k - begin for k in silent if k >= begin)
            walk.start(ids[position])
        else:
            walk.carry(ids[position])
        signals[position] = walk.signal.r[0].clone()
        if position >= window:
            energies, default = walk.energies()
            contests.append(
                Contest(
                    position=position,
                    begin=begin,
                    node=ids[position],
                    came=ids[position + 1] if position + 1 < len(ids) else None,
                    mix=walk.signal.mix[0].clone(),
                    offset=walk.signal.step + config.decode_offset,
                    energies=energies.copy(),
                    default=default,
                    loss=None,
                )
            )
    return signals, contests


def as_evaluation(
    parameters: Parameters, config: SignalConfig, ids: Sequence[int], length: int, last: int | None
) -> tuple[dict[int, Tensor], list[Contest]]:
    """The contests of a document, computed as evaluation does. For the result, see `as_generation`.

    The document is cut into chunks of ``length`` tokens that overlap by one, and at the resets of the signal. A
    position whose next node is forbidden there has no contest, as evaluation leaves it out.

    Raises
    ------
    CorpusError
        Every pair is forbidden.
    """
    positions = len(ids) - 1
    window = 0 if last is None else max(0, positions - last)
    begins = list(_begins(positions, length - 1, config.reset_after))
    stops = [*begins[1:], positions]
    sizes = np.array([stop - begin + 1 for begin, stop in zip(begins, stops, strict=True)])
    tokens = np.zeros((len(begins), int(sizes.max())), np.int32)
    for row, (begin, size) in enumerate(zip(begins, sizes, strict=True)):
        tokens[row, :size] = ids[begin : begin + size]
    batch = forward.plan(parameters, config, tokens, sizes)
    sweep = forward.carry(parameters, config, batch)
    parts = forward.rows_in_memory(parameters.edges, batch, sweep.rows)
    outcome, flat = parameters.backend.forward(sweep.rows, batch.plan, sweep.S, energies=True, parts=parts)
    assert flat is not None
    loss = outcome.loss(sweep.rows.scale)
    signals = {  # of a forbidden pair, too, which has no contest
        begin + place: sweep.tape.r[sequence, place]
        for sequence, (begin, stop) in enumerate(zip(begins, stops, strict=True))
        for place in range(stop - begin)
    }
    contests, at = [], 0
    row_sizes = torch.diff(batch.plan.first_edge).tolist()
    first_position = batch.plan.first_position.tolist()
    for group, size in enumerate(row_sizes):
        for t in range(first_position[group], first_position[group + 1]):
            sequence, place = divmod(int(batch.places[t]), batch.steps)
            position = begins[sequence] + place
            contests.append(
                Contest(
                    position=position,
                    begin=begins[sequence],
                    node=ids[position],
                    came=ids[position + 1],
                    mix=sweep.S[t],
                    offset=place + config.train_offset,
                    energies=flat[at : at + size].numpy(),
                    default=float(outcome.default_energy[t]),
                    loss=float(loss[t]),
                )
            )
            at += size
    contests.sort(key=lambda found: found.position)
    chosen = [found for found in contests if found.position >= window]
    if not chosen:
        raise CorpusError("every pair that is asked for is forbidden: evaluation leaves it out")
    return signals, chosen


def _begins(positions: int, stride: int, reset_after: int | None) -> Iterator[int]:
    for chunk in range(0, positions, stride):
        yield from range(chunk, min(chunk + stride, positions), reset_after or stride)


# ---- the candidates


@dataclass(frozen=True, slots=True)
class Contestants:
    """All n nodes at one position, in the order of the contest.

    The order is by energy; among equal energies default edges come first, by the frequency of their nodes.

    Attributes
    ----------
    targets : int32 [k], slots, counts : int64 [k]
        The private edges of the row, ascending by target.
    energy : [n]
        Of every node, in the dtype of the kernel; default edges have the energy of the default edge.
    private, candidate : bool [n]
        Which nodes are reached over a private edge, and which can be chosen.
    order : int64 [candidates]
        The nodes that can be chosen, by descending energy.
    rank : int64 [n]
        1 for the first of ``order``; 0 for nodes that cannot be chosen.
    logits : float64 [n]
        Energy times scale; -inf for nodes that cannot be chosen.
    normaliser : float
        log of the sum of exp(logits).
    unknown_p : float
        The probability of <unk> among all nodes, where it cannot be chosen for being <unk>; else 0.
    alike : bool
        All default edges have one energy.
    """

    targets: NDArray[np.int32]
    slots: Ints
    counts: Ints
    energy: NDArray[np.floating[Any]]
    private: NDArray[np.bool_]
    candidate: NDArray[np.bool_]
    order: Ints
    rank: Ints
    logits: Doubles
    normaliser: float
    unknown_p: float
    alike: bool

    @classmethod
    def of(cls, parameters: Parameters, config: SignalConfig, found: Contest, like: Like) -> Contestants:
        """The candidates of a contest. Generation never chooses <unk>, nor the node itself without ``self_decode``."""
        index = parameters.index
        row, n = index.row(found.node), index.nodes
        targets = index.target[row]
        if found.without is None:
            energy = np.full(n, found.default, dtype=found.energies.dtype)
            energy[targets] = found.energies
        else:
            energy = found.energies
        private, candidate = np.zeros(n, bool), np.ones(n, bool)
        private[targets] = True
        if like == "generate":
            candidate[UNKNOWN] = False
            if not config.self_decode:
                candidate[found.node] = False
        forbidden = index.forbidden_after(found.node)
        candidate[forbidden] = False
        frequency = np.arange(n)
        if index.by_frequency is not None:
            frequency[index.by_frequency] = np.arange(n)
        order = np.lexsort((np.where(private, np.arange(n), frequency), private, -energy.astype(np.float64)))
        order = order[candidate[order]]
        rank = np.zeros(n, np.int64)
        rank[order] = np.arange(1, len(order) + 1)
        scale = 1.0 if found.without is not None else float(parameters.scale)
        logits = np.where(candidate, scale * energy.astype(np.float64), -np.inf)
        normaliser, unknown = float(np.logaddexp.reduce(logits)), -np.inf
        if like == "generate" and UNKNOWN not in forbidden:
            unknown = scale * float(energy[UNKNOWN])
        return cls(
            targets=targets,
            slots=index.slots(row),
            counts=index.count[row].astype(np.int64),
            energy=energy,
            private=private,
            candidate=candidate,
            order=order,
            rank=rank,
            logits=logits,
            normaliser=normaliser,
            unknown_p=float(np.exp(unknown - np.logaddexp(unknown, normaliser))),
            alike=found.without is None,
        )

    def row(self) -> Ints:
        """The nodes that can be chosen over a private edge, int64, by descending energy."""
        return self.order[self.private[self.order]]

    def default(self) -> Ints:
        """The nodes that can be chosen over a default edge, int64, the most frequent first; all have one energy."""
        return self.order[~self.private[self.order]]

    def top(self, k: int) -> Ints:
        """The k entries of greatest energy, int64: private edges, and one default edge for all that are alike."""
        if not self.alike:
            return self.order[:k]
        entries = np.concatenate([self.row(), self.default()[:1]])
        best: Ints = entries[np.argsort(self.rank[entries], kind="stable")][:k]
        return best

    def slot_of(self, node: int) -> int | None:
        """The slot of the private edge to a node; None for a default edge."""
        return int(self.slots[np.searchsorted(self.targets, node)]) if self.private[node] else None

    def count_of(self, node: int) -> int | None:
        """How often the pair was counted; None for a default edge."""
        return int(self.counts[np.searchsorted(self.targets, node)]) if self.private[node] else None

    def probability(self, node: int) -> float:
        """The probability (0 to 1) of a node: the softmax over all nodes that can be chosen."""
        return float(np.exp(self.logits[node] - self.normaliser))
