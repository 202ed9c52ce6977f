"""`inspect` compares the probability of an edge with the counts that it follows: those that the node has itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small import write_text

from sifu_graph import Graph, build_graph
from sifu_graph.inspection.inspect import NodeReport


@pytest.mark.parametrize(("clones", "signal"), [(None, "recurrent"), (0, "recurrent"), (None, "tuned")])
def test_the_share_that_p_follows(tmp_path: Path, clones: int | None, signal: str) -> None:
    text = write_text(tmp_path / "poems.txt", documents=1000)
    build_graph(text, tmp_path / "g.sifu", vocab=40, sparsify=1, holdout=0, signal=signal, clones=clones)
    with Graph.open(tmp_path / "g.sifu") as graph:
        names, store = graph.tokenizer.vocabulary, graph.store
        for node in range(2, len(names)):
            found = graph.inspect(names[node], top=100)
            assert isinstance(found, NodeReport)
            if signal == "recurrent":  # the pairs of the store, read one by one
                row = slice(*store.read("pairs/first")[node : node + 2].tolist())
                target, count = (store.read(f"pairs/{x}")[row].tolist() for x in ("target", "count"))
                counts = {names[v]: times for v, times in zip(target, count, strict=True)}
            else:
                counts = {one.name: one.count for one in found.targets_by_count}
            total = sum(counts.values())
            assert found.own_transitions == total
            assert (total < found.transitions) == bool(found.clones)
            gaps = []
            for one in found.disagreements:
                assert one.own_share is not None and one.p is not None
                assert one.own_share == pytest.approx(counts.get(one.name, 0) / total)
                assert abs(one.p - one.own_share) < 1.5 / total + 0.02  # an untrained graph is its counts, discounted
                gaps.append(abs(one.p - one.own_share))
            assert gaps == sorted(gaps, reverse=True)
            if not found.clones:
                assert all(one.own_share == one.share for one in found.targets_by_count)
        shares = np.array([one.share for one in found.sources_by_count])
        assert (shares <= 1).all() and all(one.own_share is None for one in found.sources_by_count)
