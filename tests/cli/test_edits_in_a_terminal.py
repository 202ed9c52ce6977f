"""What the commands that edit, and those that show edits, say where all edges share a base."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from calls import call


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, poems: Path) -> Path:
    store = tmp_path_factory.mktemp("shared") / "graph.sifu"
    assert call("build-graph", "-", "--store", store, "--holdout", "0.2", stdin=poems.read_bytes()).code == 0
    return store


@pytest.fixture
def graph(shared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shared, tmp_path / "graph.sifu"))


def rows(text: str) -> dict[str, str]:
    """The table of a command: what stands after each label."""
    return {found[1]: " ".join(found[2].split()) for found in re.finditer(r"^(\S.*?) {2,}(.*)$", text, re.MULTILINE)}


def test_there_is_nothing_to_scale(graph: Path) -> None:
    for way in (("--scale", "2"), ("--copy-from", "江", "南")):
        said = call("edit-edge", "春", "風", *way).error
        assert "has no matrix of its own, and no edit gave it an energy: there is nothing to" in said
        assert said.endswith("; sifu edit-edge --boost gives an edge an energy of its own")
    said = call("trace", "春風", "--what-if", "edge 春 風 = default").error
    assert said.startswith("--what-if 'edge 春 風 = default' changes nothing: no edit gave this edge an energy")
    assert len(json.loads(call("log", "--json").out)["commits"]) == 1


def test_nothing_changed(graph: Path) -> None:
    found = call("edit-edge", "春", "風", "--boost", "0")
    assert rows(found.out)["snapshot"] == "- nothing changed, so nothing was committed"
    assert json.loads(call("edit-edge", "春", "風", "--boost", "0", "--json").out)["snapshot"] is None
    assert "was not changed" in rows(call("edit-edge", "春", "風", "--boost", "1", "--dry-run").out)["dry run"]


def test_a_forbidden_edge_and_back(graph: Path) -> None:
    before = rows(call("inspect", "春", "風").out)
    assert call("edit-edge", "春", "風", "--forbid").code == 0
    forbidden = rows(call("inspect", "春", "風").out)
    assert forbidden["count"] == "- not recorded for forbidden edges"
    assert "--forbid" in forbidden["last changed"]
    assert re.search(r"forbidden +-?[\d.]+ +forbidden", call("diff").out)
    assert rows(call("edit-edge", "春", "風", "--allow").out)["kind"] == "private before: forbidden"
    after = rows(call("inspect", "春", "風").out)
    assert "--allow" in after.pop("last changed") and before.pop("last changed")
    assert after == before


def test_pruning_counts_no_bytes_that_are_not_stored(graph: Path) -> None:
    pruned = call("prune", "--to-ratio", "0.01", "--yes")
    assert rows(pruned.out)["matrices"] == "0 bytes none of these edges has a stored matrix"
    assert "note: no probability changes" in pruned.err
    assert "cache: not used" in call("generate", "春", "--tokens", "3", "--stats").err


def test_a_what_if_without_an_effect(graph: Path) -> None:
    assert call("edit-edge", "春", "風", "--boost", "1").code == 0
    said = call("trace", "江南", "--what-if", "edge 春 風 = default").err
    assert "warning: what-if edge 春 風 = default changes nothing at the positions shown" in said


def test_standard_input_is_read_again_after_an_edit_of_nodes(graph: Path) -> None:
    assert "encoded, and a copy of it, in the folder cache" in rows(call("info").out)["text inside"]
    assert call("edit-node", "春", "--rename", "龍").code == 0
    assert call("eval").code == call("train", "--steps", "1", "-q").code == 0
    shutil.rmtree(graph / "cache")
    said = (
        "the graph was built from standard input, and there is no copy of that text in its folder cache (no file of "
        "sifu export has one): pass the text "
    )
    for command in (["eval"], ["train", "--steps", "1"]):
        assert call(*command).error == said + "again, with sifu train CORPUS or sifu eval FILE"


def test_own_shares_are_explained(graph: Path) -> None:
    found = call("inspect", "春").out
    report = json.loads(call("inspect", "春", "--json").out)
    assert ("own share" in found) == ("  own counts" in found) == (report["own_transitions"] != report["transitions"])
