"""``sifu build-graph``: a corpus in, a new graph out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from sifu_cli.options import Number, json_option, logged, quiet_option, store_option
from sifu_cli.screen import duration, number, percent, print_json, print_table, say, size


@click.command(
    "build-graph",
    short_help="Count a corpus, pick the private edges, write a new graph.",
    epilog="""\b
Example:
  sifu build-graph --vocab 4000 --sparsify 0.1 poems/ more.txt.gz
""",
)
@click.argument("corpus", nargs=-1, metavar="[CORPUS ...]")
@click.option(
    "--vocab",
    type=Number(int, least=3),
    metavar="N",
    default=4000,
    show_default=True,
    help="Nodes: the most frequent tokens, and two special ones.",
)
@click.option(
    "--sparsify",
    type=Number(float, least=0, most=1),
    metavar="SHARE",
    default=0.1,
    show_default=True,
    help="At most this share of all pairs gets a private edge, the most frequent first.",
)
@click.option(
    "--level",
    type=click.Choice(["char", "bpe", "tokens"]),
    metavar="LEVEL",
    default="char",
    show_default=True,
    help="What a token is: char, bpe (byte-level) or tokens (lists of tokens, from .jsonl).",
)
@click.option(
    "--width",
    type=Number(int, least=2),
    metavar="N",
    default=32,
    show_default=True,
    help="Width of the signal, an even number.",
)
@click.option(
    "--min-count",
    type=Number(int, least=1),
    metavar="N",
    default=1,
    show_default=True,
    help="A private edge stands for a pair that occurs at least so often.",
)
@click.option(
    "--length",
    type=Number(int, least=2),
    metavar="N",
    default=32,
    show_default=True,
    help="Tokens in a chunk of training text.",
)
@click.option(
    "--holdout",
    type=Number(float, least=0, below=1),
    metavar="SHARE",
    default=0.01,
    show_default=True,
    help="Share of the documents kept for evaluation, never counted and never trained on.",
)
@click.option(
    "--init",
    type=click.Choice(["counts", "uniform"]),
    metavar="HOW",
    default="counts",
    show_default=True,
    help="counts: the new graph is a smoothed bigram model; uniform: U(-0.5, 0.5), as in the paper.",
)
@click.option(
    "--signal",
    type=click.Choice(["paper", "paper-v1", "brillm05", "tuned"]),
    metavar="PRESET",
    default="tuned",
    show_default=True,
    help="The mathematics: paper, paper-v1, brillm05 (the released code) or tuned.",
)
@click.option(
    "--seed",
    type=Number(int, least=0),
    metavar="N",
    default=0,
    show_default=True,
    help="Decides all that is random.",
)
@click.option("--force", is_flag=True, help="Replace the graph that is there.")
@store_option
@quiet_option
@json_option
@click.pass_context
def command(
    ctx: click.Context, /, *, corpus: tuple[str, ...], store: Path, quiet: bool, as_json: bool, **options: Any
) -> None:
    """Count a corpus, pick the private edges, write a new graph.

    CORPUS: .txt or .jsonl files (plain, .gz or .xz), folders, - for stdin, or a corpus that comes with sifu:
    tang (Chinese poems, the default) or wordnet (English). One line is one document.
    """
    from sifu_graph.build import build_graph

    report = build_graph(
        corpus or ("tang",), store, **options, command=logged(ctx), say=lambda line: say(line, quiet=quiet)
    )
    for note in report.notes:
        say(f"note: {note}", quiet=quiet)
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    print_table(
        [
            ("nodes", number(report.nodes), ""),
            ("dense parameters", number(report.dense_parameters), "if every pair of nodes had its own"),
            ("private edges", number(report.private_edges), f"of {report.distinct_pairs:,} pairs that occur"),
            ("stored parameters", number(report.stored_parameters), ""),
            ("ratio", percent(report.ratio), "stored of dense"),
            ("coverage", percent(report.coverage), "of the pairs in the text run over private edges"),
            ("corpus tokens", number(report.corpus_tokens), ""),
            ("held-out tokens", number(report.heldout_tokens), "never counted, never trained on"),
            ("unknown tokens", percent(report.unknown_share), "are not among the nodes"),
            ("store", size(report.store_bytes), report.path),
            ("time", duration(report.seconds), ""),
            ("snapshot", report.snapshot[:8], ""),
        ]
    )
