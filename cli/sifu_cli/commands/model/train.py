"""``sifu train``: trains and commits; resumes the last run; Ctrl-C commits and stops."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from sifu_store.durable import format_bytes

from sifu_cli.command_line import command_line, logged
from sifu_cli.number_types import Float, Integer, IntegerOr
from sifu_cli.opening import Resources, open_graph
from sifu_cli.options import common_options, resource_options, seed_option
from sifu_cli.output.cache_report import print_cache
from sifu_cli.output.formats import duration, number, percent
from sifu_cli.output.messages import say
from sifu_cli.output.progress import Progress
from sifu_cli.output.results import Row, print_json, print_table
from sifu_cli.output.terminal import echo
from sifu_cli.texts import Reading, corpus_of, reading_options, say_notes

if TYPE_CHECKING:
    from sifu_graph.graph import Graph
    from sifu_graph.training.options import Remaining, StepReport, TrainReport

INTERRUPTED = 130
LIMITS = ("steps", "epochs", "minutes")
OPTIMIZER = (
    "lr",
    "eps",
    "beta1",
    "beta2",
    "weight_decay",
    "clip",
    "shared_rate",
    "dropout",
    "warmup_steps",
    "decay_steps",
)
"""Parameters that are fields of the library's `OptimizerConfig`; `optimizer` is its `kind`."""
MOST_CONFIG_BYTES = 1 << 20
"""Greatest size of a file of options."""
NOT_IN_CONFIG = ("config", "glob", "as_json", "quiet", "store")


