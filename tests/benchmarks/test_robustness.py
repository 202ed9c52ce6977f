"""`benchmarks/robustness.py`: nothing disturbed is nothing changed, and a run at toy size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small import write_text

from sifu_graph import Graph, build_graph

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_it_runs_and_changes_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import robustness

    shift = robustness.late(2, torch.zeros(3))
    first, second = torch.arange(12.0).view(1, 4, 3), torch.arange(6.0).view(1, 2, 3)
    assert shift(first)[0, :, 0].tolist() == [0.0, 0.0, 0.0, 3.0]
    assert shift(second)[0, :, 0].tolist() == [6.0, 9.0]
    text = write_text(tmp_path / "a.txt")
    text.write_text(text.read_text("utf-8").replace("月風", "月風水"), "utf-8")  # one context says more than its node
    build_graph(text, tmp_path / "g.sifu", vocab=40, sparsify=0.5, holdout=0.2)
    with Graph.open(tmp_path / "g.sifu") as graph:
        graph.train(steps=5, eval_every=0)
        found = robustness.measured(graph, limit=10**9, seed=0)
        wanted = graph.evaluate().perplexity
    for points in found.values():
        assert points[0][1] == pytest.approx(wanted, rel=1e-5)
        assert points[-1][1] != pytest.approx(wanted, rel=1e-6)
    assert robustness.main([str(tmp_path / "g.sifu"), "--limit", "100", "--output", str(tmp_path)]) == 0
    assert "| perplexity |" in capsys.readouterr().out
    assert (tmp_path / "robustness.png").is_file()
