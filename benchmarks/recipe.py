"""Training settings side by side: each builds a graph of the same text, trains for the same number of tokens and is
scored on the same held-out text, beside Kneser-Ney models of order 2, 3 and 4.

    python benchmarks/recipe.py --nodes 1000 --tokens 200000                  # every recipe, on the shipped Tang poems
    python benchmarks/recipe.py --only tuned brillm05 --corpus a.txt b.txt    # some of them, on other text
    python benchmarks/recipe.py --list

A finished run is one line of ``runs.jsonl`` in ``--output`` and one row of ``runs.md``; a run that stands there already
is not repeated, so an interrupted comparison goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import math
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sifu_graph import Graph, build_graph
from sifu_graph.config import PRESETS, OptimizerConfig, SignalConfig
from sifu_graph.text.batches import chunk_table
from sifu_graph.text.corpus import Corpus

HERE = Path(__file__).resolve().parent
LENGTH = 32
RELEASED: dict[str, Any] = {"kind": "adamw", "lr": 5e-2, "eps": 1e-8, "beta2": 0.999, "shared_rate": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One way to build and to train. What is not said is the default of `sifu`."""

    name: str
    why: str
    signal: str = "tuned"
    changes: dict[str, Any] = field(default_factory=dict)
    """Settings of the signal that differ from the preset."""
    init: str = "counts"
    optimizer: dict[str, Any] = field(default_factory=dict)
    """Fields of `OptimizerConfig`; ``kind`` takes the defaults of that kind."""
    candidates: int | None = None
    batch: int = 512
    contexts: bool | None = None
    """Whether training begins with the closed form; None: where it can."""

    def config(self) -> SignalConfig:
        """The settings of the signal."""
        config = PRESETS[self.signal]
        reset = None if config.reset_after is None else LENGTH - 1
        return dataclasses.replace(config, **{"reset_after": reset, **self.changes})

    def optimizer_config(self) -> OptimizerConfig:
        """The settings of the optimizer."""
        return OptimizerConfig.of(**{"kind": "rowwise", **self.optimizer})


RECIPES = [
    Recipe(name="tuned", why="the defaults: the closed form, then steps"),
    Recipe(name="no-contexts", why="the defaults without the closed form", contexts=False),
    Recipe(name="paper", why="the paper's second version, from counts", signal="paper"),
    Recipe(name="paper-v1", why="the paper's first version, from counts", signal="paper-v1"),
    Recipe(name="brillm05", why="the released code's mathematics, from counts", signal="brillm05"),
    Recipe(
        name="released",
        why="the released recipe: uniform init, AdamW lr 5e-2, 400 sampled candidates, batch 32",
        signal="brillm05",
        init="uniform",
        optimizer=RELEASED,
        candidates=400,
        batch=32,
    ),
    Recipe(
        name="released-all",
        why="the same with the exact softmax",
        signal="brillm05",
        init="uniform",
        optimizer=RELEASED,
        batch=32,
    ),
    Recipe(name="uniform", why="the defaults without counts", init="uniform"),
    Recipe(name="adamw", why="AdamW, lr 3e-2, eps 1e-4", optimizer={"kind": "adamw"}),
    Recipe(name="lr-0.03", why="a lower rate", optimizer={"lr": 0.03}),
    Recipe(name="lr-0.4", why="a higher rate", optimizer={"lr": 0.4}),
    Recipe(name="eps-1e-2", why="a larger eps", optimizer={"eps": 1e-2}),
    Recipe(
        name="lr-1.2", why="rate and eps ten times as large: the defaults before", optimizer={"lr": 1.2, "eps": 1e-2}
    ),
    Recipe(name="batch-128", why="smaller steps, more of them", batch=128),
    Recipe(name="candidates-400", why="sampled candidates", candidates=400),
    Recipe(name="with-current", why="the mix includes the current signal", changes={"skip_current": False}),
    Recipe(name="raw-mix", why="the mix is not normalised", changes={"normalise_mix": False}),
    Recipe(name="flat-mix", why="all signals weigh the same at the start", changes={"recency": 0.0}),
    Recipe(name="steep-mix", why="the last signal weighs most", changes={"recency": 2.0}),
    Recipe(name="fixed-scale", why="the energy's scale is not learned", changes={"learn_scale": False}),
]


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--corpus", nargs="+", default=["tang"], help="files or shipped corpora (default: tang)")
    parser.add_argument("--level", choices=["char", "bpe"], default="char")
    parser.add_argument("--nodes", type=int, default=1000, help="default: 1000")
    parser.add_argument("--sparsify", type=float, default=0.1, help="default: 0.1")
    parser.add_argument("--tokens", type=int, default=200_000, help="trained on by every recipe (default: 200,000)")
    parser.add_argument("--limit", type=int, help="held-out tokens of a score (default: all)")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[recipe.name for recipe in RECIPES])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "recipe", help="folder of the table")
    parser.add_argument("--work", type=Path, help="folder for the graphs, which are deleted (default: a temporary one)")
    parser.add_argument("--list", action="store_true", help="only say which recipes there are")
    return parser.parse_args(arguments)


