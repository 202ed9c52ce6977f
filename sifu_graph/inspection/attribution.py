"""An account of an energy that adds up: how much of it each signal, the bias and the positional encoding bring.

For a candidate with weight W and bias b, mix S = sum_k x_k (x_k = w_k r_k) and positional encoding P::

    z = S W + b + P,    y = GELU(z) = z Phi(z),    E = |y|

GELU is its argument times a gate, and a length is the product of the vector with its own direction. So, with
c = Phi(z) y / E, the energy is *linear* in what z is made of::

    E = sum_j c_j z_j = sum_k (x_k W) . c  +  b . c  +  P . c

That is exact: nothing is left over. The method is called `METHOD`, because the gates Phi(z) and the direction y / E
are held at what they are. Where the mix is normalised, S = (M - mean M) / s with M = sum_k w_k r_k, its divisor s is
held as well, and x_k = w_k (r_k - mean r_k) / s. The margin between two candidates is the difference of their accounts.

An account says what the energy consists of, not what would become of it without a part: the gates would open otherwise.
`what_if` answers that.

Everything here is computed in float64. What the sum then lacks against the energy that the kernel computed (float32,
Phi to 2e-7) is the remainder. The module knows vectors; it does not know texts or where parameters lie.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sifu_graph.config import SignalConfig
from sifu_graph.ops.functional import NORM_EPS

METHOD = "frozen gates"


@dataclass(frozen=True, slots=True)
class Account:
    """The energies of k candidates, split. float64; each row and its remainder add up to the energy.

    Attributes
    ----------
    energy : [k]
        As the kernel computed them.
    signals : [k, m]
        What each of the m signals brings.
    bias, encoding, remainder : [k]
        What the edge's bias and the positional encoding bring, and what is left over.
    """

    energy: Tensor
    signals: Tensor
    bias: Tensor
    encoding: Tensor
    remainder: Tensor

    def margin(self, a: int, b: int) -> Account:
        """The account of candidate a less that of candidate b, as one row."""
        parts = (self.energy, self.signals, self.bias, self.encoding, self.remainder)
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
    W, b
        [k, d, d] and [k, d], their edges.
    encoding
        [d], the positional encoding of the step.
    r, weights
        [m, d] and [m]: the signals and what they weigh in the mix.
    energy
        [k], as the kernel computed them.
    """
    # In NumPy: vectors so small are done before torch has woken its threads.
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
    parts = (energies, signals, by_bias, by_encoding, energies - signals.sum(-1) - by_bias - by_encoding)
    return Account(*map(torch.from_numpy, parts))
