"""``sifu add-node``: adds nodes."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from sifu_cli.command_line import logged
from sifu_cli.number_types import Integer
from sifu_cli.opening import open_graph
from sifu_cli.options import common_options, dry_run_option
from sifu_cli.output.edit_reports import common_rows, print_edit
from sifu_cli.output.formats import number, printable
from sifu_cli.output.messages import say
from sifu_cli.output.progress import Progress
from sifu_cli.texts import Reading, corpus_of, reading_options, say_notes


@click.command(
    "add-node",
    short_help="Add nodes: without edges, like another node, or from a text.",
    epilog="""\b
Examples:
  sifu add-node 龘 --like 龍
  sifu add-node 江南 --corpus tang --dry-run
  sifu add-node --from words.txt
""",
)
@click.argument("tokens", nargs=-1, metavar="[TOKEN ...]")
@click.option("--from", "source", metavar="FILE", help="Read more tokens from a file, one per line; - for stdin.")
@click.option(
    "--like", metavar="NODE", help="Copy the private edges in both directions, the bias and the counts of NODE."
)
@click.option(
    "--corpus",
    multiple=True,
    metavar="FILE",
    help="Count the pairs of the new nodes in this text: frequent pairs get private edges, with energies that follow "
    "from the counts. Can be repeated.",
)
@click.option(
    "--kind", metavar="KIND", default="text", show_default=True, help="Kind of the new nodes: text, image, ..."
)
@click.option(
    "--train-steps",
    type=Integer(min=0),
    metavar="N",
    default=0,
    show_default=True,
    help="Then train the edges of the new nodes, and no others, for N steps.",
)
@reading_options(default="as in the text of the build")
@dry_run_option
@common_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    tokens: tuple[str, ...],
    source: str | None,
    like: str | None,
    corpus: tuple[str, ...],
    reading: Reading,
    kind: str,
    train_steps: int,
    dry_run: bool,
    store: Path,
    quiet: bool,
    as_json: bool,
) -> None:
    """Add a node for each TOKEN: a character, a word, or a name of another kind (<image:7>).

    The tokenizer matches new nodes before all others, the longest first. Without --like and --corpus, all edges of a
    new node are default edges. The command makes one commit, or none if there is an error.
    """
    every = [*tokens, *_lines(ctx, source)]
    if not every:
        raise click.UsageError("no tokens: give at least one token, or a file of tokens with --from", ctx)
    texts = corpus_of(corpus, reading)
    with open_graph(store) as graph, Progress(quiet=quiet, stages=False) as progress:
        report = graph.add_node(
            *every,
            like=like,
            corpus=texts,
            kind=kind,
            train_steps=train_steps,
            progress=progress,
            dry_run=dry_run,
            command=logged(ctx),
        )
    say_notes(texts, quiet=quiet)
    if report.missing:
        shown = ", ".join(map(printable, report.missing[:10]))
        missing = len(report.missing)
        what = "1 token does not occur" if missing == 1 else f"{missing:,} tokens do not occur"
        say(f"note: {what} in the corpus ({shown}): only default edges lead there", quiet=quiet)
    added = ", ".join(map(printable, report.nodes_added[:8])) + (" ..." if len(report.nodes_added) > 8 else "")
    rows = [("added", number(len(report.nodes_added)), added)]
    rows.append(
        ("new private edges", number(report.private_edges_added), f"copied from {printable(like)}" if like else "")
    )
    if report.occurrences is not None:
        rows.append(("occurrences", number(report.occurrences), "in the corpus"))
    print_edit(report, [*rows, *common_rows(report, store=store)], as_json=as_json)


def _lines(ctx: click.Context, source: str | None) -> list[str]:
    """The lines of a file that are not empty."""
    if source is None:
        return []
    from sifu_store.errors import CorpusError

    from sifu_graph.input_file import read_small
    from sifu_graph.text.text_blocks import decode_text

    try:
        content = sys.stdin.buffer.read() if source == "-" else read_small(Path(source))
        return [line for line in decode_text(content, name=source).splitlines() if line]
    except CorpusError as error:
        raise click.UsageError(f"{error}, one token per line", ctx) from error
