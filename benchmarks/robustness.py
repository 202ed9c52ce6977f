"""What a trained graph predicts when it is disturbed: noise on its signals, lost edges, late signals, fewer clones.

    python benchmarks/robustness.py poems.sifu                  # about 10,000 held-out tokens, some minutes
    python benchmarks/robustness.py poems.sifu --limit 2000 --output pictures

Noise is Gaussian and independent for each element of a signal where it meets the candidates; its deviation is a share
of the deviation of the signals. A lost edge counts as one that never occurred. A late signal is that of some tokens
before, while the counts are those of the current node. Fewer clones are those of the greatest gain. Prints a table in
Markdown and draws it to ``--output``. The graph is not changed.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sifu_graph import Graph
from sifu_graph.edit import clones
from sifu_graph.edit.working_copy import WorkingCopy
from sifu_graph.model.base import Base
from sifu_graph.model.base_forward import documents_of, examine
from sifu_graph.ops.recurrent import Recurrent, RecurrentBackend

HERE = Path(__file__).resolve().parent
NOISE = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0)
LOST = (0.0, 0.01, 0.03, 0.1, 0.3, 0.5, 1.0)
LATE = (0, 1, 2, 4, 8)
KEPT = (1.0, 0.3, 0.1, 0.03, 0.01, 0.0)
Series = dict[str, list[tuple[float, float]]]
Disturb = Callable[[Tensor], Tensor]


class Disturbed:
    """A backend whose signals [1, T, d] are changed before they meet the candidates."""

    def __init__(self, backend: RecurrentBackend, change: Disturb) -> None:
        self._backend, self._change = backend, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def carry(self, model: Recurrent, token: Tensor, restart: Tensor, signal: Tensor) -> Tensor:
        """See `RecurrentBackend.carry`."""
        return self._change(self._backend.carry(model, token, restart, signal))


def noisy(share: float, seed: int) -> Disturb:
    """Noise of this share of the deviation of the signals."""
    generator = torch.Generator().manual_seed(seed)

    def change(r: Tensor) -> Tensor:
        return r + share * r.std() * torch.randn(r.shape, generator=generator, dtype=r.dtype)

    return change


def late(tokens: int, start: Tensor) -> Disturb:
    """Each signal is that of some tokens before, at the beginning of the text the initial one."""
    held = [start.repeat(1, tokens, 1)]

    def change(r: Tensor) -> Tensor:
        every = torch.cat([held.pop(), r], 1)
        held.append(every[:, r.shape[1] :])
        return every[:, : r.shape[1]]

    return change


def disturbed(base: Base, change: Disturb) -> Base:
    """The base with other signals."""
    backend: Any = Disturbed(base.backend, change)
    return dataclasses.replace(base, backend=backend)


def without_edges(graph: Graph, base: Base, share: float, seed: int) -> Base:
    """The base as if a share of the distinct edges of nodes and clones had never occurred."""
    lost = np.random.default_rng(seed).random(len(base.pairs.target)) < share
    pairs = dataclasses.replace(base.pairs, count=np.where(lost, 0, base.pairs.count))
    return Base.of(graph.parameters.small, pairs)


def with_clones(graph: Graph, base: Base, share: float) -> Base:
    """The base with a share of the clones, those of the greatest gain; their parents count what the others counted."""
    copy = WorkingCopy(graph)
    assert copy.pairs is not None
    most = round(share * len(base.pairs.tree))
    if most < len(base.pairs.tree):
        clones.prune(copy, most)
    return Base.of(graph.parameters.small, copy.pair_model())


def measured(graph: Graph, *, limit: int, seed: int) -> Series:
    """The perplexities of each kind of disturbance, as (its size, perplexity)."""
    base, index = graph.parameters.base, graph.parameters.index
    assert base is not None, "the graph has no base: build it with --signal recurrent"
    text = documents_of(graph._tokens().heldout, limit, seed=seed)[0]

    def perplexity(changed: Base) -> float:
        losses = torch.cat([found.loss for found, _ in examine(changed, index, text)])
        return math.exp(float(losses.double().mean()))

    def series(sizes: Iterable[float], change: Callable[[float], Base]) -> list[tuple[float, float]]:
        return [(size, perplexity(change(size))) for size in sizes]

    return {
        "noise, share of the deviation": series(NOISE, lambda share: disturbed(base, noisy(share, seed))),
        "edges lost, share": series(LOST, lambda share: without_edges(graph, base, share, seed)),
        "signal late, tokens": series(LATE, lambda k: disturbed(base, late(int(k), base.model.start))),
        "clones kept, share": series(KEPT, lambda share: with_clones(graph, base, share)),
    }


def draw(found: Series, path: Path) -> None:
    """One small plot of each kind."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 2.8), layout="constrained")
    for axes, (name, points) in zip(figure.subplots(1, len(found), sharey=True), found.items(), strict=True):
        axes.plot(range(len(points)), [perplexity for _, perplexity in points], marker="o", color="#2a6f97")
        axes.set_xticks(range(len(points)), [f"{size:g}" for size, _ in points])
        axes.set_xlabel(name)
        axes.set_yscale("log")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("held-out perplexity")
    figure.savefig(path, dpi=110)


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints the table and draws it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--limit", type=int, default=10_000, help="held-out tokens, about (default: 10,000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "robustness", help="folder of the picture")
    options = parser.parse_args(arguments)
    with Graph.open(options.store) as graph:
        found = measured(graph, limit=options.limit, seed=options.seed)
    for name, points in found.items():
        print(f"| {name} | {' | '.join(f'{size:g}' for size, _ in points)} |")
        print(f"|---|{'---|' * len(points)}")
        print(f"| perplexity | {' | '.join(f'{perplexity:.1f}' for _, perplexity in points)} |\n")
    options.output.mkdir(parents=True, exist_ok=True)
    draw(found, options.output / "robustness.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