def run(recipe: Recipe, options: argparse.Namespace, folder: Path, *, with_baselines: bool) -> dict[str, Any]:
    """Builds, scores, trains and scores again."""
    started = time.perf_counter()
    store = folder / f"{recipe.name}.sifu"
    build_graph(
        options.corpus, store, vocab=options.nodes, sparsify=options.sparsify, level=options.level, length=LENGTH,
        init=recipe.init, signal=recipe.config(), seed=options.seed, force=True,
    )  # fmt: skip
    with Graph.open(store) as graph:
        train = graph._tokens().train
        a_chunk = train.transitions / len(chunk_table(train, length=LENGTH)[0])  # short documents make short chunks
        steps = max(1, round(options.tokens / (recipe.batch * a_chunk)))
        before = graph.evaluate(limit=options.limit, with_baselines=with_baselines)
        report = graph.train(
            steps=steps, batch=recipe.batch, optimizer=recipe.optimizer_config(), candidates=recipe.candidates or "all",
            contexts=recipe.contexts, commit_every=0, eval_every=0,
        )  # fmt: skip
        if report.interrupted:
            raise KeyboardInterrupt
        after = graph.evaluate(limit=options.limit)
    return {
        **dataclasses.asdict(recipe),
        "before": before.perplexity,
        "after": after.perplexity,
        "closed_form": None if report.contexts is None else dataclasses.asdict(report.contexts),
        "bits_per_character": after.bits_per_character,
        "top1": after.top1,
        "heldout_tokens": after.tokens,
        "steps": report.steps_done,
        "tokens": report.tokens_done,
        "tokens_per_s": report.tokens_per_s,
        "seconds": time.perf_counter() - started,
        "baselines": {baseline.name: baseline.perplexity for baseline in before.baselines},
    }


def setting(options: argparse.Namespace) -> dict[str, Any]:
    """What all rows of one table share."""
    names = [Path(str(name)).name for name in options.corpus]
    shared = {name: getattr(options, name) for name in ("level", "nodes", "sparsify", "tokens", "limit", "seed")}
    return {"corpus": names, "text": Corpus(options.corpus).fingerprint()[:16], **shared}


def markdown(rows: list[dict[str, Any]]) -> str:
    """One table for each setting: the recipes, the best first, and the baselines among them."""
    parts = []
    for shared in {json.dumps(row["setting"], sort_keys=True): row["setting"] for row in rows}.values():
        mine = [row for row in rows if row["setting"] == shared]
        lines = [
            f"### {', '.join(shared['corpus'])}: {shared['nodes']:,} nodes, sparsify {shared['sparsify']:g}, "
            f"level {shared['level']}, {shared['tokens']:,} tokens",
            "",
            "| recipe | what | before | after | top-1 | tokens | tokens/s |",
            "|---|---|---|---|---|---|---|",
        ]
        cells: list[tuple[float, str]] = [
            (
                row["after"],
                f"| `{row['name']}` | {row['why']} | {_figure(row['before'])} | **{_figure(row['after'])}** "
                f"| {row['top1']:.1%} | {row['tokens']:,} | {row['tokens_per_s']:,.0f} |",
            )
            for row in mine
        ]
        plain = next((row["baselines"] for row in mine if row["baselines"]), {})
        cells += [(value, f"| *{name}* | counts only | | {_figure(value)} | | | |") for name, value in plain.items()]
        lines += [line for _, line in sorted(cells, key=lambda cell: cell[0])]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _figure(value: float) -> str:
    return f"{value:,.1f}" if math.isfinite(value) else "-"


def read(path: Path) -> list[dict[str, Any]]:
    """The runs that are there."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def main(arguments: list[str] | None = None) -> None:
    """Runs what was asked for."""
    options = parsed(arguments)
    if options.list:
        for recipe in RECIPES:
            print(f"{recipe.name:16} {recipe.why}")
        return
    options.output.mkdir(parents=True, exist_ok=True)
    log = options.output / "runs.jsonl"
    shared = setting(options)
    rows = read(log)
    with tempfile.TemporaryDirectory(dir=options.work, prefix="recipe-") as folder:
        for recipe in RECIPES:
            if options.only and recipe.name not in options.only:
                continue
            mine = [row for row in rows if row["setting"] == shared]
            if any(row["name"] == recipe.name for row in mine):
                print(f"{recipe.name}: done before", file=sys.stderr)
                continue
            print(f"{recipe.name}: {recipe.why}", file=sys.stderr)
            with_baselines = not any(row["baselines"] for row in mine)
            row = {"setting": shared, **run(recipe, options, Path(folder), with_baselines=with_baselines)}
            rows.append(row)
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            (options.output / "runs.md").write_text(markdown(rows), encoding="utf-8")
            gc.collect()
    print(markdown([row for row in rows if row["setting"] == shared]), end="")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted: what was finished is kept, the same command goes on from there")
