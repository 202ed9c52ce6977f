"""An edit reads and writes only the tables that it changes; an open graph lends another what did not change."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sifu_store.layout import PAIR_COUNT, PAIR_TARGET
from sifu_store.store import Store
from small import write_text

from sifu_graph import Graph, build_graph
from sifu_graph.edit.columns import Table
from sifu_graph.serve.served_graph import ServedGraph

SIGNALS = ("recurrent", "tuned")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tables")
    text = write_text(folder / "poems.txt")
    for signal in SIGNALS:
        more = {"clones": 20} if signal == "recurrent" else {}
        build_graph(text, folder / f"{signal}.sifu", vocab=40, sparsify=0.5, width=16, length=8, signal=signal, **more)
        with Graph.open(folder / f"{signal}.sifu") as graph:
            graph.train(steps=2, batch=4)
            graph.boost_edge("春", "風", 0.5)  # the first edit writes the origins
    return {signal: folder / f"{signal}.sifu" for signal in SIGNALS}


@pytest.fixture(params=SIGNALS)
def path(request: pytest.FixtureRequest, built: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(built[request.param], tmp_path / "graph.sifu"))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of the arrays that are read as a whole."""
    found, plain = set[str](), Store.read

    def noting(store: Store, name: str) -> np.ndarray:
        found.add(name)
        return plain(store, name)

    monkeypatch.setattr(Store, "read", noting)
    return found


def private_pair(graph: Graph) -> tuple[str, str]:
    """The names of the ends of a private edge."""
    index, names = graph._at_rest.index, graph.tokenizer.vocabulary
    return next(
        (u, v) for u in names[2:] for v in names[2:] if index.slot_of(names.index(u), names.index(v)) is not None
    )


def written(graph: Graph, change: Callable[[Graph], Any]) -> set[str]:
    before = graph.store.snapshot
    change(graph)
    found = graph.store.changed_arrays(before)
    assert found is not None
    return set(found) - {"checksums"}


def test_a_boost_writes_one_table(path: Path, read: set[str]) -> None:
    with Graph.open(path) as graph:
        u, v = private_pair(graph)
        read.clear()
        found = written(graph, lambda graph: graph.boost_edge(u, v, 0.25))
        if graph.signal.base:
            assert found == {"edges/energy"}
            assert read.isdisjoint({PAIR_TARGET, PAIR_COUNT, "clones/gain", "nodes/vocabulary", "base/target"})
            assert "optimizer/base/target/m" not in read
        else:
            assert found == {name for name in graph.store.names() if graph.store.is_paged(name)} | {"pages/stored"}
        assert read.isdisjoint({"edges/usage", "nodes/predecessors"})


def test_an_edit_of_a_clone_and_a_ban_write_their_tables(built: dict[str, Path], tmp_path: Path) -> None:
    with Graph.open(shutil.copytree(built["recurrent"], tmp_path / "graph.sifu")) as graph:
        clone = next(clone for node in "春風月花" for clone in graph.inspect(node).clones).name
        assert written(graph, lambda graph: graph.boost_edge(clone, "風", 1.0)) == {"clones/edge", "clones/energy"}
        u, v = private_pair(graph)
        last = graph.tokenizer.vocabulary[-1]
        assert last not in (u, v)
        assert written(graph, lambda graph: graph.rename_node(last, "龘")) == {"nodes/vocabulary", "nodes/tokenizer"}
        found = written(graph, lambda graph: graph.forbid_edge(u, v))
        assert "edges/forbidden" in found and found.isdisjoint({PAIR_TARGET, PAIR_COUNT, "nodes/bias", "clones/parent"})


CHANGES: dict[str, Callable[[Graph], Any]] = {
    "boost": lambda graph: graph.boost_edge("春", "風", 0.5),
    "default": lambda graph: graph.default_edge(*private_pair(graph)),
    "forbid": lambda graph: graph.forbid_edge(*private_pair(graph)),
    "allow": lambda graph: graph.allow_edge(*next(iter(forbidden(graph)))),
    "add": lambda graph: graph.add_node(f"n{graph.settings['nodes']}", like="月"),
    "remove": lambda graph: graph.remove_node(graph.tokenizer.vocabulary[-1]),
    "rename": lambda graph: graph.rename_node(graph.tokenizer.vocabulary[-1], f"r{graph.store.snapshot[:5]}"),
    "prune": lambda graph: graph.prune(min_count=graph.settings["build"]["min_count"] + 2),
    "train": lambda graph: graph.train(steps=1, batch=4),
    "undo": lambda graph: graph.undo(),
    "redo": lambda graph: graph.redo(),
}


