"""import-brillm, import, export, eval with baselines, the model card: as commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from calls import call

NAMES = ["<unk>", *"春風花月夜。"]


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A folder with a small model of the released code, every edge private."""
    rng, n = np.random.default_rng(0), len(NAMES)

    def draw(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.uniform(-0.5, 0.5, shape).astype(np.float32))

    folder = tmp_path / "released"
    folder.mkdir()
    state = {"positions": draw(1, 512, 1), "weights": draw(n * n + 1, 4, 4), "biases": draw(n * n + 1, 1, 4),
             "node_bias": draw(n, 1, 4)}  # fmt: skip
    torch.save(state, folder / "model.bin")
    (folder / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(NAMES)}), encoding="utf-8")
    return folder


def test_import_brillm_and_export_again(released: Path) -> None:
    done = call("import-brillm", released / "model.bin", "--vocab", released / "vocab.json")
    assert done.code == 0
    assert "private edges" in done.out
    assert "49" in done.out
    assert "note: no frequency file: every edge is private" in done.err
    text = call("generate", "春風", "--greedy", "--tokens", "8", "--quiet").out
    done = call("export", "brillm", "--json")
    fields = json.loads(done.out)
    assert (fields["format"], fields["private_edges"]) == ("brillm", 49)
    assert sorted(path.name for path in Path("graph.brillm").iterdir()) == fields["files"]
    again = call(
        "import-brillm", "graph.brillm/model.bin", "--vocab", "graph.brillm/vocab.json",
        "--frequency", "graph.brillm/word_frequency.json", "--store", "again.sifu", "--json",
    )  # fmt: skip
    assert json.loads(again.out)["private_edges"] == 49
    assert call("generate", "春風", "--greedy", "--tokens", "8", "--quiet", "--store", "again.sifu").out == text
    assert "imported from brillm" in call("info").out
    assert "import-brillm --vocab" in call("log").out
    assert "imported from" in call("info", "--card").out


def test_import_brillm_refuses(released: Path) -> None:
    model, vocab = released / "model.bin", released / "vocab.json"
    assert call("import-brillm", model).code == 2
    vocab.write_text(json.dumps({"<unk>": 0, "春": 1}), encoding="utf-8")
    done = call("import-brillm", model, "--vocab", vocab)
    assert done.code == 1
    assert "has 7 nodes" in done.error
    assert "has 2: they do not belong together" in done.error
    assert not Path("graph.sifu").exists()
    assert "No such file" in call("import-brillm", "nothing.bin", "--vocab", vocab).error


def test_export_and_import_safetensors(unchanged: Path) -> None:
    done = call("export", "safetensors", "copy.safetensors", "--store", unchanged)
    assert done.code == 0
    assert call("import", "copy.safetensors", "--store", "copy.sifu").code == 0
    wanted, found = (
        json.loads(call("eval", "--store", store, "--json").out)["perplexity"] for store in (unchanged, "copy.sifu")
    )
    assert found == pytest.approx(wanted)
    done = call("export", "safetensors", "copy.safetensors", "--store", unchanged)
    assert (done.code, done.error) == (1, "copy.safetensors exists: name another path, or replace it with --force")
    done = call("import", "poems.txt", "--store", "other.sifu")
    assert done.code == 1
    assert "poems.txt" in done.error


@pytest.mark.parametrize("kind", ["graphml", "scipy"])
def test_export_names_its_files(unchanged: Path, kind: str) -> None:
    assert call("export", kind, "--store", unchanged, "--quiet").err == ""
    assert Path(f"graph.{kind}").exists()


def test_export_brillm_of_another_signal(unchanged: Path) -> None:
    done = call("export", "brillm", "--store", unchanged)
    assert done.code == 2
    assert "build one with sifu build-graph --signal brillm05" in done.error
    assert call("export", "onnx", "--store", unchanged).code == 2


def test_eval_with_baselines(unchanged: Path) -> None:
    done = call("eval", "--baselines", "--store", unchanged)
    table = done.out.split("\n\n")[1]
    assert "lowest perplexity last" in table
    for name in ("uniform", "unigram", "kneser-ney-2", "kneser-ney-3", "kneser-ney-4", str(unchanged)):
        assert name in table
    fields = json.loads(call("eval", "--baselines", "--store", unchanged, "--json").out)
    names = [baseline["name"] for baseline in fields["baselines"]]
    assert names == ["unigram", "kneser-ney-2", "kneser-ney-3", "kneser-ney-4"]
    assert sum(part["tokens"] for part in fields["positions"]) == fields["tokens"]
    assert fields["private"]["tokens"] + fields["default"]["tokens"] == fields["tokens"]


def test_eval_side_by_side_and_drawn(graph: Path, poems: Path) -> None:
    before = json.loads(call("log", "--json").out)["commits"][0]["snapshot"]
    assert call("train", "--steps", "1", "--batch", "8", "--quiet").code == 0
    assert call("build-graph", poems, "--store", "other.sifu", "--holdout", "0.5", "--quiet").code == 0
    done = call("eval", "--against", f"@{before}", "--against", "other.sifu", "--plot", "positions.png", "--json")
    fields = json.loads(done.out)
    assert [other["store"] for other in fields["against"]] == [f"@{before}", "other.sifu"]
    assert fields["against"][0]["tokens"] == fields["tokens"]
    assert fields["against"][0]["perplexity"] != fields["perplexity"]
    assert "sifu: warning: other.sifu was built from another text or another held-out part" in done.err
    assert Path("positions.png").read_bytes().startswith(b"\x89PNG")
    assert f"@{before}" in call("eval", "--against", f"@{before}").out
    assert call("eval", "--against", "nothing.sifu").code == 2
    assert call("eval", "--plot", "positions.txt").code == 2


def test_baselines_of_an_imported_graph(released: Path, poems: Path) -> None:
    assert call("import-brillm", released / "model.bin", "--vocab", released / "vocab.json").code == 0
    assert call("eval", poems, "--limit", "50").code == 0
    without = "the graph was imported, with no text of its own: "
    assert f"{without}leave --baselines out, which needs that text" in call("eval", poems, "--baselines").error
    assert f"{without}name a text as FILE" in call("eval").error
    assert f"{without}name a text as CORPUS" in call("train", "--steps", "1").error
