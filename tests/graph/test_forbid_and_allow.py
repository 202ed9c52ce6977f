"""An edge that was forbidden and is allowed again is what it was: count, parameters, private mark, and history."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sifu_store.errors import OptionError
from small import write_text
from tables import table

from sifu_graph import Graph, build_graph
from sifu_graph.inspection.inspect import EdgeReport

PAIR = "春", "風"


@pytest.fixture(scope="module")
def recurrent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recurrent")
    text = write_text(folder / "poems.txt", documents=1000)
    build_graph(text, folder / "graph.sifu", vocab=40, sparsify=0.5, width=16, length=8, holdout=0.1)
    return folder / "graph.sifu"


@pytest.fixture(params=["tuned", "recurrent"])
def each(request: pytest.FixtureRequest, built: Path, recurrent: Path, tmp_path: Path) -> Iterator[Graph]:
    """A graph of each kind."""
    source = built if request.param == "tuned" else recurrent
    with Graph.open(shutil.copytree(source, tmp_path / "each.sifu")) as graph:
        yield graph


def edge(graph: Graph, pair: tuple[str, str] = PAIR) -> tuple[object, ...]:
    found = graph.inspect(*pair)
    assert isinstance(found, EdgeReport)
    return (
        found.private, found.count, found.share, found.energy, found.p, found.rank,
        found.weight_norm, found.bias_norm, found.singular_values, found.parts,
    )  # fmt: skip


def changed_by(graph: Graph) -> str | None:
    found = graph.inspect(*PAIR)
    assert isinstance(found, EdgeReport) and found.changed is not None
    return found.changed.snapshot


@pytest.mark.parametrize("changes", ["nothing", "boost", "train", "boost and train"])
def test_it_is_what_it_was(each: Graph, changes: str) -> None:
    if "boost" in changes:
        each.boost_edge(*PAIR, 1.25)
    if "train" in changes:
        each.train(steps=2, batch=4)
    before, snapshot = edge(each), each.store.snapshot
    forbidden = each.forbid_edge(*PAIR).snapshot
    assert changed_by(each) == forbidden
    report = each.allow_edge(*PAIR)
    assert edge(each) == before
    assert report.notes == []
    assert (report.after.kind, report.after.count) == ("private", before[1])
    assert changed_by(each) == report.snapshot != forbidden
    found = each.diff(snapshot)
    assert (found.edges_added, found.edges_removed, found.edges_changed, found.edges_recounted) == (0, 0, 0, 0)
    assert not found.arrays and not found.edges_allowed and not found.edges_forbidden


def test_a_default_edge_becomes_a_default_edge(each: Graph) -> None:
    index, names = each._at_rest.index, each.tokenizer.vocabulary
    u, v = next((u, v) for u in names[2:] for v in names[2:] if index.slot_of(names.index(u), names.index(v)) is None)
    before = edge(each, (u, v))
    each.forbid_edge(u, v)
    report = each.allow_edge(u, v)
    assert (edge(each, (u, v)), report.after.kind, report.notes) == (before, "default", [])


def test_in_one_edit(each: Graph) -> None:
    before = edge(each)
    with each.edit("both") as edit:
        edit.forbid_edge(*PAIR)
        edit.allow_edge(*PAIR)
    assert edge(each) == before
    each.boost_edge(*PAIR, 1.25)
    wanted = edge(each)
    each.undo()
    with each.edit("all") as edit:
        edit.boost_edge(*PAIR, 1.25)  # in no snapshot
        edit.forbid_edge(*PAIR)
        edit.allow_edge(*PAIR)
    assert edge(each) == wanted


def test_after_other_edits_and_commits(each: Graph) -> None:
    """Nodes are removed and renamed in between, other edges are forbidden; the graph is compacted and branched."""
    each.boost_edge(*PAIR, 1.25)
    count = edge(each)[1]
    each.forbid_edge(*PAIR)
    each.remove_node("山")
    each.forbid_edge("花", "月")
    each.rename_node("春", "龍")
    each.compact()
    each.branch("side")
    each.switch("side")
    each.add_node("鳳", like="花")
    report = each.allow_edge("龍", "風")
    assert (report.after.kind, report.after.count, report.notes) == ("private", count, [])
    each.undo(2)
    assert each.forbid_edge("龍", "花").after.kind == "forbidden"


def test_one_that_no_snapshot_has(each: Graph) -> None:
    each.forbid_edge("春", "花")
    each.add_node("龍", like="春")
    report = each.allow_edge("龍", "花")
    assert report.after.kind == "default"
    assert report.notes == ["the edge 龍 花 is a default edge now: no snapshot has what it was before it was forbidden"]
    with pytest.raises(OptionError, match="the edge 龍 花 is not forbidden"):
        each.allow_edge("龍", "花")


def test_commits_that_were_collected_are_spoken_of(graph: Graph) -> None:
    built = graph.store.snapshot
    count = edge(graph)[1]
    graph.train(steps=1, batch=4)
    graph.forbid_edge(*PAIR)
    for _ in range(3):
        graph.train(steps=1, batch=4)
    assert built[:8] in [commit.snapshot[:8] for commit in graph.log().commits]
    report = graph.allow_edge(*PAIR)
    assert (report.after.kind, report.after.count) == ("private", count)
    [note] = report.notes
    assert note.startswith(f"the edge 春 風 is as in {built[:8]} (build: ") and note.endswith("are gone")


def test_an_edge_of_a_clone(recurrent: Path, tmp_path: Path) -> None:
    with Graph.open(shutil.copytree(recurrent, tmp_path / "clones.sifu")) as graph:
        name = graph.inspect("春").clones[0].name
        graph.boost_edge(name, "風", 1.5)
        before = graph.inspect(name, "風")
        graph.forbid_edge(name, "風")
        graph.rename_node("花", "龍")
        report = graph.allow_edge(name.replace("花", "龍"), "風")
        assert report.after.kind == "own" and report.notes == []
        assert graph.inspect(name.replace("花", "龍"), "風").energy == before.energy
        with graph.edit("both") as edit:
            edit.boost_edge(name.replace("花", "龍"), "風", 1.0)
            edit.forbid_edge(name.replace("花", "龍"), "風")
            edit.allow_edge(name.replace("花", "龍"), "風")
        assert graph.inspect(name.replace("花", "龍"), "風").energy == pytest.approx(before.energy + 1.0, abs=1e-5)


def test_in_a_table(each: Graph) -> None:
    before = edge(each)
    each.edit_edges([{"source": "春", "target": "風", "forbid": True}])
    each.edit_edges([{"source": "春", "target": "風", "allow": True}])
    assert edge(each) == before
    each.forbid_edge("夜", "月")
    each.add_node("龍", like="夜")
    report = each.edit_edges([{"source": "龍", "target": "月", "allow": True}])
    assert len(report.notes) == 1


@settings(max_examples=4)
@given(data=st.data())
def test_any_pairs_in_any_order(built: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    with Graph.open(shutil.copytree(built, tmp_path_factory.mktemp("any") / "graph.sifu")) as graph:
        names = st.sampled_from(graph.tokenizer.vocabulary[2:])
        pairs = data.draw(st.lists(st.tuples(names, names), min_size=1, max_size=4, unique=True))
        before = table(graph, energies=True)
        for pair in pairs:
            graph.forbid_edge(*pair)
        for pair in data.draw(st.permutations(pairs)):
            graph.allow_edge(*pair)
        after = table(graph, energies=True)
        after.same(before)
        assert after.energy == before.energy


def test_something_may_always_follow(each: Graph) -> None:
    """The last node that may follow is neither forbidden nor removed; <unk> is never generated."""
    names = [name for name in each.tokenizer.vocabulary if name not in ("<unk>", "風")]
    each.edit_edges([{"source": "春", "target": name, "forbid": True} for name in names])
    with pytest.raises(OptionError, match="the last edge that may be chosen there"):
        each.forbid_edge("春", "風")
    with pytest.raises(OptionError, match="after 春 nothing else may follow: allow another edge out of it first"):
        each.remove_node("風")
    assert each.generate("春", tokens=1).text == "風"
    each.allow_edge("春", "月")
    each.remove_node("風")
    assert each.generate("春", tokens=1).text == "月"
    each.remove_node("春")