def forbidden(graph: Graph) -> Iterator[tuple[str, str]]:
    names = graph.tokenizer.vocabulary
    for key in graph._at_rest.index.forbidden.tolist():
        yield names[key // len(names)], names[key % len(names)]


def same(found: Any, wanted: Any) -> None:
    """That two open graphs have the same parameters, to the bit."""
    for name, value in wanted.small.items():
        assert np.array_equal(found.small[name].numpy(), value.numpy(), equal_nan=True), name
    for name in ("target", "count", "row_start", "forbidden"):
        assert np.array_equal(getattr(found.index, name), getattr(wanted.index, name)), name
    assert np.array_equal(found.index.slots(), wanted.index.slots())
    if wanted.base is not None:
        pairs, others = found.base.pairs, wanted.base.pairs
        every = np.arange(others.tree.sources)
        assert np.array_equal(pairs.rows(every), others.rows(every))
        assert np.array_equal(pairs.added_rows(every), others.added_rows(every))


@settings(max_examples=12, deadline=None)
@given(names=st.lists(st.sampled_from(list(CHANGES)), min_size=1, max_size=4), signal=st.sampled_from(SIGNALS))
def test_a_graph_that_is_opened_with_what_is_known_is_the_graph(
    names: list[str], signal: str, built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = Path(shutil.copytree(built[signal], tmp_path_factory.mktemp("known") / "graph.sifu"))
    served = ServedGraph(path)
    try:
        for name in names:
            with Graph.open(path) as graph:
                try:
                    CHANGES[name](graph)
                except (Exception, StopIteration) as error:  # nothing to undo, or to allow
                    assert not isinstance(error, AssertionError)
            served.replace(served.open())
            with Graph.open(path) as fresh:
                assert served.current.graph.store.snapshot == fresh.store.snapshot
                same(served.current.graph.parameters, fresh.parameters)
    finally:
        served.close()


def test_what_an_edit_did_not_change_is_not_read_again(built: dict[str, Path], tmp_path: Path, read: set[str]) -> None:
    path = Path(shutil.copytree(built["recurrent"], tmp_path / "graph.sifu"))
    served = ServedGraph(path)
    before = served.current.graph.parameters
    with Graph.open(path) as graph:
        graph.boost_edge(*private_pair(graph), 0.25)
    read.clear()
    served.replace(served.open())
    after = served.current.graph.parameters
    assert "edges/energy" in read and read.isdisjoint({PAIR_TARGET, PAIR_COUNT, "edges/target", "base/target"})
    assert after.index is before.index and after.small["base/target"] is before.small["base/target"]
    served.close()


def test_a_snapshot_that_was_deleted_is_no_reason_to_fail(path: Path) -> None:
    with Graph.open(path) as graph:
        graph.boost_edge("春", "風", 1.0)
    served = ServedGraph(path)
    with Graph.open(path) as graph:
        graph.undo()
        graph.boost_edge("春", "風", 2.0)
    with Store.open(path, write=True) as store:
        assert store.collect_garbage(keep_undone=False).snapshots
    served.replace(served.open())
    with Graph.open(path) as fresh:
        assert fresh.store.changed_arrays("0" * 20) is None
        same(served.current.graph.parameters, fresh.parameters)
    served.close()


def test_a_column_that_is_taken_may_have_changed() -> None:
    stored = {"a": np.zeros(2), "b": np.ones(2), "c": np.ones(1)}
    table = Table(lambda name: stored[name].copy(), lambda: stored, stored.__contains__)
    assert table.peek("a").sum() == 0 and table.changed() == {}
    table["b"][0] = 7.0
    table["new"] = np.zeros(3)
    assert table.changed().keys() == {"b", "new"} and table.peek("b")[0] == 7.0
    assert list(table) == ["a", "b", "c", "new"] and len(table) == 4 and "d" not in table
    with pytest.raises(KeyError):
        table["d"]
