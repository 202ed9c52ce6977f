"""The energies of edges at the first step of a text, which depend on the edge alone.

The text begins with the source u of the edge, and S = S_1(u) is its mix there: ``E = ||GELU(W S_1 + b + PE)||``
(DESIGN, section 3). In a graph whose edges share a base, the energies are those of `ops.recurrent`; "the energy of the
default edges" is then the log of the mean of exp(E) over them, so that their probabilities add up.

`sifu_graph.model.graph_at_rest` has the energies at rest. The module knows parameters and signals; it does not know
texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from sifu_store.layout import BIAS, WEIGHT
from torch import Tensor

from sifu_graph.arrays import Floats, Ints
from sifu_graph.model.edge_reader import blocks
from sifu_graph.model.parameters import Parameters
from sifu_graph.ops.functional import gelu
from sifu_graph.ops.signal import Signal
from sifu_graph.progress import SILENT, Stages

if TYPE_CHECKING:
    from sifu_graph.session import GraphSession

NODES = 1024
"""Nodes whose default edges are computed between two reports."""


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

    def default_energies(self, nodes: Ints) -> Floats:
        """The energy of the default edges of nodes, int64 [k]: float32 [k]."""
        mix = self.mix[torch.from_numpy(nodes)]
        if self.parameters.base is not None:
            return self.parameters.base.default_energies(self.parameters.index, nodes, mix)
        z = mix @ self.parameters.default_W + self.parameters.default_b + self.encoding
        energies: Floats = gelu(z).norm(dim=-1).numpy()
        return energies

    def other_energies(self, source: Ints, target: Ints) -> Floats:
        """Energies, float32 [k], of edges that are not private, with these ends [k]; -inf: the pair is forbidden."""
        if self.parameters.base is not None:
            return self.parameters.base.edge_energies(source, target, self.mix[torch.from_numpy(source)])
        nodes, at = np.unique(source, return_inverse=True)
        energies = self.default_energies(nodes)[at]
        energies[self.parameters.index.is_forbidden(source, target)] = -np.inf
        return energies


def energies_at_first_step(graph: GraphSession, stages: Stages = SILENT) -> Floats:
    """The energies at the first step of all private edges, with the positional encoding of training, as a stage.

    Returns
    -------
    float32 [edges]
        In the order of the index.
    """
    index, step = graph.parameters.index, _first_step(graph)
    source, target, private = index.sources(), index.target.astype(np.int64), np.empty(index.edges, np.float32)
    stage = stages.stage("computing the energies of the edges", index.edges, "edges")
    base = graph.parameters.base
    if base is not None:
        for block in blocks(index.edges):
            mix = step.mix[torch.from_numpy(source[block])]
            private[block] = base.edge_energies(source[block], target[block], mix)
            stage.advance(len(mix))
        return private
    reader = graph._edge_reader()
    weights, biases = reader.blocks(WEIGHT, index), reader.blocks(BIAS, index)
    for block, W, b in zip(blocks(index.edges), weights, biases, strict=True):
        private[block] = step.energies(source[block], target[block], W, b)
        stage.advance(len(b))
    return private


def default_energies_at_first_step(graph: GraphSession, stages: Stages = SILENT) -> Floats:
    """The energies at the first step of the default edges of every node, float32 [n], as a stage."""
    step, found = _first_step(graph), np.empty(graph.parameters.index.nodes, np.float32)
    stage = stages.stage("computing the energies of the default edges", len(found), "nodes")
    for begin in range(0, len(found), NODES):
        nodes = np.arange(begin, min(begin + NODES, len(found)))
        found[nodes] = step.default_energies(nodes)
        stage.advance(len(nodes))
    return found


def _first_step(graph: GraphSession) -> FirstStep:
    return FirstStep.of(graph, offset=graph.signal.train_offset)
