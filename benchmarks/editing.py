"""Counterfactual edits: after a node, another successor than the winner. What changes, what stays, and undo.

    python benchmarks/editing.py poems.sifu                       # 1 to 10,000 edits, some minutes
    python benchmarks/editing.py poems.sifu --edits 100 --limit 5000

For a graph whose edges share a base. A record is a place of held-out text: the source there (a node, or its clone),
the node w that wins there, and a random other node v. The edge from the source to v is boosted until v wins at that
place by `MARGIN` nats. All records of a row of the table are one commit on a copy of the store. Measures, as in
arXiv 2202.05262:

efficacy        at the place itself: records in which v is more probable than w
paraphrase      at other places of held-out text with the same source where w won: the same
neighbourhood   at places whose source has no edited edge, of those where a w of the records won: w is still more
                probable than every v that was put in its place elsewhere
same bits       places whose source has no edited edge: the log-probability of the token of the text has the same bits

Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import math
import shutil
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sifu_graph import Graph
from sifu_graph.arrays import Doubles, Ints
from sifu_graph.generation.base_walk import BaseWalk, walk_of
from sifu_graph.inspection.distributions import log_p_after
from sifu_graph.model.base_forward import documents_of
from sifu_graph.text.node_lookup import source_name
from sifu_graph.text.tokenizer import SPECIAL, UNKNOWN

MARGIN = 1.0
NEAR = 2000  # places of the neighbourhood


@dataclass(frozen=True)
class Passed:
    """What a pass over held-out text saw: the source, the winner and log p of the token of the text, of each place."""

    source: Ints
    winner: Ints
    log_p: Doubles
    kept: dict[int, Doubles]
    """log p of all nodes at the places that were asked for."""


def walk_over(graph: Graph, ids: Ints, begins: set[int], places: set[int]) -> Passed:
    """One pass over documents; at ``places`` the whole distributions are kept."""
    walk = walk_of(graph.parameters, graph.signal)
    assert isinstance(walk, BaseWalk)
    source, winner, log_p, kept = [], [], [], {}
    for at, node in enumerate(ids[:-1].tolist()):
        (walk.start if at in begins else walk.carry)(node)
        walk.energies()
        found = log_p_after(walk)
        source.append(walk.source)
        log_p.append(-math.inf if at + 1 in begins else found[ids[at + 1]])
        if at in places:
            kept[at] = found.copy()
        found[UNKNOWN] = -math.inf
        winner.append(int(found.argmax()))
    return Passed(np.array(source), np.array(winner), np.array(log_p), kept)


class Experiment:
    """Held-out text of a graph, and some records on it."""

    def __init__(self, graph: Graph, edits: int, limit: int, seed: int) -> None:
        self.graph, self.draw = graph, np.random.default_rng(seed)
        split, _ = documents_of(graph.tokens().heldout, limit, seed=0)
        self.ids = np.asarray(split.ids).astype(np.int64)
        self.begins = set(split.offsets[:-1].tolist())
        self.ends = np.array(sorted({begin - 1 for begin in self.begins if begin}), np.int64)
        self.before = self.walk(set())
        usable = np.setdiff1d(np.arange(len(self.before.source)), self.ends)
        first: dict[int, int] = {}
        for at in self.draw.permutation(usable).tolist():
            first.setdefault(int(self.before.source[at]), at)
        self.place = dict(list(first.items())[:edits])
        """The place of the record of each source."""
        frequency = graph.store.read("nodes/count").astype(float)
        frequency[: len(SPECIAL)] = 0
        self.target = {}
        for source, at in self.place.items():
            chances = frequency.copy()
            chances[self.before.winner[at]] = 0
            self.target[source] = int(np.searchsorted(np.cumsum(chances), self.draw.random() * chances.sum(), "right"))

    def walk(self, places: set[int]) -> Passed:
        return walk_over(self.graph, self.ids, self.begins, places)

    def rows(self) -> list[dict[str, Any]]:
        """The edits, as a table."""
        base, tokenizer = self.graph.parameters.base, self.graph.tokenizer
        assert base is not None
        tree, found = base.pairs.tree, self.walk(set(self.place.values())).kept
        boost: dict[int, float] = {}
        for source in sorted(self.place):  # parents come before children, whose edges have what theirs have
            energy, parent, v = found[self.place[source]], int(tree.parents[source]), self.target[source]
            energy[UNKNOWN] = -math.inf
            while parent >= 0:
                if parent in boost:
                    energy[self.target[parent]] += boost[parent]
                parent = int(tree.parents[parent])
            boost[source] = float(energy.max() - energy[v]) + MARGIN
        return [
            {
                "source": source_name(tokenizer, tree, source),
                "target": tokenizer.vocabulary[self.target[source]],
                "boost": boost[source],
            }
            for source in self.place
        ]

    def measures(self) -> list[str]:
        """The cells of the table, after the edits."""
        base = self.graph.parameters.base
        assert base is not None
        tree, before = base.pairs.tree, self.before
        touched = np.zeros(tree.sources, bool)
        touched[list(self.place)] = True
        for source in range(tree.nodes, tree.sources):  # parents come before children
            touched[source] |= touched[tree.parents[source]]
        here = np.flatnonzero(touched[before.source])
        elsewhere = np.setdiff1d(np.flatnonzero(~touched[before.source]), self.ends)
        rivals: dict[int, set[int]] = defaultdict(set)
        for source, at in self.place.items():
            rivals[int(before.winner[at])].add(self.target[source])
        near = [at for at in self.draw.permutation(elsewhere).tolist() if int(before.winner[at]) in rivals][:NEAR]
        after = self.walk({*here.tolist(), *near})
        efficacy, paraphrase = [], []
        for at in here.tolist():
            source = int(before.source[at])
            if source in self.place:
                w = int(before.winner[self.place[source]])
                won = bool(after.kept[at][self.target[source]] > after.kept[at][w])
                if at == self.place[source]:
                    efficacy.append(won)
                elif int(before.winner[at]) == w:
                    paraphrase.append(won)
        unchanged = [
            all(after.kept[at][int(before.winner[at])] > after.kept[at][v] for v in rivals[int(before.winner[at])])
            for at in near
        ]
        same = (after.log_p[elsewhere] == before.log_p[elsewhere]).tolist()
        scored = np.setdiff1d(np.arange(len(before.log_p)), self.ends)
        perplexity = [math.exp(-found.log_p[scored].mean()) for found in (before, after)]
        shares = [
            f"{100 * np.mean(values):.2f} % of {len(values):,}" if values else "-"
            for values in (efficacy, paraphrase, unchanged, same)
        ]
        return [*shares, f"{perplexity[0]:.1f} to {perplexity[1]:.1f}"]


def row(store: Path, edits: int, limit: int, seed: int) -> str:
    """The row of the table for this number of edits."""
    with Graph.open(store) as graph:
        experiment = Experiment(graph, edits, limit, seed)
        rows = experiment.rows()
        begun, size = time.perf_counter(), folder_bytes(store)
        graph.edit_edges(rows)
        seconds, size = time.perf_counter() - begun, folder_bytes(store) - size
        cells = experiment.measures()
        graph.undo()
        undone = bool((experiment.walk(set()).log_p == experiment.before.log_p).all())
    cost = f"{1000 * seconds / len(rows):.1f} ms, {size / len(rows):,.0f} bytes"
    return " | ".join(["", f"{len(rows):,}", *cells, cost, "the same bits" if undone else "OTHER BITS", ""]).strip()


def folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--edits", type=int, nargs="+", default=[1, 10, 100, 1000, 10_000])
    parser.add_argument("--limit", type=int, default=30_000, help="held-out tokens")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print("| edits | efficacy | paraphrase | neighbourhood | same bits | perplexity | an edit | undo |")
    print("|---|---|---|---|---|---|---|---|")
    for edits in args.edits:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(shutil.copytree(args.store, Path(folder) / "copy.sifu"))
            print(row(copy, edits, args.limit, args.seed), flush=True)


if __name__ == "__main__":
    main()
