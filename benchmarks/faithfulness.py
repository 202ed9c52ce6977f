"""Whether the account of `sifu trace` names the positions that matter: deletion and insertion curves.

    python benchmarks/faithfulness.py poems.sifu                  # 1,000 positions of held-out text, some minutes
    python benchmarks/faithfulness.py poems.sifu --positions 50

At a position of held-out text the trace decomposes the margin between the winner and the runner-up into what the signal
of each earlier position adds. Deletion makes positions silent one after another (as
``what_if="position K off"``), those first that an order says matter most, and computes the log-probability of the
winner, and the margin, again: the sooner they fall, the better the order. Insertion begins with all positions silent,
and makes them sound in the same order: the sooner they rise, the better. A silent position is still a part of the
text, so the source of the contest stays: the curves are about signals (and repetition), not about the counts of pairs
and clones. The orders are:

account         what the position adds to the margin, as the trace reports it, the most first
weight          the weight of the position that the trace shows; with a base, how far it moved the signal
leave one out   by how much the log-probability of the winner falls if this position alone is silent
recency         the last position first
random          any order

The area under a curve is the mean over the share of positions, in nats, less the value with nothing silent. Prints a
table in Markdown: means over positions, and standard errors of the means; the columns in percent are log p of the
winner with this share of the positions silent.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sifu_graph import Graph
from sifu_graph.arrays import Doubles, Ints
from sifu_graph.generation.base_walk import AnyWalk, walk_of
from sifu_graph.inspection.distributions import logits_after
from sifu_graph.inspection.trace import TraceOptions, follow
from sifu_graph.text.tokenizer import UNKNOWN

SHARES = np.linspace(0.0, 1.0, 21)
"""Of positions that are silent (deletion) or sound (insertion), at which curves of different lengths are averaged."""
SHOWN = (0.1, 0.25, 0.5)
LEAST, MOST = 8, 64
"""Positions of the text before a contest, its own one included."""


@dataclass(frozen=True)
class Place:
    """The contest after the last node of ``ids``, which begin with a document."""

    ids: Sequence[int]
    winner: int
    runner_up: int
    account: Doubles
    weight: Doubles

    @classmethod
    def of(cls, graph: Graph, ids: Sequence[int]) -> Place | None:
        """From the trace of a text; None: there is no runner-up."""
        traced = follow(
            graph.parameters, graph.signal, ids, names=tuple(graph.tokenizer.vocabulary),
            length=graph.settings["build"]["length"], options=TraceOptions(top=2, last=1),
        ).positions[-1]  # fmt: skip
        if traced.margin is None:
            return None
        winner, runner_up = (one.node for one in traced.candidates[:2])
        return cls(ids, winner, runner_up, traced.margin.signals[0].numpy(), np.asarray(traced.weights))

    def values(self, walk: AnyWalk, silent: Collection[int]) -> Doubles:
        """log p of the winner, without the unknown node, and the margin, if some positions are silent, [2]."""
        walk.silent = frozenset(silent)
        walk.start(self.ids[0])
        for node in self.ids[1:]:
            walk.carry(node)
        walk.energies()
        logits = logits_after(walk, walk.banned())
        rest = np.array([np.logaddexp.reduce(logits), logits[self.runner_up]])
        return np.asarray(logits[self.winner] - rest)

    def orders(self, walk: AnyWalk, draw: np.random.Generator) -> dict[str, Ints]:
        """The positions in each order, int64 [m]; of equals the last one comes first."""
        m = len(self.ids)
        alone = np.array([-self.values(walk, [position])[0] for position in range(m)])
        last = np.arange(m)[::-1]
        return {
            "account": last[np.argsort(-self.account[last], kind="stable")],
            "weight": last[np.argsort(-self.weight[last], kind="stable")],
            "leave one out": last[np.argsort(-alone[last], kind="stable")],
            "recency": last,
            "random": draw.permutation(m),
        }

    def curves(self, walk: AnyWalk, order: Ints) -> tuple[Doubles, Doubles]:
        """The values with the first k positions of an order silent, and with all but these, [m + 1, 2] each."""
        every = range(len(order) + 1)
        deletion = [self.values(walk, order[:k].tolist()) for k in every]
        insertion = [self.values(walk, order[k:].tolist()) for k in every]
        return np.array(deletion), np.array(insertion)


def texts(graph: Graph, positions: int, draw: np.random.Generator) -> Iterator[list[int]]:
    """Random beginnings of held-out documents, with `LEAST` to `MOST` nodes, over which the signal does not restart."""
    most = min(MOST, graph.signal.reset_after or MOST)
    split = graph._tokens().heldout
    ids, sizes = np.asarray(split.ids), np.diff(split.offsets)
    within = np.arange(split.tokens) - np.repeat(split.offsets[:-1], sizes) + 1  # nodes up to this one
    scored = within < np.repeat(sizes, sizes)
    for at in draw.permutation(np.flatnonzero(scored & (within >= LEAST) & (within <= most)))[:positions].tolist():
        yield ids[at + 1 - within[at] : at + 1].tolist()


def resampled(curve: Doubles) -> Doubles:
    """Curves [m + 1, 2] at `SHARES`, [shares, 2]."""
    at = np.linspace(0.0, 1.0, len(curve))
    return np.stack([np.interp(SHARES, at, one) for one in curve.T], axis=1)


def measured(graph: Graph, positions: int, seed: int) -> dict[str, tuple[Doubles, Doubles]]:
    """The curves of deletion and of insertion by order, [positions, shares, 2] each."""
    draw, found = np.random.default_rng(seed), dict[str, tuple[list[Doubles], list[Doubles]]]()
    walk = walk_of(graph.parameters, graph.signal, forbidden=[UNKNOWN])
    for ids in texts(graph, positions, draw):
        place = Place.of(graph, ids)
        if place is None:
            continue
        whole = place.values(walk, [])
        for name, order in place.orders(walk, draw).items():
            for curves, curve in zip(found.setdefault(name, ([], [])), place.curves(walk, order), strict=True):
                curves.append(resampled(curve) - whole)
    return {name: (np.array(deletion), np.array(insertion)) for name, (deletion, insertion) in found.items()}


def row(name: str, deletion: Doubles, insertion: Doubles) -> str:
    """A row of the table."""
    cells = [name]
    for value in (0, 1):
        for curves in (deletion, insertion):
            area = np.trapezoid(curves[:, :, value], SHARES, axis=1)
            cells.append(f"{area.mean():.3f} ± {area.std(ddof=1) / np.sqrt(len(area)):.3f}")
    cells += [f"{deletion[:, np.abs(SHARES - share).argmin(), 0].mean():.3f}" for share in SHOWN]
    return f"| {' | '.join(cells)} |"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--positions", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    with Graph.open(args.store) as graph:
        found = measured(graph, args.positions, args.seed)
    shown = " | ".join(f"{share:.0%}" for share in SHOWN)
    print(f"| order | deletion, log p | insertion, log p | deletion, margin | insertion, margin | {shown} |")
    print("|---|---|---|---|---|---|---|---|")
    for name, curves in found.items():
        print(row(name, *curves))


if __name__ == "__main__":
    main()
