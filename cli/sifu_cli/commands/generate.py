"""``sifu generate``: a prompt in, its continuation out, as it comes."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from sifu_cli.explained import print_explained
from sifu_cli.options import Number, at_option, json_option, memory_options, opened, quiet_option, store_option
from sifu_cli.screen import on_a_terminal, print_cache, print_json, say

if TYPE_CHECKING:
    import numpy as np

    from sifu_graph.generation.stream import Stream
    from sifu_graph.graph import Graph

SHOWN_UNKNOWN = 20


@click.command(
    "generate",
    short_help="Continue a prompt, streaming.",
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
    type=Number(int, least=0),
    metavar="N",
    default=100,
    show_default=True,
    help="How many to generate.",
)
@click.option(
    "--temperature",
    type=Number(float, least=0),
    metavar="X",
    default=1.0,
    show_default=True,
    help="Divides the energies: lower is safer, higher is wilder, 0 is greedy.",
)
@click.option("--top-k", type=Number(int, least=1), metavar="K", help="Only the K best candidates.  [default: all]")
@click.option(
    "--top-p",
    type=Number(float, above=0, most=1),
    metavar="P",
    default=0.9,
    show_default=True,
    help="Only the best candidates that together hold this probability; 1: all.",
)
@click.option("--greedy", is_flag=True, help="Always the best candidate.")
@click.option(
    "--seed",
    type=Number(int, least=0),
    metavar="N",
    help="Same seed, same text.  [default: another each time]",
)
@click.option("--stop", metavar="TEXT", help="End where this text would come.")
@click.option(
    "--count",
    type=Number(int, least=1),
    metavar="N",
    default=1,
    show_default=True,
    help="How many continuations.",
)
@click.option(
    "--signal-vector",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The initial signal: numbers from a .npy, .json or .txt file.",
)
@click.option(
    "--explain",
    is_flag=True,
    help="How each token was chosen: energy, margin over the best other candidate, private or default edge.",
)
@at_option
@memory_options
@store_option
@quiet_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    prompt: str | None,
    count: int,
    seed: int | None,
    signal_vector: Path | None,
    host_memory: str | None,
    scratch: Path | None,
    device: str,
    device_memory: str | None,
    precision: str,
    stats: bool,
    at: str | None,
    store: Path,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Continue PROMPT (default: what comes on stdin), streaming.

    On a terminal and without a PROMPT it opens a prompt loop: you and the graph write a text in turns; /help
    lists its commands.

    With --json, one object a continuation, each on a line of its own.
    """
    if options["greedy"]:
        for name in ("count", "temperature", "top_k", "top_p"):
            if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
                option = "--" + name.replace("_", "-")
                raise click.UsageError(f"--greedy always takes the best candidate: leave out {option}", ctx)
    vector = _read_vector(signal_vector) if signal_vector is not None else None
    if prompt is None and not as_json and on_a_terminal():
        opening = {"at": at, "host_memory": host_memory, "scratch": scratch}
        _loop(ctx, store, {**options, "seed": seed, "signal_vector": vector}, opening)
        return
    text = _read_prompt(ctx, prompt)
    with opened(
        store, at=at, host_memory=host_memory, scratch=scratch, device=device, device_memory=device_memory,
        precision=precision,
    ) as graph:  # fmt: skip
        from sifu_graph.generation.stream import GenerateOptions, stream

        given = text.split() if graph.tokenizer.level == "tokens" else text
        for k in range(count):
            chosen = GenerateOptions(**options, seed=None if seed is None else seed + k, signal_vector=vector)
            started = time.perf_counter()
            pieces = stream(graph, given, chosen)
            if k == 0:
                if graph.memory_note is not None:
                    say(graph.memory_note, quiet=quiet)
                _say_unknown(pieces, quiet=quiet)
            title = f"{k + 1} of {count}" if count > 1 else None
            if not as_json and chosen.explain:
                _print_title(title)
                print_explained(text, pieces, pieces)
            elif not as_json:
                _print_title(title)
                _print(text, pieces)
            continuation = "".join(pieces)  # empty where it was printed
            seconds = time.perf_counter() - started
            rate = pieces.tokens / seconds
            if as_json:
                fields = {"prompt": text, "text": continuation, "tokens": pieces.tokens, "tokens_per_s": rate}
                fields |= {"cache": graph.cache(), "seed": chosen.seed, "unknown": pieces.unknown}
                explained = {"choices": list(map(dataclasses.asdict, pieces.choices))} if chosen.explain else {}
                print_json({**fields, **explained})
            if stats:
                say(f"{pieces.tokens:,} tokens in {seconds:.2f} s, {rate:,.0f} tokens/s with the prompt")
        if stats:
            print_cache(graph.cache())


def _loop(ctx: click.Context, store: Path, settings: dict[str, Any], opening: dict[str, Any]) -> None:
    from sifu_cli.prompt_loop import PromptLoop

    def streamed(graph: Graph, text: str, chosen: dict[str, Any]) -> Stream:
        from sifu_graph.generation.stream import GenerateOptions, stream

        given = text.split() if graph.tokenizer.level == "tokens" else text
        return stream(graph, given, GenerateOptions(**chosen))

    with opened(store, **opening) as graph:
        PromptLoop(graph, ctx, settings, streamed).run()


def _print_title(title: str | None) -> None:
    if title is not None:
        click.secho(f"--- {title}", dim=True)


def _print(prompt: str, pieces: Stream) -> None:
    click.secho(prompt, dim=True, nl=False)
    for piece in pieces:
        click.echo(piece, nl=False)
    click.echo()


def _say_unknown(pieces: Stream, *, quiet: bool) -> None:
    if pieces.unknown:
        shown = " ".join(map(repr, pieces.unknown[:SHOWN_UNKNOWN]))
        more = len(pieces.unknown) - SHOWN_UNKNOWN
        rest = f" and {more} more" if more > 0 else ""
        say(f"not among the nodes of this graph, read as unknown: {shown}{rest}", quiet=quiet)


def _read_prompt(ctx: click.Context, prompt: str | None) -> str:
    if prompt is None or prompt == "-":
        if sys.stdin is None or (prompt is None and sys.stdin.isatty()):  # the output goes elsewhere
            raise click.UsageError("no prompt: give one, or pipe a text in", ctx)
        try:
            prompt = sys.stdin.buffer.read().decode("utf-8")
        except UnicodeDecodeError as error:
            found = f"0x{error.object[error.start]:02x} in byte {error.start:,}"
            raise click.UsageError(f"the prompt is not UTF-8 ({found})", ctx) from None
        return prompt.removesuffix("\n").removesuffix("\r")
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError:
        raise click.UsageError("the prompt is not UTF-8", ctx) from None
    return prompt


def _read_vector(path: Path) -> np.ndarray:
    """The numbers in a file. Their number is checked where the width is known."""
    import numpy as np

    try:
        if path.suffix == ".npy":
            return np.asarray(np.load(path, allow_pickle=False), dtype=np.float32)
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else text.replace(",", " ").split()
        return np.array(values, dtype=np.float32)
    except OSError as error:
        raise click.BadParameter(f"{path}: {error.strerror or error}", param_hint="'--signal-vector'") from error
    except (ValueError, TypeError, EOFError) as error:
        message = f"{path}: not a list of numbers: {error}"
        raise click.BadParameter(message, param_hint="'--signal-vector'") from error
