"""``sifu import-brillm``: imports a checkpoint of the released BriLLM code."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click
from sifu_store.durable import format_bytes

from sifu_cli.command_line import logged
from sifu_cli.failures import interrupted_as
from sifu_cli.options import common_options, force_option
from sifu_cli.output.formats import duration, number, percent
from sifu_cli.output.messages import say
from sifu_cli.output.progress import Progress
from sifu_cli.output.results import print_json, print_table


@click.command(
    "import-brillm",
    short_help="Import a model of the released BriLLM code.",
    epilog="""\b
Examples:
  sifu import-brillm model_zh.bin --vocab vocab_wiki_4k.json --frequency word_frequency.json
  sifu import-brillm model_en.bin --vocab vocab_wiki_4k_en.json --tokenizer tokenizer.json
""",
)
@click.argument("checkpoint", metavar="CHECKPOINT", type=click.Path(path_type=Path))
@click.option(
    "--vocab", required=True, metavar="FILE", type=click.Path(path_type=Path), help="JSON: id by token. Required."
)
@click.option(
    "--frequency",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="JSON: counts by source and target; pairs with count 0 share the default edge.  "
    "[default: every edge is private]",
)
@click.option(
    "--tokenizer",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A file of the tokenizers library: byte-level BPE, or the words of an exported graph.  [default: every "
    "character is a token]",
)
@click.option(
    "--level",
    type=click.Choice(["char", "word", "bpe", "tokens"]),
    metavar="LEVEL",
    help="Tokenization: char, word, bpe or tokens.  [default: that of --tokenizer, else char]",
)
@force_option("Replace an existing graph.")
@common_options
@click.pass_context
def command(
    ctx: click.Context, /, *, checkpoint: Path, store: Path, quiet: bool, as_json: bool, **options: Any
) -> None:
    """Import CHECKPOINT, a model saved by the released BriLLM code, as a graph with the preset brillm05.

    The vocabulary and the frequency file determine the edge of each row of the checkpoint, so both must be the files
    that the model was trained with. Files that do not match are an error.
    """
    from sifu_graph.interop.brillm_import import import_brillm

    say(f"reading {checkpoint.name}", quiet=quiet)
    with interrupted_as("nothing is left of the new graph"), Progress(quiet=quiet, stages=False) as progress:
        report = import_brillm(
            checkpoint,
            store,
            **options,
            command=logged(ctx),
            progress=progress,
        )
    for note in report.notes:
        say(f"note: {note}", quiet=quiet)
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    print_table(
        [
            ("nodes", number(report.nodes), f"level {report.level}"),
            ("width", number(report.width), ""),
            ("dense parameters", number(report.dense_parameters), "with a private edge for every pair of nodes"),
            ("private edges", number(report.private_edges), ""),
            ("stored parameters", number(report.stored_parameters), ""),
            ("ratio", percent(report.ratio), "stored / dense parameters"),
            ("read", format_bytes(report.read_bytes), checkpoint.name),
            ("store", format_bytes(report.store_bytes), report.path),
            ("time", duration(report.seconds), f"{format_bytes(report.read_bytes / report.seconds)} per second"),
            ("snapshot", report.snapshot[:8], ""),
        ]
    )
