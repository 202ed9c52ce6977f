"""Energies at rest in a working copy: the energy of an edge where the mix is zero (S = 0).

At rest, the energy of an edge is ``||GELU(b + PE)||`` with PE the mean positional encoding of a text. It depends on the
edge alone, so edges can be compared, and the bias of a new edge can be computed from a probability. In a graph that was
never trained (W = 0) it is the energy in every context. `sifu_graph.inspection.energies` takes the encoding of the
first step instead. The module knows biases, energies and probabilities; it does not know where parameters are stored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sifu_store.errors import OptionError
from sifu_store.layout import BIAS

from sifu_graph.arrays import Doubles, Ints
from sifu_graph.edit.working_copy import WorkingCopy
from sifu_graph.ops import at_rest
from sifu_graph.ops.initial import mean_encoding
from sifu_graph.text.kneser_ney import discount_of

PART = 1 << 16  # edges whose biases are in memory at a time


@dataclass(frozen=True, slots=True)
class Rest:
    """The constants of a graph that energies at rest are computed from.

    Attributes
    ----------
    encoding : float64 [d]
        The mean positional encoding.
    default : float
        The energy of the default edge at rest.
    scale : float
        Factor of the energies before the softmax.
    """

    encoding: Doubles
    default: float
    scale: float

    @classmethod
    def of(cls, copy: WorkingCopy) -> Rest:
        """The constants of the graph of a working copy."""
        encoding = mean_encoding(copy.config, copy.width, copy.settings["build"]["length"])
        bias = copy.small["default/bias"].astype(np.float64)
        scale = float(copy.small["signal/scale"][0])
        return cls(encoding, float(at_rest.energies(bias, encoding)), scale)

    def energy(self, bias: NDArray[np.floating]) -> Doubles:
        """Energies [k] of edges with these biases [k, d]."""
        return at_rest.energies(bias, self.encoding)

    def of_edges(self, copy: WorkingCopy, slots: Ints) -> Doubles:
        """Energies [k] of the private edges at slots int64 [k].

        Generated edges have a known energy; for the others the biases are read.
        """
        out = np.asarray(copy.initial.energies(slots), np.float64)
        read = np.flatnonzero(~copy.is_generated(slots) | np.isnan(out))
        for part in np.split(read, range(PART, len(read), PART)):
            out[part] = self.energy(copy.values(BIAS, slots[part]))
        return out

    def log_partition(self, copy: WorkingCopy, u: int) -> float:
        """The log of the sum over all candidates after u of exp(scale * energy), at rest."""
        from scipy.special import logsumexp

        logits = self.scale * self.of_edges(copy, copy.row_slots(u))
        defaults = int(copy.index.defaults()[u])
        shared = [self.scale * self.default + np.log(defaults)] if defaults else []
        return float(logsumexp([*logits, *shared]))

    def boosted(self, bias: Doubles, energy: float) -> Doubles:
        """The bias [d], moved along the output of the edge until the edge has the given energy at rest.

        A move of the bias changes the energy by about the same amount in every context; a multiple of the edge would
        not.

        Raises
        ------
        OptionError
            The energy is below the least that the edge can have (`least`).
        """
        from scipy.optimize import brentq  # imported here: it loads slowly, and only boosting and merging need it

        along, norm = self._output(bias)

        def missing(step: float) -> float:
            return float(self.energy(bias + step * along)) - energy

        if energy <= 0 or missing(-norm) >= 0:
            raise OptionError(
                f"an energy of {energy:.2f} at rest is asked for, and {self.least(bias):.2f} is the least that this "
                "edge can have: boost by less, or forbid the edge"
            )
        return bias + float(brentq(missing, -norm, max(energy, norm) + 10.0)) * along

    def least(self, bias: Doubles) -> float:
        """The lowest energy that `boosted` can reach for a bias [d]."""
        along, norm = self._output(bias)
        return float(self.energy(bias - norm * along))

    def _output(self, bias: Doubles) -> tuple[Doubles, float]:
        """The direction [d] of the edge's output at rest, and the length of the output."""
        output = at_rest.gelu(bias + self.encoding)
        norm = float(np.linalg.norm(output))
        return (output / norm if norm > 1e-6 else np.full(len(bias), len(bias) ** -0.5)), norm


def log_shares(copy: WorkingCopy, rest: Rest, rows: Ints) -> Doubles:
    """log of the probability of one default edge of each of these sources, float64 [len(rows)].

    An edge of a row has the energy ``default + (log p - log share) / scale``, with p from the counts. The share is
    solved for from the energies of the row's private edges and averaged by count. So a new edge is comparable with the
    edges of its row, also after pruning or training.
    """
    index, counts = copy.index, copy.counts
    predecessors = counts.predecessors / max(1, int(counts.predecessors.sum()))
    out = np.empty(len(rows))
    for i, u in enumerate(rows.tolist()):
        row = index.row(u)
        slots, count = index.slots(row), index.count[row]
        total = max(1, int(counts.total[u]))
        follows = predecessors[index.target[row]]
        p = (count - discount_of(count, counts.discounts) + counts.discounted[u] * follows) / total
        known = np.flatnonzero((count > 0) & (p > 0))
        if len(known):
            above = rest.scale * (rest.of_edges(copy, slots[known]) - rest.default)
            out[i] = float(np.average(np.log(p[known]) - above, weights=count[known]))
        else:
            out[i] = np.log(max(1.0 - float(p.sum()), 1e-9) / max(1, index.nodes - len(slots)))
    return out
