"""The training loop: steps, figures out, commits; stops cleanly, resumes bit for bit.

Everything that the next step depends on is committed with the parameters: the step's number, the optimizer and its
state, the seed and batch size that decide the order of the text. There is no other random state: what is drawn in a
step is drawn from (seed, step). What a step trains is in `edge_trainer` and `base_trainer`.
"""

from __future__ import annotations

import dataclasses
import math
import threading
import time
import warnings
from functools import partial
from typing import TYPE_CHECKING

from sifu_store.errors import DivergedError, SifuError
from torch import Tensor

from sifu_graph import device as devices
from sifu_graph.evaluation import SplitReport, evaluate_split, perplexity
from sifu_graph.kernels.native import SAID, slow_reason
from sifu_graph.model.parameters import finite, write_parameters
from sifu_graph.paging.process_memory import peak_bytes
from sifu_graph.progress import SILENT, Stages, duration
from sifu_graph.progress_bar import reporting
from sifu_graph.settings import TrainingSettings
from sifu_graph.text.corpus import Corpora
from sifu_graph.text.unknown import require_known, token_counts, unknown_note, unknown_share
from sifu_graph.training.base_trainer import STREAMS, BaseTrainer
from sifu_graph.training.closed_form import ContextFit, CountedContexts
from sifu_graph.training.edge_trainer import EdgeTrainer
from sifu_graph.training.interrupts import TrainingInterrupted, interrupts
from sifu_graph.training.kept_state import KeptState
from sifu_graph.training.metrics import METRICS, drop_later_lines, log_step
from sifu_graph.training.options import (
    DEFAULT_BATCH,
    EVAL_TOKENS,
    Remaining,
    StepReport,
    TrainOptions,
    TrainReport,
    check,
)
from sifu_graph.training.progress import Clock, Progress, due
from sifu_graph.training.trainer import NotFiniteError, Trainer

if TYPE_CHECKING:
    from sifu_graph.session import GraphSession

SMOOTHING = 0.95  # of the loss that is shown
LEAST_FOR_STEPS = 1 / 3
"""Of the minutes of a run: a note says where the closed form and the evaluations before it left less for steps."""
COMMIT_EVERY_S = 900.0
EVAL_EVERY_S = 120.0


def train(graph: GraphSession, corpus: Corpora | None, options: TrainOptions) -> TrainReport:
    """Trains a graph on a corpus (default: the one it was built from) and commits.

    Ctrl-C ends the step, commits and returns with ``interrupted`` set. An exception from ``on_step`` or ``progress``
    after a step does so too, and is then raised.

    Raises
    ------
    DivergedError
        The loss is not a number; the store stays at the last commit.
    OptionError, CorpusError, HostMemoryError, DeviceMemoryError, StoreLockedError, DiskFullError
    """
    check(options)
    run: _Run | None = None

    def stale() -> bool:
        return run is None or run.uncommitted or bool(run.trainer.stale)

    try:
        with graph._writing(stale=stale), reporting(options.progress) as stages, devices.memory_errors():
            run = _Run(graph, corpus, options, stages)
            return run.go()
    except KeyboardInterrupt as interrupt:
        raise _interrupted(graph, run, options) from interrupt


def _interrupted(graph: GraphSession, run: _Run | None, options: TrainOptions) -> TrainingInterrupted:
    """What is said of a run that was stopped at once: what is kept of it, and what is left to do."""
    saved = graph.settings["training"]
    step = saved["step"] if saved else 0
    kept = f"the graph is at its last commit ({graph.store.snapshot[:8]}, step {step:,})"
    if run is None or not run.clock.started:
        return TrainingInterrupted(kept, Remaining.of(options))
    lost = run.progress.step - step
    if lost > 0:
        kept += f"; {lost:,} step{'s' * (lost != 1)} after it {'is' if lost == 1 else 'are'} lost"
    elif run.fitting and saved is None:
        kept += "; nothing of the closed form is kept"
    done = step - run.clock.first_step
    seconds = time.monotonic() - run.clock.started if done else 0.0
    return TrainingInterrupted(kept, Remaining.of(options, done=done, per_epoch=run.trainer.per_epoch, seconds=seconds))


