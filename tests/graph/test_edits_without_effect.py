"""An edit that changes nothing makes no commit; one without an effect on a probability says so."""

from __future__ import annotations

import shutil
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sifu_store import durable
from sifu_store.errors import DiskFullError, OptionError
from small import write_text

from sifu_graph import Graph, build_graph
from sifu_graph.edit.prune_grow import NO_EFFECT

NOTHING = "the edge 春 風 has no matrix of its own, and no edit gave it an energy: there is nothing to {}; `boost_edge"


@pytest.fixture(scope="module")
def recurrent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recurrent")
    text = write_text(folder / "poems.txt")
    build_graph(text, folder / "graph.sifu", vocab=40, sparsify=0.5, width=16, length=8, holdout=0.1)
    return folder / "graph.sifu"


@pytest.fixture
def shared(recurrent: Path, tmp_path: Path) -> Iterator[Graph]:
    """A graph whose edges share a base."""
    with Graph.open(shutil.copytree(recurrent, tmp_path / "shared.sifu")) as graph:
        yield graph


def default_pair(graph: Graph) -> tuple[str, str]:
    """The names of the ends of an edge that is not private."""
    index, names = graph._at_rest.index, graph.tokenizer.vocabulary
    return next((u, v) for u in names[2:] for v in names[2:] if index.slot_of(names.index(u), names.index(v)) is None)


