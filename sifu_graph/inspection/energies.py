"""Energies of private edges in a context that is the same for every node.

It knows parameters and signals; it does not know texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from sifu_store.layout import BIAS, WEIGHT

from sifu_graph.arrays import Doubles, Ints
from sifu_graph.generation.walk import Walk
from sifu_graph.model.edge_reader import blocks
from sifu_graph.ops.functional import gelu, step_encoding
from sifu_graph.ops.signal import Signal

if TYPE_CHECKING:
    from sifu_graph.session import GraphSession


def first_energies(graph: GraphSession) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What each edge is worth where a text begins: its energy at the first position, when all signal is r_1.

    Returns
    -------
    private : float32 [edges]
        E(v) of every private edge (u, v), in the order of the index.
    default : float32 [n]
        The energy that all default edges of u share.
    """
    parameters, config = graph.parameters, graph.signal
    signal = Signal.start(
        config,
        r_0=parameters.r_0,
        node_bias=parameters.node_bias,
        alpha=parameters.alpha.tolist(),
        offset=config.train_offset,
    )
    S, pe = signal.mix, step_encoding(config, config.train_offset, parameters.r_0)
    default = gelu(S @ parameters.default_W + parameters.default_b + pe).norm(dim=-1)
    source = torch.from_numpy(parameters.index.sources())
    private = np.empty(parameters.index.edges, np.float32)
    reader = graph.edge_reader()
    weights, biases = reader.blocks(WEIGHT, parameters.index), reader.blocks(BIAS, parameters.index)
    for block, W, b in zip(blocks(len(private)), weights, biases, strict=True):
        z = torch.bmm(S[source[block]][:, None], torch.from_numpy(W))[:, 0] + torch.from_numpy(b) + pe
        private[block] = gelu(z).norm(dim=-1).numpy()
    return private, default.numpy()


@dataclass(frozen=True, slots=True)
class Row:
    """The contest of one node in its neutral context: the private edges out of it."""

    target: Ints  # [k]
    count: Ints  # [k]
    energy: Doubles  # [k]
    probability: Doubles  # [k], of the softmax over all nodes
    default_energy: float


def row_alone(walk: Walk, node: int) -> Row:
    """The row of a node in its neutral context: the node alone, its mix empty (see `sifu_graph.inspection.inspect`)."""
    walk.silent = frozenset({0})
    walk.start(node)
    energies, default = walk.energies()
    index = walk.parameters.index
    row = index.row(node)
    logits = energies.astype(np.float64) * walk.scale
    left = int(index.defaults()[node])
    rest = default * walk.scale + np.log(left) if left else -np.inf
    total = np.logaddexp(np.logaddexp.reduce(logits) if len(logits) else -np.inf, rest)
    return Row(
        target=index.target[row].astype(np.int64),
        count=index.count[row],
        energy=energies.astype(np.float64),
        probability=np.exp(logits - total),
        default_energy=default,
    )
