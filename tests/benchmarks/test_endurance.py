"""The endurance run finds a bit that differs, and passes where none does."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from sifu_store import Store

from sifu_graph import Graph, build_graph

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


def test_one_bit_is_found(tmp_path: Path) -> None:
    import endurance

    text = tmp_path / "poems.txt"
    text.write_text("春風秋月花山水雲\n秋風春月水花雲山\n" * 20, encoding="utf-8")
    one = tmp_path / "one.sifu"
    build_graph([text], one, vocab=10, sparsify=0.5, signal="tuned")
    with Graph.open(one) as graph:
        graph.train(steps=1, batch=8)
    two = Path(shutil.copytree(one, tmp_path / "two.sifu"))
    found, compared = endurance.differences(one, two)
    assert found == []
    with Store.open(two, write=True) as store:
        assert compared > store.read_pages("edges/weight", 0, 1).nbytes
        values = store.read_pages("edges/weight", 0, 1)
        values[3, 4, 5] = np.nextafter(values[3, 4, 5], np.float32(1))
        store.write_pages("edges/weight", 0, values)
        store.commit("one bit", command="train", changes={})
    assert endurance.differences(one, two)[0] == ["edges/weight"]


def test_a_commit_that_is_gone_is_found(tmp_path: Path) -> None:
    import endurance

    text = tmp_path / "poems.txt"
    text.write_text("春風秋月花山水雲\n秋風春月水花雲山\n" * 20, encoding="utf-8")
    path = tmp_path / "one.sifu"
    build_graph([text], path, vocab=10, sparsify=0.5, signal="tuned")
    claims = f"""
import json, pathlib, time
line = json.dumps({{"step": 5, "snapshot": "never made"}})
pathlib.Path({str(path / "metrics.jsonl")!r}).write_text(line + "\\n")
time.sleep(60)
"""
    with pytest.raises(endurance.BrokenPromiseError, match="stands at step 0; step 5 was saved"):
        endurance.kill_for(path, 0.0, [sys.executable, "-c", claims], seed=0, most_steps=1)
    with pytest.raises(endurance.BrokenPromiseError, match="ended by itself, with exit code 3"):
        endurance.kill_for(path, 0.0, [sys.executable, "-c", "raise SystemExit(3)"], seed=0, most_steps=9)


@pytest.mark.slow
def test_a_short_run(tmp_path: Path) -> None:
    import endurance

    small = ["--vocab", "300", "--sparsify", "0.3", "--batch", "4", "--minutes", "0.1", "--most-steps", "4"]
    line = endurance.endure(endurance.parsed([*small, "--share", "0.26"]), tmp_path)
    assert line.met, line
    assert line.figures["killed"]["cache"]["scratch_bytes_written"] > 0
