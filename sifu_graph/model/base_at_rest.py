"""The energies of a graph whose edges share a base, at rest: where the signal is 0 and nothing was repeated.

    E(v | u) = s log p(v | u) + c_v + a_uv          p, a: `PairModel`; s, c: `ops.recurrent`

u is a node or a clone. The module knows counts and two parameters; it does not know signals, and does not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sifu_graph.arrays import Doubles, Floats, Ints
from sifu_graph.ops.pair_model import PairModel


@dataclass(frozen=True, slots=True)
class PartsAtRest:
    """Parts of the energies of k edges out of a source with c clones in its chain, float64 [k] each.

    Attributes
    ----------
    counts
        s log p after the node.
    clones
        What each clone adds to it, the one of two nodes first, [c, k].
    bias, edge
        c of the target, and what edits gave the edge.
    """

    counts: Doubles
    clones: Doubles
    bias: Doubles
    edge: Doubles

    def sum(self) -> Doubles:
        """The energies, [k]."""
        energies: Doubles = self.counts + self.clones.sum(0) + self.bias + self.edge
        return energies


@dataclass(frozen=True, slots=True)
class BaseAtRest:
    """The counts of a graph, and what its base adds to them at rest.

    Attributes
    ----------
    pairs
        The counts of pairs; those of the sources that are asked for are enough.
    bias
        c, float32 [n].
    scale
        s.
    """

    pairs: PairModel
    bias: Floats
    scale: float

    def lower(self) -> Floats:
        """The part of the energies that depends on the target alone, s log q_v + c_v, float32 [n]."""
        found: Floats = (self.scale * self.pairs.log_lower + self.bias).astype(np.float32)
        return found

    def energies(self, source: int) -> Doubles:
        """The energies of all nodes after a source, float64 [n]; -inf: forbidden."""
        at = np.array([source])
        found: Doubles = self.scale * self.pairs.rows(at)[0] + self.bias + self.pairs.added_rows(at)[0]
        return found

    def row(self, source: int) -> tuple[Doubles, Doubles]:
        """The energies and probabilities of all nodes after a source, float64 [n] each."""
        energy = self.energies(source)
        return energy, np.exp(energy - np.logaddexp.reduce(energy))

    def of_pairs(self, pair: Ints) -> Doubles:
        """The energies of the edges of pairs, by their numbers in the table, int64 [k]: float64 [k]."""
        energy: Doubles = self.scale * self.pairs.log_p(pair) + self.pairs.added_to(pair)
        energy += self.bias[self.pairs.target[pair]]
        return energy

    def parts(self, source: int, target: Ints) -> PartsAtRest:
        """The parts of the energies of edges (source, target [k])."""
        chain = np.array(self.pairs.chain(source)[::-1])
        rows = self.scale * self.pairs.rows(chain)[:, target]
        return PartsAtRest(
            counts=rows[0],
            clones=np.diff(rows, axis=0),
            bias=self.bias[target].astype(np.float64),
            edge=self.pairs.added_rows(chain[-1:])[0, target],
        )
