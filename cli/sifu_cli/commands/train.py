"""``sifu train``: trains, commits, resumes by itself; Ctrl-C ends it in good order."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from sifu_cli.options import (
    Number,
    NumberOr,
    json_option,
    logged,
    memory_options,
    opened,
    quiet_option,
    spelled,
    store_option,
)
from sifu_cli.screen import Progress, duration, number, print_cache, print_json, print_table, say, size

if TYPE_CHECKING:
    from sifu_graph.training.options import StepReport, TrainReport

INTERRUPTED = 130
HOW_LONG = ("steps", "epochs", "minutes")
OPTIMIZER = {  # option -> field of the library's OptimizerConfig
    "optimizer": "kind",
    "lr": "lr",
    "eps": "eps",
    "beta1": "beta1",
    "beta2": "beta2",
    "weight_decay": "weight_decay",
    "clip": "clip",
    "shared_rate": "shared_rate",
    "warmup": "warmup_steps",
    "decay": "decay_steps",
}
NOT_IN_CONFIG = ("config", "as_json", "quiet", "store")


def _read_config(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    """Makes the values of a TOML file the defaults of this run: options on the command line win."""
    if path is None:
        return None
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise click.BadParameter(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
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
    short_help="Train the graph and commit; resumes by itself.",
    epilog="""\b
Examples:
  sifu train --minutes 20
  sifu train --steps 500 --lr 0.05 --eval-every 100 --plot loss.png
