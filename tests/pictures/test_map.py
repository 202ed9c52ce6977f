"""Maps: which nodes and edges, the page and the picture."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from bounds import assert_close
from hypothesis import given
from hypothesis import strategies as st
from sifu_store.errors import OptionError

from sifu_graph import Graph
from sifu_graph.inspection.inspect import inspect_node
from sifu_graph.plot import fonts, map_edges
from sifu_graph.plot.draw_map import draw_map
from sifu_graph.plot.graph_map import GraphMap, printed
from sifu_graph.plot.map_html import map_page


def data_of(page: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found.group(1))


def random_map(nodes: int, edges: int) -> GraphMap:
    rng = np.random.default_rng(0)
    return GraphMap(
        node=np.arange(nodes), name=[chr(0x4E00 + i) for i in range(nodes)], occurrences=rng.integers(1, 99_999, nodes),
        place=rng.uniform(-1, 1, (nodes, 2)).astype(np.float32), community=rng.integers(0, 15, nodes),
        source=rng.integers(0, nodes, edges), target=rng.integers(0, nodes, edges), count=rng.integers(1, 9999, edges),
        energy=rng.uniform(10, 20, edges), probability=rng.random(edges), strength=np.sort(rng.random(edges))[::-1],
        by="information", snapshot="X" * 20, graph_nodes=4000, graph_edges=10**6,
    )  # fmt: skip


def test_a_row_at_rest_has_the_energies_that_inspect_shows(graph: Graph) -> None:
    name = graph.tokenizer.vocabulary[3]
    row = graph._at_rest.row(3)
    left = graph.parameters.index.nodes - len(row.target)
    scale = float(graph.parameters.scale)
    logits = scale * np.concatenate([row.energy, np.full(left, row.default_energy)])
    wanted = np.exp(logits - np.logaddexp.reduce(logits))
    wanted = wanted[: len(row.target)]
    size = (1 + abs(logits).max()) * wanted  # the rounding of a logit moves p by the factor logit eps
    assert_close(row.probability, wanted, terms=len(logits), size=size)
    shown = {one.name: one.energy for one in inspect_node(graph, name).targets_by_energy}
    found = dict(zip([graph.tokenizer.vocabulary[v] for v in row.target], row.energy, strict=True))
    assert shown
    assert {name: found[name] for name in shown} == shown


@given(
    pairs=st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1),
    edges=st.integers(1, 30),
    seed=st.integers(0, 3),
)
def test_every_node_keeps_its_strongest_edge_and_the_rest_are_the_strongest(
    pairs: set[tuple[int, int]], edges: int, seed: int
) -> None:
    source, target = np.array(sorted(pairs)).T
    strength = np.random.default_rng(seed).permutation(len(source)).astype(float)
    kept = map_edges.strongest(source, target, strength, edges)
    by_strength = sorted(range(len(source)), key=lambda k: -strength[k])
    needed = []
    for k in by_strength:
        met = {end for j in by_strength[: by_strength.index(k)] for end in (source[j], target[j])}
        if not {source[k], target[k]} <= met:
            needed.append(k)
    wanted = (needed + [k for k in by_strength if k not in needed])[:edges]
    assert kept.tolist() == sorted(wanted, key=lambda k: -strength[k])


@pytest.mark.parametrize("by", ["information", "energy", "count"])
def test_the_map_holds_the_most_frequent_nodes_and_their_edges(graph: Graph, by: str) -> None:
    drawn = draw_map(graph, nodes=10, edges=25, by=by)
    index, often = graph.parameters.index, graph.store.read("nodes/count")
    assert len(drawn.name) == 10
    assert 0 not in drawn.node  # unknown text
    assert drawn.occurrences.tolist() == sorted(often[1:], reverse=True)[:10]
    assert [graph.tokenizer.vocabulary[node] for node in drawn.node] == drawn.name
    places = index.find(drawn.node[drawn.source], drawn.node[drawn.target])
    assert (places >= 0).all()
    assert len(set(places)) == len(places) == 25
    assert (drawn.source != drawn.target).all()
    assert drawn.count.tolist() == index.count[places].tolist()
    assert (np.diff(drawn.strength) <= 0).all()
    share = often / often.sum()
    for k in (0, 24):
        u, v = drawn.node[drawn.source[k]], drawn.node[drawn.target[k]]
        row = graph._at_rest.row(int(u))
        at = row.target.tolist().index(v)
        assert drawn.energy[k] == row.energy[at]
        p = row.probability[at]
        wanted = {"energy": row.energy[at], "count": row.count[at], "information": share[u] * p * np.log(p / share[v])}
        assert_close(drawn.strength[k], wanted[by], terms=4, size=wanted[by])
    assert draw_map(graph, nodes=10, edges=25, by=by).place.tolist() == drawn.place.tolist()


def test_nothing_in_a_name_leaves_the_data_of_the_page(graph: Graph) -> None:
    drawn = draw_map(graph)
    page = map_page(drawn)
    tags = re.findall(r"<(/?)script\b", page)
    assert tags.count("") == tags.count("/") == 4
    assert "<img" not in page
    assert "<!--" not in page.replace("<!doctype", "")
    assert data_of(page)["nodes"]["name"] == [printed(name) for name in drawn.name]
    assert any("</script>" in name for name in drawn.name)
    assert "default-src 'none'" in page
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", page)


def test_a_large_map_is_a_page_of_at_most_five_megabytes() -> None:
    page = map_page(random_map(2000, 10_000)).encode()
    assert len(page) < 1_000_000


def test_names_are_printed_on_one_line() -> None:
    assert printed(" a\nb\t\x1b[31m\u202e") == "␣a⏎b⇥<1B>[31m<202E>"


def test_files(graph: Graph, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("map.html", "map.png", "map.svg", "map.pdf")]
    drawn = graph.map(*files, nodes=12, edges=30)
    beginnings = [path.read_bytes()[:9].lower() for path in files]
    assert beginnings[0] == b"<!doctype"
    assert beginnings[1].startswith(b"\x89png")
    assert beginnings[2].startswith(b"<?xml")
    assert beginnings[3].startswith(b"%pdf")
    assert set(drawn.unwritten) <= set(drawn.name)
    with pytest.raises(OptionError, match="exists"):
        graph.map(files[0])
    graph.map(files[0], force=True)


@pytest.mark.parametrize(
    ("files", "options", "says"),
    [
        (["map.gif"], {}, "must end with one of .html"),
        (["none/map.html"], {}, "no such folder"),
        (["folder.html"], {}, "is a folder"),
        ([], {"nodes": 1}, "at least 2 nodes"),
        ([], {"edges": 0}, "1 edge"),
        ([], {"by": "size"}, "expected one of information"),
    ],
)
def test_maps_that_cannot_be_drawn(
    graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], options: dict, says: str
) -> None:
    (tmp_path / "folder.html").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=says):
        draw_map(graph, *files, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.html"]


def test_nodes_without_counts_are_no_map(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    """An import without the file of counts gives such a graph."""
    read = graph.store.read
    monkeypatch.setattr(graph.store, "read", lambda name: read(name) * (name != "nodes/count"))
    with pytest.raises(OptionError, match=r"0 of [0-9,]+ have a count"):
        draw_map(graph)


def test_a_picture_without_matplotlib_says_what_to_install(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sifu_graph.plot.figures.find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"pip install 'sifu-graph\[plot\]'"):
        draw_map(graph, "map.png")


# ---- fonts


def test_a_name_that_no_font_can_write_is_left_out_and_said(
    graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fonts, "families_for", lambda characters: ([fonts.USUAL], {"春", "風", "花", "月", "夜", "江"}))
    drawn = draw_map(graph, tmp_path / "map.png", nodes=30, edges=60)
    assert set(drawn.unwritten) == {"春", "風", "花", "月", "夜", "江"}
    assert (tmp_path / "map.png").exists()  # and no warning of a missing glyph: warnings are errors


def test_the_usual_font_is_enough_for_latin() -> None:
    assert fonts.families_for("abc é") == ([fonts.USUAL], set())


def test_a_character_that_no_font_has() -> None:
    _, missing = fonts.families_for(["\U000e1234"])
    assert missing == {"\U000e1234"}


def test_strength_of_any_sign_gives_weights() -> None:
    for by in ("information", "energy", "count"):
        weight = map_edges.weights(np.array([3.0, 1.0, -0.5 if by == "information" else 1.0]), by)
        assert (weight > 0).all()
        assert weight[0] == weight.max()
