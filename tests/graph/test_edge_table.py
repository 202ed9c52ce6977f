"""Edges edited from a table: as the edits one by one, one commit, nothing written if a row is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sifu_store.errors import OptionError

from sifu_graph import Graph, build_graph
from sifu_graph.edit.edge_table import read_rows

ROWS: list[dict[str, Any]] = [
    {"source": "春", "target": "風", "boost": 2},
    {"source": "風", "target": "春", "scale": "0.5"},
    {"source": "花", "target": "月", "forbid": True},
    {"source": "月", "target": "花", "to_default": "yes"},
    {"source": "夜", "target": "春", "copy_from": ["春", "風"]},
]
CSV = """source,target,boost,scale,forbid,to_default,copy_from
春,風,2,,,,
風,春,,0.5,,,

花,月,,,true,,
月,花,,,,yes,
夜,春,,,,,春 風
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table")
    (folder / "a.txt").write_text("春風花月夜\n風春花月花夜春\n月花春風\n" * 20, encoding="utf-8")
    build_graph(folder / "a.txt", folder / "graph.sifu", vocab=20, length=8, holdout=0, clones=0)
    with Graph.open(folder / "graph.sifu") as graph:
        graph.boost_edge("風", "春", 1.0)  # it has an energy to be scaled
    return folder / "graph.sifu"


@pytest.fixture
def graph(built: Path, tmp_path: Path) -> Graph:
    return Graph.open(shutil.copytree(built, tmp_path / "graph.sifu"))


def file_of(kind: str, folder: Path) -> Any:
    if kind == "list":
        return ROWS
    if kind == "pandas":
        return pytest.importorskip("pandas").DataFrame(ROWS)
    path = folder / f"edges.{kind}"
    if kind == "jsonl":
        text = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
    else:
        text = CSV if kind == "csv" else CSV.replace(",", "\t")
    path.write_text("\ufeff" + text, encoding="utf-8")
    return path if kind == "csv" else str(path)


@pytest.mark.parametrize("kind", ["list", "pandas", "csv", "tsv", "jsonl"])
def test_a_table_does_what_the_edits_do_one_by_one(graph: Graph, built: Path, tmp_path: Path, kind: str) -> None:
    before = graph.store.snapshot
    report = graph.edit_edges(file_of(kind, tmp_path))
    newest, previous, *_ = graph.store.tree().commits
    assert previous.snapshot == before
    assert newest.message == "edit 5 edges: boost 1, scale 1, forbid 1, to default 1, copy from 1"
    other = Graph.open(shutil.copytree(built, tmp_path / "other.sifu"))
    single = [
        other.boost_edge("春", "風", 2),
        other.scale_edge("風", "春", 0.5),
        other.forbid_edge("花", "月"),
        other.default_edge("月", "花"),
        other.copy_edge("夜", "春", source=("春", "風")),
    ]
    assert report.before == [one.before for one in single]
    assert report.after == [one.after for one in single]
    for name in ("edges/forbidden", "rows/total"):
        np.testing.assert_array_equal(graph.store.read(name), other.store.read(name))
    one, two = graph.parameters.index, other.parameters.index
    np.testing.assert_array_equal(one.keys(), two.keys())
    for name in ("edges/energy", "edges/count"):  # by edge: the slots may differ
        np.testing.assert_array_equal(graph.store.read(name)[one.slots()], other.store.read(name)[two.slots()])


def test_a_dry_run_changes_nothing(graph: Graph) -> None:
    before = graph.store.snapshot
    report = graph.edit_edges(ROWS, dry_run=True)
    assert report.snapshot is None
    assert [edge.kind for edge in report.after] == ["private", "private", "forbidden", "default", "private"]
    assert graph.store.snapshot == before
    assert Graph.open(graph.path).store.snapshot == before


