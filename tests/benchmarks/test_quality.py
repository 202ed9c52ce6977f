"""`benchmarks/quality.py` runs: every model at toy size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small import write_poems

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_every_model_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import quality

    poems = write_poems(tmp_path / "poems.txt", poems=400)
    options = [
        "--corpus",
        str(poems),
        "--nodes",
        "60",
        "--minutes",
        "0.01",
        "--output",
        str(tmp_path),
        "--threads",
        "1",
    ]
    assert quality.main(options) == 0
    assert "| transformer |" in capsys.readouterr().out
    rows = {row["model"]: row for row in json.loads((tmp_path / "quality.json").read_text())["rows"]}
    assert set(rows) == {
        "unigram", "kneser-ney-2", "kneser-ney-3", "kneser-ney-4", "recurrent, untrained", "recurrent", "lstm",
        "transformer", "paper-sum",
    }  # fmt: skip
    untrained, counted = rows["recurrent, untrained"]["perplexity"], rows["kneser-ney-2"]["perplexity"]
    assert untrained < 1.02 * counted  # of a text so small the marks of its beginnings are a part
    assert all(1 < row["perplexity"] < 120 for row in rows.values())
    assert rows["recurrent"]["tokens"] > 0
