"""What a run of training trains: the part of the loop that depends on the kind of graph.

`EdgeTrainer` trains private edges, each with parameters of its own; `BaseTrainer` trains what all edges share.
"""

from __future__ import annotations

from typing import Protocol

from sifu_graph.config import OptimizerConfig
from sifu_graph.progress import Stages
from sifu_graph.training.closed_form import CountedContexts


class NotFiniteError(ValueError):
    """A parameter is not a finite number; the message names it."""


class Trainer(Protocol):
    """Computes the steps of one run on one text.

    Attributes
    ----------
    optimizer
        Its settings.
    candidates
        Number of sampled candidates; None: all nodes.
    per_epoch
        Steps of one pass over the text.
    most_passes
        Passes over the text of a run that only time limits; None: any number.
    stale
        Names of the arrays in the store that the first commit deletes: state of another optimizer.
    """

    optimizer: OptimizerConfig
    candidates: int | None
    per_epoch: int
    most_passes: int | None
    stale: list[str]

    def fit(self, stages: Stages) -> CountedContexts | None:
        """The closed form, if the options ask for it or it is of use, before the first step.

        No parameter has changed before it is written.
        """

    def step(self, done: float) -> tuple[float, int]:
        """One step, of a run of which the share ``done`` is over.

        Returns the mean loss in nats before it, and the number of predicted tokens.
        """

    def catch_up(self) -> None:
        """Brings all parameters up to the last step, before they are read."""

    def finish(self) -> None:
        """As `catch_up`, before they are written.

        Raises
        ------
        NotFiniteError
        """

    def cache(self) -> dict[str, float | int]:
        """What the cache of pages did."""

    def close(self) -> None:
        """Called after the last commit of the run."""