WRONG: list[tuple[Callable[[list[dict[str, Any]]], Any], str]] = [
    (lambda rows: rows[2].update(boost="much"), r"table\[2\], column 'boost': 'much'; expected a finite number"),
    (lambda rows: rows[2].update(forbid="maybe"), r"table\[2\], column 'forbid': 'maybe'; expected true or false"),
    (lambda rows: rows[2].update(boost=1), r"table\[2\]: values for boost and forbid; expected one"),
    (lambda rows: rows[2].update(forbid=False), r"table\[2\]: no value; expected one in exactly one of the columns"),
    (lambda rows: rows[4].update(copy_from="春"), r"table\[4\], column 'copy_from': .*names of two nodes"),
    (lambda rows: rows[4].update(boots=1), r"table\[4\]: no column 'boots'; did you mean boost"),
    (lambda rows: rows[4].pop("target"), r"table\[4\]: the column 'target' is missing"),
    (lambda rows: rows[4].update(target=5), r"table\[4\], column 'target': 5; expected the name of a node"),
    (lambda rows: rows[4].update(target="X"), r"table\[4\], column 'target': 'X' is not a node of this graph"),
    (lambda rows: rows[4].update(copy_from=["春", "X"]), r"table\[4\], column 'copy_from': 'X' is not a node"),
    (lambda rows: rows[4].update(copy_from=["夜", "夜"]), r"table\[4\]: the edge 夜 夜 has no matrix of its own"),
    (lambda rows: rows.append(rows[0]), r"table\[5\]: the edge 春 風 is edited by table\[0\] already"),
    (lambda rows: rows.clear(), "the table: no row"),
]


@pytest.mark.parametrize(("spoil", "message"), WRONG)
def test_a_wrong_row_is_named_and_nothing_is_written(
    graph: Graph, spoil: Callable[[list[dict[str, Any]]], Any], message: str
) -> None:
    rows, before = [dict(row) for row in ROWS], graph.store.snapshot
    spoil(rows)
    with pytest.raises(OptionError, match=message):
        graph.edit_edges(rows)
    assert Graph.open(graph.path).store.snapshot == before
    assert graph.edit_edges(ROWS).snapshot is not None  # the graph is as usable as before


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "source,target,boots\n春,風,1\n", r"a.csv: line 1: no column 'boots'; did you mean boost\?"),
        ("a.csv", "source,target,boost\n春,風,1\n春,花\n", "a.csv: line 3: 2 fields, expected 3"),
        ("a.csv", "source,target,boost\n春,風,1\n春,花,x\n", "a.csv: line 3, column 'boost': 'x'"),
        ("a.csv", 'source,target,boost\n"春"x,風,1\n', "a.csv: line 2: not CSV"),
        ("a.csv", "source,target,boost,boost\n", "a.csv: line 1: two columns 'boost'"),
        ("a.csv", "", "a.csv: line 1: the column 'source' is missing"),
        ("a.csv", "source,target,boost\n\n", "a.csv: no row"),
        ("a.jsonl", '{"source": "春", "target": "風", "boost": 1}\n{"source": 5\n', "a.jsonl: line 2: not JSON"),
        ("a.jsonl", '{"source": "春", "target": "風", "boost": 1}\n\n[1]\n', "a.jsonl: line 3: expected an object"),
    ],
)
def test_files_that_are_wrong(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(OptionError, match=message):
        read_rows(tmp_path / name)


def test_other_things_than_tables(graph: Graph, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"none.csv: No such file"):
        graph.edit_edges(tmp_path / "none.csv")
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(OptionError, match=r"x.csv: byte 0 is not UTF-8"):
        graph.edit_edges(tmp_path / "x.csv")
    for wrong in (5, {"source": "春"}):
        with pytest.raises(TypeError, match="`table` is a"):
            graph.edit_edges(wrong)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"table\[0\]: a str"):
        graph.edit_edges(["春"])  # type: ignore[list-item]


def test_clones_are_sources_in_a_table(built: Path, tmp_path: Path) -> None:
    text = built.parent / "a.txt"
    build_graph(text, tmp_path / "c.sifu", vocab=20, length=8, holdout=0, clones=4)
    with Graph.open(tmp_path / "c.sifu") as graph:
        name = graph.inspect("花").clones or graph.inspect("春").clones
        clone = name[0].name
        report = graph.edit_edges([{"source": clone, "target": "月", "boost": 1}])
        assert report.after[0].energy == pytest.approx(report.before[0].energy + 1)
