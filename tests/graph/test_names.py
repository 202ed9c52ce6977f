"""Names of nodes that begin with a space: one notation in and out, and the form that was probably meant."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from sifu_store.errors import OptionError

from sifu_graph import Graph, build_graph
from sifu_graph.text.node_lookup import node_named, other_form_note, shown_name


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph of byte-level BPE in which ``␣pip`` is frequent and ``pip`` is rare. Not to be changed."""
    folder = tmp_path_factory.mktemp("english")
    lines = ["we use pip install and the pip install tool with the pip"] * 60 + ["pip the install"] * 2
    (folder / "a.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    build_graph(folder / "a.txt", folder / "g.sifu", vocab=300, level="bpe", holdout=0, sparsify=1.0)
    return folder / "g.sifu"


@pytest.fixture
def graph(english: Path, tmp_path: Path) -> Graph:
    with Graph.open(shutil.copytree(english, tmp_path / "g.sifu")) as found:
        yield found  # type: ignore[misc]


def test_every_name_that_is_shown_is_read_as_its_node(graph: Graph) -> None:
    for node, name in enumerate(graph.tokenizer.vocabulary):
        assert " " not in shown_name(name)
        assert node_named(graph.tokenizer, shown_name(name)) == node_named(graph.tokenizer, name) == node


def test_a_literal_open_box_is_found_first(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a␣ a\n" * 20, encoding="utf-8")
    build_graph(tmp_path / "a.txt", tmp_path / "g.sifu", vocab=9, holdout=0)
    with Graph.open(tmp_path / "g.sifu") as graph:
        names = graph.tokenizer.vocabulary
        assert names[node_named(graph.tokenizer, "␣")] == "␣"
        assert names[node_named(graph.tokenizer, " ")] == " "


def test_the_frequent_form_is_asked_for(graph: Graph) -> None:
    rare, frequent = graph.inspect("pip"), graph.inspect("␣pip")
    assert frequent.name == " pip"
    assert frequent.count > 10 * rare.count
    assert frequent.notes == ()
    [note] = rare.notes
    assert note == f"'pip' occurs {rare.count} times; did you mean '␣pip' ({frequent.count} times)?"
    assert graph.inspect("pip", "␣install").notes == (note,)
    report = graph.forbid_edge("pip", "␣install", dry_run=True)
    assert report.notes == [note]
    assert graph.forbid_edge("␣pip", "␣install", dry_run=True).notes == []


@pytest.mark.parametrize(("mine", "others", "asked"), [(1, 9, False), (1, 10, True), (0, 10, True), (5, 49, False)])
def test_only_a_much_more_frequent_form_is_asked_for(graph: Graph, mine: int, others: int, *, asked: bool) -> None:
    import numpy as np

    tokenizer, count = graph.tokenizer, np.zeros(len(graph.tokenizer), np.int64)
    node = node_named(tokenizer, "pip")
    count[node], count[node_named(tokenizer, " pip")] = mine, others
    assert (other_form_note(tokenizer, node, count) is not None) is asked


def test_edits_and_the_log_say_which_node(graph: Graph) -> None:
    graph.boost_edge("␣pip", " install", 1.0)
    assert graph.store.history()[0].message == "boost ␣pip ␣install by 1 nat"
    with pytest.raises(OptionError, match="the edge ␣pip ␣install is not forbidden"):
        graph.allow_edge(" pip", "␣install")
    found = graph.trace("we use pip", what_if=["edge ␣pip ␣install = default"])
    assert found.what_if == ("edge ␣pip ␣install = default",)
    gone = graph.trace("we use pip", what_if=["node ␣install off"], also=[" install"])
    assert " install" not in {one.name for one in gone.positions[-1].candidates}


def test_a_new_word_has_its_space(graph: Graph) -> None:
    bare = graph.add_node("Kubernetes", dry_run=True)
    assert "add '␣Kubernetes' too" in bare.notes[0]
    assert graph.add_node("Kubernetes", "␣Kubernetes", dry_run=True).notes == []
    added = graph.add_node("␣Kubernetes")
    assert (added.nodes_added, added.notes) == ([" Kubernetes"], [])
    names = [graph.tokenizer.vocabulary[node] for node in graph.tokenizer.encode("install Kubernetes")]
    assert names[-1] == " Kubernetes"
    assert " " not in names
    assert graph.add_node("Kubernetes", dry_run=True).notes == []
    assert graph.rename_node("␣Kubernetes", "␣Helm").after.token == " Helm"


def test_errors_show_the_spaces(graph: Graph) -> None:
    with pytest.raises(OptionError, match="'␣pip'"):
        graph.inspect("␣pipp")


@pytest.fixture
def split(tmp_path: Path) -> Graph:
    """A graph with a clone ``x>a``: what follows a depends on the node before it."""
    (tmp_path / "c.txt").write_text("xab\nyac\n" * 100, encoding="utf-8")
    build_graph(tmp_path / "c.txt", tmp_path / "c.sifu", vocab=20, holdout=0, length=8, clones=20)
    with Graph.open(tmp_path / "c.sifu") as found:
        found.inspect("x>a")
        yield found  # type: ignore[misc]


def test_no_node_gets_the_name_of_a_clone(split: Graph) -> None:
    for change in (lambda: split.add_node("x>a"), lambda: split.rename_node("b", "x>a")):
        with pytest.raises(OptionError, match="'x>a' would be a node and a clone"):
            change()
    split.add_node("z>a")
    for change in (lambda: split.rename_node("x", "z"), lambda: split.rename_node("y", "z")):
        with pytest.raises(OptionError, match="'z>a' would be a node and a clone"):
            change()
    split.rename_node("z>a", "z<a")
    split.rename_node("x", "z")
    split.inspect("z>a")  # the clone
