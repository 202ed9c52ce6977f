"""Builds a graph from the shipped poems, trains it for a few steps, and generates three continuations.

Run it in an empty folder: ``python first_graph.py``. It leaves the store ``poems.sifu`` there.
"""

from __future__ import annotations

import sifu_graph

VOCAB = 4000
STEPS = 4


def main() -> None:
    report = sifu_graph.build_graph("tang", "poems.sifu", vocab=VOCAB, sparsify=0.1, force=True)
    print(f"{report.nodes:,} nodes, {report.private_edges:,} private edges, {report.ratio:.1%} of the dense graph")

    with sifu_graph.Graph.open("poems.sifu") as graph:
        print(f"held-out perplexity before training: {graph.evaluate(limit=10_000).perplexity:.1f}")
        trained = graph.train(steps=STEPS)
        print(f"after {trained.tokens:,} tokens: {trained.heldout_perplexity:.1f}")
        for seed in range(3):
            print("春風" + graph.generate("春風", tokens=30, seed=seed).text.split("\n")[0])


if __name__ == "__main__":
    main()
