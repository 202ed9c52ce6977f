"""``sifu build-graph``: builds a new graph from a corpus."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click
from sifu_store.durable import format_bytes

from sifu_cli.command_line import logged
from sifu_cli.failures import interrupted_as
from sifu_cli.number_types import Float, Integer
from sifu_cli.options import common_options, force_option, seed_option
from sifu_cli.output.formats import duration, number, percent, shared_note
from sifu_cli.output.messages import say
from sifu_cli.output.progress import Progress
from sifu_cli.output.results import print_json, print_table
from sifu_cli.texts import Reading, corpus_of, reading_options


class Level(click.Choice):  # type: ignore[type-arg]  # not generic before click 8.2
    """The level of the tokens."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The level, or an error with the one that is meant."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            from sifu_graph.text.tokenizer import level_meant

            meant = level_meant(str(value))
            if meant is None:
                raise
            raise click.BadParameter(f"{error.message.rstrip('.')}; did you mean {meant}?", ctx, param) from None


@click.command(
    "build-graph",
    short_help="Build a new graph from a corpus.",
    epilog="""\b
Example:
  sifu build-graph --vocab 4000 --sparsify 0.1 poems/ more.txt.gz
""",
)
@click.argument("corpus", nargs=-1, metavar="[CORPUS ...]")
@click.option(
    "--vocab",
    type=Integer(min=3),
    metavar="N",
    default=4000,
    show_default=True,
    help="Number of nodes: the most frequent tokens and two special nodes.",
)
@click.option(
    "--sparsify",
    type=Float(min=0, max=1),
    metavar="SHARE",
    default=0.1,
    show_default=True,
    help="Greatest share of all pairs that get a private edge; the most frequent pairs first.",
)
@click.option(
    "--level",
    type=Level(["char", "word", "bpe", "tokens"]),
    metavar="LEVEL",
    default="char",
    show_default=True,
    help="Tokenization: char (characters), word (words and punctuation), bpe (byte-level BPE) or tokens (lists of "
    "tokens in .jsonl).",
)
@click.option("--lowercase", is_flag=True, help="With --level word, read upper-case letters as lower-case ones.")
@click.option(
    "--width",
    type=Integer(min=2),
    metavar="N",
    help="Width of the signal; an even number. Multiples of 16 up to 128 are computed several times faster.  "
    "[default: 48; with another --signal than recurrent: 32]",
)
@click.option(
    "--min-count",
    type=Integer(min=1),
    metavar="N",
    default=1,
    show_default=True,
    help="Minimum count of a pair for a private edge.",
)
@click.option(
    "--length",
    type=Integer(min=2),
    metavar="N",
    default=32,
    show_default=True,
    help="Tokens per chunk of training text.",
)
@click.option(
    "--holdout",
    type=Float(min=0, max=1, max_open=True),
    metavar="SHARE",
    default=0.01,
    show_default=True,
    help="Share of the documents held out for evaluation: not counted and not trained on.",
)
@click.option(
    "--init",
    type=click.Choice(["counts", "uniform"]),
    metavar="HOW",
    default="counts",
    show_default=True,
    help="Initial parameters: counts (a smoothed bigram model) or uniform (U(-0.5, 0.5), as in the paper).",
)
@click.option(
    "--signal",
    type=click.Choice(["recurrent", "tuned", "paper", "paper-v1", "brillm05"]),
    metavar="PRESET",
    default="recurrent",
    show_default=True,
    help="The model: recurrent (all edges share a recurrence: the lowest perplexity), tuned (each edge has a matrix of "
    "its own), paper, paper-v1 or brillm05 (the released code).",
)
@click.option(
    "--clones",
    type=Integer(min=0),
    metavar="N",
    help="With --signal recurrent, at most N nodes split by the one or two nodes before them, where that predicts the "
    "text better; 0: none.  [default: 500,000, or one for every 10 tokens of the text if that is more]",
)
@reading_options(default="guessed from the text, and said", field_default="text")
@seed_option("Seed of the random numbers.", default=0)
@force_option("Replace an existing graph.")
@common_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    corpus: tuple[str, ...],
    reading: Reading,
    store: Path,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Build a new graph: count the tokens and pairs of a corpus, select the private edges, write the store.

    CORPUS: texts in UTF-8 of any kind, JSON lines and CSV (--field), also compressed (.gz, .xz, .bz2, .zst); folders
    of them; - for stdin; or a corpus that is part of sifu: tang (Chinese poems, the default) or wordnet (English).
    """
    texts = corpus_of(corpus, reading)
    from sifu_graph.build import build_graph  # after the check of the files, which needs less

    with interrupted_as("nothing is left of the new graph"), Progress(quiet=quiet) as progress:
        report = build_graph(texts or "tang", store, **options, command=logged(ctx), progress=progress)
    for note in report.notes:
        say(f"note: {note}", quiet=quiet)
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    print_table(
        [
            ("nodes", number(report.nodes), ""),
            ("dense parameters", number(report.dense_parameters), "with a private edge for every pair of nodes"),
            ("private edges", number(report.private_edges), f"of {report.distinct_pairs:,} distinct pairs in the text"),
            ("stored parameters", number(report.stored_parameters), shared_note(report.base_parameters)),
            ("ratio", percent(report.ratio), "stored / dense parameters"),
            ("coverage", percent(report.coverage), "of the pairs in the text have a private edge"),
            *([("clones", number(report.clones), "nodes split by the nodes before them")] if report.clones else []),
            ("corpus tokens", number(report.corpus_tokens), ""),
            ("held-out tokens", number(report.heldout_tokens), "not counted, not trained on"),
            ("unknown tokens", percent(report.unknown_share), "of the tokens are not nodes"),
            ("store", format_bytes(report.store_bytes), report.path),
            ("time", duration(report.seconds), ""),
            ("snapshot", report.snapshot[:8], ""),
        ]
    )
