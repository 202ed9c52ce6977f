"""Clones in a map and in GraphML: their edges are those that they have counted."""

from __future__ import annotations

from pathlib import Path

import networkx
import numpy as np
import pytest
from sifu_store.errors import OptionError

from sifu_graph import Graph, build_graph
from sifu_graph.inspection.inspect_clone import CloneReport


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unfold")
    rng, lines = np.random.default_rng(0), []
    for _ in range(200):
        ids = rng.integers(0, 6, 2).tolist()
        for more in rng.integers(0, 2, 12).tolist():
            ids.append((ids[-1] + 2 * ids[-2] + more) % 6)
        lines.append("".join("春花秋月江山"[k] for k in ids))
    (folder / "a.txt").write_text("\n".join(lines), encoding="utf-8")
    build_graph(folder / "a.txt", folder / "g.sifu", vocab=20, holdout=0.1, clones=30)
    return folder / "g.sifu"


@pytest.mark.parametrize("by", ["information", "energy", "count"])
def test_a_map_unfolds_a_node(store: Path, tmp_path: Path, by: str) -> None:
    with Graph.open(store) as graph:
        folded = graph.map(tmp_path / "a.html", by=by)
        drawn = graph.map(tmp_path / "b.html", tmp_path / "b.png", by=by, unfold=["月"])
        assert folded.clones == 0 and drawn.clones == len(drawn.name) - len(folded.name) > 3
        names = drawn.name[-drawn.clones :]
        assert all(name.endswith(">月") for name in names) and "clones" in drawn.summary()
        assert names[0] in (tmp_path / "b.html").read_text(encoding="utf-8").replace("\\u003e", ">")
        checked = 0
        for point, name in enumerate(names, len(folded.name)):
            report = graph.inspect(name, top=20)
            assert isinstance(report, CloneReport) and drawn.occurrences[point] == report.count
            targets = {target.name: target for target in report.targets}
            for k in np.flatnonzero(drawn.source == point):
                target = targets[drawn.name[drawn.target[k]]]
                assert drawn.count[k] == target.count
                assert drawn.probability[k] == pytest.approx(target.p)
                checked += 1
            (before,) = np.flatnonzero(drawn.target == point)
            assert drawn.name[drawn.source[before]] == name.split(">")[0]
            assert drawn.count[before] == report.count
        assert checked > 10
        assert (np.diff(drawn.strength) <= 0).all()
        with pytest.raises(OptionError, match="has no clones to unfold"):
            graph.map(tmp_path / "c.html", unfold=["<sep>"])
        with pytest.raises(OptionError, match="not a node"):
            graph.map(tmp_path / "c.html", unfold=["鬼"])
    assert not (tmp_path / "c.html").exists()


@pytest.mark.parametrize("clones", [1, 12, 1000])
def test_graphml_has_the_clones_that_gain_most(store: Path, tmp_path: Path, clones: int) -> None:
    with Graph.open(store) as graph:
        report = graph.export("graphml", tmp_path / "a.graphml", clones=clones)
        assert graph.parameters.base is not None
        pairs = graph.parameters.base.pairs
        assert bool(report.notes) == (clones < len(pairs.tree))
        found = networkx.read_graphml(tmp_path / "a.graphml")
        chosen = [int(node) for node in found if int(node) >= pairs.nodes]
        assert 0 < len(chosen) <= clones
        for clone in chosen:
            node = found.nodes[str(clone)]
            assert node["count"] == pairs.total[clone] and int(node["parent"]) == pairs.tree.parents[clone]
            row = slice(pairs.first[clone], pairs.first[clone + 1])
            edges = {int(v): edge for _, v, edge in found.out_edges(str(clone), data=True)}
            assert {v: edge["count"] for v, edge in edges.items()} == dict(
                zip(pairs.target[row].tolist(), pairs.count[row].tolist(), strict=True)
            )
            wanted = pairs.rows(np.array([clone]))[0]  # untrained, the energies are log p
            assert all(edge["energy"] == pytest.approx(wanted[v], rel=1e-6) for v, edge in edges.items())
        with pytest.raises(OptionError, match="of GraphML alone"):
            graph.export("scipy", tmp_path / "b", clones=3)
