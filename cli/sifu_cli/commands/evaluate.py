"""``sifu eval``: how well the graph predicts text that it has not seen."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from sifu_cli.options import Number, at_option, json_option, memory_options, opened, quiet_option, store_option
from sifu_cli.screen import number, percent, print_cache, print_json, print_table, say


@click.command(
    "eval",
    short_help="Perplexity on text that the graph has not seen.",
    epilog="""\b
Examples:
  sifu eval
  sifu eval --limit 100000 other-poems.txt
""",
)
@click.argument("files", nargs=-1, metavar="[FILE ...]")
@click.option("--limit", type=Number(int, least=1), metavar="N", help="Stop after about so many tokens.")
@at_option
@memory_options
@store_option
@quiet_option
@json_option
def command(
    *,
    files: tuple[str, ...],
    limit: int | None,
    at: str | None,
    host_memory: str | None,
    scratch: Path | None,
    stats: bool,
    store: Path,
    quiet: bool,
    as_json: bool,
) -> None:
    """Perplexity on FILEs (default: the held-out part of the text that the graph was built from)."""
    with opened(store, at=at, host_memory=host_memory, scratch=scratch) as graph:
        where = "the held-out part of its corpus" if not files else ", ".join(files)
        what = f"{store} at {at}" if at else store
        say(f"evaluating {what} on {where}", quiet=quiet)
        report = graph.evaluate(list(files) or None, limit=limit)
        cache = graph.cache()
    if stats:
        print_cache(cache)
    if as_json:
        fields = {
            "perplexity": report.perplexity,
            "tokens": report.tokens,
            "bits_per_token": report.bits_per_token,
        }
        print_json({**fields, "top1": report.top1, "baselines": None, "cache": cache, **dataclasses.asdict(report)})
        return
    print_table(
        [
            ("perplexity", number(report.perplexity, 2), ""),
            ("bits per token", number(report.bits_per_token, 3), ""),
            ("top-1", percent(report.top1), "of the tokens are the graph's first guess"),
            ("tokens", number(report.tokens), f"predicted, {report.part}"),
            *([("left out", number(report.forbidden), "tokens whose edge is forbidden")] if report.forbidden else []),
        ]
    )
