"""``sifu generate``: continues a prompt and prints the text while it is generated."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from sifu_cli.number_types import Float, Integer
from sifu_cli.opening import Resources, open_graph
from sifu_cli.options import at_option, common_options, resource_options, seed_option
from sifu_cli.output.cache_report import print_cache
from sifu_cli.output.choices import print_explained
from sifu_cli.output.formats import quoted
from sifu_cli.output.messages import interactive, say
from sifu_cli.output.results import print_json
from sifu_cli.output.terminal import echo, echo_text, styled
from sifu_cli.prompt_loop import PromptLoop
from sifu_cli.text_argument import read_text

if TYPE_CHECKING:
    import numpy as np

    from sifu_graph.generation.stream import Stream
    from sifu_graph.graph import Graph

MOST_VECTOR_BYTES = 1 << 20
"""Greatest size of the file of an initial signal."""


@click.command(
    "generate",
    short_help="Continue a prompt.",
    epilog="""\b
Examples:
  sifu generate 春風
  echo -n 春風 | sifu generate --tokens 64 --count 3 --seed 1
  sifu generate 春風 --tokens 20 --explain
""",
)
@click.argument("prompt", required=False)
@click.option(
    "--tokens",
    type=Integer(min=0),
    metavar="N",
    default=100,
    show_default=True,
    help="Number of tokens to generate.",
)
@click.option(
    "--temperature",
    type=Float(min=0),
    metavar="X",
    default=1.0,
    show_default=True,
    help="Divides the energies before the softmax: lower values favour the most probable tokens; 0 is greedy.",
)
@click.option(
    "--top-k", type=Integer(min=1), metavar="K", help="Sample from the K most probable candidates.  [default: all]"
)
@click.option(
    "--top-p",
    type=Float(min=0, min_open=True, max=1),
    metavar="P",
    default=0.9,
    show_default=True,
    help="Sample from the most probable candidates that together have this probability; 1: all.",
)
@click.option("--greedy", is_flag=True, help="Always choose the most probable candidate.")
@seed_option("Seed of the random numbers: the same seed gives the same text.  [default: random]")
@click.option("--stop", metavar="TEXT", help="Stop before this text.")
@click.option(
    "--count",
    type=Integer(min=1),
    metavar="N",
    default=1,
    show_default=True,
    help="Number of continuations.",
)
@click.option(
    "--signal-vector",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Initial signal: a .npy, .json or .txt file with as many numbers as the signal is wide.",
)
@click.option(
    "--explain",
    is_flag=True,
    help="Print how each token was chosen: energy, margin over the best other candidate, "
    "probability without <unk>, private or default edge.",
)
@click.option(
    "--raw",
    is_flag=True,
    help="Print control characters unescaped. Without it, all but tabs and line breaks are printed as \\x1b, so "
    "that none acts on the terminal.",
)
@at_option
@resource_options
@common_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    prompt: str | None,
    count: int,
    seed: int | None,
    signal_vector: Path | None,
    raw: bool,
    resources: Resources,
    stats: bool,
    at: str | None,
    store: Path,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Continue PROMPT (default: read from stdin) and print the text while it is generated.

    Without a PROMPT on a terminal, opens the prompt loop: you and the graph take turns writing a text; /help lists
    its commands.

    With --json, prints one object per continuation, each on its own line.
    """
    if options["greedy"]:
        _check_greedy(ctx)
    settings = {**options, "seed": seed}
    settings["signal_vector"] = None if signal_vector is None else _read_vector(signal_vector)
    if prompt is None and not as_json and interactive():
        if ctx.get_parameter_source("count") is ParameterSource.COMMANDLINE:
            raise click.UsageError("--count needs a prompt: the prompt loop makes one continuation per turn", ctx)
        with open_graph(store, at=at, resources=resources) as graph:
            if graph.memory_note is not None:
                say(graph.memory_note, quiet=quiet)
            PromptLoop(graph, ctx, settings, _stream, raw=raw).run()
            if stats:
                print_cache(graph.cache())
        return
    text = read_text(ctx, prompt, what="prompt")
    with open_graph(store, at=at, resources=resources) as graph:
        _ = graph.parameters  # imports torch and reads the index: not part of the rate that is reported
        for k in range(count):
            started = time.perf_counter()
            chosen = {**settings, "seed": None if seed is None else seed + k}
            pieces = _stream(graph, text, chosen)
            if k == 0 and not quiet:
                _say_notes(graph, pieces)
            if as_json:
                _print_object(graph, text, pieces, seed=chosen["seed"], explain=options["explain"], started=started)
            else:
                if count > 1:
                    echo(styled(f"--- {k + 1} of {count}", dim=True))
                _print(text, pieces, explain=options["explain"], raw=raw)
            if stats:
                seconds = time.perf_counter() - started
                rate = pieces.tokens / seconds
                say(f"{pieces.tokens:,} tokens in {seconds:.2f} s, {rate:,.0f} tokens/s including the prompt")
        if stats:
            print_cache(graph.cache())


