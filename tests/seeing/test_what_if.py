"""What-if against really making the edit on a branch: the same bits, for every form that an edit exists for."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import write_text

from sifu_graph import Graph, build_graph
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
