"""Stores of older formats stay readable, and give the same figures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from sifu_store import Store
from sifu_store.errors import StoreVersionError
from sifu_store.layout import EDITED_VERSION, FIRST_VERSION, FORMAT_VERSION, REPEAT, REPEAT_VERSION
from small import write_text
from tables import table
from write_format_fixture import DATA, history

from sifu_graph import Graph
from sifu_graph.evaluation import evaluate_split
from sifu_graph.text.encoded import Split

KEPT = DATA / "format-1.zip"
"""Built and trained two steps by release 0.1.0, before there were edits: 23 nodes, 105 private edges."""
BUILT, TRAINED = "HEAD~1", "HEAD"
PERPLEXITY = {BUILT: 11.271081, TRAINED: 33.797664}  # of 20 lines, as that release told it


@pytest.fixture
def old(tmp_path: Path) -> Path:
    shutil.unpack_archive(KEPT, tmp_path)
    return tmp_path / "format-1.sifu"


def perplexity(graph: Graph, folder: Path) -> float:
    lines = write_text(folder / "poems.txt", documents=60).read_text(encoding="utf-8").splitlines()[:20]
    text = Split.from_documents(lines, graph.tokenizer)
    return evaluate_split(graph.parameters, graph.signal, text, 8, None).perplexity


@pytest.mark.parametrize("version", range(FIRST_VERSION, FORMAT_VERSION + 1))
def test_the_store_of_every_format_gives_its_recorded_figures(version: int, tmp_path: Path) -> None:
    name = f"format-{version}"
    archive, record = DATA / f"{name}.zip", DATA / f"{name}.json"
    assert archive.exists(), "a new format needs a fixture: python tests/support/write_format_fixture.py"
    assert archive.stat().st_size < 150_000
    shutil.unpack_archive(archive, tmp_path)
    recorded = json.loads(record.read_text(encoding="utf-8"))
    found = history(tmp_path / f"{name}.sifu", tmp_path)
    assert found.keys() == recorded.keys()
    assert recorded["HEAD~0"]["format_version"] == version
    for commit, figures in recorded.items():
        assert found[commit] == {**figures, "perplexity": pytest.approx(figures["perplexity"], rel=1e-5)}, commit


@pytest.mark.parametrize("at", [BUILT, TRAINED])
def test_version_1_reads_as_it_did(old: Path, tmp_path: Path, at: str) -> None:
    with Graph.open(old, at=at) as graph:
        assert graph.store.format_version == 1
        assert graph.parameters.index.edges == 105
        assert perplexity(graph, tmp_path) == pytest.approx(PERPLEXITY[at], rel=1e-5)


def test_the_first_edit_makes_it_version_2_and_changes_nothing_else(old: Path, tmp_path: Path) -> None:
    with Graph.open(old) as graph:
        before = table(graph, energies=True)
        graph.undo()
        built = table(graph, energies=True)
        graph.add_node("龍")
        assert graph.store.format_version == EDITED_VERSION == 2
        assert graph.info().format_version == graph.settings["format_version"] == 2
        after = table(graph, energies=True)
        assert after.edges == built.edges
        assert {pair: energy for pair, energy in after.energy.items() if "龍" not in pair} == built.energy
        graph.remove_node("龍")
        assert perplexity(graph, tmp_path) == pytest.approx(PERPLEXITY[BUILT], rel=1e-5)
        poems = write_text(tmp_path / "poems.txt", documents=60)
        assert graph.train([poems], steps=1, batch=8).step == 1
        graph.undo(3)
        assert graph.store.format_version == FIRST_VERSION
        table(graph).same(built)
        assert before.default != built.default


@pytest.mark.parametrize("how", ["train", "edit"])
def test_a_graph_without_weights_of_repetition_gets_them_when_it_changes(tmp_path: Path, how: str) -> None:
    shutil.unpack_archive(DATA / "format-4.zip", tmp_path)
    poems = write_text(tmp_path / "poems.txt", documents=60)
    with Graph.open(tmp_path / "format-4.sifu") as graph:
        assert graph.store.format_version == 4
        assert not graph.store.has(REPEAT) and not graph.parameters.base.model.repeat.any()
        if how == "train":
            graph.train([poems], steps=2, batch=8)
        else:
            graph.boost_edge("春", "花", 1.0)
        assert graph.store.format_version == graph.settings["format_version"] == REPEAT_VERSION == 5
        assert graph.store.read(REPEAT).any() == (how == "train")
        assert graph.store.verify().ok
        graph.undo()
        assert graph.store.format_version == 4


def test_a_newer_version_is_refused(old: Path) -> None:
    with Store.open(old, write=True) as store:
        store.require_version(FORMAT_VERSION + 1)
        store.commit("newer", command="edit", changes={})
    with pytest.raises(StoreVersionError, match="newer release"):
        Store.open(old)
