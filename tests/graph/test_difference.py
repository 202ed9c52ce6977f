"""`diff` against the naive one: both graphs whole in memory, edge by edge, in dictionaries."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from bounds import assert_close
from sifu_store import PAGE_EDGES, Store
from sifu_store.errors import OptionError, StoreDamagedError
from sifu_store.layout import BIAS, WEIGHT

from sifu_graph import Graph, build_graph
from sifu_graph.generation.walk import Walk
from sifu_graph.inspection.diff import diff
from sifu_graph.model.parameters import write_parameters
from sifu_graph.text.registry import read_tokenizer


@dataclass
class Edge:
    """One private edge, whole."""

    bits: bytes
    count: int
    energy: float


def edges(graph: Graph) -> dict[tuple[str, str], Edge]:
    names, index = graph.tokenizer.vocabulary, graph.parameters.index
    found = {}
    for u in range(index.nodes):
        walk = Walk(graph.parameters, graph.signal)
        walk.start(u)
        row = index.row(u)
        energies = walk.energies()[0].copy() if row.stop > row.start else []
        for place, energy in zip(range(row.start, row.stop), energies, strict=True):
            slot = index.slots()[place : place + 1]
            bits = b"".join(graph.parameters.edges.get(name, slot).numpy().tobytes() for name in (WEIGHT, BIAS))
            found[names[u], names[index.target[place]]] = Edge(bits, int(index.count[place]), float(energy))
    return found


def default_energy(graph: Graph, name: str) -> float | None:
    node = graph.tokenizer.token_id(name)
    if node is None:
        return None
    walk = Walk(graph.parameters, graph.signal)
    walk.start(node)
    return float(walk.energies()[1])


def check(path: Path, before: str = "HEAD~1", after: str = "HEAD") -> None:
    """What `diff` says is what the naive one says."""
    found = diff(path, before, after, top=10**6)
    with Graph.open(path, at=before) as first, Graph.open(path, at=after) as second:
        a, b = edges(first), edges(second)
        renamed = dict(found.nodes_renamed)
        a = {(renamed.get(u, u), renamed.get(v, v)): edge for (u, v), edge in a.items()}
        nodes_a = [renamed.get(name, name) for name in first.tokenizer.vocabulary]
        nodes_b = second.tokenizer.vocabulary
        assert found.nodes_added == tuple(name for name in nodes_b if name not in nodes_a)
        assert {renamed.get(n, n) for n in found.nodes_removed} == set(nodes_a) - set(nodes_b)
        expected = {}
        for u, v in {*a, *b}:
            x, y = a.get((u, v)), b.get((u, v))
            if x is not None and y is not None:
                if x.bits != y.bits:
                    expected[u, v] = ("changed", x.energy, y.energy, x.count, y.count)
            elif y is not None:
                was = default_energy(first, u) if u in nodes_a and v in nodes_a and not renamed else None
                expected[u, v] = ("added", was, y.energy, None, y.count)
            elif x is not None:
                now = default_energy(second, u) if u in nodes_b and v in nodes_b else None
                expected[u, v] = ("removed", x.energy, now, x.count, None)
        kinds = [kind for kind, *_ in expected.values()]
        assert (found.edges_added, found.edges_removed, found.edges_changed) == tuple(
            kinds.count(kind) for kind in ("added", "removed", "changed")
        )
        assert found.edges_recounted == sum(a[key].count != b[key].count for key in a.keys() & b.keys())
        assert (found.edges_before, found.edges_after) == (len(a), len(b))
    said = {(renamed.get(e.source, e.source), renamed.get(e.target, e.target)): e for e in found.largest}
    assert said.keys() == expected.keys()
    for key, (kind, was, now, count_was, count_now) in expected.items():
        edge = said[key]
        assert (edge.change, edge.count_before, edge.count_after) == (kind, count_was, count_now)
        for energy, wanted in ((edge.energy_before, was), (edge.energy_after, now)):
            if wanted is None:
                assert energy is None
            else:
                assert_close(energy, wanted, terms=32, size=wanted, dtype=torch.float32)
    sizes = [-1.0 if edge.energy_change is None else abs(edge.energy_change) for edge in found.largest]
    assert sizes == sorted(sizes, reverse=True)


def change_edges(path: Path, seed: int, share: float, *, message: str = "edit") -> None:
    """Other parameters for some edges."""
    rng = np.random.default_rng(seed)
    with Graph.open(path) as graph:
        graph._reload(Store.open(path, write=True))
        pool, slots = graph.parameters.edges, graph.parameters.index.slots()
        chosen = np.sort(rng.choice(slots, size=max(1, int(share * len(slots))), replace=False))
        noise = torch.from_numpy(rng.normal(0, 0.3, (len(chosen), *pool.W.shape[1:])).astype(np.float32))
        pool.put(WEIGHT, chosen, noise)
        pool.put(BIAS, chosen, pool.get(BIAS, chosen) + noise[:, 0])
        write_parameters(graph.store, graph.parameters)
        graph.store.commit(message, command="edit-edge", changes={})


def move_edges(path: Path, seed: int, *, keep: float) -> None:
    """Drops some edges and puts the others into other slots, all pages stored, as an edit or `compact` may."""
    rng = np.random.default_rng(seed)
    with Graph.open(path) as graph:
        index, pool = graph.parameters.index, graph.parameters.edges
        kept = np.sort(rng.choice(index.edges, size=int(keep * index.edges), replace=False))
        old = index.slots()[kept]
        source = np.repeat(np.arange(index.nodes), index.row_sizes())[kept]
        values = {name: pool.get(name, old).numpy() for name in (WEIGHT, BIAS)}
        order = rng.permutation(len(kept))
        graph._reload(Store.open(path, write=True))
        store = graph.store
        store.write("edges/source", source[order].astype(np.int32))
        store.write("edges/target", index.target[kept][order].astype(np.int32))
        store.write("edges/count", index.count[kept][order])
        for name in (WEIGHT, BIAS):
            store.write_pages(name, 0, np.ascontiguousarray(values[name][order]))
        store.mark_stored(np.arange(store.pages))
        store.commit("move", command="compact", changes={})


def add_edges(path: Path, pairs: list[tuple[int, int]]) -> None:
    """New private edges at the end, never trained."""
    with Store.open(path, write=True) as store:
        for name, more in (
            ("edges/source", [u for u, _ in pairs]),
            ("edges/target", [v for _, v in pairs]),
            ("edges/count", [1 + u for u, _ in pairs]),
        ):
            array = store.read(name)
            store.write(name, np.concatenate([array, np.array(more, array.dtype)]))
        store.commit("grow", command="grow", changes={})


def missing_pairs(path: Path, how_many: int) -> list[tuple[int, int]]:
    with Graph.open(path) as graph:
        index = graph.parameters.index
        every = np.setdiff1d(np.arange(index.nodes**2), index.keys())[:how_many]
    return [(int(key) // index.nodes, int(key) % index.nodes) for key in every]


def test_training(store: Path) -> None:
    with Graph.open(store) as graph:
        graph.train(steps=2, batch=8)
    check(store)
    found = diff(store)
    assert {each.name: each.after for each in found.settings}["training.step"] == 2
    assert "nodes/bias" in dict(found.arrays) and found.nodes_changed
    check(store, "HEAD", "HEAD~1")


def test_nothing_changed(store: Path) -> None:
    found = diff(store, "HEAD", "HEAD")
    assert found.empty and found.pages_read == 0
    move_edges(store, 0, keep=1.0)
    found = diff(store)
    assert found.empty and found.pages_read > 0  # every edge is somewhere else, and the same
    check(store)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_random_edits(store: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = missing_pairs(store, 5)
    steps = [
        lambda: change_edges(store, seed, 0.1),
        lambda: move_edges(store, seed, keep=0.8),
        lambda: add_edges(store, pairs[: 1 + seed]),
        lambda: change_edges(store, seed + 1, 0.01),
    ]
    for k in rng.permutation(len(steps)):
        steps[k]()
        check(store)
    check(store, "HEAD~4", "HEAD")
    check(store, "HEAD~1", "HEAD~3")


def test_energies_that_edits_give_to_edges_of_a_shared_base(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("abcabdacbd\n" * 9, encoding="utf-8")
    build_graph(tmp_path / "t.txt", tmp_path / "g.sifu", vocab=20, sparsify=1, length=4, holdout=0)
    with Graph.open(tmp_path / "g.sifu") as graph:
        graph.boost_edge("a", "b", 2.0)
        graph.boost_edge("b", "c", -0.5)
        found = graph.diff()
        assert found.edges_changed == 1
        for before, changes in (("HEAD~1", {("b", "c"): -0.5}), ("HEAD~2", {("a", "b"): 2.0, ("b", "c"): -0.5})):
            largest = graph.diff(before).largest
            assert {(one.source, one.target) for one in largest} == set(changes)
            for one in largest:
                assert one.energy_before is not None
                assert one.energy_after == pytest.approx(one.energy_before + changes[one.source, one.target], abs=1e-4)


def test_two_branches(store: Path) -> None:
    change_edges(store, 0, 0.02)
    with Graph.open(store) as graph:
        graph.branch("side", "HEAD~1")
        graph.switch("side")
    change_edges(store, 1, 0.02)
    check(store, "main", "side")


def test_only_pages_that_were_written_are_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = ["".join(map(chr, 0x4E00 + rng.integers(0, 40, 20))) for _ in range(150)]
    (tmp_path / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    store = tmp_path / "graph.sifu"
    build_graph(tmp_path / "text.txt", store, vocab=42, sparsify=1.0, length=8, signal="tuned")
    move_edges(store, 0, keep=1.0)  # all pages stored
    with Graph.open(store) as graph:
        assert graph.parameters.edges.pages > 1 and graph.store.page_stored().all()
    with Graph.open(store) as graph:
        graph._reload(Store.open(store, write=True))
        pool = graph.parameters.edges
        slot = np.array([PAGE_EDGES + 3])
        pool.put(BIAS, slot, pool.get(BIAS, slot) * 2)
        write_parameters(graph.store, graph.parameters)
        graph.store.commit("one edge", command="edit-edge", changes={})
    found = diff(store)
    assert (found.edges_changed, found.pages_read) == (1, 2)


def test_nodes_that_are_new_gone_and_renamed(store: Path) -> None:
    with Store.open(store, write=True) as opened:
        record = opened.read_json("nodes/tokenizer")
        old = record["nodes"][5]
        record["nodes"][5] = "龍"
        opened.write_json("nodes/tokenizer", record)
        opened.commit("rename", command="edit-node", changes={})
    found = diff(store)
    assert (found.nodes_renamed, found.nodes_added, found.nodes_removed) == (((old, "龍"),), (), ())
    assert (found.edges_added, found.edges_removed, found.edges_changed) == (0, 0, 0) and not found.empty
    with Store.open(store, write=True) as opened:
        n = opened.settings["nodes"]
        tokenizer = read_tokenizer(opened.read_json("nodes/tokenizer")).with_added(["鳳凰"])
        opened.write_json("nodes/tokenizer", tokenizer.to_json())
        opened.write_json("nodes/vocabulary", [*opened.read_json("nodes/vocabulary"), {"token": "鳳凰"}])
        for name in opened.names():
            if name.startswith(("nodes/", "rows/")) and name not in ("nodes/tokenizer", "nodes/vocabulary"):
                array = opened.read(name)
                opened.write(name, np.concatenate([array, array[-1:]]))
        opened.set_settings({**opened.settings, "nodes": n + 1})
        for name, value in (("edges/source", n), ("edges/target", 3), ("edges/count", 7)):
            array = opened.read(name)
            opened.write(name, np.append(array, np.array(value, array.dtype)))
        opened.commit("add", command="add-node", changes={})
    found = diff(store)
    assert (found.nodes_added, found.nodes_before, found.nodes_after) == (("鳳凰",), n, n + 1)
    added = [edge for edge in diff(store, top=10**6).largest if edge.change == "added"]
    assert [(edge.source, edge.energy_before, edge.count_after) for edge in added] == [("鳳凰", None, 7)]
    back = diff(store, "HEAD", "HEAD~1")
    assert (back.nodes_removed, back.edges_removed) == (("鳳凰",), 1)


def test_a_further_array_of_one_number_a_slot_counts(store: Path) -> None:
    with Store.open(store, write=True) as opened:
        flags = np.zeros(opened.slots, np.uint8)
        flags[17] = 1
        opened.write("edges/flag", flags)
        opened.commit("flag", command="edit-edge", changes={})
    found = diff(store)
    assert (found.edges_changed, len(found.largest)) == (1, 1)


def test_settings_by_their_path(store: Path) -> None:
    with Store.open(store, write=True) as opened:
        settings = opened.settings
        settings["build"]["length"] = 9
        settings["extra"] = {"a": [1]}
        opened.set_settings(settings)
        opened.commit("settings", command="edit", changes={})
    found = diff(store)
    assert [(each.name, each.before, each.after) for each in found.settings] == [
        ("build.length", 8, 9),
        ("extra.a", None, [1]),
    ]
    assert json.dumps([each.after for each in found.settings])


def test_bad_input(store: Path) -> None:
    with pytest.raises(OptionError, match="HEAD~1' goes back too far: HEAD has 0 commits before it"):
        diff(store)
    with pytest.raises(OptionError, match="no branch, no tag and no snapshot 'nonsense'"):
        diff(store, "nonsense", "HEAD")
    with pytest.raises(OptionError, match="`top` is -1"):
        diff(store, "HEAD", "HEAD", top=-1)


def test_a_damaged_snapshot(store: Path) -> None:
    change_edges(store, 0, 0.5)
    change_edges(store, 1, 0.5)
    with Store.open(store, at="HEAD~1") as opened:
        page = opened.read_page(WEIGHT, 0).tobytes()
        snapshot = opened.snapshot
    [file] = [f for f in (store / "repository" / "chunks").iterdir() if f.read_bytes().startswith(page)]
    content = bytearray(file.read_bytes())
    content[1000] ^= 1
    file.write_bytes(content)
    with pytest.raises(StoreDamagedError, match=r"edges/weight, page 0 .*the checksum does not match"):
        diff(store)
    (store / "repository" / "snapshots" / snapshot).write_bytes(b"")
    with pytest.raises(StoreDamagedError, match=snapshot):
        diff(store)
    with Graph.open(store) as graph:
        assert graph.info().newest


@pytest.mark.parametrize("signal", ["tuned", "recurrent"])
def test_forbidden_edges_are_called_so(tmp_path: Path, signal: str) -> None:
    (tmp_path / "t.txt").write_text("abcabdacbd\n" * 9, encoding="utf-8")
    build_graph(tmp_path / "t.txt", tmp_path / "g.sifu", vocab=20, sparsify=0.1, length=4, holdout=0, signal=signal)
    with Graph.open(tmp_path / "g.sifu") as graph:
        assert graph.forbid_edge("a", "b").before.kind == "private"
        [edge] = graph.diff().largest
        assert (edge.change, edge.energy_after, edge.count_after) == ("forbidden", -np.inf, None)
        assert edge.energy_before is not None and np.isfinite(edge.energy_before)
        [back] = graph.diff("HEAD", "HEAD~1").largest
        assert (back.change, back.energy_before, back.energy_after) == ("allowed", -np.inf, edge.energy_before)
        assert graph.diff().edges_removed == graph.diff("HEAD", "HEAD~1").edges_added == 1


def test_a_pruned_edge_of_a_shared_base_keeps_its_energy(tmp_path: Path) -> None:
    """Its energy follows from the counts of its pair, not from the mean of the default edges."""
    (tmp_path / "t.txt").write_text("abcabdacbd\n" * 9, encoding="utf-8")
    build_graph(tmp_path / "t.txt", tmp_path / "g.sifu", vocab=20, sparsify=1, length=4, holdout=0)
    with Graph.open(tmp_path / "g.sifu") as graph:
        graph.prune(to_ratio=0.0)
        found = graph.diff(top=100).largest
        assert found and all(one.energy_before == one.energy_after for one in found)
