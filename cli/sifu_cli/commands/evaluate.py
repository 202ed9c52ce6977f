"""``sifu eval``: how well the graph predicts text that it has not seen."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sifu_cli.options import Number, at_option, json_option, memory_options, opened, quiet_option, store_option
from sifu_cli.screen import Row, number, percent, print_cache, print_json, print_table, say, warn

if TYPE_CHECKING:
    from sifu_graph.evaluation import EvalReport
    from sifu_graph.graph import Graph

REMARKS = {
    "uniform": "every node is as likely as any other",
    "unigram": "counts of single tokens",
    "kneser-ney-2": "counts of pairs (interpolated Kneser-Ney)",
    "kneser-ney-3": "counts of three tokens in a row",
    "kneser-ney-4": "counts of four tokens in a row",
}


@click.command(
    "eval",
    short_help="Perplexity on text that the graph has not seen, beside plain baselines.",
    epilog="""\b
Examples:
  sifu eval --baselines
  sifu eval --limit 100000 other-poems.txt
  sifu eval --against other.sifu --against @1CECHNKR
""",
)
@click.argument("files", nargs=-1, metavar="[FILE ...]")
@click.option("--limit", type=Number(int, least=1), metavar="N", help="Stop after about so many tokens.")
@click.option(
    "--baselines", "with_baselines", is_flag=True, help="Add unigram and Kneser-Ney models of the same training text."
)
@click.option(
    "--against",
    multiple=True,
    metavar="STORE[@SNAPSHOT]",
    help="Evaluate another graph, or another snapshot, on the same text (@SNAPSHOT: of this store). Can be repeated.",
)
@click.option(
    "--plot", metavar="FILE", type=click.Path(path_type=Path), help="Draw perplexity by position (.png, .svg, .pdf)."
)
@at_option
@memory_options
@store_option
@quiet_option
@json_option
def command(
    *,
    files: tuple[str, ...],
    limit: int | None,
    with_baselines: bool,
    against: tuple[str, ...],
    plot: Path | None,
    at: str | None,
    host_memory: str | None,
    scratch: Path | None,
    device: str,
    device_memory: str | None,
    precision: str,
    stats: bool,
    store: Path,
    quiet: bool,
    as_json: bool,
) -> None:
    """Perplexity on FILEs (default: the held-out part of the text that the graph was built from).

    Perplexity is how many equally likely tokens the graph hesitates between: the lower, the better.
    """
    if plot is not None:
        from sifu_graph.plot.figures import require_plotting

        require_plotting(plot)
    reports: dict[str, EvalReport] = {}
    with opened(
        store, at=at, host_memory=host_memory, scratch=scratch, device=device, device_memory=device_memory,
        precision=precision,
    ) as graph:  # fmt: skip
        where = "the held-out part of its corpus" if not files else ", ".join(files)
        what = f"{store} at {at}" if at else store
        say(f"evaluating {what} on {where}", quiet=quiet)
        nodes = int(graph.settings["nodes"])
        report = graph.evaluate(list(files) or None, limit=limit, with_baselines=with_baselines)
        reports[str(store)] = report
        cache = graph.cache()
        for name in against:
            reports[name] = _other(name, graph, files=files, limit=limit, quiet=quiet)
    if stats:
        print_cache(cache)
    if plot is not None:
        from sifu_graph.plot.evaluation import plot_positions

        plot_positions(reports, plot)
        say(f"drawn: {plot}", quiet=quiet)
    if as_json:
        others = [{"store": name, **dataclasses.asdict(other)} for name, other in list(reports.items())[1:]]
        fields = {name: getattr(report, name) for name in ("perplexity", "tokens", "bits_per_token", "top1")}
        print_json({**fields, **dataclasses.asdict(report), "nodes": nodes, "against": others, "cache": cache})
        return
    print_table(_rows(report))
    if with_baselines or against:
        click.echo()
        print_table(_comparison(reports, nodes=nodes, with_baselines=with_baselines))


def _other(name: str, graph: Graph, *, files: tuple[str, ...], limit: int | None, quiet: bool) -> EvalReport:
    """Another graph on the same documents."""
    from sifu_graph.graph import Graph

    path, _, snapshot = name.partition("@")
    say(f"evaluating {name}", quiet=quiet)
    with Graph.open(path or graph.path, at=snapshot or None) as other:
        mine, theirs = graph.settings["build"], other.settings["build"]
        if not files and (mine["corpus"], mine["holdout"]) != (theirs["corpus"], theirs["holdout"]):
            warn(f"{name} was built from another text or another held-out part: it may have seen what it is asked here")
        if mine["level"] != theirs["level"] or graph.tokenizer.fingerprint != other.tokenizer.fingerprint:
            warn(f"{name} cuts text into other tokens: compare the bits per character, not the perplexity")
        return other.evaluate(list(files) or None, limit=limit, like=None if files else graph)


def _rows(report: EvalReport) -> list[Row]:
    rows = [
        ("perplexity", number(report.perplexity, 1), "tokens that it hesitates between; lower is better"),
        ("bits per token", number(report.bits_per_token, 3), ""),
        ("bits per character", number(report.bits_per_character, 3), ""),
        ("top-1", percent(report.top1), "of the tokens are the graph's first guess"),
        ("top-5", percent(report.top5), "are among its first five"),
        ("tokens", number(report.tokens), f"predicted, {report.part}"),
    ]
    if report.forbidden:
        rows.append(("left out", number(report.forbidden), "tokens whose edge is forbidden"))
    if report.bits_per_character is None:
        del rows[2]
    for label, part in (("private edges", report.private), ("default edge", report.default)):
        if part.tokens:
            remark = f"of the tokens are reached so: perplexity {number(part.perplexity, 1)}"
            rows.append((label, percent(part.tokens / report.tokens), remark))
    return rows


def _comparison(reports: dict[str, EvalReport], *, nodes: int, with_baselines: bool) -> list[Row]:
    """Perplexities, the worst first, so that one sees what has been beaten."""
    found: list[tuple[str, float, float | None, str]] = [
        (name, report.perplexity, report.bits_per_character, "the graph" if i == 0 else "")
        for i, (name, report) in enumerate(reports.items())
    ]
    if with_baselines:
        first = next(iter(reports.values()))
        characters = first.tokens / first.characters if first.characters else None
        uniform: Any = math.log2(nodes) * characters if characters else None
        found.append(("uniform", float(nodes), uniform, REMARKS["uniform"]))
        found += [(b.name, b.perplexity, b.bits_per_character, REMARKS[b.name]) for b in first.baselines]
    found.sort(key=lambda row: -row[1])
    return [
        ("model", "perplexity  bits/character", "the best last"),
        *(
            (name, f"{number(perplexity, 1)}  {number(bits, 3):>14}", remark)
            for name, perplexity, bits, remark in found
        ),
    ]
