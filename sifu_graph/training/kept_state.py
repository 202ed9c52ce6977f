"""Which state of a run its end is: the last one, an earlier one, or the state before the run.

It compares figures of held-out text; it does not know steps and commits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from sifu_graph.arrays import Doubles
from sifu_graph.evaluation import SplitReport
from sifu_graph.training.progress import Progress

NOISE = 2.0
"""Standard errors: a greater mean difference of the losses of the same tokens is taken for a difference."""


@dataclass(frozen=True, slots=True)
class State:
    """A state of the run, with its figures on held-out text."""

    figures: SplitReport
    progress: Progress
    arrays: dict[str, Tensor]  # of parameters and of the optimizer


class KeptState:
    """The state before a run, and the best one of the run.

    Parameters
    ----------
    arrays
        The arrays that a step changes in place or replaces.
    """

    def __init__(self, arrays: Callable[[], dict[str, Tensor]]) -> None:
        self._arrays = arrays
        self._start: State | None = None
        self._best: State | None = None

    def note(self, figures: SplitReport, progress: Progress) -> None:
        """Notes the current state: at first the one before the run, then the best so far."""
        if self._start is None:
            self._start = self._state(figures, progress)
        elif self._best is None or figures.perplexity <= self._best.figures.perplexity:
            self._best = self._state(figures, progress)

    def _state(self, figures: SplitReport, progress: Progress) -> State:
        arrays = {name: value.clone() for name, value in self._arrays().items()}
        return State(figures, dataclasses.replace(progress), arrays)

    def choose(self, step: int, last: SplitReport) -> tuple[State | None, str | None]:
        """The state to return to after the ``step`` that has the figures ``last``, and what is to be said about it.

        A run ends with its best state. It is given up for the state before it only if that best state is worse by more
        than `NOISE` standard errors of the difference: less can come from the choice of the held-out tokens.
        """
        start, best = self._start, self._best
        if start is None or best is None:
            return None, None
        was, now = start.figures.perplexity, best.figures.perplexity
        mean, error = difference(start.figures.losses, best.figures.losses)
        if mean > NOISE * error:
            return start, (
                f"held-out perplexity was {was:.2f} before this run and {now:.2f} at the best of it: the graph is as "
                "before it; a number of epochs, if given, is kept to"
            )
        if best.progress.step != step:
            return best, (
                f"held-out perplexity was {now:.2f} at step {best.progress.step:,} and {last.perplexity:.2f} at the "
                f"end: the graph is that of this step{_within(was, now, best.figures)}"
            )
        if now > was:
            return None, f"held-out perplexity is {now:.2f}{_within(was, now, best.figures)}"
        return None, None


def _within(was: float, now: float, figures: SplitReport) -> str:
    if now <= was:
        return ""
    return f"; it was {was:.2f} before this run, which on {figures.tokens:,} tokens is no clear difference"


def difference(before: Doubles, after: Doubles) -> tuple[float, float]:
    """The mean of how much each of the same tokens lost more after than before, in nats, and its standard error."""
    each = after - before
    return float(each.mean()), float(each.std() / np.sqrt(len(each)))
