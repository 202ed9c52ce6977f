"""How to train, as data, and what a step and a run report.

It knows settings and figures; it does not know how a step is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from sifu_store.errors import OptionError
from sifu_store.short_repr import short_repr

from sifu_graph.config import BASE, OptimizerConfig, Say, require_positive, require_seed
from sifu_graph.progress import ProgressOption
from sifu_graph.settings import TrainingSettings
from sifu_graph.training.closed_form import ContextFit


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """The figures of one step: a line of the metrics file. ``loss`` is smoothed, in nats a token.

    ``last``: the run is over and committed, and this is where it ended, with the final held-out perplexity. The step
    was reported before, too, or is an earlier one, if the run returned to it.
    """

    step: int
    tokens: int
    loss: float
    perplexity: float
    tokens_per_s: float
    eta_s: float | None = None
    heldout_perplexity: float | None = None
    snapshot: str | None = None
    cache: dict[str, float | int] | None = None
    last: bool = False

    def scalars(self) -> dict[str, float]:
        """The figures by name, for a tool that draws them over the steps; those of the cache begin with ``cache/``."""
        names = ("loss", "perplexity", "heldout_perplexity", "tokens", "tokens_per_s")
        found = {name: float(value) for name in names if (value := getattr(self, name)) is not None}
        return found | {f"cache/{name}": float(value) for name, value in (self.cache or {}).items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """How to train. At least one of ``steps``, ``epochs``, ``minutes`` says for how long; the first reached stops.

    Attributes
    ----------
    steps, epochs, minutes
        More of them, from where the graph stands. The minutes include the closed form and the evaluations; where that
        leaves less than a third for steps, `TrainReport.notes` says so. A run that ``minutes`` alone limit ends, in a
        graph whose edges share a base, as `kept_state` says.
    batch
        Chunks of text in a step; in a graph whose edges share a base, streams of 32 tokens in a step.
    optimizer
        Settings, or None: those of the last run, or the defaults.
    candidates
        ``all``: the exact softmax over all nodes. K: the number of sampled candidates for every source and step. None:
        as in the last run, or all.
    commit_every, eval_every
        Steps between commits and between looks at the held-out text; None: every 15 and 2 minutes. 0: only at the end.
    contexts
        Begin with the closed form (`closed_form`): it takes part of the time. None: where the graph was never trained,
        its mathematics allows it, and the optimizer is row-wise AdaGrad: AdamW's steps, of one size for every
        entry, undo it (a graph of 40 nodes: perplexity 1.7 to 57 in two steps).
    on_step
        Called after every step, and when the run is committed (see `StepReport.last`).
    progress
        See `progress_bar.reporting`.
    say
        Called with each note about the run, one line.
    command
        What the log says of the commits.
    """

    steps: int | None = None
    epochs: float | None = None
    minutes: float | None = None
    batch: int | None = None
    optimizer: OptimizerConfig | None = None
    candidates: int | Literal["all"] | None = None
    commit_every: int | None = None
    eval_every: int | None = None
    seed: int | None = None
    contexts: bool | None = None
    on_step: Callable[[StepReport], None] | None = None
    progress: ProgressOption = None
    say: Say | None = None
    command: str = "train"

    @property
    def only_time(self) -> bool:
        """Whether neither steps nor epochs limit the run."""
        return self.steps is None and self.epochs is None


def check(options: TrainOptions) -> None:
    """Raises `OptionError` for options that have no meaning."""
    require_seed(options.seed)
    require_positive(
        steps=options.steps,
        epochs=options.epochs,
        minutes=options.minutes,
        batch=options.batch,
        candidates=None if options.candidates == "all" else options.candidates,
    )
    if options.steps is None and options.epochs is None and options.minutes is None:
        raise OptionError("the length of the run is missing: pass `steps`, `epochs` or `minutes`")
    for name, value in (("commit_every", options.commit_every), ("eval_every", options.eval_every)):
        if value is not None and value < 0:
            raise OptionError(f"`{name}` is {value}: it must be 0 (only at the end) or more steps")


DEFAULT_BATCH = 512
EVAL_TOKENS = 20_000  # held-out tokens looked at during training


@dataclass(frozen=True, slots=True, kw_only=True)
class Remaining:
    """The rest of a run that was interrupted, from its last commit on; None: this did not limit it."""

    steps: int | None
    epochs: float | None
    minutes: float | None

    @classmethod
    def of(cls, options: TrainOptions, *, done: int = 0, per_epoch: int = 1, seconds: float = 0.0) -> Remaining:
        """What the options ask for without the steps that were ``done`` and the ``seconds`` that were taken."""
        steps, epochs, minutes = options.steps, options.epochs, options.minutes
        return cls(
            steps=None if steps is None else max(0, steps - done),
            epochs=None if epochs is None else max(0.0, epochs - done / per_epoch),
            minutes=None if minutes is None else max(0.0, minutes - seconds / 60),
        )


@short_repr
@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReport:
    """Where a run ended.

    ``batch`` is that of the run: where it was not given, that of the last run.
    ``unknown_share`` and ``heldout_unknown_share`` are the shares (0 to 1) of unknown tokens, as in `EvalReport`, in
    the training text and in the held-out tokens that were evaluated; ``heldout_known_perplexity`` leaves them out.
    ``steps_left``, ``epochs_left`` and ``minutes_left`` are what an interrupted run did not do; ``notes`` is what is to
    be said about the run.
    """

    step: int
    steps_done: int
    tokens: int
    tokens_done: int
    batch: int
    loss: float
    perplexity: float
    heldout_before: float | None
    contexts: ContextFit | None
    heldout_perplexity: float | None
    heldout_known_perplexity: float | None
    heldout_unknown_share: float | None
    unknown_share: float
    tokens_per_s: float
    seconds: float
    peak_host_bytes: int
    peak_device_bytes: int
    cache: dict[str, float | int]
    snapshot: str
    interrupted: bool
    steps_left: int | None
    epochs_left: float | None
    minutes_left: float | None
    notes: list[str]


def saved_optimizer(saved: TrainingSettings | None, *, base: bool) -> OptimizerConfig:
    """The optimizer of the last run, or the defaults of edges or of the base that they share."""
    if saved is not None:
        return OptimizerConfig(**saved["optimizer"])
    return OptimizerConfig(**BASE) if base else OptimizerConfig()


def merged_optimizer(saved: TrainingSettings | None, *, base: bool = False, **given: Any) -> OptimizerConfig | None:
    """The optimizer of the last run with some settings replaced; None where none is given.

    Parameters
    ----------
    saved
        ``settings["training"]`` of the graph: the last run, or None.
    base
        Whether the edges of the graph share a base.
    given
        Fields of `OptimizerConfig`. A ``kind`` other than that of the last run begins from the defaults of that kind.

    Raises
    ------
    OptionError
        A value has no meaning.
    """
    if not given:
        return None
    last = saved_optimizer(saved, base=base).to_json()
    kind = given.get("kind", last["kind"])
    if kind != last["kind"]:
        return OptimizerConfig.of(**{"kind": kind, **given})
    return OptimizerConfig(**{**last, **given})
