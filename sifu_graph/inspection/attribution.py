"""An exact decomposition of an energy into the contributions of each signal, the bias and the positional encoding.

For a candidate with weight W and bias b, mix S = sum_k x_k (x_k = w_k r_k) and positional encoding P::

    z = S W + b + P,    y = GELU(z) = z Phi(z),    E = |y|

GELU is its argument times a gate, and a length is the product of the vector with its own direction. So, with
c = Phi(z) y / E, the energy is *linear* in the terms of z::

    E = sum_j c_j z_j = sum_k (x_k W) . c  +  b . c  +  P . c

The sum is exact. The gates Phi(z) and the direction y / E are held constant, hence the name in `METHOD`. Where the mix
is normalised, S = (M - mean M) / s with M = sum_k w_k r_k, its divisor s is held constant too, and x_k = w_k (r_k -
mean r_k) / s. The margin between two candidates is the difference of their accounts.

An account says which terms the energy consists of. It does not say what the energy would be without a term, because
the gates would change; `what_if` computes that.

Everything here is computed in float64. The remainder is the difference between the sum and the energy that the
kernel computed (float32, Phi to 2e-7). The module knows vectors; it does not know texts or where parameters are stored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sifu_graph.arrays import Floats, Ints
from sifu_graph.config import SignalConfig
from sifu_graph.model.base import Base
from sifu_graph.ops.functional import NORM_EPS

METHOD = "frozen gates"


@dataclass(frozen=True, slots=True)
class Account:
    """The energies of k candidates, decomposed. float64; each row and its remainder add up to the energy.

    Attributes
    ----------
    energy : [k]
        The energies that the kernel computed.
    signals : [k, m]
        The contribution of each of the m signals.
    bias, encoding, counts, remainder : [k]
        The contributions of the edge's bias (with a base: of the target's bias and of what the edge adds), of the
        positional encoding and of the counts of pairs (with a base only), and the rest of the energy.
    clones : [k, c]
        What the counts of each clone of the source add, the one of two nodes first.
    together : [k]
        With a base: what several positions move the signal by together, beyond what each does; else 0.
    repeated : [k]
        What repetition adds (with a base only).
    """

    energy: Tensor
    signals: Tensor
    bias: Tensor
    encoding: Tensor
    counts: Tensor
    remainder: Tensor
    clones: Tensor
    together: Tensor
    repeated: Tensor

    def margin(self, a: int, b: int) -> Account:
        """The account of candidate a minus that of candidate b, as one row."""
        parts = (
            self.energy, self.signals, self.bias, self.encoding, self.counts, self.remainder, self.clones,
            self.together, self.repeated,
        )  # fmt: skip
        return Account(*((part[a] - part[b])[None] for part in parts))


def account(
    config: SignalConfig,
    *,
    W: Tensor,
    b: Tensor,
    encoding: Tensor,
    r: Tensor,
    weights: Tensor,
    energy: Tensor,
) -> Account:
    """The account of k candidates of one position.

    Parameters
    ----------
    config
        The settings of the signal.
    W, b
        [k, d, d] and [k, d], the parameters of their edges.
    encoding
        [d], the positional encoding of the step.
    r, weights
        [m, d] and [m]: the signals, and their weights in the mix.
    energy
        [k], the energies that the kernel computed.
    """
    # NumPy, because torch takes longer to start its threads than these small products take.
    matrices, biases, code, vectors, energies = (
        part.numpy().astype(np.float64) for part in (W, b, encoding, r, energy)
    )
    x = weights.numpy()[:, None] * vectors  # [m, d]
    if config.normalise_mix:
        x = x - x.mean(-1, keepdims=True)
        x = x / math.sqrt((x.sum(0) ** 2).mean() + NORM_EPS)
    z = x.sum(0) @ matrices + biases + code  # [k, d]
    gate = 0.5 * np.array([[math.erfc(-value * math.sqrt(0.5)) for value in row] for row in z.tolist()])
    y = z * gate
    length = np.sqrt((y * y).sum(-1, keepdims=True))
    c = np.divide(gate * y, length, out=np.zeros_like(y), where=length > 0)
    signals = (matrices @ c[..., None])[..., 0] @ x.T
    by_bias, by_encoding = (c * biases).sum(-1), c @ code
    rest = energies - signals.sum(-1) - by_bias - by_encoding
    none = np.zeros_like(rest)
    parts = (energies, signals, by_bias, by_encoding, none, rest, np.zeros((len(rest), 0)), none, none)
    return Account(*map(torch.from_numpy, parts))


def account_on_base(
    base: Base, *, source: int, target: Ints, r: Tensor, without: Tensor, repeated: Floats, energy: Tensor
) -> Account:
    """The account of k candidates of one position in a graph whose edges share a base.

    The energy s log p(v | u) + n_v . r + c_v + a_uv + repetition is a sum. With r^(j), the signal had position j been
    silent, the term of a position is n_v . (r - r^(j)): what the energy would lose. The rest of n_v . r is what the
    positions do together.

    Parameters
    ----------
    base
        The base of the graph.
    source, target
        The source at the position (a node or a clone), and the candidates, int64 [k].
    r, without
        r [d], and r^(j) [m, d].
    repeated
        What repetition adds, float32 [k].
    energy
        [k], the energies that the contest computed.
    """
    vectors, signal = base.model.target[torch.from_numpy(target)].double(), r.double()
    by_signal = vectors @ (signal - without.double()).T
    together = vectors @ signal - by_signal.sum(1)
    parts = base.at_rest.parts(source, target)
    counts, bias = torch.from_numpy(parts.counts), torch.from_numpy(parts.bias + parts.edge)
    clones = torch.from_numpy(parts.clones.T.copy())
    energies = energy.double()
    again = torch.from_numpy(repeated.astype(np.float64))
    rest = energies - by_signal.sum(1) - together - counts - clones.sum(1) - bias - again
    rest = torch.where(torch.isfinite(energies), rest, 0.0)
    return Account(energies, by_signal, bias, torch.zeros_like(bias), counts, rest, clones, together, again)


def moved_shares(r: Tensor, without: Tensor) -> Tensor:
    """How far each position moved the signal, as shares that add up to 1, float64 [m].

    For r [d] and ``without`` [m, d] see `account_on_base`.
    """
    length = (r.double() - without.double()).norm(dim=1)
    shares: Tensor = length / length.sum().clamp_min(1e-30)
    return shares
