"""`benchmarks/faithfulness.py`: its values are those of the trace, and a run at toy size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small import write_text

from sifu_graph import Graph, build_graph
from sifu_graph.generation.base_walk import walk_of
from sifu_graph.text.tokenizer import SEPARATOR, UNKNOWN

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
TEXT = "春風花月夜江水山春風"


@pytest.mark.parametrize("signal", ["recurrent", "tuned", "brillm05"])
def test_the_curves_are_those_of_the_trace(
    signal: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import faithfulness

    build_graph(write_text(tmp_path / "a.txt"), tmp_path / "g.sifu", vocab=40, sparsify=0.5, signal=signal, holdout=0.2)
    with Graph.open(tmp_path / "g.sifu") as graph:
        graph.train(steps=20, eval_every=0)
        ids = [SEPARATOR, *map(int, graph.tokenizer.encode(TEXT))]
        place, walk = faithfulness.Place.of(graph, ids), walk_of(graph.parameters, graph.signal, forbidden=[UNKNOWN])
        assert place is not None
        m = len(ids)
        winner = graph.tokenizer.vocabulary[place.winner]
        other = graph.tokenizer.vocabulary[place.runner_up]
        alone = []
        for silent in ([], *([k] for k in range(m)), [1, 4], list(range(m))):
            changes = [f"position {k} off" for k in silent]
            shown = graph.trace(TEXT, last=1, also=[winner, other], what_if=changes).positions[-1].candidates
            p = {one.node: one.p for one in shown}
            log_p, margin = place.values(walk, silent)
            assert log_p == pytest.approx(np.log(p[place.winner]), abs=1e-5)
            assert margin == pytest.approx(np.log(p[place.winner] / p[place.runner_up]), abs=1e-5)
            alone += [log_p] if len(silent) == 1 else []
        orders = place.orders(walk, np.random.default_rng(0))
        assert all(sorted(order.tolist()) == list(range(m)) for order in orders.values())
        assert orders["leave one out"][0] == np.argmin(alone)
        shown = graph.trace(TEXT, last=1, top=2).positions[-1]
        assert orders["account"][0] == shown.margin.signals[0].argmax()
        deletion, insertion = place.curves(walk, orders["account"])
        np.testing.assert_array_equal(deletion[0], place.values(walk, []))
        np.testing.assert_array_equal(insertion[-1], deletion[0])
        np.testing.assert_array_equal(insertion[0], deletion[-1])
        np.testing.assert_array_equal(deletion[1], place.values(walk, [int(orders["account"][0])]))
    curves = np.linspace(0.0, -2.0, 5)[:, None].repeat(2, axis=1)
    assert "| -1.000 ± 0.000" in faithfulness.row("x", *[faithfulness.resampled(curves)[None].repeat(3, axis=0)] * 2)
    faithfulness.main([str(tmp_path / "g.sifu"), "--positions", "5"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7
    assert {line.count("|") for line in lines} == {9}