class _Run:
    """One call of `train`."""

    def __init__(self, graph: GraphSession, corpus: Corpora | None, options: TrainOptions, stages: Stages) -> None:
        self.graph, self.store, self.options, self.stages = graph, graph.store, options, stages
        self.training = SILENT.stage("training")  # the stage of the steps, once they begin
        self.fitting = False  # the closed form was begun
        self.begun_s = 0.0  # from the beginning to the first step
        self.seconds = 0.0  # from the beginning to after the last step
        self.failed: Exception | None = None  # what a callback raised after a step
        self.told = False  # that Ctrl-C was heard
        self.settings = graph.settings
        self.say = options.say or (lambda _: None)
        self.saved = self.settings["training"]
        self.tokens = graph._tokens(corpus, stages=stages)
        text, tokenizer = self.tokens.train, graph.tokenizer
        self.unknown_share = unknown_share(text, tokenizer, token_counts(text, tokenizer))
        require_known(self.unknown_share)
        if (note := unknown_note(self.unknown_share, "the training text")) is not None:
            self.say(f"warning: {note}")
        if (note := slow_reason(self.settings["width"])) is not None:
            self.say(f"note: {note}")
        make, batch = (BaseTrainer, STREAMS) if graph.signal.base else (EdgeTrainer, DEFAULT_BATCH)
        self.progress = Progress.resumed(
            self.saved,
            options,
            self.tokens.path.name,
            seed=self.settings["initial"]["seed"],
            default_batch=batch,
        )
        self.trainer: Trainer = make(graph, self.tokens, self.progress, options, self.saved)
        self.clock = Clock.of(
            self.progress,
            options,
            self.saved,
            per_epoch=self.trainer.per_epoch,
            most_passes=self.trainer.most_passes,
        )
        self.heldout: float | None = None  # perplexity of the last evaluation
        self.figures: SplitReport | None = None  # all of its figures
        self.evaluated = -1  # the step of this run that it was after
        may_return = self.trainer.most_passes is not None and options.only_time
        self.kept = KeptState(self._arrays) if may_return else None
        self.notes: list[str] = []  # what is to be said about the end of the run
        self.metrics = graph.path / METRICS
        self.levels: dict[str, float] = {}  # held-out perplexities before the first step, not logged yet
        self.uncommitted = False
        self.uncollected: str | None = None  # why the last garbage collection failed

    def go(self) -> TrainReport:
        """Runs until the first limit, or until Ctrl-C; evaluates, commits and returns the report."""
        clock, options = self.clock, self.options
        self._restore_log()
        clock.started = clock.last_commit = clock.last_eval = time.monotonic()
        before = self.heldout = self._heldout(self.stages)
        if self.saved is None and before is not None:
            self.levels["heldout_before"] = before
        self._note_state()
        self.fitting = True
        counted = self.trainer.fit(self.stages)  # Ctrl-C ends it at once
        self.fitting = counted is not None
        with interrupts() as interrupted:
            self.stages = self.stages.also(partial(self._say_interrupted, interrupted))
            fitted = None if counted is None else self._write(counted)
            self.begun_s = time.monotonic() - clock.started
            if not interrupted.is_set() and not clock.over(self.progress.step):
                self._begin_steps()
            while not (interrupted.is_set() or self.failed or clock.over(self.progress.step)):
                self._step_and_report()
            self.seconds = time.monotonic() - clock.started
            self._say_interrupted(interrupted)
            if not (interrupted.is_set() or self.failed):
                self._end_steps()
            stopped = interrupted.is_set() or self.failed is not None
            if options.only_time and self.progress.step >= clock.last_step and not stopped:
                self.say(
                    f"stopped after {self.trainer.most_passes} passes over the text: more of them would predict other "
                    "text worse; a number of epochs, if given, is kept to"
                )
            snapshot = self._finish(interrupted=stopped)
        self.trainer.close()
        if self.failed is not None:
            self.failed.add_note(f"training stopped; step {self.progress.step:,} is committed ({snapshot[:8]})")
            raise self.failed
        return self._report(before, fitted, snapshot, interrupted=interrupted.is_set())

    def _say_interrupted(self, interrupted: threading.Event) -> None:
        """Says once that Ctrl-C was heard, and what another one does."""
        if interrupted.is_set() and not self.told:
            self.told = True
            self.say("interrupted: evaluating and committing what was done (Ctrl-C again drops it)")

    def _write(self, counted: CountedContexts) -> ContextFit:
        """Brings the closed form into the edges, and evaluates it."""
        fit = counted.fit
        self.say(
            f"contexts counted: perplexity {fit.before:.1f} to {fit.after:.1f} on chunks of the text that "
            f"were left out, at strengths {fit.target_strength:g} and {fit.edge_strength:g}"
        )
        self.uncommitted = True
        fitted = counted.write(self.graph.parameters, self.stages)
        self.heldout = self._heldout(self.stages)
        if self.heldout is not None:
            self.levels["heldout_closed_form"] = self.heldout
        return fitted

    def _begin_steps(self) -> None:
        """Begins the stage of the steps, which are counted unless time limits the run."""
        clock = self.clock
        if clock.minutes is None:
            self.training = self.stages.stage("training", int(clock.last_step) - clock.first_step, "steps")
        else:
            self.training = self.stages.stage("training", math.ceil(60 * clock.minutes - self.begun_s), "seconds")

    def _report_step(self, loss: float) -> None:
        """How far the steps are."""
        clock, step = self.clock, self.progress.step
        left = clock.left(step)
        assert left is not None  # there is a limit
        detail = f"perplexity {perplexity(loss):,.1f}, {clock.rate(self.progress.tokens):,.0f} tokens/s"
        if clock.minutes is None:
            self.training.at(step - clock.first_step, eta_s=left, detail=detail)
        else:
            took = time.monotonic() - clock.started - self.begun_s
            self.training.at(round(took), max(1, round(took + left)), eta_s=left, detail=detail)

    def _log(self, report: StepReport) -> None:
        """Logs a step; the first one with the perplexities before it."""
        figures = dataclasses.asdict(report)
        del figures["last"]
        log_step(self.metrics, figures | self.levels, self.store.branch)
        self.levels = {}

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
        pass_over = self.kept is not None and progress.position % self.trainer.per_epoch == 0
        evaluate = pass_over or due(
            progress.step - clock.first_step, options.eval_every, now - clock.last_eval, EVAL_EVERY_S
        )
        if evaluate:
            self.training.note("evaluating")
            self.heldout, self.evaluated = self._heldout(), progress.step
            self._note_state()
            clock.last_eval = time.monotonic()
        snapshot = None
        if due(progress.step - clock.committed, options.commit_every, now - clock.last_commit, COMMIT_EVERY_S):
            self.training.note("committing")
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
            cache=self.trainer.cache() if evaluate or snapshot else None,
        )
        self._log(report)
        self._tell(report)

    def _tell(self, report: StepReport) -> None:
        """Reports a step to the caller, or the end of the run."""
        try:
            if not report.last:
                self._report_step(report.loss)
            if self.options.on_step is not None:
                self.options.on_step(report)
        except Exception as error:  # of the caller: raised when what is done is committed, as after Ctrl-C
            self.failed, self.stages = error, SILENT

    def _end_steps(self) -> None:
        """Reports that all steps are done."""
        try:
            self.training.end()
        except Exception as error:  # as in `_tell`
            self.failed, self.stages = error, SILENT

    def _note_state(self) -> None:
        """Notes the state of the run and its figures, if the run may return to it."""
        if self.kept is not None and self.figures is not None:
            self.kept.note(self.figures, self.progress)

    def _arrays(self) -> dict[str, Tensor]:
        """The arrays that a step changes in place or replaces, of a graph whose edges share a base."""
        return self.graph.parameters.small | self.graph.parameters.state

    def _back_to_best(self) -> None:
        """Ends the run with one of its states, or with the one before it (`kept_state`)."""
        if self.kept is None or self.figures is None:
            return
        state, note = self.kept.choose(self.progress.step, self.figures)
        self.notes += [] if note is None else [note]
        if state is None:
            return
        for name, value in self._arrays().items():
            value.copy_(state.arrays[name])
        self.progress, self.clock.last_step = state.progress, state.progress.step
        self.figures, self.heldout = state.figures, state.figures.perplexity
        drop_later_lines(self.metrics, state.progress.step, self.store.branch)
        self.uncommitted = state.progress.step != self.clock.committed

    def _finish(self, *, interrupted: bool) -> str:
        """Evaluates and commits after the last step. Returns the snapshot."""
        ran = self.progress.step > self.clock.first_step
        if ran:
            if self.evaluated != self.progress.step:
                self.heldout = self._heldout(self.stages)
                self._note_state()
            if not interrupted:
                self._back_to_best()
        progress, stepped = self.progress, self.progress.step > self.clock.first_step
        snapshot = self._commit(self.heldout, self.stages) if self.uncommitted else self.store.snapshot
        if ran:
            loss = math.nan if progress.smooth is None else progress.smooth
            final = StepReport(
                step=progress.step,
                tokens=progress.tokens,
                loss=loss,
                perplexity=perplexity(loss),
                tokens_per_s=self.clock.rate(progress.tokens),
                heldout_perplexity=self.heldout,
                snapshot=snapshot,
                cache=self.trainer.cache(),
                last=True,
            )
            if stepped:
                self._log(final)
            if self.failed is None:
                self._tell(final)
        return snapshot

    def _shown_loss(self) -> float:
        """The smoothed loss after the steps of this run; not a number without a step."""
        stepped, smooth = self.progress.step > self.clock.first_step, self.progress.smooth
        return smooth if stepped and smooth is not None else math.nan

    def _report(
        self, before: float | None, fitted: ContextFit | None, snapshot: str, *, interrupted: bool
    ) -> TrainReport:
        progress, options, clock, heldout = self.progress, self.options, self.clock, self.figures
        done, loss = progress.step - clock.first_step, self._shown_loss()
        seconds = time.monotonic() - clock.started
        left = Remaining.of(options, done=done, per_epoch=self.trainer.per_epoch, seconds=self.seconds)
        notes = [] if interrupted else [*self.notes, *self._notes(done, fitted)]
        if not done and notes and options.say is None:  # who passes `say` prints the notes
            warnings.warn(f"{SAID}{notes[0]}", stacklevel=2)
        return TrainReport(
            step=progress.step,
            steps_done=done,
            tokens=progress.tokens,
            tokens_done=progress.tokens - clock.first_token,
            batch=progress.batch,
            loss=loss,
            perplexity=perplexity(loss),
            heldout_before=before,
            contexts=fitted,
            heldout_perplexity=self.heldout,
            heldout_known_perplexity=None if heldout is None else heldout.known_perplexity,
            heldout_unknown_share=None if heldout is None else heldout.unknown_share,
            unknown_share=self.unknown_share,
            tokens_per_s=clock.rate(progress.tokens),
            seconds=seconds,
            peak_host_bytes=peak_bytes(),
            peak_device_bytes=int(self.trainer.cache().get("device_peak_bytes", 0)),
            cache=self.trainer.cache(),
            snapshot=snapshot,
            interrupted=interrupted,
            steps_left=left.steps,
            epochs_left=left.epochs,
            minutes_left=left.minutes,
            notes=notes,
        )

    def _notes(self, done: int, fitted: ContextFit | None) -> list[str]:
        """What is to be said about the run, of ``done`` steps."""
        minutes = self.clock.minutes
        if minutes is None or self.begun_s <= (1 - LEAST_FOR_STEPS) * 60 * minutes:
            return []
        what = "the evaluation before the first step" if fitted is None else "the closed form, with its evaluations,"
        enough = math.ceil(self.begun_s / 60 / LEAST_FOR_STEPS * 10) / 10
        return [
            f"{what} took {duration(self.begun_s)} of `minutes={minutes:g}`, which left time for {done:,} "
            f"step{'s' * (done != 1)}: `minutes={enough:g}` leaves two thirds of the time for steps"
        ]

    def _heldout(self, stages: Stages = SILENT) -> float | None:
        """The perplexity of a part of the held-out text; None if there is none."""
        graph, text = self.graph, self.tokens.heldout
        if not text.transitions:
            return None
        self.trainer.catch_up()
        length = self.settings["build"]["length"]
        self.figures = evaluate_split(
            graph.parameters, graph.signal, text, length, EVAL_TOKENS, tokenizer=graph.tokenizer, stages=stages
        )
        return self.figures.perplexity

    def _step(self) -> float:
        """One step. Returns the smoothed loss."""
        progress = self.progress
        self.uncommitted = True
        loss, seen = self.trainer.step(self.clock.done(progress.step))
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
            f"try a lower `lr` than {self.trainer.optimizer.lr:g}"
        )

    def _commit(self, heldout: float | None, stages: Stages = SILENT) -> str:
        progress, parameters, trainer, clock = self.progress, self.graph.parameters, self.trainer, self.clock
        try:
            trainer.finish()
        except NotFiniteError as error:
            raise DivergedError(self._diverged(str(error))) from error
        if heldout is not None and not math.isfinite(heldout):
            raise DivergedError(self._diverged(f"the held-out perplexity is {heldout}"))
        for name, value in parameters.small.items():
            if not finite(value):
                raise DivergedError(self._diverged(f"{name} is not finite"))
        for name in trainer.stale:
            self.store.delete(name)
        trainer.stale = []
        pages = write_parameters(self.store, parameters, stages)
        training: TrainingSettings = {
            "step": progress.step,
            "tokens": progress.tokens,
            "position": progress.position,
            "batch": progress.batch,
            "seed": progress.seed,
            "corpus": progress.corpus,
            "began": progress.began,
            "smooth": progress.smooth,
            "optimizer": trainer.optimizer.to_json(),
            "candidates": trainer.candidates,
        }
        if self.graph.signal.base and (rest := clock.rest(progress.step)) is not None:
            training["rest"] = rest
        version = self.store.format_version
        self.store.set_settings({**self.settings, "format_version": version, "training": training})
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
        parameters.edges.mark_stored()
        self.uncommitted = False
        self.saved = training
        self._collect()
        return snapshot

    def _collect(self) -> None:
        """Deletes old training commits. If that fails, the run continues: what was trained is committed.

        Not in a bucket: all objects are listed, and recent ones are kept for other processes.
        """
        if not self.store.exclusive:
            return
        try:
            self.store.collect_garbage()
        except SifuError as error:
            if str(error) != self.uncollected:
                self.uncollected = str(error)
                self.say(f"warning: old training commits were not deleted: {error}")
