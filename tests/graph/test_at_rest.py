"""The graph at rest, of which single rows are read, against the whole graph and the walk of generation."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sifu_store.layout import BIAS, WEIGHT
from small import write_text

from sifu_graph import Graph, build_graph
from sifu_graph.generation.base_walk import BaseWalk, walk_of
from sifu_graph.inspection.inspect import EdgeReport, NodeReport
from sifu_graph.inspection.inspect_clone import CloneReport
from sifu_graph.ops import at_rest
from sifu_graph.ops.functional import gelu
from sifu_graph.text.node_lookup import source_name

CHARACTERS = {"vocab": 40, "sparsify": 0.5, "length": 8, "holdout": 0.1}
EVERY = ["recurrent", "tuned", "paper", "brillm05"]
CLONE = "月>風"


@pytest.fixture(scope="module", params=EVERY)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained graph with edited edges, a forbidden pair, new nodes and, with a base, clones."""
    folder, base = tmp_path_factory.mktemp("rest"), request.param == "recurrent"
    text = write_text(folder / "poems.txt")
    text.write_text(text.read_text("utf-8").replace("月風", "月風水"), "utf-8")
    options = {**CHARACTERS, "sparsify": 0.3} | ({"clones": 40} if base else {})
    build_graph(text, folder / "graph.sifu", signal=request.param, **options)
    with Graph.open(folder / "graph.sifu") as graph:
        if request.param != "paper":  # whose pages are all generated
            graph.train(steps=2, batch=4, eval_every=0)
        graph.boost_edge("春", "風", 0.5)
        graph.forbid_edge("月", "春")
        graph.default_edge("花", "月")
        graph.add_node("龘", like="春")
        graph.add_node("鱻")
        if base:
            graph.boost_edge(CLONE, "水", 0.5)
            graph.forbid_edge(CLONE, "花")
    return folder / "graph.sifu"


def walked(graph: Graph, node: int) -> np.ndarray:
    """The energies of all nodes after a node at rest, by the kernel of generation, float64 [n]; -inf: forbidden."""
    walk, index = walk_of(graph.parameters, graph.signal), graph.parameters.index
    walk.silent = frozenset({0})
    walk.start(node)
    if isinstance(walk, BaseWalk):
        walk.r.zero_()
        return walk.energies()[0].astype(np.float64)
    private, default = walk.energies()
    energies = np.full(index.nodes, default, np.float64)
    energies[index.forbidden_after(node)] = -np.inf
    energies[index.target[index.row(node)]] = private
    return energies


def softmax(energies: np.ndarray, scale: float) -> np.ndarray:
    logits = scale * energies
    return np.exp(logits - np.logaddexp.reduce(logits))


def ranks(energies: np.ndarray, at: int) -> range:
    """The ranks that an energy can have, where the last bits of energies are not known."""
    gap = 1e-4
    return range(1 + int((energies > energies[at] + gap).sum()), 1 + int((energies >= energies[at] - gap).sum()) + 1)


def test_rows_are_those_of_a_walk(path: Path) -> None:
    with Graph.open(path) as graph:
        index, scale = graph.parameters.index, 1.0 if graph.signal.base else float(graph.parameters.scale)
        nodes = np.arange(index.nodes)
        with patch("sifu_graph.model.graph_at_rest.ROWS", 3):
            rows = list(graph._at_rest.rows(nodes))
        for node, row in zip(nodes.tolist(), rows, strict=True):
            energies = walked(graph, node)
            p = softmax(energies, scale)
            others = np.setdiff1d(nodes, row.target)
            others = others[np.isfinite(energies[others])]
            assert row.target.tolist() == index.target[index.row(node)].tolist()
            assert row.slot.tolist() == index.slots()[index.row(node)].tolist()
            assert row.energy == pytest.approx(energies[row.target], abs=2e-5)
            assert row.probability == pytest.approx(p[row.target], rel=1e-4)
            assert row.default_probability * len(others) == pytest.approx(p[others].sum(), rel=1e-4, abs=1e-12)
            if len(others):
                mean = np.log(np.exp(energies[others]).mean())
                assert row.default_energy == pytest.approx(mean, abs=2e-5)
        places = np.arange(index.edges)
        assert graph._at_rest.edges(places) == pytest.approx(np.concatenate([row.energy for row in rows]), abs=1e-9)


