"""The energy of an edge at rest, where no signal flows: ``E = ||GELU(b + PE)||``, in NumPy.

It depends on the edge alone. `ops.contest` computes energies in every other context. The module knows biases and an
encoding; it does not know where they come from, and does not import torch.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sifu_graph.arrays import Doubles

FEW = 1 << 18
"""Elements up to which `gelu` calls `math.erfc` for each: 0.04 s, and scipy.special takes 0.13 s to load."""


def gelu(z: Doubles) -> Doubles:
    """GELU(z) = z Phi(z), elementwise, float64: the last bits can differ from those of `functional.gelu`."""
    if z.size > FEW:
        from scipy.special import ndtr

        out: Doubles = z * ndtr(z)
    else:
        out = 0.5 * z * np.asarray(np.frompyfunc(math.erfc, 1, 1)(-z * math.sqrt(0.5)), np.float64)
    return out


def energies(bias: NDArray[np.floating[Any]], encoding: NDArray[np.floating[Any]]) -> Doubles:
    """The energies, float64 [...], of edges with these biases [..., d], at a positional encoding [d]."""
    found: Doubles = np.linalg.norm(gelu(np.asarray(bias, np.float64) + np.asarray(encoding, np.float64)), axis=-1)
    return found
