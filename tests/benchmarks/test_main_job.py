"""The benchmark runs: a small graph through every measure that needs no other process and no other code."""

from __future__ import annotations

import json
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sifu_graph.build import build_graph

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    text = random.Random(0)
    corpus = tmp_path / "poems.txt"
    corpus.write_text("\n".join("".join(text.choices("春風秋月花山水雲", k=20)) for _ in range(500)), encoding="utf-8")
    path = tmp_path / "graph.sifu"
    build_graph([corpus], path, vocab=10, sparsify=0.5, holdout=0.1, signal="tuned")
    return path


def test_every_measure_of_a_graph_gives_its_lines(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import engine
    import machine
    import report
    from sizes import SIZES

    monkeypatch.setattr(machine, "MATRIX", 64)
    monkeypatch.setattr(machine, "READ_BYTES", 1 << 22)
    sizes = replace(SIZES["smoke"], long_tokens=50)
    lines = [*engine.training(store, sizes), *engine.decoding(store, sizes), *engine.long_generation(store, sizes)]
    assert len(lines) == 5
    assert all(line.figures["tokens_per_s"] for line in lines)
    assert 0 < lines[2].figures["share"] < 10

    table, numbers = report.write(lines, {"sizes": "smoke"}, folder=tmp_path / "results")
    rows = table.read_text(encoding="utf-8").splitlines()
    assert len(rows) == 2 + len(lines)
    assert {row.count("|") for row in rows} == {5}
    assert len(json.loads(numbers.read_text(encoding="utf-8"))["lines"]) == len(lines)


def test_options(monkeypatch: pytest.MonkeyPatch) -> None:
    import main_job

    quick = main_job.parsed(["--quick"])
    assert (quick.sizes, quick.minutes, quick.corpus) == ("quick", 0.0, ["tang"])
    assert main_job.parsed(["--minutes", "3"]).minutes == 3.0


def test_the_small_process_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peak memory that Linux reports of a child is at least its parent's: the parent must not import torch."""
    import subprocess

    code = "import sys; sys.path.insert(0, sys.argv[1]); import main_job; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, str(BENCHMARKS)], check=False).returncode == 0
