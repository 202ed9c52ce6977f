"""`benchmarks/brown.py` runs, on a small corpus of the same form."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import brown

    rng, folder = np.random.default_rng(0), tmp_path / "package"
    folder.mkdir()
    (folder / "README").write_text("not a text")
    for k in range(30):
        words = [f"w{int(x)}/nn" for x in rng.geometric(0.2, 40)]
        (folder / f"ca{k:02}").write_text("\n\n\t" + " ".join(words) + "\n", "latin-1")
    texts = brown.documents(folder)
    assert len(texts) == 30
    assert brown.RARE in {word for words in texts for word in words}
    first, second, rest = brown.parts(texts, (100, 50))
    assert (sum(map(len, first)), sum(map(len, second)), sum(map(len, rest))) == (100, 50, 1050)
    assert [word for part in (first, second, rest) for words in part for word in words] == [
        word for words in texts for word in words
    ]
    monkeypatch.setattr(brown, "PARTS", (800, 200))
    small = ["--minutes", "0.01", "--width", "16", "--threads", "1", "--models", "lstm", "--output", str(tmp_path)]
    assert brown.main(["--folder", str(folder), *small]) == 0
    assert "| sifu |" in capsys.readouterr().out
    rows = json.loads((tmp_path / "brown.json").read_text())["rows"]
    assert {"kneser-ney-4", "sifu, untrained", "sifu"} <= set(rows)
    assert any(name.startswith("lstm") for name in rows)