def _read_config(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    """Use the values of a TOML file as defaults of the options; the command line overrides them."""
    if path is None:
        return None
    from sifu_graph.input_file import read_small

    try:
        found = tomllib.loads(read_small(path, most_bytes=MOST_CONFIG_BYTES).decode("utf-8"))
    except OSError as error:
        raise click.BadParameter(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"{path}: not TOML: {error}") from error
    options = {
        max(each.opts, key=len).removeprefix("--"): each
        for each in ctx.command.params
        if isinstance(each, click.Option) and each.name not in NOT_IN_CONFIG
    }
    defaults = {}
    for key, value in found.items():
        if key not in options:
            raise click.BadParameter(f"{path}: no option {key!r}; there are {', '.join(options)}")
        option = options[key]
        try:
            defaults[option.name or key] = option.type.convert(str(value), None, ctx)
        except click.BadParameter as error:
            raise click.BadParameter(f"{path}: {key}: {error.message}") from error
    ctx.default_map = defaults
    return path


@click.command(
    "train",
    short_help="Train the graph and commit; resumes the last run.",
    epilog="""\b
Examples:
  sifu train --minutes 20
  sifu train --steps 500 --lr 0.05 --eval-every 100 --plot loss.png
""",
)
@click.argument("corpus", nargs=-1, metavar="[CORPUS ...]")
@click.option("--steps", type=Integer(min=1), metavar="N", help="Train for N more steps.")
@click.option("--epochs", type=Float(min=0, min_open=True), metavar="X", help="Train for X more passes over the text.")
@click.option(
    "--minutes",
    type=Float(min=0, min_open=True),
    metavar="X",
    help="Train for X more minutes, evaluations and the closed-form fit of a new graph included (a note says where "
    "these leave less than a third of the time for steps). The first limit that is reached ends the run.",
)
@click.option(
    "--batch",
    type=Integer(min=1),
    metavar="N",
    help="Chunks of text per step; with --signal recurrent, streams of 32 tokens. It is kept for later runs.  "
    "[default: last run's, else 512; with --signal recurrent: 64]",
)
@click.option(
    "--lr",
    type=Float(min=0, min_open=True),
    metavar="X",
    help="Learning rate.  [default: last run's, else 0.12; AdamW: 0.03; with --signal recurrent: 0.008]",
)
@click.option(
    "--optimizer",
    type=click.Choice(["rowwise", "adamw", "adamw-dense"]),
    metavar="NAME",
    help="rowwise (row-wise AdaGrad: one second moment per edge), adamw (updates only the edges of a step) or "
    "adamw-dense (updates all edges).  [default: last run's, else rowwise; with --signal recurrent: adamw]",
)
@click.option("--eps", type=Float(min=0, min_open=True), metavar="X", help="Added to the denominator of the update.")
@click.option(
    "--beta1", type=Float(min=0, max=1, max_open=True), metavar="X", help="Decay of the mean gradient (AdamW)."
)
@click.option(
    "--beta2",
    type=Float(min=0, max=1),
    metavar="X",
    help="Decay of the second moment; 1 (rowwise only): the sum of all steps.",
)
@click.option("--weight-decay", type=Float(min=0), metavar="X", help="Decoupled weight decay.")
@click.option("--clip", type=Float(min=0), metavar="X", help="Greatest gradient norm of an edge; 0: no limit.")
@click.option(
    "--shared-rate",
    type=Float(min=0),
    metavar="X",
    help="Learning rate of alpha, the default edge, the scale and the node biases, as a share of --lr.",
)
@click.option(
    "--dropout",
    type=Float(min=0, max=1, max_open=True),
    metavar="SHARE",
    help="With --signal recurrent, the share of the signal that a step leaves out of the contest, against overfitting "
    "of small texts.  [default: last run's, else 0]",
)
@click.option(
    "--warmup", "warmup_steps", type=Integer(min=0), metavar="N", help="Steps over which the learning rate rises."
)
@click.option(
    "--decay",
    "decay_steps",
    type=Integer(min=0),
    metavar="N",
    help="Steps after the warmup over which the learning rate falls; 0: constant.",
)
@click.option(
    "--candidates",
    type=IntegerOr("all", Integer(min=1)),
    metavar="all|K",
    help="Softmax over all nodes, or over K sampled nodes.  [default: last run's, else all]",
)
@click.option(
    "--commit-every",
    type=Integer(min=0),
    metavar="N",
    help="Steps between commits; 0: only at the end.  [default: every 15 minutes]",
)
@click.option(
    "--eval-every",
    type=Integer(min=0),
    metavar="N",
    help="Steps between evaluations on the held-out text; 0: only at the end.  [default: every 2 minutes]",
)
@seed_option("Seed of the order of the text.  [default: last run's, else the graph's]")
@click.option(
    "--contexts/--no-contexts",
    default=None,
    help="Start with the closed-form fit of every edge to all its contexts in the text.  [default: for a new graph "
    "with --init counts and --signal tuned, and the row-wise optimizer]",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE.toml",
    is_eager=True,
    callback=_read_config,
    help="Read options from a file (`lr = 0.05`); options on the command line override them.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    metavar="FILE.png",
    help="At the end, plot the loss of all runs up to the current snapshot.",
)
@reading_options(default="as in the text of the build")
@resource_options
@common_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    corpus: tuple[str, ...],
    reading: Reading,
    resources: Resources,
    stats: bool,
    store: Path,
    quiet: bool,
    as_json: bool,
    plot: Path | None,
    config: Path | None,  # read by its callback
    optimizer: str | None,
    candidates: int | Literal["all"] | None,
    **options: Any,
) -> None:
    """Train the graph on CORPUS (default: the text it was built from) and commit.

    Resumes the last run and reuses its optimizer settings unless they are given. Without --steps, --epochs or
    --minutes, makes one pass over the text. Ctrl-C completes the step, commits, and prints the command that
    resumes the run; a second Ctrl-C stops at once. Before the first step, Ctrl-C stops at once, unless the closed-form
    fit is being written, which is completed and committed.

    A new training commit replaces the one before the last: the last two stay, and those with a branch or a tag.

    CORPUS: texts in UTF-8 of any kind, JSON lines and CSV (--field), also compressed (.gz, .xz, .bz2, .zst); folders of
    them; - for stdin; or a corpus that is part of sifu: tang or wordnet.
    """
    given = {name: value for name, value in options.items() if value is not None}
    changed = {name: given.pop(name) for name in OPTIMIZER if name in given}
    if optimizer is not None:
        changed["kind"] = optimizer
    no_limit = not any(name in given for name in LIMITS)
    if no_limit:
        given["epochs"] = 1.0
    if plot is not None:
        from sifu_graph.plot.figures import require_plotting

        require_plotting(plot)
    texts = corpus_of(corpus, reading)
    with open_graph(store, resources=resources) as graph, Progress(quiet=quiet, streams=as_json) as progress:
        from sifu_graph.training.options import Remaining, merged_optimizer

        if no_limit:
            say("no --steps, --epochs or --minutes given: training for one pass over the text", quiet=quiet)
        kept_batch = "batch" not in given and graph.settings["training"] is not None
        shown = _Shown(progress, as_json=as_json)
        with _going_on(ctx, graph, store):
            report = graph.train(
                texts,
                **given,
                optimizer=merged_optimizer(graph.settings["training"], base=graph.signal.base, **changed),
                candidates=candidates,
                command=logged(ctx),
                on_step=shown.step,
                progress=progress,
                say=progress.keep,
            )
        say_notes(texts, quiet=quiet)
    for note in report.notes:
        say(f"note: {note}", quiet=quiet)
    if stats:
        print_cache(report.cache)
    go_on = None
    if report.interrupted:
        left = Remaining(steps=report.steps_left, epochs=report.epochs_left, minutes=report.minutes_left)
        go_on = _resuming_command(ctx, left, store, begun=True)
    if as_json:
        print_json({**_fields(dataclasses.asdict(report)), "final": True, "go_on": go_on})
    else:
        _print_report(report, batch_remark="as in the last run" if kept_batch else "")
    if plot is not None:
        from sifu_graph.plot.figures import plot_training

        plot_training(store, plot)
        say(f"wrote {plot}", quiet=quiet)
    if go_on is not None:
        what = "all steps are" if report.steps_done or report.contexts is None else "the closed-form fit is"
        echo(f"interrupted; {what} committed. To resume:", err=True)
        echo(f"  {go_on}", err=True)
        ctx.exit(INTERRUPTED)


