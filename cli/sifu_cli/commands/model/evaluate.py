"""``sifu eval``: measures how well the graph predicts held-out text."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sifu_cli.commands.model.evaluate_edits import evaluate_edits, require_no_other
from sifu_cli.number_types import Integer
from sifu_cli.opening import Resources, open_graph
from sifu_cli.options import at_option, common_options, resource_options, seed_option
from sifu_cli.output.cache_report import print_cache
from sifu_cli.output.formats import bits_remark, number, percent
from sifu_cli.output.messages import say, warn
from sifu_cli.output.progress import Progress
from sifu_cli.output.results import Row, print_json, print_table
from sifu_cli.output.tables import Column, Grid, print_grids
from sifu_cli.output.terminal import echo
from sifu_cli.texts import Reading, corpus_of, reading_options, say_notes

if TYPE_CHECKING:
    from sifu_graph.evaluation import EvalReport
    from sifu_graph.graph import Graph
    from sifu_graph.text.corpus import Corpus

REMARKS = {
    "uniform": "all nodes have the same probability",
    "unigram": "counts of single tokens",
    "kneser-ney-2": "counts of pairs (interpolated Kneser-Ney)",
    "kneser-ney-3": "counts of three consecutive tokens",
    "kneser-ney-4": "counts of four consecutive tokens",
}


@click.command(
    "eval",
    short_help="Measure the perplexity on held-out text, beside simple baselines.",
    epilog="""\b
Examples:
  sifu eval --baselines
  sifu eval --limit 100000 other-poems.txt
  sifu eval --against other.sifu --against @1CECHNKR
  sifu eval --edits 100