def test_an_edge_that_is_inspected_is_that_of_the_whole_graph(path: Path) -> None:
    with Graph.open(path) as graph:
        index, names = graph.parameters.index, graph.tokenizer.vocabulary
        scale, pool = 1.0 if graph.signal.base else float(graph.parameters.scale), graph.parameters.edges
        for u in (3, graph.tokenizer.token_id("春"), graph.tokenizer.token_id("月"), index.nodes - 2, index.nodes - 1):
            energies = walked(graph, u)
            p = softmax(energies, scale)
            for v in range(index.nodes):
                found = graph.inspect(names[u], names[v])
                assert isinstance(found, EdgeReport)
                slot = index.slot_of(u, v)
                assert (found.private, found.slot) == (slot is not None, slot)
                assert found.energy == pytest.approx(energies[v], abs=2e-5)
                assert found.forbidden == bool(index.is_forbidden(np.array([u]), np.array([v]))[0])
                assert found.p == pytest.approx(p[v], rel=1e-4)
                assert found.rank in ranks(energies, v)
                small = graph.parameters.default_W, graph.parameters.default_b
                W, b = small if slot is None else (pool.get(name, np.array([slot]))[0] for name in (WEIGHT, BIAS))
                assert found.weight_norm == pytest.approx(float(W.norm()), abs=1e-5)
                assert found.bias_norm == pytest.approx(float(b.norm()), abs=1e-5)
                assert found.singular_values == pytest.approx(torch.linalg.svdvals(W.double()).tolist(), abs=1e-9)


def test_a_node_that_is_inspected_is_that_of_the_whole_graph(path: Path) -> None:
    with Graph.open(path) as graph:
        parameters, names = graph.parameters, graph.tokenizer.vocabulary
        index, vectors = parameters.index, parameters.small.get("base/target")
        for node, name in enumerate(names):
            found = graph.inspect(name, top=index.nodes)
            assert isinstance(found, NodeReport)
            assert {one.node for one in found.targets_by_energy} == set(index.target[index.row(node)].tolist())
            sources = index.sources()[index.target == node].tolist()
            assert sorted(one.node for one in found.sources_by_count) == sorted(sources)
            assert found.private_in == len(sources) == len(found.sources_by_energy)
            for one in found.sources_by_energy:
                assert one.energy == pytest.approx(walked(graph, one.node)[node], abs=2e-5)
                assert one.count == index.count[index.find(np.array([one.node]), np.array([node]))[0]]
            assert found.bias_norm == pytest.approx(float(parameters.node_bias[node].norm()), rel=1e-5)
            if parameters.base is None:
                assert (found.repeated, found.similar_targets, found.similar_sources) == (None, (), ())
                continue
            assert found.repeated == pytest.approx(float(parameters.base.repeat_weights()[node, 0]), abs=1e-6)
            for similar, table in ((found.similar_targets, vectors), (found.similar_sources, parameters.node_bias)):
                cosine = torch.nn.functional.cosine_similarity(table, table[node][None])
                assert len(similar) in (0, index.nodes - 1)
                assert [one.cosine for one in similar] == pytest.approx(
                    [float(cosine[one.node]) for one in similar], abs=1e-5
                )


@pytest.mark.parametrize("path", ["recurrent"], indirect=True)
def test_rows_of_clones_are_those_of_the_whole_table(path: Path) -> None:
    with Graph.open(path) as graph:
        base, rest = graph.parameters.base, graph._at_rest
        assert base is not None
        assert len(base.pairs.tree) > 10
        every = np.arange(base.pairs.nodes)
        for source in range(base.pairs.tree.sources):
            whole, few = base.at_rest, rest.base(np.array([source, 3]))
            assert len(few.pairs.target) <= len(whole.pairs.target)
            for a, b in zip(whole.row(source), few.row(source), strict=True):
                assert np.array_equal(a, b)
            parts = few.parts(source, every)
            assert parts.sum() == pytest.approx(whole.energies(source), abs=1e-12)
            name = source_name(graph.tokenizer, base.pairs.tree, source)
            edge = graph.inspect(name, "水")
            assert isinstance(edge, EdgeReport)
            assert edge.energy == pytest.approx(whole.energies(source)[graph.tokenizer.token_id("水")], abs=1e-12)
            if source < base.pairs.nodes:
                continue
            report = graph.inspect(name, top=base.pairs.nodes)
            assert isinstance(report, CloneReport)
            assert {one.node: one.p for one in report.targets} == dict(enumerate(whole.row(source)[1]))


def test_what_is_read_is_of_the_snapshot_that_is_current(path: Path, tmp_path: Path) -> None:
    with Graph.open(path) as graph:
        before = graph.inspect("春", "風").energy
        graph.boost_edge("春", "風", 0.25)
        assert graph.inspect("春", "風").energy > before + 0.2
        graph.undo()
        assert graph.inspect("春", "風").energy == before


@given(
    st.lists(st.floats(-30, 30), min_size=1, max_size=40),
    st.sampled_from([0, at_rest.FEW]),
)
def test_gelu_is_that_of_the_model(values: list[float], few: int) -> None:
    z = np.array(values)
    with patch("sifu_graph.ops.at_rest.FEW", few):
        found = at_rest.gelu(z)
    assert found == pytest.approx(gelu(torch.from_numpy(z)).numpy(), rel=1e-9, abs=1e-12)
    assert found.dtype == np.float64
