"""`benchmarks/generated_text.py`: the statistics by their definition, and a run at toy size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small import write_poems

from sifu_graph import build_graph

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_it_runs_and_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import generated_text

    ends = np.array([False, True, False, False])
    assert generated_text.lengths(np.array([2, 3, 1, 2, 1, 1, 3, 3, 3]), ends) == [2, 1, 3]
    ids = np.array([2, 3, 2, 3, 2, 3, 1], np.int32)
    assert len(generated_text.runs(ids, 4)) == 4 and len(np.unique(generated_text.runs(ids, 4))) == 3
    found = generated_text.statistics(ids, ends, {6}, np.unique(generated_text.runs(np.tile(ids, 3), 8)))
    assert (found.usual, found.distinct, found.copied) == (1.0, 0.75, 0.0)
    build_graph(
        write_poems(tmp_path / "a.txt", poems=200), tmp_path / "g.sifu", vocab=200, signal="recurrent", holdout=0.2
    )
    assert generated_text.main([str(tmp_path / "g.sifu"), "--tokens", "200"]) == 0
    printed = capsys.readouterr().out
    assert "| generated | " in printed and "| held-out | " in printed