class _Shown:
    """Shows the steps of a run: a lasting line (or JSON) per evaluation and commit."""

    def __init__(self, progress: Progress, *, as_json: bool) -> None:
        self._progress, self._json = progress, as_json

    def step(self, report: StepReport) -> None:
        """Show one step. The report of the run has what is in the last one."""
        if report.last:
            return
        news = []
        if report.heldout_perplexity is not None:
            news.append(f"held-out perplexity {number(report.heldout_perplexity, 1)}")
        if report.snapshot is not None:
            news.append(f"committed as {report.snapshot[:8]}")
        if news:
            self._progress.keep(f"step {report.step:,}   {', '.join(news)}")
        if news and self._json:
            try:
                print_json({**_fields(dataclasses.asdict(report)), "final": False})
            except BrokenPipeError:  # the reader closed the pipe: training continues without output
                self._json = False


def _fields(report: dict[str, Any]) -> dict[str, Any]:
    """All fields, the main ones first."""
    first = (
        "step",
        "tokens",
        "loss",
        "perplexity",
        "heldout_perplexity",
        "tokens_per_s",
        "peak_host_bytes",
        "peak_device_bytes",
        "cache",
        "snapshot",
    )
    return {**{name: report.get(name) for name in first}, **report}


def _print_report(report: TrainReport, *, batch_remark: str) -> None:
    contexts, fitted = [], report.contexts
    if fitted is not None:
        how = f"closed-form fit, strengths {fitted.target_strength:g} and {fitted.edge_strength:g}"
        contexts = [("contexts", duration(fitted.seconds), how)]
    before, after = number(report.heldout_before, 1), number(report.heldout_perplexity, 1)
    print_table(
        [
            ("step", number(report.step), f"{report.steps_done:,} in this run"),
            ("tokens", number(report.tokens), f"{report.tokens_done:,} in this run"),
            ("perplexity", number(report.perplexity, 1), "of the training text, smoothed"),
            ("held-out", after, f"perplexity; {before} before this run"),
            *_unknown_rows(report),
            ("batch", number(report.batch), batch_remark),
            *contexts,
            ("tokens/s", number(report.tokens_per_s), ""),
            ("peak memory", format_bytes(report.peak_host_bytes), ""),
            ("time", duration(report.seconds), ""),
            ("snapshot", report.snapshot[:8], ""),
        ]
    )


def _unknown_rows(report: TrainReport) -> list[Row]:
    from sifu_graph.text.unknown import NOTED_SHARE

    heldout = report.heldout_unknown_share or 0.0
    if max(report.unknown_share, heldout) <= NOTED_SHARE:
        return []
    return [
        ("  without unknown", number(report.heldout_known_perplexity, 1), "perplexity of the tokens that are nodes"),
        ("unknown", percent(report.unknown_share), f"of the training text; {percent(heldout)} of the held-out tokens"),
    ]


@contextmanager
def _going_on(ctx: click.Context, graph: Graph, store: Path) -> Iterator[None]:
    """Adds the command that resumes the run to the text of an interrupt that ends it at once."""
    from sifu_graph.training.interrupts import TrainingInterrupted

    try:
        yield
    except TrainingInterrupted as stop:
        go_on = _resuming_command(ctx, stop.left, store, begun=graph.settings["training"] is not None)
        raise TrainingInterrupted(f"{stop}. To resume: {go_on}" if go_on else str(stop), stop.left) from stop


def _resuming_command(ctx: click.Context, remaining: Remaining, store: Path, *, begun: bool) -> str | None:
    """The command that completes an interrupted run; None if nothing is left to do.

    A run that has ``begun`` has no closed-form fit before it.
    """
    left = {
        "--steps": (remaining.steps, "d"),
        "--epochs": (remaining.epochs, ".9g"),
        "--minutes": (remaining.minutes, ".3g"),
    }
    more = {option: format(value, style) for option, (value, style) in left.items() if value is not None}
    if any(not value for value, _ in left.values() if value is not None):
        return None
    without = (*LIMITS, "store", *(("contexts",) if begun else ()))
    return "sifu " + command_line(ctx, without=without, more={"--store": str(store), **more})
