"""Choosing the next node from the energies of its candidates: greedy, temperature, top-k, top-p.

All default edges of a position have the same energy, so they are one entry with a multiplicity: one of them is drawn
after the entry was chosen. The module knows energies and counts; it does not know nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sifu_store.errors import OptionError

from sifu_graph.arrays import Doubles

Reals = NDArray[np.floating[Any]]
DEFAULT = -1
"""Stands for the default edges where a rank is expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampler:
    """The rule by which a candidate is chosen.

    Attributes
    ----------
    temperature
        Divides the energies before the softmax; 0 is greedy.
    top_k
        Only the k candidates of greatest energy. None: all.
    top_p
        Only the fewest candidates of greatest energy whose probabilities add up to this (0 to 1). None: all.

    Raises
    ------
    OptionError
        A value has no meaning.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise OptionError(f"`temperature` is {self.temperature}: it must be 0 (greedy) or more")
        if self.top_k is not None and self.top_k < 1:
            raise OptionError(f"`top_k` is {self.top_k}: it must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise OptionError(f"`top_p` is {self.top_p}: expected a number above 0 and at most 1")

    @property
    def greedy(self) -> bool:
        """Whether the candidate of greatest energy is always chosen."""
        return self.temperature == 0 or self.top_k == 1

    def weights(self, energy: Reals, default_energy: float, defaults: int) -> tuple[Doubles, float, int]:
        """Unnormalised probabilities after temperature, top-k and top-p.

        Parameters
        ----------
        energy
            [k], scaled energies of the private candidates; -inf: not a candidate.
        default_energy, defaults
            The scaled energy of every default candidate, and their number.

        Returns
        -------
        p : float64 [k]
            Of the private candidates; 0 for those that are left out.
        p_default : float
            Of one default candidate.
        defaults : int
            The number of default candidates that are left.
        """
        peak = max(float(energy.max(initial=-np.inf)), default_energy if defaults else -np.inf)
        p = np.exp((energy.astype(np.float64) - peak) / self.temperature)
        p_default = float(np.exp((default_energy - peak) / self.temperature)) if defaults else 0.0
        if self.top_k is not None:
            p, defaults = _top_k(p, p_default, defaults, self.top_k)
        if self.top_p is not None and self.top_p < 1:
            p, defaults = _top_p(p, p_default, defaults, self.top_p)
        return p, p_default, defaults

    def choose(self, energy: Reals, default_energy: float, defaults: int, rng: np.random.Generator) -> tuple[int, int]:
        """Draws a candidate: (rank, 0) for a private one, (DEFAULT, j) for the j-th default candidate.

        ``energy`` [k], ``default_energy`` and ``defaults`` are those of `weights`.
        """
        if self.greedy:
            best = int(energy.argmax()) if len(energy) else DEFAULT
            if best == DEFAULT or (defaults and default_energy >= energy[best]):
                return DEFAULT, 0
            return best, 0
        p, p_default, defaults = self.weights(energy, default_energy, defaults)
        running = np.cumsum(p)
        private = float(running[-1]) if len(running) else 0.0
        at = rng.random() * (private + p_default * defaults)
        if at < private or not defaults:
            return min(int(np.searchsorted(running, at, side="right")), len(running) - 1), 0
        return DEFAULT, min(int((at - private) / p_default), defaults - 1)


def _top_k(p: Doubles, p_default: float, defaults: int, k: int) -> tuple[Doubles, int]:
    """Keeps the k greatest, the default candidates after the private ones of the same energy."""
    above = int((p >= p_default).sum()) if defaults else len(p)
    if k <= above:
        room = 0
        keep = k
    else:
        room = min(defaults, k - above)
        keep = k - room
    if keep < len(p):
        cut = np.argpartition(-p, keep - 1)[:keep] if keep else np.empty(0, np.int64)
        kept = np.zeros_like(p)
        kept[cut] = p[cut]
        p = kept
    return p, room


def _top_p(p: Doubles, p_default: float, defaults: int, mass: float) -> tuple[Doubles, int]:
    """Keeps the fewest greatest that hold ``mass`` of the probability (and what equals the last of them).

    The default candidates, which are equal too, are opened one by one.
    """
    total = float(p.sum()) + p_default * defaults
    goal = mass * total
    if not defaults:  # what is below the share that each could miss adds up to less than what may be missing
        high = np.sort(p[p * len(p) >= total - goal])[::-1]
        reached = int(np.searchsorted(np.cumsum(high), goal))
        if reached < len(high):
            return np.where(p >= high[reached], p, 0.0), 0
    ranked = np.sort(p)[::-1]
    running = np.cumsum(ranked)
    above = int((p >= p_default).sum()) if defaults else len(p)
    reached = int(np.searchsorted(running[:above], goal))
    if reached < above:
        return np.where(p >= ranked[reached], p, 0.0), 0
    held = float(running[above - 1]) if above else 0.0
    room = min(defaults, int(np.ceil((goal - held) / p_default))) if p_default > 0 else 0
    lowest = ranked[above - 1] if above else np.inf
    reached = int(np.searchsorted(running + room * p_default, goal))
    if held + room * p_default < goal and reached < len(p):
        lowest = ranked[reached]
    return np.where(p >= lowest, p, 0.0), room
