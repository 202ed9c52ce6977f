"""The training loop: batches in, steps, figures out, commits; stops cleanly, resumes bit for bit.

Everything that the next step depends on is committed with the parameters: the step's number, the optimizer and its
state, the seed and batch size that decide the order of the text. There is no other random state: what is drawn in a
step is drawn from (seed, step). The mathematics of a step is in `step`.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from sifu_store.errors import CorpusError, DivergedError, OptionError
from sifu_store.layout import BIAS
from sifu_store.store import Store
from torch import Tensor

from sifu_graph import device as devices
from sifu_graph import evaluation
from sifu_graph.config import require_positive
from sifu_graph.evaluation import evaluate_split, perplexity
from sifu_graph.model.parameters import write_parameters
from sifu_graph.paging.pool import Pool
from sifu_graph.paging.traffic import write_traffic
from sifu_graph.settings import TrainingSettings
from sifu_graph.text.batches import Batches
from sifu_graph.text.corpus import Corpus
from sifu_graph.training import step as steps
from sifu_graph.training.closed_form import ContextFit, can_fit, fit_contexts
from sifu_graph.training.interrupts import interrupts
from sifu_graph.training.metrics import METRICS, drop_later_lines, log_step
from sifu_graph.training.options import DEFAULT_BATCH, StepReport, TrainOptions, TrainReport, saved_optimizer

if TYPE_CHECKING:
    from sifu_graph.session import GraphSession

EVAL_TOKENS = 20_000  # held-out tokens looked at during training
SMOOTHING = 0.95  # of the loss that is shown
ROUNDING = 1e-3  # of a step: 1 - 10/37 epochs are 27 steps of 37, not 27.000000000000004


COMMIT_EVERY_S = 900.0
EVAL_EVERY_S = 120.0


@dataclass(slots=True)
class _Progress:
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
    def resumed(cls, saved: TrainingSettings | None, options: TrainOptions, corpus: str, seed: int) -> _Progress:
        if saved is None:
            batch = DEFAULT_BATCH if options.batch is None else options.batch
            return cls(0, 0, 0, batch, seed if options.seed is None else options.seed, corpus, 0)
        batch = saved["batch"] if options.batch is None else options.batch
        seed = saved["seed"] if options.seed is None else options.seed
        same = (batch, seed, corpus) == (saved["batch"], saved["seed"], saved["corpus"])
        position, smooth = (saved["position"], saved.get("smooth")) if same else (0, None)
        return cls(saved["step"], saved["tokens"], position, batch, seed, corpus, saved["began"], smooth)


def train(graph: GraphSession, corpus: Corpus | Sequence[str | Path] | None, options: TrainOptions) -> TrainReport:
    """Trains a graph on a corpus (default: the one it was built from) and commits.

    Ctrl-C ends the step, commits and returns with ``interrupted`` set.

    Raises
    ------
    DivergedError
        The loss is not a number; the store stays at the last commit.
    OptionError, CorpusError, HostMemoryError, DeviceMemoryError, StoreLockedError, DiskFullError
    """
    _check(options)
    if graph.pinned:
        raise OptionError(
            "the graph is open at an older snapshot, which can only be read: open it without one to train"
        )
    graph.reload(Store.open(graph.path, write=True))
    run: _Run | None = None
    try:
        run = _Run(graph, corpus, options)
        with devices.memory_errors():
            return run.go()
    finally:
        # What was not committed must not stay in memory.
        graph.reload(Store.open(graph.path), force=run is None or run.uncommitted or bool(run.stale))


@dataclass(slots=True)
class _Clock:
    """The limits of a run and its times, in seconds of `time.monotonic`."""

    first_step: int  # steps before this run
    first_token: int  # tokens before it
    last_step: float  # the run is over after this step; infinity: no limit
    minutes: float | None  # the run is over after this time; None: no limit
    committed: int  # step of the last commit
    started: float = 0.0
    last_commit: float = 0.0
    last_eval: float = 0.0
    busy: float = 0.0  # seconds spent in steps

    @classmethod
    def of(cls, progress: _Progress, options: TrainOptions, batches: Batches) -> _Clock:
        ends = [math.inf]
        if options.steps is not None:
            ends.append(progress.step + options.steps)
        if options.epochs is not None:
            ends.append(progress.step + math.ceil(options.epochs * batches.per_epoch - ROUNDING))
        return cls(progress.step, progress.tokens, min(ends), options.minutes, progress.step)

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


class _Run:
    """One call of `train`."""

    def __init__(
        self, graph: GraphSession, corpus: Corpus | Sequence[str | Path] | None, options: TrainOptions
    ) -> None:
        self.graph, self.store, self.options = graph, graph.store, options
        self.settings = graph.settings
        self.say = options.say or (lambda _: None)
        self.saved = self.settings["training"]
        self.tokens = graph.tokens(corpus)
        self.progress = _Progress.resumed(self.saved, options, self.tokens.path.name, self.settings["initial"]["seed"])
        self.optimizer = options.optimizer or saved_optimizer(self.saved)
        self.candidates = _candidates(self.saved, options)
        self.length = self.settings["build"]["length"]
        self.batches = Batches(
            self.tokens.train, length=self.length, batch=self.progress.batch, seed=self.progress.seed
        )
        if not self.batches.chunks:
            raise CorpusError("the corpus holds no two tokens in a row: there is nothing to train on")
        self.clock = _Clock.of(self.progress, options, self.batches)
        self.heldout: float | None = None  # perplexity of the last evaluation
        self.metrics = graph.path / METRICS
        self.uncommitted = False
        self.stale: list[str] = []  # state of another optimizer, to be deleted by the first commit
        self._prepare_state()

    def _prepare_state(self) -> None:
        """Brings the optimizer's state into memory, or begins a new one if the optimizer is another."""
        parameters = self.graph.parameters
        names = [name for name in self.store.names() if name.startswith("optimizer/")]
        shapes = steps.edge_state_arrays(self.optimizer, parameters.width)
        same = self.saved is not None and self.saved["optimizer"]["kind"] == self.optimizer.kind
        if not same:
            self.stale = names
            self.progress.began = self.progress.step
            parameters.state.clear()
        self.graph.fit_memory(
            state=shapes,
            kept=[name for name in shapes if same and name in names],
            trained_edges=self.progress.batch * self.length,
            evaluated_edges=evaluation.BATCH * self.length,
        )
        if self.graph.memory_note is not None:
            self.say(self.graph.memory_note)
        if same:
            for name in names:
                if not self.store.is_paged(name):
                    parameters.state[name] = torch.from_numpy(self.store.read(name).copy())

    @property
    def pool(self) -> Pool:
        """Where the edges are worked on."""
        return self.graph.parameters.working

    def go(self) -> TrainReport:
        """Runs until the first limit, or until Ctrl-C; evaluates, commits and returns the report."""
        clock = self.clock
        self._restore_log()
        clock.started = clock.last_commit = clock.last_eval = time.monotonic()
        before = self.heldout = self._heldout()
        fitted = self._fit_contexts()
        if fitted is not None:
            self.heldout = self._heldout()
        with interrupts() as interrupted:
            while not interrupted.is_set() and not clock.over(self.progress.step):
                self._step_and_report()
            if interrupted.is_set():
                self.say("interrupted: evaluating and committing what was done (Ctrl-C again drops it)")
            snapshot = self._finish()
        write_traffic(self.pool.table, graph_folder=self.graph.path)
        return self._report(before, fitted, snapshot, interrupted=interrupted.is_set())

    def _restore_log(self) -> None:
        """Makes the log end at the step of the commit, which a killed run may have passed or not logged."""
        progress = self.progress
        noted = drop_later_lines(self.metrics, progress.step, self.store.branch)
        if noted < progress.step and progress.smooth is not None:
            figures = {"loss": progress.smooth, "perplexity": perplexity(progress.smooth)}
            log_step(self.metrics, {"step": progress.step, "tokens": progress.tokens, **figures}, self.store.branch)

    def _step_and_report(self) -> None:
        """One step, and what is due after it: an evaluation, a commit; the figures go to the log and the caller."""
        progress, options, clock = self.progress, self.options, self.clock
        tick = time.monotonic()
        loss = self._step()
        now = time.monotonic()
        clock.busy += now - tick
        evaluate = _due(progress.step - clock.first_step, options.eval_every, now - clock.last_eval, EVAL_EVERY_S)
        if evaluate:
            self.heldout = self._heldout()
            clock.last_eval = time.monotonic()
        snapshot = None
        if _due(progress.step - clock.committed, options.commit_every, now - clock.last_commit, COMMIT_EVERY_S):
            snapshot = self._commit(self.heldout)
            clock.committed, clock.last_commit = progress.step, time.monotonic()
        report = StepReport(
            step=progress.step,
            tokens=progress.tokens,
            loss=loss,
            perplexity=perplexity(loss),
            tokens_per_s=clock.rate(progress.tokens),
            eta_s=clock.left(progress.step),
            heldout_perplexity=self.heldout if evaluate else None,
            snapshot=snapshot,
            cache=self.pool.report() if evaluate or snapshot else None,
        )
        log_step(self.metrics, dataclasses.asdict(report), self.store.branch)
        if options.on_step is not None:
            options.on_step(report)

    def _finish(self) -> str:
        """Evaluates and commits after the last step. Returns the snapshot."""
        progress, stepped = self.progress, self.progress.step > self.clock.first_step
        if stepped:
            self.heldout = self._heldout()
        snapshot = self._commit(self.heldout) if self.uncommitted else self.store.snapshot
        if stepped:
            final = StepReport(
                step=progress.step,
                tokens=progress.tokens,
                loss=self._shown_loss(),
                perplexity=perplexity(self._shown_loss()),
                tokens_per_s=self.clock.rate(progress.tokens),
                heldout_perplexity=self.heldout,
                snapshot=snapshot,
                cache=self.pool.report(),
            )
            log_step(self.metrics, dataclasses.asdict(final), self.store.branch)
        return snapshot

    def _shown_loss(self) -> float:
        """The smoothed loss after the steps of this run; not a number without a step."""
        stepped, smooth = self.progress.step > self.clock.first_step, self.progress.smooth
        return smooth if stepped and smooth is not None else math.nan

    def _report(
        self, before: float | None, fitted: ContextFit | None, snapshot: str, *, interrupted: bool
    ) -> TrainReport:
        progress, options, clock = self.progress, self.options, self.clock
        done, loss = progress.step - clock.first_step, self._shown_loss()
        seconds = time.monotonic() - clock.started
        return TrainReport(
            step=progress.step,
            steps_done=done,
            tokens=progress.tokens,
            tokens_done=progress.tokens - clock.first_token,
            loss=loss,
            perplexity=perplexity(loss),
            heldout_before=before,
            contexts=fitted,
            heldout_perplexity=self.heldout,
            tokens_per_s=clock.rate(progress.tokens),
            seconds=seconds,
            peak_host_bytes=_peak_bytes(),
            peak_device_bytes=int(self.pool.report().get("device_peak_bytes", 0)),
            cache=self.pool.report(),
            snapshot=snapshot,
            interrupted=interrupted,
            steps_left=None if options.steps is None else max(0, options.steps - done),
            epochs_left=None if options.epochs is None else max(0.0, options.epochs - done / self.batches.per_epoch),
            minutes_left=None if options.minutes is None else max(0.0, options.minutes - seconds / 60),
        )

    def _fit_contexts(self) -> ContextFit | None:
        """The closed form, where it is wanted and no edge was trained or edited."""
        graph, wanted = self.graph, self.options.contexts
        parameters, host = graph.parameters, graph.parameters.edges
        why = (
            "its preset or its initialisation is another"
            if not can_fit(graph.signal, host.initial)
            else "it was trained before, or its edges were"
            if self.saved is not None or host.source.stored.any()
            else None
        )
        if wanted and why is not None:
            raise OptionError(
                f"the contexts of this graph cannot be counted: {why} (it must be tuned, from counts, new)"
            )
        if wanted is False or why is not None:
            return None
        if wanted is None and self.optimizer.kind != "rowwise":  # steps of one size for every entry undo it
            return None
        self.uncommitted = True
        self.say("counting the contexts of every edge (`contexts=False` begins without)")
        fitted = fit_contexts(
            parameters,
            graph.signal,
            self.tokens.train,
            length=self.length,
            folder=None if host.resident else graph.scratch or graph.path / "scratch",
        )
        if parameters.tier is not None:
            parameters.tier.forget()
        self.say(
            f"contexts counted: perplexity {fitted.before:.1f} to {fitted.after:.1f} on chunks of the text that "
            f"were left out, at strengths {fitted.target_strength:g} and {fitted.edge_strength:g}"
        )
        return fitted

    def _step(self) -> float:
        """One batch. Returns the smoothed loss."""
        progress = self.progress
        batch = self.batches.batch_at(progress.position)
        following = self.batches.batch_at(progress.position + 1).tokens if self.pool.missing else None
        self.uncommitted = True
        loss, seen = steps.train(
            self.graph.parameters,
            self.graph.signal,
            self.optimizer,
            batch.tokens,
            batch.lengths.astype(np.int64),
            step=progress.step + 1 - progress.began,
            candidates=self.candidates,
            rng=np.random.default_rng(np.random.SeedSequence([progress.seed, 1, progress.step])),
            following=following,
        )
        if not math.isfinite(loss):
            raise DivergedError(self._diverged(f"the loss of step {progress.step + 1} is {loss}"))
        progress.step += 1
        progress.position += 1
        progress.tokens += seen
        smooth = progress.smooth
        progress.smooth = loss if smooth is None else SMOOTHING * smooth + (1 - SMOOTHING) * loss
        return progress.smooth

    def _diverged(self, what: str) -> str:
        at = self.saved["step"] if self.saved else 0
        return (
            f"{what}: training diverged. The graph stays at its last commit ({self.store.snapshot[:8]}, step {at}); "
            f"try a lower `lr` than {self.optimizer.lr:g}"
        )

    def _heldout(self) -> float | None:
        if not self.tokens.heldout.transitions:
            return None
        self._catch_up()
        graph = self.graph
        return evaluate_split(graph.parameters, graph.signal, self.tokens.heldout, self.length, EVAL_TOKENS).perplexity

    def _catch_up(self) -> None:
        """Dense-equivalent AdamW: edges in memory are brought up to the step before they are read or stored."""
        if self.optimizer.kind == "adamw-dense" and self.progress.step > self.progress.began:
            pool, index = self.pool, self.graph.parameters.index
            for part in pool.sweep(pool.parts(index.slot, np.arange(index.edges + 1))):
                pool.touch(part.pages)
                places = pool.place(torch.from_numpy(index.slot[part.first : part.stop])).to(pool.device)
                steps.catch_up(self.optimizer, pool.arrays, places, self.progress.step - self.progress.began)

    def _commit(self, heldout: float | None) -> str:
        progress, parameters = self.progress, self.graph.parameters
        self._catch_up()
        if parameters.tier is not None:
            parameters.tier.write_back()
        pool = parameters.edges
        for first, stop in pool.dirty_runs():
            if not finite(pool.values(BIAS, first, stop)):
                raise DivergedError(self._diverged(f"edges of pages {first} to {stop - 1} are not finite"))
        for name, value in parameters.small.items():
            if not finite(value):
                raise DivergedError(self._diverged(f"{name} is not finite"))
        for name in self.stale:
            self.store.delete(name)
        self.stale = []
        pages = write_parameters(self.store, parameters)
        training: TrainingSettings = {
            "step": progress.step,
            "tokens": progress.tokens,
            "position": progress.position,
            "batch": progress.batch,
            "seed": progress.seed,
            "corpus": progress.corpus,
            "began": progress.began,
            "smooth": progress.smooth,
            "optimizer": self.optimizer.to_json(),
            "candidates": self.candidates,
        }
        self.store.set_settings({**self.settings, "training": training})
        shown = f", held-out perplexity {heldout:.1f}" if heldout is not None else ""
        snapshot = self.store.commit(
            f"train: step {progress.step:,}, {progress.tokens:,} tokens{shown}",
            command=self.options.command,
            changes={
                "step": progress.step,
                "tokens": progress.tokens,
                "pages": pages,
                "heldout_perplexity": heldout,
            },
        )
        pool.mark_stored()
        self.uncommitted = False
        self.saved = training
        self.store.collect_garbage()
        return snapshot


def _check(options: TrainOptions) -> None:
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


def _candidates(saved: TrainingSettings | None, options: TrainOptions) -> int | None:
    if options.candidates is None:
        return saved["candidates"] if saved else None
    return None if options.candidates == "all" else options.candidates


def _due(steps_since: int, every: int | None, seconds_since: float, every_s: float) -> bool:
    if every is None:
        return seconds_since >= every_s
    return every > 0 and steps_since > 0 and steps_since % every == 0


def _peak_bytes() -> int:
    """The most memory that this process ever held."""
    try:
        import resource
        import sys
    except ImportError:  # not on Windows
        return int(psutil.Process().memory_info().rss)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def finite(values: Tensor | NDArray[np.float32]) -> bool:
    """Whether no value is NaN or infinite."""
    return bool(torch.isfinite(torch.as_tensor(values)).all())