""",
)
@click.argument("files", nargs=-1, metavar="[FILE ...]")
@click.option(
    "--limit", type=Integer(min=1), metavar="N", help="Stop after N tokens.  [default: all; with --edits: 30,000]"
)
@click.option(
    "--baselines", "with_baselines", is_flag=True, help="Add unigram and Kneser-Ney models of the same training text."
)
@click.option(
    "--against",
    multiple=True,
    metavar="STORE[@SNAPSHOT]",
    help="Also evaluate another graph or snapshot on the same text (@SNAPSHOT: of this store). Can be repeated.",
)
@click.option(
    "--plot", metavar="FILE", type=click.Path(path_type=Path), help="Plot perplexity by position (.png, .svg, .pdf)."
)
@click.option(
    "--edits",
    type=Integer(min=1),
    metavar="N",
    help="Instead, make N edits on a copy of the graph and measure what they change: after a place of held-out text, "
    "another node than the one that wins there. The graph is not changed; the copy is in the temporary folder.",
)
@seed_option(default=None, help="Of the choice of edits, with --edits.  [default: 0]")
@reading_options(default="as in the text of the build")
@at_option
@resource_options
@common_options
def command(
    *,
    files: tuple[str, ...],
    reading: Reading,
    limit: int | None,
    with_baselines: bool,
    against: tuple[str, ...],
    plot: Path | None,
    edits: int | None,
    seed: int | None,
    at: str | None,
    resources: Resources,
    stats: bool,
    store: Path,
    quiet: bool,
    as_json: bool,
) -> None:
    """Measure the perplexity on FILEs (default: the held-out part of the text that the graph was built from).

    Perplexity is exp(mean loss per token): the number of equally likely tokens with the same loss. Lower is better.

    FILE: texts in UTF-8 of any kind, JSON lines and CSV (--field), also compressed (.gz, .xz, .bz2, .zst); folders of
    them; - for stdin; or a corpus that is part of sifu: tang or wordnet.
    """
    require_no_other(edits, seed)
    if edits is not None:
        with open_graph(store, at=at, resources=resources) as graph:
            evaluate_edits(graph, edits, limit=limit, seed=seed or 0, quiet=quiet, as_json=as_json)
        return
    if plot is not None:
        from sifu_graph.plot.figures import require_plotting

        require_plotting(plot)
    texts = corpus_of(files, reading)
    for name in against:
        _require_against(name)
    with open_graph(store, at=at, resources=resources) as graph:
        where = "the held-out part of its corpus" if not files else ", ".join(files)
        say(f"evaluating {store}{f' at {at}' if at else ''} on {where}", quiet=quiet)
        nodes = int(graph.settings["nodes"])
        with Progress(quiet=quiet, stages=False) as progress:
            report = graph.evaluate(texts, limit=limit, with_baselines=with_baselines, progress=progress)
        reports: dict[str, EvalReport] = {str(store): report}
        cache = graph.cache()
        options: dict[str, Any] = {"resources": resources, "texts": texts, "limit": limit, "quiet": quiet}
        reports |= {name: _other(name, graph, first=report, **options) for name in against}
        say_notes(texts, quiet=quiet)
    if stats:
        print_cache(cache)
    if plot is not None:
        from sifu_graph.plot.evaluation import plot_positions

        plot_positions(reports, plot)
        say(f"wrote {plot}", quiet=quiet)
    for note in report.notes:
        warn(note)
    if as_json:
        print_json({**_fields(reports), "nodes": nodes, "cache": cache})
        return
    print_table(_rows(report))
    if with_baselines or against:
        echo()
        print_grids(_comparison(reports, nodes=nodes, with_baselines=with_baselines))


def _require_against(name: str) -> None:
    """Check that the store of STORE[@SNAPSHOT] exists, before anything is evaluated."""
    from sifu_store.errors import StoreError
    from sifu_store.places import require_store

    path = name.partition("@")[0]
    try:
        require_store(Path(path)) if path else None
    except StoreError:
        expected = "expected STORE, STORE@SNAPSHOT or @SNAPSHOT (of this store)"
        raise click.BadParameter(
            f"{path} is no graph: {expected}", click.get_current_context(), param_hint="'--against'"
        ) from None


def _other(
    name: str,
    graph: Graph,
    *,
    resources: Resources,
    first: EvalReport,
    texts: Corpus | None,
    limit: int | None,
    quiet: bool,
) -> EvalReport:
    """Evaluate another graph, STORE[@SNAPSHOT], on the same documents."""
    path, _, snapshot = name.partition("@")
    say(f"evaluating {name}", quiet=quiet)
    with open_graph(Path(path or graph.path), at=snapshot or None, resources=resources) as other:
        mine, theirs = graph.settings["build"], other.settings["build"]
        if texts is None and (mine["corpus"], mine["holdout"]) != (theirs["corpus"], theirs["holdout"]):
            warn(f"{name} was built from another text or another held-out part: its training text may contain this one")
        with Progress(quiet=quiet, stages=False) as progress:
            report = other.evaluate(texts, limit=limit, like=graph if texts is None else None, progress=progress)
        if graph.tokenizer.fingerprint != other.tokenizer.fingerprint:
            warn(f"{name} has another tokenizer: {_comparable(first, report)}")
    for note in report.notes:
        warn(f"{name}: {note}")
    return report


def _comparable(*reports: EvalReport) -> str:
    """Which figures of graphs with other tokenizers can be compared."""
    if any(bits_remark(report.unknown_share) for report in reports):
        return "neither the perplexity nor the bits per character can be compared, because many tokens are unknown"
    return "compare the bits per character, not the perplexity"


def _fields(reports: dict[str, EvalReport]) -> dict[str, Any]:
    """The JSON object of the reports, of which the first is that of the graph."""
    report, *others = map(dataclasses.asdict, reports.values())
    first = {name: report[name] for name in ("perplexity", "tokens", "bits_per_token", "top1")}
    against = [{"store": name, **other} for name, other in zip(list(reports)[1:], others, strict=True)]
    return {**first, **report, "against": against}


def _rows(report: EvalReport) -> list[Row]:
    rows = [
        ("perplexity", number(report.perplexity, 1), "lower is better"),
        *_unknown_rows(report),
        ("bits per token", number(report.bits_per_token, 3), ""),
        ("bits per character", number(report.bits_per_character, 3), bits_remark(report.unknown_share)),
        ("top-1", percent(report.top1), "of the tokens are the most probable candidate"),
        ("top-5", percent(report.top5), "are among the five most probable candidates"),
        ("tokens", number(report.tokens), f"predicted, {report.part}"),
    ]
    if report.forbidden:
        rows.append(("left out", number(report.forbidden), "tokens whose edge is forbidden"))
    if report.bits_per_character is None:
        rows = [row for row in rows if row[0] != "bits per character"]
    for label, part in (("private edges", report.private), ("default edge", report.default)):
        if part.tokens:
            remark = f"of the tokens; perplexity {number(part.perplexity, 1)}"
            rows.append((label, percent(part.tokens / report.tokens), remark))
    return rows


def _unknown_rows(report: EvalReport) -> list[Row]:
    if not report.unknown_share:
        return []
    known = number(report.known.perplexity, 1)
    return [
        ("  without unknown", known, "perplexity of the tokens that are nodes of the graph"),
        ("unknown", percent(report.unknown_share), "of the tokens are not nodes of the graph"),
    ]


def _comparison(reports: dict[str, EvalReport], *, nodes: int, with_baselines: bool) -> Grid:
    """A table of the perplexity of every model, the highest first; without unknown tokens, where there are some."""
    found: list[tuple[str, float, float, float | None, str]] = [
        (name, report.perplexity, report.known.perplexity, report.bits_per_character, "the graph" if i == 0 else "")
        for i, (name, report) in enumerate(reports.items())
    ]
    if with_baselines:
        first = next(iter(reports.values()))
        characters = first.tokens / first.characters if first.characters else None
        uniform: Any = math.log2(nodes) * characters if characters else None
        found.append(("uniform", float(nodes), float(nodes), uniform, REMARKS["uniform"]))
        found += [
            (b.name, b.perplexity, b.known_perplexity, b.bits_per_character, REMARKS[b.name]) for b in first.baselines
        ]
    found.sort(key=lambda row: -row[1])
    unknown = any(report.unknown_share for report in reports.values())
    columns = [Column("model", right=False), Column("perplexity"), Column("bits/character", drop=2)]
    if unknown:
        columns.append(Column("without unknown"))
    table = Grid([*columns, Column("lowest perplexity last", right=False, drop=1)])
    for name, perplexity, known, bits, remark in found:
        cells = [name, number(perplexity, 1), number(bits, 3)]
        table.add(*cells, *([number(known, 1)] if unknown else []), remark)
    return table
