"""``sifu info``: what the graph is, and where it stands."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from sifu_cli.options import at_option, json_option, opened, quiet_option, store_option
from sifu_cli.screen import Row, number, percent, print_json, print_table, size


@click.command(
    "info",
    short_help="What the graph is, and how far it is trained.",
    epilog="""\b
Examples:
  sifu info --json | python -m json.tool
  sifu info --card
""",
)
@click.option("--card", is_flag=True, help="A model card instead: Markdown, with scores on part of the held-out text.")
@at_option
@store_option
@quiet_option
@json_option
def command(*, card: bool, at: str | None, store: Path, quiet: bool, as_json: bool) -> None:
    """What the graph is: its size, its settings, how far it is trained."""
    with opened(store, at=at) as graph:
        if card:
            from sifu_graph.card import model_card

            page = model_card(graph)
            if as_json:
                print_json({"card": page})
            else:
                click.echo(page, nl=False)
            return
        info = graph.info()
    if as_json:
        print_json({**dataclasses.asdict(info), "training": info.settings["training"]})
        return
    build = info.settings["build"]
    print_table(
        [
            ("nodes", number(info.nodes), f"level {build['level']}"),
            ("width", number(info.width), ""),
            ("dense parameters", number(info.dense_parameters), "if every pair of nodes had its own"),
            ("private edges", number(info.private_edges), f"--sparsify {build['sparsify']:g}"),
            ("stored parameters", number(info.stored_parameters), ""),
            ("ratio", percent(info.ratio), "stored of dense"),
            ("coverage", percent(info.coverage), "of the pairs in the text run over private edges"),
            ("corpus tokens", number(info.corpus_tokens), _corpus(build)),
            (
                "signal",
                build["signal_preset"] or "own",
                f"initialised from {info.settings['initial']['method']}",
            ),
            *_training(info.settings["training"]),
            ("trained pages", number(info.trained_pages), f"of {info.pages:,}"),
            ("store", size(info.store_bytes), info.path),
            ("format", number(info.format_version), f"written by {info.settings['created_by']}"),
            ("branch", info.branch, "" if info.newest else "the snapshot below is an older one"),
            ("snapshot", info.snapshot[:8], ""),
        ]
    )


def _corpus(build: dict[str, Any]) -> str:
    sources = build["corpus"]["sources"]
    if not sources:
        return f"imported from {build['imported']['from']}"
    names = [source["name"] for source in sources[:2]]
    return ", ".join(names) + (f" and {len(sources) - 2} more" if len(sources) > 2 else "")


def _training(training: dict[str, Any] | None) -> list[Row]:
    if training is None:
        return [("trained", "no", "sifu train")]
    optimizer = training["optimizer"]
    return [
        ("trained steps", number(training["step"]), f"{optimizer['kind']}, lr {optimizer['lr']:g}"),
        ("trained tokens", number(training["tokens"]), f"batch {training['batch']:,}"),
    ]
