"""`benchmarks/gpu.py` runs: all of its code at toy size, on CPU tensors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.mark.slow
def test_all_of_it_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import gpu

    code = gpu.main(["--device", "cpu", "--small", "--output", str(tmp_path)])
    out = capsys.readouterr()
    assert code == 0, out.err
    assert "| three steps with 100 %" in out.out
    written = json.loads(next(tmp_path.glob("gpu-*-small.json")).read_text())
    assert written["device"].startswith("CPU tensors")
    assert sum(line["met"] is True for line in written["lines"]) >= 5
    assert not any("not run" in line["measured"] for line in written["lines"])


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import gpu

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu.main([]) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.startswith("error: `device` is 'cuda': torch") and found.err.count("\n") == 1