REFUSED: dict[str, tuple[str, Callable[[Graph], Any]]] = {
    "scale": ("scale", lambda graph: graph.scale_edge("春", "風", 2.0)),
    "scale by 1": ("scale", lambda graph: graph.scale_edge("春", "風", 1.0)),
    "copy": ("copy", lambda graph: graph.copy_edge("花", "月", source=("春", "風"))),
    "table": ("scale", lambda graph: graph.edit_edges([{"source": "春", "target": "風", "scale": 2}])),
    "table copy": (
        "copy",
        lambda graph: graph.edit_edges([{"source": "花", "target": "月", "copy_from": ["春", "風"]}]),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_edge_without_anything_of_its_own_is_not_scaled_or_copied(name: str, shared: Graph) -> None:
    what, call = REFUSED[name]
    before = shared.store.snapshot
    with pytest.raises(OptionError, match=NOTHING.format(what)):
        call(shared)
    assert shared.store.snapshot == before
    shared.boost_edge("春", "風", 1.5)
    if name != "scale by 1":
        before = shared.store.snapshot
        assert call(shared).snapshot not in (None, before)


def test_scaling_scales_what_the_boost_gave(shared: Graph) -> None:
    first = shared.inspect("春", "風").energy
    shared.boost_edge("春", "風", 1.5)
    shared.scale_edge("春", "風", 2.0)
    assert shared.inspect("春", "風").energy - first == pytest.approx(3.0, abs=1e-5)
    before = shared.store.snapshot
    assert shared.scale_edge("春", "風", 1.0).snapshot is None
    assert shared.store.snapshot == before


SAME: dict[str, Callable[[Graph], Any]] = {
    "boost": lambda graph: graph.boost_edge("春", "風", 0.0),
    "boost of a default edge": lambda graph: graph.boost_edge(*default_pair(graph), 0.0),
    "bias": lambda graph: graph.set_bias("春", like="春"),
    "prune": lambda graph: graph.prune(min_count=1),
    "grow": lambda graph: graph.grow(min_count=10**6),
    "grow default": lambda graph: graph.grow(min_count=10**6, init="default"),
    "table": lambda graph: graph.edit_edges([{"source": "春", "target": "風", "boost": 0}]),
}
SAME_WITH_MATRICES: dict[str, Callable[[Graph], Any]] = {
    "scale": lambda graph: graph.scale_edge("春", "風", 1.0),
    "scale of a default edge": lambda graph: graph.scale_edge(*default_pair(graph), 1.0),
}


@pytest.mark.parametrize("name", SAME)
def test_no_change_no_commit(name: str, shared: Graph, graph: Graph) -> None:
    for each in (shared, graph):
        before = each.store.snapshot
        report = SAME[name](each)
        assert (report.snapshot, each.store.snapshot, report.dry_run) == (None, before, False)


@pytest.mark.parametrize("name", SAME_WITH_MATRICES)
def test_no_change_of_a_matrix_no_commit(name: str, graph: Graph) -> None:
    before = graph.store.snapshot
    assert SAME_WITH_MATRICES[name](graph).snapshot is None
    assert graph.store.snapshot == before


def test_a_copy_of_equal_parameters_is_no_change(graph: Graph) -> None:
    first = graph.copy_edge("花", "月", source=("春", "風")).snapshot
    assert first == graph.store.snapshot
    assert graph.copy_edge("花", "月", source=("春", "風")).snapshot is None
    assert graph.store.snapshot == first


def test_pruning_and_growing_say_that_no_probability_changes(shared: Graph) -> None:
    pruned = shared.prune(min_count=12)
    assert (pruned.note, pruned.bytes_freed) == (NO_EFFECT, 0) and pruned.edges_removed
    grown = shared.grow(min_count=3)
    assert (grown.note, grown.bytes_freed) == (NO_EFFECT, 0) and grown.edges_added
    shared.boost_edge("春", "風", 1.0)
    assert shared.prune(to_ratio=0.0).note is None


def test_the_bytes_of_a_prune_are_those_of_stored_matrices(graph: Graph) -> None:
    assert graph.prune(to_ratio=0.3, dry_run=True).bytes_freed == 0
    graph.train(steps=1, batch=4)
    index, slots = graph._at_rest.index, graph.store.page_stored()
    stored = int(slots[index.slots() // 512].sum())
    planned = graph.prune(to_ratio=0.0, dry_run=True)
    assert planned.bytes_freed == 4 * (32 * 32 + 32) * stored > 0
    grown = graph.grow(min_count=1, init="default", dry_run=True)
    assert grown.bytes_freed == -4 * (32 * 32 + 32) * grown.edges_added


def test_a_what_if_that_changes_nothing_says_so(shared: Graph) -> None:
    with pytest.raises(
        OptionError, match="`what_if` 'edge 春 風 = default' changes nothing: no edit gave this edge an"
    ):
        shared.trace("春風", what_if=["edge 春 風 = default"])
    shared.boost_edge("春", "風", 1.0)
    assert not shared.trace("春風", what_if=["edge 春 風 = default"]).unchanged
    found = shared.trace("花月", what_if=["edge 春 風 = default"])
    assert found.unchanged and found.to_json()["unchanged"]
    assert not shared.trace("花月").unchanged
    assert not shared.trace("花月", what_if=["node 春 off"]).unchanged


def test_no_memory_for_pages_that_are_never_read(shared: Graph, graph: Graph) -> None:
    for each in (shared, graph):
        each.generate("春", tokens=3)
    assert shared.cache()["host_pool_bytes"] == shared.cache()["requests"] == 0
    assert graph.cache()["host_pool_bytes"] > 0
    assert np.isfinite(shared.evaluate(limit=50).perplexity)


@pytest.mark.parametrize("size", [1e300, -1e7, float("inf"), float("nan")])
def test_an_edit_beyond_what_float32_adds_up_is_refused(graph: Graph, size: float) -> None:
    for change in (graph.boost_edge, graph.scale_edge):
        with pytest.raises(OptionError, match="it must be -1,000,000 to 1,000,000"):
            change("春", "風", size)


def test_a_new_node_without_a_text_is_as_improbable_as_any(shared: Graph) -> None:
    """It had the probability of a node that follows everything: five of them doubled a perplexity."""
    before, rarest = shared.evaluate().perplexity, min(each.p for each in shared.next("春", k=100))
    shared.add_node("龘")
    assert {each.name: each.p for each in shared.next("春", k=100)}["龘"] < 2 * rarest
    shared.add_node("鱻", "驫", "麤", "犇")
    assert shared.evaluate().perplexity < 1.2 * before


@pytest.mark.parametrize("of", ["graph", "shared"])
def test_edits_do_not_add_up_to_what_is_not_finite(of: str, request: pytest.FixtureRequest) -> None:
    graph: Graph = request.getfixturevalue(of)
    graph.boost_edge("春", "風", 5.0)
    with pytest.raises(OptionError, match="above 1,000,000: edit by less"):
        for _ in range(8):
            graph.scale_edge("春", "風", 1_000_000.0)
    assert graph.store.verify().ok and all(np.isfinite(each.p) for each in graph.next("春"))


def test_an_edit_without_pages_asks_for_the_space_of_a_commit(shared: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    before = shared.store.snapshot
    free = namedtuple("free", "free")(10_000)
    monkeypatch.setattr(durable.shutil, "disk_usage", lambda path: free)
    with pytest.raises(DiskFullError, match=r"^a commit needs 1.0 MiB, 9.8 KiB are free"):
        shared.set_bias("春", like="風")
    assert shared.store.snapshot == before
