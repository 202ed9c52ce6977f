"""``sifu eval --edits N``: measures what edits of the graph change, and what they leave."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource
from sifu_store.durable import format_bytes

from sifu_cli.opening import Resources
from sifu_cli.output.formats import number, percent
from sifu_cli.output.messages import say, warn
from sifu_cli.output.progress import Progress
from sifu_cli.output.results import Row, print_json, print_table

if TYPE_CHECKING:
    from sifu_graph.edit.counterfactuals import Share
    from sifu_graph.edit.evaluate_edits import EditsReport
    from sifu_graph.graph import Graph

WITH_EDITS = {"edits", "seed", "limit", "at", "store", "quiet", "as_json"}
"""Options that go with ``--edits``, beside those of `Resources`."""


def require_no_other(edits: int | None, seed: int | None) -> None:
    """Raise a usage error for an option or argument that does not go with ``--edits``, or for a seed without it."""
    ctx = click.get_current_context()
    if edits is None:
        if seed is not None:
            raise click.UsageError("--seed chooses the edits of --edits N: give both", ctx)
        return
    known = WITH_EDITS | {field.name for field in dataclasses.fields(Resources)}
    for param in ctx.command.params:
        name = param.name or ""
        if name not in known and ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            words = param.opts[-1] if isinstance(param, click.Option) else "FILE"
            raise click.UsageError(f"--edits measures on the held-out text of the graph alone: leave out {words}", ctx)


def evaluate_edits(graph: Graph, edits: int, *, limit: int | None, seed: int, quiet: bool, as_json: bool) -> None:
    """Measure edits, and print the report."""
    from sifu_graph.edit.evaluate_edits import TOKENS

    say(f"measuring edits on a copy of {graph.path}", quiet=quiet)
    with Progress(quiet=quiet, stages=False) as progress:
        report = graph.evaluate_edits(edits, limit=limit or TOKENS, seed=seed, progress=progress)
    for note in report.notes:
        warn(note)
    if as_json:
        print_json(dataclasses.asdict(report))
    else:
        print_table(_rows(report))


def _rows(report: EditsReport) -> list[Row]:
    def shares(label: str, found: Share, remark: str) -> Row:
        return label, "-" if found.share is None else percent(found.share), f"of {number(found.of)} {remark}"

    return [
        ("edits", number(report.edits), "one commit on a copy of the graph, which was deleted"),
        shares("efficacy", report.efficacy, "edited places: the new node beats the old winner"),
        shares("paraphrase", report.paraphrase, "other places of the same sources: the same"),
        shares("neighbourhood", report.neighbourhood, "places of other sources: the old winner stays ahead"),
        ("score", "-" if report.score is None else percent(report.score), "harmonic mean of the three"),
        shares("same bits", report.same_bits, "tokens of other sources: no bit of log p changes"),
        (
            "perplexity",
            number(report.perplexity_after, 1),
            f"before: {number(report.perplexity_before, 1)}; {number(report.tokens)} held-out tokens",
        ),
        ("time", f"{1000 * report.seconds_per_edit:,.1f} ms", "an edit"),
        ("disk", format_bytes(report.bytes_per_edit), f"an edit; the copy took {format_bytes(report.copied_bytes)}"),
        ("undo", "exact" if report.undo_exact else "not exact", "the log-probabilities of all tokens afterwards"),
    ]
