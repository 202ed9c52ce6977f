"""Every command on a graph whose edges share a base."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from calls import call
from small import write_poems

COMMANDS = [
    ["info"],
    ["info", "--card"],
    ["estimate"],
    ["train", "--steps", "2", "--stats"],
    ["eval", "--baselines", "--limit", "500"],
    ["eval", "--edits", "3", "--seed", "1", "--limit", "500"],
    ["generate", "春風", "--tokens", "5", "--seed", "1", "--stats"],
    ["generate", "春風", "--tokens", "5", "--greedy", "--explain"],
    ["trace", "春風", "--html", "trace.html"],
    ["trace", "春風", "--what-if", "position 1 off"],
    ["inspect", "春"],
    ["inspect", "春", "風"],
    ["map", "map.html"],
    ["plot", "energy"],
    ["plot", "rows"],
    ["add-node", "龘", "--like", "春", "--dry-run"],
    ["add-node", "龘", "--corpus", "new.txt", "--train-steps", "2"],
    ["edit-node", "花", "--merge-into", "月"],
    ["edit-edge", "春", "風", "--boost", "1"],
    ["edit-edge", "春", "月", "--forbid"],
    ["remove-node", "雲", "--yes"],
    ["prune", "--to-ratio", "0.02", "--yes"],
    ["grow", "--to-ratio", "0.05"],
    ["compact"],
    ["diff", "HEAD~2", "HEAD"],
    ["log"],
    ["verify"],
    ["export", "safetensors", "graph.safetensors"],
    ["export", "graphml", "graph.graphml"],
    ["import", "graph.safetensors", "--store", "again.sifu"],
    ["eval", "--limit", "500", "--store", "again.sifu"],
    ["undo"],
    ["gc", "--dry-run"],
]
REFUSED = {
    "--candidates": ["train", "--steps", "1", "--candidates", "5"],
    "--contexts": ["train", "--steps", "1", "--contexts"],
    "--host-memory": ["train", "--steps", "1", "--host-memory", "1KiB"],
    "--signal brillm05": ["export", "brillm"],
}


@pytest.fixture
def base_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_poems(tmp_path / "poems.txt", poems=300)
    text = write_poems(tmp_path / "new.txt", poems=60).read_text("utf-8")
    (tmp_path / "new.txt").write_text(text.replace("山", "龘"), encoding="utf-8")
    words = ["build-graph", "poems.txt", "--vocab", "200", "--sparsify", "0.05", "--holdout", "0.1"]
    assert call(*words).code == 0
    return tmp_path


def test_every_command_runs(base_graph: Path) -> None:
    for words in COMMANDS:
        found = call(*words)
        assert found.code == 0, (words, found)
    training = json.loads(call("info", "--json").out)["settings"]["training"]
    assert training["optimizer"]["lr"] == 0.008


def test_a_clone_is_a_source_of_edges(base_graph: Path) -> None:
    clones = [
        clone["name"] for node in ("莫", "雲") for clone in json.loads(call("inspect", node, "--json").out)["clones"]
    ]
    name = clones[0]
    shown = call("inspect", name).out
    assert name in shown and "inherited" in shown
    assert f"edge {name} 風" in " ".join(call("inspect", name, "風").out.split())
    assert "before: inherited" in call("edit-edge", name, "風", "--boost", "2").out
    assert f"{name} 風 (+2 nats)" in call("diff").out
    refused = call("edit-edge", name, "風", "--scale", "2")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    pruned = call("prune", "--clones", "3", "--yes")
    assert "clones removed" in pruned.out and "became default" not in pruned.out
    assert json.loads(call("info", "--json").out)["clones"] <= 3
    again = call("prune", "--clones", "3", "--yes")
    assert again.code == 2 and "--clones is 3" in again.err


def test_a_graph_grows_clones(base_graph: Path) -> None:
    before = json.loads(call("info", "--json").out)["clones"]
    refused = call("grow", "--clones", str(before))
    assert refused.code == 2 and f"the graph has {before:,}: name more" in refused.err
    Path("other.txt").write_text("春風春雨春月\n" * 40 + "月下風來月下人\n" * 40, encoding="utf-8")
    words = "grow", "--corpus", "other.txt", "--gain", "0"
    assert "was not changed" in call(*words, "--dry-run").out
    shown = call(*words)
    assert shown.code == 0 and "tokens counted" in shown.out and "expected gain" in shown.out
    assert "perplexity; before" in shown.out and "became default" not in shown.out
    again = json.loads(call(*words, "--json").out)
    assert (again["tokens_counted"], again["clones_added"]) == (0, 0)
    after = json.loads(call("info", "--json").out)
    assert after["clones"] > before and len(after["settings"]["build"]["counted"]) == 1
    most = call("grow", "--clones", "99999999", "--dry-run")
    assert "no other context predicts the text better" in most.err
    assert call("map", "--unfold", "春", "--nodes", "20", "--quiet").code == 0
    assert call("verify").code == 0


def test_an_export_says_that_it_has_no_clones(base_graph: Path) -> None:
    assert "clones are left out" in call("export", "graphml", "a.graphml").err
    assert "clones" not in call("export", "safetensors", "a.safetensors").err


def test_clones_need_a_base(base_graph: Path) -> None:
    found = call("build-graph", "poems.txt", "--clones", "5", "--signal", "tuned", "--store", "other.sifu")
    assert found.code == 2 and "--clones" in found.err and "--signal recurrent" in found.err


def test_what_does_not_apply_is_said_in_one_line(base_graph: Path) -> None:
    for what, words in REFUSED.items():
        found = call(*words)
        assert found.code in (1, 2), (words, found)
        assert what in found.err and found.err.count("\n") <= 2, (words, found)


def test_options_of_the_optimizer_begin_from_the_defaults_of_a_base(base_graph: Path) -> None:
    assert call("train", "--steps", "1", "--lr", "0.004").code == 0
    optimizer = json.loads(call("info", "--json").out)["settings"]["training"]["optimizer"]
    assert (optimizer["lr"], optimizer["kind"], optimizer["clip"]) == (0.004, "adamw", 1.0)
