"""The energies of an edge in two contexts that depend on no text: at rest, and at the first step.

At rest
    The mix is zero (S = 0), so that ``E = ||GELU(b + PE)||`` depends on the edge alone. PE is the positional encoding
    of the first step. `sifu_graph.edit.rest_energy` takes the mean positional encoding of a text instead, so that an
    edit does not favour one position.
At the first step
    The text begins with the source u of the edge, and S = S_1(u) is its mix there: ``E = ||GELU(W S_1 + b + PE)||``
    (DESIGN, section 3).

The module knows parameters and signals; it does not know texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from sifu_store.layout import BIAS, WEIGHT
from torch import Tensor

from sifu_graph.arrays import Doubles, Floats, Ints
from sifu_graph.generation.walk import Walk
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


def row_at_rest(walk: Walk, node: int) -> RowAtRest:
    """The row of a node at rest, computed by the kernel of generation. Restarts the walk at the node."""
    walk.silent = frozenset({0})
    walk.start(node)
    found, default = walk.energies()
    index = walk.parameters.index
    row, defaults = index.row(node), int(index.defaults()[node])
    energies = found.astype(np.float64)
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
        S_1 of each node.
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
        start = Signal.start(
            graph.signal,
            r_0=parameters.r_0,
            node_bias=parameters.node_bias,
            alpha=parameters.alpha.tolist(),
            offset=offset,
        )
        return cls(parameters, start.mix, start.encoding)

    def energies(self, source: Ints, W: Floats, b: Floats) -> Floats:
        """Energies, float32 [k], of private edges with sources [k], weights [k, d, d] and biases [k, d]."""
        S = self.mix[torch.from_numpy(source)]
        z = torch.bmm(S[:, None], torch.from_numpy(W))[:, 0] + torch.from_numpy(b) + self.encoding
        energies: Floats = gelu(z).norm(dim=-1).numpy()
        return energies

    def default_energies(self) -> Floats:
        """The energy of the default edges of each node, float32 [n]."""
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
        private[block] = step.energies(source[block], W, b)
    return private, step.default_energies()
