"""The energies of an edge in two contexts that depend on no text: at rest, and at the first step.

At rest
    The mix is zero (S = 0), so that ``E = ||GELU(b + PE)||`` depends on the edge alone. PE is the positional encoding
    of the first step. `sifu_graph.edit.rest_energy` takes the mean positional encoding of a text instead, so that an
    edit does not favour one position.
At the first step
    The text begins with the source u of the edge, and S = S_1(u) is its mix there: ``E = ||GELU(W S_1 + b + PE)||``
    (DESIGN, section 3).

In a graph whose edges share a base, the energies are those of `ops.recurrent`, with r = 0 at rest; "the energy of the
default edges" is then the log of the mean of exp(E) over them, so that their probabilities add up.

The module knows parameters and signals; it does not know texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from sifu_store.layout import BIAS, SOURCE, TARGET, WEIGHT
from torch import Tensor

from sifu_graph.arrays import Doubles, Floats, Ints
from sifu_graph.generation.base_walk import AnyWalk, BaseWalk
from sifu_graph.model.edge_reader import blocks
from sifu_graph.model.parameters import Parameters
from sifu_graph.ops.functional import gelu
from sifu_graph.ops.positional import step_encoding
from sifu_graph.ops.signal import Signal

if TYPE_CHECKING:
    from sifu_graph.session import GraphSession


# ---- at rest


@dataclass(frozen=True, slots=True)
class RowAtRest:
    """The candidates of one node at rest: its k private edges, by target, and the default edge."""

    target: Ints  # [k]
    count: Ints  # [k]
    slot: Ints  # [k]
    energy: Doubles  # [k]
    probability: Doubles  # [k], of the softmax over all nodes
    default_energy: float
    default_probability: float  # of one default edge; 0 if the node has none


def row_at_rest(walk: AnyWalk, node: int) -> RowAtRest:
    """The row of a node at rest, computed by the kernel of generation. Restarts the walk at the node."""
    if isinstance(walk, BaseWalk):
        walk.rest(node)
    else:
        walk.silent = frozenset({0})
        walk.start(node)
    found, default = walk.energies()
    index = walk.parameters.index
    row, defaults = index.row(node), int(index.defaults()[node])
    energies = found.astype(np.float64)
    if isinstance(walk, BaseWalk):
        others = np.delete(energies, index.target[row])
        default = float(np.logaddexp.reduce(others, initial=-np.inf)) - float(np.log(max(1, defaults)))
        energies = energies[index.target[row]]
    logits = walk.scale * np.append(energies, default)
    with np.errstate(divide="ignore"):
        shares = logits + np.log(np.append(np.ones(len(energies)), defaults))
    p = np.exp(logits - np.logaddexp.reduce(shares))
    return RowAtRest(
        target=index.target[row].astype(np.int64),
        count=index.count[row],
        slot=index.slot[row],
        energy=energies,
        probability=p[:-1],
        default_energy=default,
        default_probability=float(p[-1]) if defaults else 0.0,
    )


def energies_at_rest(graph: GraphSession, slots: Ints) -> Floats:
    """The energies at rest of the private edges in these slots, float32 [k]."""
    base = graph.parameters.base
    if base is not None:
        source, target = graph.store.read(SOURCE)[slots], graph.store.read(TARGET)[slots]
        r = torch.zeros(len(slots), graph.parameters.width)
        return base.edge_energies(source.astype(np.int64), target.astype(np.int64), r)
    encoding = step_encoding(graph.signal, graph.signal.decode_offset, graph.parameters.r_0)
    energies: Floats = gelu(graph.parameters.edges.get(BIAS, slots) + encoding).norm(dim=-1).numpy()
    return energies


# ---- at the first step


@dataclass(frozen=True, slots=True)
class FirstStep:
    """The first step of the texts that begin with each of the n nodes.

    Attributes
    ----------
    mix : float32 [n, d]
        S_1 of each node; with a base, its signal r_1.
    encoding : float32 [d]
        The positional encoding of the step.
    """

    parameters: Parameters
    mix: Tensor
    encoding: Tensor

    @classmethod
    def of(cls, graph: GraphSession, *, offset: int) -> FirstStep:
        """The first steps in a graph.

        ``offset`` of the positional encoding is `train_offset` or `decode_offset` of the signal.
        """
        parameters = graph.parameters
        if parameters.base is not None:
            token = torch.arange(parameters.index.nodes, dtype=torch.int32)[:, None]
            model = parameters.base.model
            signal = model.start.repeat(len(token), 1)
            r = parameters.base.backend.carry(model, token, torch.ones_like(token, dtype=torch.bool), signal)
            return cls(parameters, r[:, 0], torch.zeros_like(model.start))
        start = Signal.start(
            graph.signal,
            r_0=parameters.r_0,
            node_bias=parameters.node_bias,
            alpha=parameters.alpha.tolist(),
            offset=offset,
        )
        return cls(parameters, start.mix, start.encoding)

    def energies(self, source: Ints, target: Ints, W: Floats, b: Floats) -> Floats:
        """Energies, float32 [k], of private edges with these ends [k], weights [k, d, d] and biases [k, d]."""
        if self.parameters.base is not None:
            return self.parameters.base.edge_energies(source, target, self.mix[torch.from_numpy(source)])
        S = self.mix[torch.from_numpy(source)]
        z = torch.bmm(S[:, None], torch.from_numpy(W))[:, 0] + torch.from_numpy(b) + self.encoding
        energies: Floats = gelu(z).norm(dim=-1).numpy()
        return energies

    def default_energies(self) -> Floats:
        """The energy of the default edges of each node, float32 [n]."""
        if self.parameters.base is not None:
            return self.parameters.base.default_energies(self.parameters.index, self.mix)
        z = self.mix @ self.parameters.default_W + self.parameters.default_b + self.encoding
        energies: Floats = gelu(z).norm(dim=-1).numpy()
        return energies


def energies_at_first_step(graph: GraphSession) -> tuple[Floats, Floats]:
    """The energies at the first step of all edges of a graph, with the positional encoding of training.

    Returns
    -------
    private : float32 [edges]
        Of every private edge, in the order of the index.
    default : float32 [n]
        Of the default edges of every node.
    """
    index, step = graph.parameters.index, FirstStep.of(graph, offset=graph.signal.train_offset)
    source, private = index.sources(), np.empty(index.edges, np.float32)
    reader = graph.edge_reader()
    weights, biases = reader.blocks(WEIGHT, index), reader.blocks(BIAS, index)
    for block, W, b in zip(blocks(len(private)), weights, biases, strict=True):
        private[block] = step.energies(source[block], index.target[block].astype(np.int64), W, b)
    return private, step.default_energies()
