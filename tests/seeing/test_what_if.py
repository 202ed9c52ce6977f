"""What-if against really making the edit on a branch: the same bits, for every form that an edit exists for."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sifu_store.errors import OptionError
from small import write_text

from sifu_graph import Graph, build_graph
from sifu_graph.inspection import what_if
from sifu_graph.inspection.trace import Trace

TENSORS = ("r", "mix", "energy", "candidate", "private", "shown", "z")
FIRST = 2  # the first node that is not a special one


@pytest.fixture(scope="module")
def graphs(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One that was trained, and one whose every page is generated."""
    folder = tmp_path_factory.mktemp("new")
    build_graph(
        write_text(folder / "poems.txt"),
        folder / "graph.sifu",
        vocab=40,
        sparsify=0.5,
        length=8,
        holdout=0.1,
        signal="tuned",
    )
    return [trained, folder / "graph.sifu"]


def assert_same(found: Trace, wanted: Trace) -> None:
    for name in TENSORS:
        assert torch.equal(getattr(found, name), getattr(wanted, name)), name
    assert found.nodes == wanted.nodes
    assert found.unknown == wanted.unknown
    for mine, theirs in zip(found.positions, wanted.positions, strict=True):
        assert mine.candidates == theirs.candidates
        assert (mine.loss, mine.rank) == (theirs.loss, theirs.rank)
        assert np.array_equal(mine.weights, theirs.weights)


@settings(max_examples=4)
@given(data=st.data())
def test_what_if_is_the_edit_on_a_branch(
    graphs: list[Path], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    original = graphs[data.draw(st.integers(0, 1), label="graph")]
    path = Path(shutil.copytree(original, tmp_path_factory.mktemp("copy") / "graph.sifu"))
    with Graph.open(path) as graph:
        index, names = graph.parameters.index, graph.tokenizer.vocabulary
        every = [(int(key) // index.nodes, int(key) % index.nodes) for key in index.keys()]  # noqa: SIM118
        edges = data.draw(st.lists(st.sampled_from(every), max_size=3, unique=True), label="edges")
        nodes = data.draw(
            st.lists(st.integers(FIRST, index.nodes - 1), min_size=0 if edges else 1, max_size=2, unique=True),
            label="nodes",
        )
        text = data.draw(st.text(st.sampled_from(names[FIRST:]), min_size=1, max_size=14), label="text")
        if all(character in [names[node] for node in nodes] for character in text):
            text += next(name for name in names[FIRST:] if names.index(name) not in nodes)
        like = data.draw(st.sampled_from(["generate", "eval"]), label="like")
        what_if = [f"edge {names[u]} {names[v]} = default" for u, v in edges]
        never = data.draw(st.lists(st.sampled_from(every), max_size=2, unique=True), label="forbidden")
        never = [edge for edge in never if edge not in edges and not set(edge) & set(nodes)]
        what_if += [f"edge {names[u]} {names[v]} forbid" for u, v in never]
        what_if += [f"node {names[node]} off" for node in nodes]
        supposed = graph.trace(text, what_if=what_if, like=like, top=6)
        graph.branch("trial")
        graph.switch("trial")
        with graph.edit("what was asked") as edit:
            for u, v in edges:
                edit.default_edge(names[u], names[v])
            for u, v in never:
                edit.forbid_edge(names[u], names[v])
            if nodes:
                edit.remove_node(*(names[node] for node in nodes))
        assert_same(supposed, graph.trace(text, like=like, top=6))
        graph.switch("main")
        assert supposed.before is not None
        assert_same(supposed.before, graph.trace(text, like=like, top=6))
    shutil.rmtree(path)


NAMES = st.text(min_size=1) | st.sampled_from([" ", "\t", "a b", "'", '"', "\\", "#", "a\nb", "\u2423", "$x", "\u3000"])


@given(NAMES, NAMES, st.sampled_from(["default", "forbid", "boost"]))
def test_a_change_is_read_as_it_is_written(u: str, v: str, way: what_if.Way) -> None:
    """For all names: one with spaces, quotes or control characters, too."""
    for change in (what_if.Change("edge", (u, v), way=way, nats=0.5 * (way == "boost")), what_if.Change("node", (u,))):
        assert what_if.parse(str(change)) == change


@pytest.mark.parametrize("signal", ["recurrent", "tuned"])
def test_names_with_spaces_and_forbidden_edges(signal: str, tmp_path: Path) -> None:
    lines = [["a b", " ", "\t", "x"], ["x", "a b", "\t", " "]] * 20
    build_graph(path=tmp_path / "g.sifu", texts=lines, level="tokens", holdout=0, length=4, signal=signal)
    with Graph.open(tmp_path / "g.sifu") as graph:
        text = ["a b", " ", "\t", "x"]
        for words, u, v in ((r"edge 'a b' ' ' forbid", "a b", " "), ("edge ' ' '\t' forbid", " ", "\t")):
            tried = graph.trace(text, what_if=[words])
            assert tried.what_if == (words,)
            graph.forbid_edge(u, v)
            assert_same(tried, graph.trace(text))
            with pytest.raises(OptionError, match="is forbidden: allow it instead"):
                graph.trace(text, what_if=[words.replace("forbid", "= default")])
            with pytest.raises(OptionError, match="is forbidden: allow it instead"):
                graph.default_edge(u, v)
            graph.undo()
