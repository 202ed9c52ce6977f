"""How far apart two computed results of one formula may lie: from the number type and the size of what is summed.

Rounding a number x moves it by at most u |x|, u = eps / 2. A sum of n terms is rounded n times, each time at a partial
sum, which is at most A = the sum of the terms' absolute values. So the error is at most n u A, and at most
lambda sqrt(n) u A with a probability of at least 1 - 2 exp(-lambda^2 / 2) for roundings that are independent and of
mean zero (Higham and Mary, "A new approach to probabilistic rounding error analysis", SIAM J. Sci. Comput. 41, 2019).
Two results, each with this error, differ by at most

    lambda sqrt(n) eps A.

The value of the sum is not in the bound: terms that cancel leave the rounding errors of the terms. A relative or an
absolute bound of the result is therefore either too narrow (0 out of terms of size 10) or too wide.

Results of a chain of sums (a signal that passes several edges) have the roundings of all of them: n counts these, and
A is the largest that the terms of the last sum get to be.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

LAMBDA = 6.0  # 2 exp(-18): three in a hundred million


def bound(dtype: torch.dtype, *, terms: int, size: float) -> float:
    """How far two sums of ``terms`` terms may differ, whose absolute values add up to ``size``."""
    return LAMBDA * math.sqrt(terms) * float(torch.finfo(dtype).eps) * size


def assert_close(
    found: Any, wanted: Any, *, terms: int, size: Any, dtype: torch.dtype = torch.float64, what: str = ""
) -> None:
    """Equal within `bound`.

    Parameters
    ----------
    found, wanted
        Tensors, arrays, lists or numbers, of one shape.
    terms
        Rounded additions on the way to a number.
    size
        An upper bound of the sum of the absolute values of the terms: a number, or one for each number of ``wanted``.
    dtype
        Of the computation. The widest of a computation in two types is no bound: the narrowest counts.
    what
        Its name, for the message.
    """
    one, other, sizes = _array(found), _array(wanted), np.abs(_array(size))
    assert one.shape == other.shape, f"{what}: found {one.shape}, expected {other.shape}"
    same = one == other  # infinities too
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, np.abs(one - other))
    allowed = np.broadcast_to(bound(dtype, terms=terms, size=1.0) * sizes, error.shape)
    worst = _share(error, allowed)
    assert worst <= 1, f"{what}: an error of {error.max():.3g} is {worst:.3g} times the rounding of the terms"


def _share(error: NDArray[np.float64], allowed: NDArray[np.float64]) -> float:
    """The greatest error as a share of what is allowed; not a number where an error is none."""
    share = np.divide(error, allowed, out=np.where(error > 0, np.inf, error), where=allowed > 0)
    return float(share.max(initial=0.0))


def _array(values: Any) -> NDArray[np.float64]:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)
