"""The base of a graph: what all its edges share, with the counts of its pairs.

Its numbers lie among the small arrays of `Parameters`, under their names in the store. It knows the names of arrays;
the mathematics is in `ops.recurrent`, the training in `training.base_trainer`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from sifu_store.layout import GAIN, REPEAT, REPEAT_AFTER, REPEAT_SHARED, START, TARGET_BIAS, TARGET_VECTOR
from torch import Tensor

from sifu_graph.arrays import Floats, Ints
from sifu_graph.edge_index import EdgeIndex
from sifu_graph.model.base_at_rest import BaseAtRest
from sifu_graph.ops.pair_model import PairModel
from sifu_graph.ops.recurrent import Recurrent, RecurrentBackend
from sifu_graph.ops.recurrent_native import cpu_recurrent
from sifu_graph.ops.repetition import Repetition, frequency_basis, repeat_weights
from sifu_graph.ops.threads import padded, product

NAMES = {
    "W": "default/weight",
    "gain": GAIN,
    "node": "nodes/bias",
    "start": START,
    "target": TARGET_VECTOR,
    "bias": TARGET_BIAS,
    "scale": "signal/scale",
    "repeat": REPEAT,
    "repeat_shared": REPEAT_SHARED,
    "repeat_after": REPEAT_AFTER,
}
"""The array of each field of `Recurrent`: W is the matrix of the default edge, and e the node bias."""

SOURCES = 64
"""Nodes whose energies are computed at a time."""


@dataclass(frozen=True, slots=True)
class Base:
    """What all edges share.

    Attributes
    ----------
    model
        The parameters; the tensors are those of ``Parameters.small``.
    pairs
        The counts of pairs.
    backend
        Computes windows of text.
    """

    model: Recurrent
    pairs: PairModel
    backend: RecurrentBackend

    @classmethod
    def of(cls, small: Mapping[str, Tensor], pairs: PairModel) -> Base:
        """From the small arrays of a graph, and its counts."""
        model = Recurrent(**{field: small[name] for field, name in NAMES.items()})
        return cls(model, pairs, cpu_recurrent(pairs, len(model.gain), model.W.dtype))

    @property
    def at_rest(self) -> BaseAtRest:
        """The energies where the signal is 0."""
        return BaseAtRest(self.pairs, self.model.bias.numpy(), float(self.model.scale))

    def repeat_weights(self) -> Floats:
        """f and m of every node (`ops.recurrent`), float32 [n, 2]."""
        model, basis = self.model, torch.from_numpy(frequency_basis(self.pairs.log_lower))
        weights: Floats = repeat_weights(model.repeat, model.repeat_shared, basis.to(model.repeat.dtype)).numpy()
        return weights

    def repetition(self) -> Repetition:
        """What repetition adds along a stream, before its first node."""
        return Repetition(self.repeat_weights(), self.model.repeat_after.numpy())

    def add_row(self, energy: Floats, source: int) -> None:
        """Adds what depends on the pair, s (log b_u + log(1 + X_uv)) + a_uv, to energies [n] after a source."""
        pairs = self.pairs
        energy += (float(self.model.scale) * (np.log(pairs.row(source)) - pairs.log_lower)).astype(np.float32)
        if pairs.added is not None:
            for at in pairs.chain(source):
                row = slice(int(pairs.first[at]), int(pairs.first[at + 1]))
                energy[pairs.target[row]] += pairs.added[row].astype(np.float32)

    def edge_energies(self, source: Ints, target: Ints, r: Tensor) -> Floats:
        """The energies of single edges of nodes, int64 [k] each, after signals r [k, d]: float32 [k]."""
        pairs, scale = self.pairs, float(self.model.scale)
        found = (r * self.model.target[torch.from_numpy(target)]).sum(1).double().numpy() + self.at_rest.lower()[target]
        found += scale * np.log(pairs.left[source])
        at = pairs.find(source, target)
        known = at >= 0
        at = at[known]
        found[known] += scale * np.log1p(pairs.ratio_of(at))
        if pairs.added is not None:
            found[known] += pairs.added[at]
        return found.astype(np.float32)

    def default_energies(self, index: EdgeIndex, nodes: Ints, r: Tensor) -> Floats:
        """log of the mean of exp(E) over the default edges of nodes, int64 [k], after signals r [k, d]: float32 [k].

        -inf for a node without default edges.
        """
        found, choices = np.full(len(nodes), -np.inf, np.float32), index.defaults()[nodes]
        every = np.flatnonzero(choices)
        for begin in range(0, len(every), SOURCES):
            some = every[begin : begin + SOURCES]
            energy = self.energies(nodes[some], r[torch.from_numpy(some)]).astype(np.float64)
            for row, node in zip(energy, nodes[some].tolist(), strict=True):
                row[index.target[index.row(node)]] = -np.inf
            most = energy.max(1, keepdims=True)
            total = np.exp(energy - most).sum(1)
            found[some] = most[:, 0] + np.log(total) - np.log(choices[some])
        return found

    def energies(self, source: Ints, r: Tensor) -> Floats:
        """The energies of all nodes after signals r [k, d] at these sources, int64 [k]: float32 [k, n]."""
        found: Floats = product(r, padded(self.model.target).T)[:, : self.pairs.nodes].numpy()
        found += self.at_rest.lower()
        for row, at in zip(found, source.tolist(), strict=True):
            self.add_row(row, at)
        return found


def initial_arrays(nodes: int, width: int, *, seed: int) -> dict[str, Floats]:
    """The arrays of a base before training, by their names in the store."""
    model = Recurrent.initial(nodes, width, seed=seed)
    return {NAMES[field]: np.asarray(value.numpy()) for field, value in model.tensors().items()}
