"""Where a run of training stands in the text, its limits and its times.

It knows steps, tokens and seconds; it does not know what a step trains.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from sifu_graph.settings import RestSettings, TrainingSettings
from sifu_graph.training.options import TrainOptions

SAME_MINUTES = 0.01  # a rest of minutes is written with three digits
ROUNDING = 1e-3  # of a step: 1 - 10/37 epochs are 27 steps of 37, not 27.000000000000004


@dataclass(slots=True)
class Progress:
    """Where a run stands in the text. ``position`` counts batches under the same corpus, batch size and seed."""

    step: int
    tokens: int
    position: int
    batch: int
    seed: int
    corpus: str
    began: int  # the step at which the optimizer began: its own steps are counted from there
    smooth: float | None = None  # the loss that is shown, of this text

    @classmethod
    def resumed(
        cls, saved: TrainingSettings | None, options: TrainOptions, corpus: str, *, seed: int, default_batch: int
    ) -> Progress:
        """Where the last run ended, for a run on this corpus; the beginning if there was none.

        ``seed`` and ``default_batch`` hold where neither the options nor the last run say otherwise.
        """
        if saved is None:
            batch = default_batch if options.batch is None else options.batch
            return cls(0, 0, 0, batch, seed if options.seed is None else options.seed, corpus, 0)
        batch = saved["batch"] if options.batch is None else options.batch
        seed = saved["seed"] if options.seed is None else options.seed
        same = (batch, seed, corpus) == (saved["batch"], saved["seed"], saved["corpus"])
        position, smooth = (saved["position"], saved.get("smooth")) if same else (0, None)
        return cls(saved["step"], saved["tokens"], position, batch, seed, corpus, saved["began"], smooth)


@dataclass(slots=True)
class Clock:
    """The limits of a run and its times, in seconds of `time.monotonic`."""

    first_step: int  # steps before this run
    first_token: int  # tokens before it
    last_step: float  # the run is over after this step; infinity: no limit
    minutes: float | None  # the run is over after this time; None: no limit
    committed: int  # step of the last commit
    schedule: int  # the step at which the fall of the learning rate begins
    begun: float  # the share of that fall that an interrupted run was through, where minutes limit it
    started: float = 0.0
    last_commit: float = 0.0
    last_eval: float = 0.0
    busy: float = 0.0  # seconds spent in steps

    @classmethod
    def of(
        cls,
        progress: Progress,
        options: TrainOptions,
        saved: TrainingSettings | None,
        *,
        per_epoch: int,
        most_passes: int | None = None,
    ) -> Clock:
        """The limits of the options, from where the text stands; ``per_epoch``: steps of one pass over it.

        A run that only ``minutes`` limit ends after ``most_passes`` passes.
        A run that ends where an interrupted one would have ended, by steps or by minutes, continues its learning rates.
        """
        ends = [math.inf]
        if options.steps is not None:
            ends.append(progress.step + options.steps)
        if options.epochs is not None:
            ends.append(progress.step + math.ceil(options.epochs * per_epoch - ROUNDING))
        schedule, begun, rest = progress.step, 0.0, saved.get("rest") if saved else None
        by_time = rest if rest is not None and _goes_on(rest, options) else None
        if most_passes is not None and options.only_time:
            ends.append((by_time and by_time["ends"]) or progress.step + most_passes * per_epoch)
        if rest is not None and rest["ends"] is not None and rest["ends"] == min(ends):
            schedule = rest["schedule"]
        if by_time is not None:
            begun = by_time["done"]
        return cls(progress.step, progress.tokens, min(ends), options.minutes, progress.step, schedule, begun)

    def rest(self, step: int) -> RestSettings | None:
        """What the next run needs to continue the learning rates of this one; None: it is over."""
        if self.over(step) or (math.isinf(self.last_step) and self.minutes is None):
            return None
        return {
            "schedule": self.schedule,
            "ends": int(self.last_step) if math.isfinite(self.last_step) else None,
            "minutes": None if self.minutes is None else self._seconds_left() / 60,
            "done": self.done(step),
        }

    def done(self, step: int) -> float:
        """The share (0 to 1) of the run that is over before the next step, by the limit that is nearest."""
        found = [0.0]
        if math.isfinite(self.last_step):
            found.append((step - self.schedule) / (self.last_step - self.schedule))
        if self.minutes is not None:
            found.append(self.begun + (1.0 - self.begun) * (time.monotonic() - self.started) / (60 * self.minutes))
        return min(1.0, max(found))

    def _seconds_left(self) -> float:
        return math.inf if self.minutes is None else self.started + self.minutes * 60 - time.monotonic()

    def over(self, step: int) -> bool:
        """Whether a limit is reached after this step."""
        return step >= self.last_step or self._seconds_left() <= 0

    def left(self, step: int) -> float | None:
        """Seconds that the run will still take, at its rate so far; None without a limit."""
        found = [self._seconds_left()]
        if math.isfinite(self.last_step):
            each = (time.monotonic() - self.started) / (step - self.first_step)
            found.append((self.last_step - step) * each)
        return max(0.0, min(found)) if math.isfinite(min(found)) else None

    def rate(self, tokens: int) -> float:
        """Tokens per second of the steps of this run; 0 before the first."""
        return (tokens - self.first_token) / self.busy if self.busy else 0.0


def _goes_on(rest: RestSettings, options: TrainOptions) -> bool:
    """Whether a run by time takes what an interrupted one had left."""
    left, minutes = rest["minutes"], options.minutes
    return left is not None and minutes is not None and abs(minutes - left) <= SAME_MINUTES * left


def due(steps_since: int, every: int | None, seconds_since: float, every_s: float) -> bool:
    """Whether it is time: after ``every`` steps (0: only at the end), or None: after ``every_s`` seconds."""
    if every is None:
        return seconds_since >= every_s
    return every > 0 and steps_since > 0 and steps_since % every == 0