""",
)
@click.argument("corpus", nargs=-1, metavar="[CORPUS ...]")
@click.option("--steps", type=Number(int, least=1), metavar="N", help="So many more steps.")
@click.option("--epochs", type=Number(float, above=0), metavar="X", help="So many more passes over the text.")
@click.option(
    "--minutes",
    type=Number(float, above=0),
    metavar="X",
    help="So many more minutes. The first limit reached stops.",
)
@click.option(
    "--batch",
    type=Number(int, least=1),
    metavar="N",
    help="Chunks of text in a step.  [default: last run's, else 512]",
)
@click.option(
    "--lr",
    type=Number(float, above=0),
    metavar="X",
    help="Learning rate.  [default: last run's, else 0.12; AdamW: 0.03]",
)
@click.option(
    "--optimizer",
    type=click.Choice(["rowwise", "adamw", "adamw-dense"]),
    metavar="NAME",
    help="rowwise (one second moment an edge), adamw (untouched edges stand still) or adamw-dense (they "
    "catch up).  [default: last run's, else rowwise]",
)
@click.option("--eps", type=Number(float, above=0), metavar="X", help="Added to the denominator of the update.")
@click.option("--beta1", type=Number(float, least=0, below=1), metavar="X", help="Decay of the mean gradient (AdamW).")
@click.option(
    "--beta2",
    type=Number(float, least=0, most=1),
    metavar="X",
    help="Decay of the second moment; 1 with rowwise: sum.",
)
@click.option("--weight-decay", type=Number(float, least=0), metavar="X", help="Decoupled weight decay.")
@click.option("--clip", type=Number(float, least=0), metavar="X", help="Greatest gradient norm of one edge; 0: any.")
@click.option(
    "--shared-rate",
    type=Number(float, least=0),
    metavar="X",
    help="Rate of alpha, default edge, scale and node biases, as a share of --lr.",
)
@click.option("--warmup", type=Number(int, least=0), metavar="N", help="Steps over which the rate rises.")
@click.option("--decay", type=Number(int, least=0), metavar="N", help="Steps over which it then falls; 0: it stays.")
@click.option(
    "--candidates",
    type=NumberOr("all", Number(int, least=1)),
    metavar="all|K",
    help="The exact softmax over all nodes, or K sampled ones.  [default: last run's, else all]",
)
@click.option(
    "--commit-every",
    type=Number(int, least=0),
    metavar="N",
    help="Steps between commits; 0: at the end only.  [default: every 15 minutes]",
)
@click.option(
    "--eval-every",
    type=Number(int, least=0),
    metavar="N",
    help="Steps between looks at the held-out text; 0: at the end only.  [default: every 2 minutes]",
)
@click.option(
    "--seed",
    type=Number(int, least=0),
    metavar="N",
    help="Order of the text.  [default: last run's, else the graph's]",
)
@click.option(
    "--contexts/--no-contexts",
    default=None,
    help="Begin with the closed form: every edge learns from all contexts of the text at once.  [default: where the "
    "graph is new, from counts and tuned, and the optimizer row-wise]",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE.toml",
    is_eager=True,
    callback=_read_config,
    help="Options from a file (`lr = 0.05`); those of the command line win.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    metavar="FILE.png",
    help="Draw the loss of all runs that led here, at the end.",
)
@memory_options
@store_option
@quiet_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    corpus: tuple[str, ...],
    host_memory: str | None,
    scratch: Path | None,
    device: str,
    device_memory: str | None,
    precision: str,
    stats: bool,
    store: Path,
    quiet: bool,
    as_json: bool,
    plot: Path | None,
    config: Path | None,
    candidates: int | Literal["all"] | None,
    **options: Any,
) -> None:
    """Train the graph on CORPUS (default: the text it was built from) and commit.

    It goes on where the last run ended, with that run's optimizer settings where none are given. Without
    --steps, --epochs or --minutes it makes one pass over the text. Ctrl-C ends the step, commits, and prints
    the command to go on; a second Ctrl-C stops at once.
    """
    optimizer = {field: value for option, field in OPTIMIZER.items() if (value := options.pop(option)) is not None}
    given = {name: value for name, value in options.items() if value is not None}
    no_limit = not any(name in given for name in HOW_LONG)
    if no_limit:
        given["epochs"] = 1.0
    if plot is not None:
        from sifu_graph.plot.figures import require_plotting

        require_plotting(plot)
    with (
        opened(
            store,
            host_memory=host_memory,
            scratch=scratch,
            device=device,
            device_memory=device_memory,
            precision=precision,
        ) as graph,
        Progress(quiet=quiet, streams=as_json) as progress,
    ):
        from sifu_graph.training.options import merged_optimizer

        if no_limit:
            say("no --steps, --epochs or --minutes: one pass over the text", quiet=quiet)
        shown = _Shown(progress, as_json=as_json)
        report = graph.train(
            list(corpus) or None,
            **given,
            optimizer=merged_optimizer(graph.settings["training"], **optimizer),
            candidates=candidates,
            command=logged(ctx),
            on_step=shown.step,
            say=progress.keep,
        )
    if stats:
        print_cache(report.cache)
    go_on = _to_go_on(ctx, report, store)
    if as_json:
        print_json({**_fields(dataclasses.asdict(report)), "final": True, "go_on": go_on})
    else:
        _print_report(report)
    if plot is not None:
        from sifu_graph.plot.figures import plot_training

        plot_training(store, plot)
        say(f"drew {plot}", quiet=quiet)
    if go_on is not None:
        click.echo(f"interrupted; all of it is committed. To go on:\n  {go_on}", err=True)
        ctx.exit(INTERRUPTED)


class _Shown:
    """What is shown of a run while it goes on."""

    def __init__(self, progress: Progress, *, as_json: bool) -> None:
        self._progress, self._json = progress, as_json

    def step(self, report: StepReport) -> None:
        line = (
            f"step {report.step:,}   loss {report.loss:.3f}   perplexity {number(report.perplexity, 1)}   "
            f"{report.tokens_per_s:,.0f} tokens/s"
        )
        if report.eta_s is not None:
            line += f"   {duration(report.eta_s)} left"
        self._progress.show(line)
        news = []
        if report.heldout_perplexity is not None:
            news.append(f"held-out perplexity {number(report.heldout_perplexity, 1)}")
        if report.snapshot is not None:
            news.append(f"saved as {report.snapshot[:8]}")
        if news:
            self._progress.keep(f"step {report.step:,}   {', '.join(news)}")
        if news and self._json:
            try:
                print_json({**_fields(dataclasses.asdict(report)), "final": False})
            except BrokenPipeError:  # the reader is gone; the training is worth more than its lines
                self._json = False


def _fields(report: dict[str, Any]) -> dict[str, Any]:
    """The fields of CLI.md, in their order, before the others."""
    first = (
        "step", "tokens", "loss", "perplexity", "heldout_perplexity", "tokens_per_s", "peak_host_bytes",
        "peak_device_bytes", "cache", "snapshot",
    )  # fmt: skip
    return {**{name: report.get(name) for name in first}, **report}


def _print_report(report: TrainReport) -> None:
    contexts, fitted = [], report.contexts
    if fitted is not None:
        how = f"in closed form, strengths {fitted.target_strength:g} and {fitted.edge_strength:g}"
        contexts = [("contexts", duration(fitted.seconds), how)]
    before, after = number(report.heldout_before, 1), number(report.heldout_perplexity, 1)
    print_table(
        [
            ("step", number(report.step), f"{report.steps_done:,} in this run"),
            ("tokens", number(report.tokens), f"{report.tokens_done:,} in this run"),
            ("perplexity", number(report.perplexity, 1), "of the training text, smoothed"),
            ("held-out", after, f"perplexity; {before} before this run"),
            *contexts,
            ("tokens/s", number(report.tokens_per_s), ""),
            ("peak memory", size(report.peak_host_bytes), ""),
            ("time", duration(report.seconds), ""),
            ("snapshot", report.snapshot[:8], ""),
        ]
    )


def _to_go_on(ctx: click.Context, report: TrainReport, store: Path) -> str | None:
    """The command that does what an interrupted run left; None where nothing is left."""
    if not report.interrupted:
        return None
    left = {
        "--steps": (report.steps_left, "d"),
        "--epochs": (report.epochs_left, ".9g"),
        "--minutes": (report.minutes_left, ".3g"),
    }
    more = {option: format(value, style) for option, (value, style) in left.items() if value is not None}
    if any(not value for value, _ in left.values() if value is not None):
        return None
    return "sifu " + spelled(ctx, without=(*HOW_LONG, "store"), more={"--store": str(store), **more})
