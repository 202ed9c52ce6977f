"""``sifu import-brillm``: a checkpoint of the released BriLLM code in, a graph out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from sifu_cli.options import json_option, logged, quiet_option, store_option
from sifu_cli.screen import Progress, duration, number, percent, print_json, print_table, say, size


@click.command(
    "import-brillm",
    short_help="A model of the released BriLLM code becomes a graph.",
    epilog="""\b
Examples:
  sifu import-brillm model_zh.bin --vocab vocab_wiki_4k.json --frequency word_frequency.json
  sifu import-brillm model_en.bin --vocab vocab_wiki_4k_en.json --tokenizer tokenizer.json
""",
)
@click.argument("checkpoint", metavar="CHECKPOINT", type=click.Path(path_type=Path))
@click.option(
    "--vocab", required=True, metavar="FILE", type=click.Path(path_type=Path), help="JSON: token -> id. Required."
)
@click.option(
    "--frequency",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="JSON: source -> {target: count}; pairs of count 0 share the default edge.  [default: every edge is private]",
)
@click.option(
    "--tokenizer",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A byte-level BPE file of the tokenizers library.  [default: every character is a token]",
)
@click.option(
    "--level",
    type=click.Choice(["char", "bpe", "tokens"]),
    metavar="LEVEL",
    help="What a token is: char, bpe or tokens.  [default: bpe with --tokenizer, else char]",
)
@click.option("--force", is_flag=True, help="Replace the graph that is there.")
@store_option
@quiet_option
@json_option
@click.pass_context
def command(
    ctx: click.Context, /, *, checkpoint: Path, store: Path, quiet: bool, as_json: bool, **options: Any
) -> None:
    """Make a graph of CHECKPOINT, a model that the released BriLLM code saved, with the preset brillm05.

    Which row of the checkpoint is which edge follows from the vocabulary and the frequency file, so both must be those
    that it was trained with; what does not fit is refused.
    """
    from sifu_graph.interop.brillm_import import import_brillm

    say(f"reading {checkpoint.name}", quiet=quiet)
    with Progress(quiet=quiet) as progress:
        report = import_brillm(
            checkpoint,
            store,
            **options,
            command=logged(ctx),
            on_bytes=lambda done, total: progress.show(f"{size(done)} of {size(total)}"),
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
            ("dense parameters", number(report.dense_parameters), "if every pair of nodes had its own"),
            ("private edges", number(report.private_edges), ""),
            ("stored parameters", number(report.stored_parameters), ""),
            ("ratio", percent(report.ratio), "stored of dense"),
            ("read", size(report.read_bytes), checkpoint.name),
            ("store", size(report.store_bytes), report.path),
            ("time", duration(report.seconds), f"{size(report.read_bytes / report.seconds)} a second"),
            ("snapshot", report.snapshot[:8], ""),
        ]
    )
