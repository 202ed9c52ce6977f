"""The paper's table of sizes at its scale, with what the paper does not give: perplexities of held-out text.

    python benchmarks/paper_table.py                              # the shipped texts: Tang and WordNet
    python benchmarks/paper_table.py --chinese zh_tang.txt.xz zh_song.txt.xz --english en_wordnet.txt.xz en_gcide.txt.xz
    python benchmarks/paper_table.py --minutes 20 --signals paper recurrent

Each graph has 4,000 nodes of width 32, the share of private edges that the paper names (13.0 % of all pairs in Chinese,
5.7 % in English; fewer where the text has fewer pairs), and initial parameters from counts. It is evaluated as built,
and after ``--minutes`` of training. The table is printed, and written with its numbers to ``--output``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sifu_graph import Graph, build_graph
from sifu_graph.config import PRESETS

HERE = Path(__file__).resolve().parent
WIDTH = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """A graph of the paper: the share of pairs with a private edge, and the parameters that are stored."""

    level: Literal["char", "bpe"]
    share: float
    parameters: float


PAPER = {
    "Chinese": Paper(level="char", share=0.130, parameters=2.19e9),
    "English": Paper(level="bpe", share=0.057, parameters=0.96e9),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One graph: its size, and its perplexity on ``tokens`` held-out tokens, as built and after training."""

    language: str
    corpus: list[str]
    signal: str
    nodes: int
    private_edges: int
    share: float
    dense_parameters: int
    stored_parameters: int
    tokens: int
    before: float
    after: float | None = None
    trained_tokens: int = 0
    kneser_ney: list[float] = field(default_factory=list)


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--chinese", nargs="+", default=["tang"], help="files or shipped corpora (default: tang)")
    parser.add_argument("--english", nargs="+", default=["wordnet"], help="files or shipped corpora (default: wordnet)")
    parser.add_argument("--signals", nargs="+", choices=list(PRESETS), default=["paper"], help="default: paper")
    parser.add_argument("--nodes", type=int, default=4000, help="default: 4000, as in the paper")
    parser.add_argument("--minutes", type=float, default=0.0, help="of training for each graph (default: 0)")
    parser.add_argument("--limit", type=int, default=20_000, help="held-out tokens of a score (default: 20,000)")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "paper", help="folder of the table")
    parser.add_argument("--work", type=Path, help="folder for the graphs, which are deleted (default: a temporary one)")
    return parser.parse_args(arguments)


def measured(language: str, signal: str, options: argparse.Namespace, folder: Path) -> Row:
    """Builds a graph, trains it if that is asked for, and evaluates it."""
    paper, corpus = PAPER[language], getattr(options, language.lower())
    store = folder / f"{language}-{signal}.sifu"
    built = build_graph(
        corpus,
        store,
        vocab=options.nodes,
        sparsify=paper.share,
        level=paper.level,
        signal=signal,
        width=WIDTH,
        force=True,
    )
    with Graph.open(store) as graph:
        first = graph.evaluate(limit=options.limit, with_baselines=True)
        row = Row(
            language=language,
            corpus=[Path(name).name for name in corpus],
            signal=signal,
            nodes=built.nodes,
            private_edges=built.private_edges,
            share=built.private_edges / built.nodes**2,
            dense_parameters=built.nodes**2 * (WIDTH**2 + WIDTH),
            stored_parameters=built.stored_parameters,
            tokens=first.tokens,
            before=first.perplexity,
            kneser_ney=[one.perplexity for one in first.baselines if one.name.startswith("kneser-ney")],
        )
        if not options.minutes:
            return row
        report = graph.train(minutes=options.minutes)
        return dataclasses.replace(
            row, after=graph.evaluate(limit=options.limit).perplexity, trained_tokens=report.tokens_done
        )


def markdown(rows: list[Row], minutes: float) -> str:
    """The table; the paper's figures in brackets."""
    lines = [
        "| text | preset | nodes | private edges | of all pairs (paper) | parameters, dense | stored (paper) "
        f"| perplexity, as built | {f'after {minutes:g} minutes | ' if minutes else ''}Kneser-Ney of order 2 / 3 / 4 |",
        "|---|---|---|---|---|---|---|---|---|" + "---|" * bool(minutes),
    ]
    for row in rows:
        paper = PAPER[row.language]
        after = "" if row.after is None else f"| **{row.after:,.1f}** "
        lines.append(
            f"| {row.language}: {', '.join(row.corpus)} | `{row.signal}` | {row.nodes:,} | {row.private_edges:,} "
            f"| {row.share:.1%} ({paper.share:.1%}) | {row.dense_parameters / 1e9:.2f} billion "
            f"| {row.stored_parameters / 1e9:.2f} ({paper.parameters / 1e9:.2f}) billion | {row.before:,.1f} {after}"
            f"| {' / '.join(f'{value:,.1f}' for value in row.kneser_ney)} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Measures each language with each preset."""
    options = parsed(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.work, prefix="paper-") as folder:
        rows = [measured(language, signal, options, Path(folder)) for signal in options.signals for language in PAPER]
    table = markdown(rows, options.minutes)
    (options.output / "paper.md").write_text(table, encoding="utf-8")
    numbers = json.dumps([dataclasses.asdict(row) for row in rows], indent=2, ensure_ascii=False)
    (options.output / "paper.json").write_text(numbers + "\n", encoding="utf-8")
    print(table, end="")


if __name__ == "__main__":
    main()