def _print_object(
    graph: Graph, prompt: str, pieces: Stream, *, seed: int | None, explain: bool, started: float
) -> None:
    """Generates the whole continuation, then prints it with its figures as one JSON object.

    ``started`` is the time of `time.perf_counter` before the prompt was read.
    """
    fields: dict[str, Any] = {"prompt": prompt, "text": "".join(pieces), "tokens": pieces.tokens}
    fields["tokens_per_s"] = pieces.tokens / (time.perf_counter() - started)
    fields |= {"cache": graph.cache(), "seed": seed, "unknown": pieces.unknown}
    if explain:
        fields["choices"] = [dataclasses.asdict(choice) for choice in pieces.choices]
    print_json(fields)


def _say_notes(graph: Graph, pieces: Stream) -> None:
    if graph.memory_note is not None:
        say(graph.memory_note)
    if pieces.unknown:
        say(f"not among the nodes of this graph, read as unknown: {quoted(pieces.unknown)}")


def _check_greedy(ctx: click.Context) -> None:
    for name in ("count", "temperature", "top_k", "top_p"):
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            option = "--" + name.replace("_", "-")
            raise click.UsageError(f"--greedy always chooses the most probable candidate: leave out {option}", ctx)


def _stream(graph: Graph, text: str, settings: dict[str, Any]) -> Stream:
    """A stream that continues a text. `settings` are the keywords of `Graph.stream`."""
    return graph.stream(text, **settings)


def _print(prompt: str, pieces: Stream, *, explain: bool, raw: bool) -> None:
    if explain:
        print_explained(prompt, pieces, pieces, raw=raw)
        return
    echo_text(styled(prompt, dim=True), nl=False, raw=raw)
    for piece in pieces:
        echo_text(piece, nl=False, raw=raw)
    echo()


def _read_vector(path: Path) -> np.ndarray:
    """float32 [count]: the numbers in a file. The library compares their count with the width of the signal."""
    import io

    import msgspec
    import numpy as np

    from sifu_graph.input_file import read_small

    try:
        content = read_small(path, most_bytes=MOST_VECTOR_BYTES)
        if path.suffix == ".npy":
            return np.asarray(np.load(io.BytesIO(content), allow_pickle=False), dtype=np.float32)
        if path.suffix == ".json":
            return np.array(msgspec.json.decode(content, type=list[float]), dtype=np.float32)
        return np.array(content.decode("utf-8").replace(",", " ").split(), dtype=np.float32)
    except OSError as error:
        raise click.BadParameter(f"{path}: {error.strerror or error}", param_hint="'--signal-vector'") from error
    except Exception as error:  # NumPy raises errors of many classes for a damaged header
        message = f"{path}: not a list of numbers: {error}"
        raise click.BadParameter(message, param_hint="'--signal-vector'") from error
