"""A run that time alone limits ends with the parameters that predicted held-out text best, those before it included."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import whole, write_text

from sifu_graph import Graph, build_graph
from sifu_graph.evaluation import SplitReport
from sifu_graph.training import loop


@pytest.fixture
def store(tmp_path: Path) -> Path:
    text = write_text(tmp_path / "poems.txt")
    build_graph(text, tmp_path / "graph.sifu", vocab=40, sparsify=0.5, width=16, length=8, holdout=0.1)
    return tmp_path / "graph.sifu"


@pytest.mark.parametrize(
    ("heldout", "kept"),
    [
        ([10.0, 10.04, 10.03], 0),  # a little worse is worse
        ([10.0, 10.04, 9.99], 3),
        ([10.0, 9.98, 9.981], 2),
        ([10.0, 10.0, 10.0], 3),
    ],
)
def test_a_resumed_run_never_ends_worse_than_it_began(
    store: Path, monkeypatch: pytest.MonkeyPatch, heldout: list[float], kept: int
) -> None:
    """Held-out perplexities before the run, after its second step and after its third, which is the last."""
    with Graph.open(store) as graph:
        graph.train(steps=2, batch=16)
        before, arrays = graph.store.snapshot, {name: whole(graph.store, name) for name in graph.store.names()}
        found, real = iter(heldout), loop.evaluate_split

        def scripted(*args: Any, **options: Any) -> SplitReport:
            return dataclasses.replace(real(*args, **options), perplexity=next(found))

        monkeypatch.setattr(loop, "evaluate_split", scripted)
        monkeypatch.setattr(loop.Clock, "over", lambda self, step: step >= self.first_step + 3)
        report = graph.train(minutes=60, batch=16, eval_every=2)
        assert report.heldout_perplexity == min(heldout)
        assert (report.steps_done, report.heldout_before) == (kept, heldout[0])
        if kept == 0:
            assert graph.store.snapshot == before
            for name, value in arrays.items():
                np.testing.assert_array_equal(whole(graph.store, name), value)
