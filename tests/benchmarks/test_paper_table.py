"""`benchmarks/paper_table.py` runs: both languages at toy size, with the sizes that the formula of the paper gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small import write_poems

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_sizes_and_perplexities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import paper_table

    poems = str(write_poems(tmp_path / "poems.txt", poems=400))
    options = f"--nodes 300 --minutes 0.01 --output {tmp_path} --limit 500".split()
    paper_table.main(["--chinese", poems, "--english", poems, *options])
    printed = capsys.readouterr().out
    rows = json.loads((tmp_path / "paper.json").read_text())
    assert [row["language"] for row in rows] == ["Chinese", "English"]
    for row, share in zip(rows, (0.13, 0.057), strict=True):
        n, edges = row["nodes"], row["private_edges"]
        assert 0 < edges <= share * n**2
        assert row["dense_parameters"] == n * n * (32 * 32 + 32)
        assert edges * (32 * 32 + 32) < row["stored_parameters"] < edges * (32 * 32 + 32) + 40 * n + 10_000
        assert 1 < row["after"] < n
        assert row["trained_tokens"] > 0
        assert len(row["kneser_ney"]) == 3
        assert f"{row['before']:,.1f}" in printed
