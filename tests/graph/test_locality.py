"""The locality law: no edit changes a bit of an energy that does not involve what it touches."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sifu_store.errors import SifuError
from tables import Table, table

from sifu_graph import Graph
from sifu_graph.edit.session import Edit

pytestmark = pytest.mark.usefixtures("one_thread")

Touched = Callable[[str, str], bool]
LETTERS = "春風花月夜江水山雲人不一有無天日來何時中。"


@pytest.fixture(scope="session", params=["untrained", "trained"])
def original(request: pytest.FixtureRequest, built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph whose pages are generated, and one whose pages are stored."""
    path = Path(shutil.copytree(built, tmp_path_factory.mktemp("original") / "graph.sifu"))
    if request.param == "trained":
        with Graph.open(path) as graph:
            graph.train(steps=3, batch=8)
    return path


letters = st.sampled_from(LETTERS)
edits = st.one_of(
    st.tuples(st.just("add"), st.sampled_from(["龍", "江南", "<image:7>"]), st.none() | letters, st.booleans()),
    st.tuples(st.just("remove"), letters),
    st.tuples(st.just("rename"), letters, st.sampled_from(["鳳", "鳳凰"])),
    st.tuples(st.just("merge"), letters, letters),
    st.tuples(st.just("scale"), letters, letters, st.floats(0.5, 2)),
    st.tuples(st.just("boost"), letters, letters, st.floats(-3, 3)),
    st.tuples(st.just("copy"), letters, letters, letters, letters),
    st.tuples(st.sampled_from(["default", "forbid", "allow"]), letters, letters),
    st.tuples(st.just("prune"), st.floats(0.05, 0.45), st.sampled_from(["count", "energy"])),
    st.tuples(st.just("grow"), st.floats(0.05, 0.6), st.sampled_from(["counts", "default"])),
    st.tuples(st.just("compact")),
)


def apply(edit: Edit, what: tuple, text: Path) -> Touched:
    """Makes one change; says which pairs it is about."""
    name, *args = what
    if name == "add":
        new, like, counted = args
        edit.add_node(new, like=like, corpus=[text] if counted and like is None and len(new) == 1 else None)
        return lambda u, v: new in (u, v)
    if name == "remove":
        edit.remove_node(args[0])
        return lambda u, v: args[0] in (u, v)
    if name == "rename":
        edit.rename_node(*args)
        return lambda u, v: bool({*args} & {u, v})
    if name == "merge":
        edit.merge_node(*args)
        return lambda u, v: bool({*args} & {u, v})
    if name in ("prune", "grow"):
        if name == "prune":
            edit.prune(to_ratio=args[0], by=args[1])
        else:
            edit.grow(to_ratio=args[0], init=args[1], corpus=[text])
        return lambda u, v: False  # see `check`: what changed its kind
    if name == "compact":
        edit.compact()
        return lambda u, v: False
    if name == "copy":
        edit.copy_edge(args[0], args[1], source=(args[2], args[3]))
    else:
        getattr(edit, f"{name}_edge")(*args)
    return lambda u, v: (u, v) == tuple(args[:2])


def check(before: Table, after: Table, touched: Touched, *, kinds_may_change: bool) -> None:
    compared = 0
    for pair in before.energy.keys() & after.energy.keys():
        if touched(*pair):
            continue
        if kinds_may_change and (pair in before.edges) != (pair in after.edges):
            continue
        compared += 1
        assert before.energy[pair] == after.energy[pair], pair
        assert before.edges.get(pair, (0, b""))[1] == after.edges.get(pair, (0, b""))[1], pair
        assert (pair in before.forbidden) == (pair in after.forbidden), pair
    assert compared > 100
    assert before.default == after.default
    for node in before.bias.keys() & after.bias.keys():
        if not touched(node, ""):
            assert before.bias[node] == after.bias[node], node


@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(edits, min_size=1, max_size=4))
def test_an_edit_touches_only_what_it_is_about(original: Path, text: Path, changes: list[tuple]) -> None:
    held(original, text, changes)


@pytest.mark.slow
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(edits, min_size=1, max_size=6))
def test_many_edits_touch_only_what_they_are_about(original: Path, text: Path, changes: list[tuple]) -> None:
    held(original, text, changes)


def held(original: Path, text: Path, changes: list[tuple]) -> None:
    """Makes the changes one after another, and compares every energy before and after."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(shutil.copytree(original, Path(folder) / "graph.sifu"))
        with Graph.open(path) as graph:
            before = table(graph, energies=True)
            for change in changes:
                try:
                    with graph.edit("one") as edit:
                        touched = apply(edit, change, text)
                except SifuError:  # a node that an earlier change took, an edge that is default already, ...
                    table(graph).same(before)
                    continue
                after = table(graph, energies=True)
                check(before, after, touched, kinds_may_change=change[0] in ("prune", "grow"))
                before = after
        with Graph.open(path) as again:  # what was committed is what was in memory
            assert again.store.verify().ok
            found = table(again, energies=True)
            found.same(before)
            assert found.energy == before.energy
