"""``sifu grow``: turns default edges that a text uses into private edges, and gives contexts of a text clones."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from sifu_cli.command_line import logged
from sifu_cli.number_types import Float, Integer
from sifu_cli.opening import open_graph
from sifu_cli.options import common_options, dry_run_option
from sifu_cli.output.edit_reports import common_rows, print_edit, prune_rows
from sifu_cli.output.messages import say
from sifu_cli.output.progress import Progress
from sifu_cli.texts import Reading, corpus_of, reading_options, say_notes


@click.command(
    "grow",
    short_help="Add private edges or clones that a text uses.",
    epilog="""\b
Examples:
  sifu grow --corpus new-poems.txt --to-ratio 0.1 --dry-run
  sifu grow --min-count 3
  sifu grow --clones 1000000
  sifu grow --corpus new-poems.txt --gain 0
""",
)
@click.option(
    "--corpus",
    multiple=True,
    metavar="FILE",
    help="The text. Can be repeated.  [default: the text that the graph was built from]",
)
@click.option(
    "--to-ratio",
    type=Float(min=0, max=1),
    metavar="SHARE",
    help="Greatest share of all pairs that are private, old and new edges together. The least useful old edges become "
    "default.",
)
@click.option(
    "--min-count",
    type=Integer(min=1),
    metavar="N",
    help="Minimum count of a pair.  [default: the value of the build]",
)
@click.option(
    "--init",
    type=click.Choice(["counts", "default"]),
    metavar="HOW",
    default="counts",
    show_default=True,
    help="Initial parameters: counts (energies that follow from the counts) or default (copies of the default edge).",
)
@click.option(
    "--clones",
    type=Integer(min=1),
    metavar="N",
    help="Give the contexts of the text that gain most clones, until the graph has N.",
)
@click.option(
    "--gain",
    type=Float(min=0),
    metavar="NATS",
    help="Give every context that is expected to gain more than this over the text a clone.",
)
@reading_options(default="as in the text of the build")
@dry_run_option
@common_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    corpus: tuple[str, ...],
    reading: Reading,
    to_ratio: float | None,
    min_count: int | None,
    init: Literal["counts", "default"],
    clones: int | None,
    gain: float | None,
    dry_run: bool,
    store: Path,
    quiet: bool,
    as_json: bool,
) -> None:
    """Turn the default edges that a text uses most into private edges; --to-ratio or --min-count sets how many.

    With --to-ratio, private edges with lower counts may become default edges.

    --clones or --gain gives contexts of the text clones, in a graph whose edges share a base. Another text than the
    graph's own is counted first, so that the graph also predicts that text better.

    With --dry-run, nothing changes. With it, and with clones, the perplexity on held-out text before and after is
    shown.
    """
    texts = corpus_of(corpus, reading)
    with open_graph(store) as graph, Progress(quiet=quiet) as progress:
        report = graph.grow(
            corpus=texts,
            to_ratio=to_ratio,
            min_count=min_count,
            init=init,
            clones=clones,
            gain=gain,
            evaluate=dry_run or clones is not None or gain is not None,
            progress=progress,
            dry_run=dry_run,
            command=logged(ctx),
        )
    say_notes(texts, quiet=quiet)
    if report.note:
        say(f"note: {report.note}", quiet=quiet)
    print_edit(report, [*prune_rows(report), *common_rows(report, store=store, nodes=False)], as_json=as_json)
