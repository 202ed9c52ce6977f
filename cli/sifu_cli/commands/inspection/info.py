"""``sifu info``: shows size, settings and training state of the graph."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click
from sifu_store.durable import format_bytes

from sifu_cli.opening import open_graph
from sifu_cli.options import at_option, common_options
from sifu_cli.output.formats import number, percent, shared_note
from sifu_cli.output.progress import Progress
from sifu_cli.output.results import Row, print_json, print_table
from sifu_cli.output.terminal import echo_text

if TYPE_CHECKING:
    from sifu_graph.graph_info import GraphInfo
    from sifu_graph.settings import BuildSettings, GraphSettings


@click.command(
    "info",
    short_help="Show size, settings and training state of the graph.",
    epilog="""\b
Examples:
  sifu info --json | python -m json.tool
  sifu info --card
""",
)
@click.option("--card", is_flag=True, help="Print a model card in Markdown, with scores on part of the held-out text.")
@at_option
@common_options
def command(*, card: bool, at: str | None, store: Path, quiet: bool, as_json: bool) -> None:
    """Show size, settings and training state of the graph."""
    with open_graph(store, at=at) as graph:
        if card:
            from sifu_graph.card import model_card

            with Progress(quiet=quiet, stages=False) as progress:
                page = model_card(graph, progress=progress)
            if as_json:
                print_json({"card": page})
            else:
                echo_text(page, nl=False)
            return
        info = graph.info()
    if as_json:
        print_json({**dataclasses.asdict(info), "training": info.settings["training"]})
        return
    build = info.settings["build"]
    print_table(
        [
            (
                "nodes",
                number(info.nodes),
                f"level {build['level']}" + (", in lower case" if build.get("lowercase") else ""),
            ),
            ("width", number(info.width), ""),
            ("dense parameters", number(info.dense_parameters), "with a private edge for every pair of nodes"),
            ("private edges", number(info.private_edges), f"--sparsify {build['sparsify']:g}"),
            ("stored parameters", number(info.stored_parameters), shared_note(info.base_parameters)),
            *([("clones", number(info.clones), "nodes split by the nodes before them")] if info.clones else []),
            ("ratio", percent(info.ratio), "stored / dense parameters"),
            ("coverage", percent(info.coverage), "of the pairs in the text have a private edge"),
            ("corpus tokens", number(info.corpus_tokens), _corpus(build)),
            (
                "signal",
                build["signal_preset"] or "custom",
                f"initial parameters from {info.settings['initial']['method']}",
            ),
            *_training(info.settings),
            _perplexity(info),
            ("trained pages", number(info.trained_pages), f"of {info.pages:,}"),
            ("stored as", info.precision, f"codec {info.codec}; {format_bytes(info.page_bytes)} on disk"),
            ("store", format_bytes(info.store_bytes), info.path),
            _text(info),
            ("format", number(info.format_version), f"written by {info.settings['created_by']}"),
            ("branch", info.branch, "" if info.newest else "this snapshot is not its newest"),
            ("snapshot", info.snapshot[:8], ""),
        ]
    )


def _perplexity(info: GraphInfo) -> Row:
    if info.heldout_perplexity is None:
        return ("perplexity", "-", "not recorded with this snapshot: sifu eval computes it")
    return ("perplexity", number(info.heldout_perplexity, 1), "held-out, recorded by the training")


def _text(info: GraphInfo) -> Row:
    if not info.text_bytes:
        return ("text inside", "no", "only counts of its tokens, pairs and clones")
    how = "encoded, and a copy of it," if info.text_copied else "encoded,"
    return (
        "text inside",
        format_bytes(info.text_bytes),
        f"{how} in the folder cache; sifu export slim leaves it out",
    )


def _corpus(build: BuildSettings) -> str:
    sources = build["corpus"]["sources"]
    if not sources:
        return f"imported from {build['imported']['from']}"
    names = [source["name"] for source in sources[:2]]
    return ", ".join(names) + (f" and {len(sources) - 2} more" if len(sources) > 2 else "")


def _training(settings: GraphSettings) -> list[Row]:
    training = settings["training"]
    if training is None and "imported" in settings["build"]:
        return [("trained", "-", "imported; sifu eval FILE measures it")]
    if training is None:
        return [("trained", "no", "train it with sifu train")]
    optimizer = training["optimizer"]
    return [
        ("trained steps", number(training["step"]), f"{optimizer['kind']}, lr {optimizer['lr']:g}"),
        ("trained tokens", number(training["tokens"]), f"batch {training['batch']:,}"),
    ]
