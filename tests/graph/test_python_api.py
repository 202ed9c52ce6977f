"""The library as a user of Python calls it: types of arguments, paths, closed graphs, texts in memory, names."""

from __future__ import annotations

import copy
import dataclasses
import html
import inspect
import json
import pickle
import re
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sifu_store import Store, errors

import sifu_graph
from sifu_graph import Graph, OptimizerConfig, OptionError, OptionTypeError, SignalConfig, StoreError, TextCorpus
from sifu_graph.arguments import checked
from sifu_graph.text.corpus import Corpus

PUBLIC = sorted(
    name
    for name in dir(Graph)
    if not name.startswith("_") and callable(getattr(Graph, name)) and name not in ("open", "close")
)


@pytest.fixture(scope="module")
def shut(built: Path) -> Graph:
    """A closed graph."""
    graph = Graph.open(built)
    graph.close()
    return graph


# ---- closed graphs


@pytest.mark.parametrize("name", PUBLIC)
def test_every_method_of_a_closed_graph_refuses(name: str, shut: Graph) -> None:
    with pytest.raises(StoreError, match="the graph is closed: open it again"):
        found = getattr(shut, name)()
        next(found.gen)  # unreachable: what a context manager would begin with


def test_a_closed_graph_is_not_opened_again(store: Path) -> None:
    with Graph.open(store) as graph:
        before = graph.store.snapshot
    for call in (lambda: graph.train(steps=1), lambda: graph.tag("name"), lambda: graph.add_node("新")):
        with pytest.raises(StoreError, match="closed"):
            call()
    for part in ("store", "parameters", "warning"):
        with pytest.raises(StoreError, match="closed"):
            getattr(graph, part)
    with pytest.raises(StoreError, match="closed"), graph:
        pass
    graph.close()  # again: nothing happens
    assert graph.path == store
    with Store.open(store, write=True) as after:  # no lock is left
        assert (after.snapshot, after.tree().tags) == (before, {})


def test_a_stream_ends_with_its_graph(built: Path) -> None:
    with Graph.open(built) as graph:
        pieces = graph.stream("春", tokens=50, seed=1)
        assert next(pieces)
    with pytest.raises(StoreError, match="closed"):
        next(pieces)


def test_a_change_after_its_edit_is_refused(graph: Graph) -> None:
    with graph.edit("one") as edit:
        edit.forbid_edge("春", "風")
    snapshot = graph.store.snapshot
    with pytest.raises(OptionError, match=r"allow_edge\(\): this edit is over"):
        edit.allow_edge("春", "風")
    assert graph.store.snapshot == snapshot
    with pytest.raises(StoreError, match="closed"), graph.edit("two") as edit:
        edit.allow_edge("春", "風")
        graph.close()
    with Store.open(graph.path) as after:
        assert after.snapshot == snapshot


@pytest.mark.parametrize("call", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_graph_is_neither_pickled_nor_copied(call: Callable[[Any], Any], built: Path) -> None:
    with Graph.open(built) as graph, pytest.raises(TypeError, match="open it in each process"):
        call(graph)


# ---- paths


def test_a_path_is_one_source(graph: Graph, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = graph.evaluate([text], limit=200)
    assert graph.evaluate(str(text), limit=200) == graph.evaluate(text, limit=200) == expected
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text(text.read_text(encoding="utf-8"), encoding="utf-8")
    assert graph.evaluate("a.txt", limit=200) == expected
    assert graph.train("./a.txt", steps=1, contexts=False).steps_done == 1
    assert graph._tokens("a.txt").path == graph._tokens(["a.txt"]).path
    assert graph.grow(corpus="a.txt", to_ratio=0.6, dry_run=True).edges_added > 0
    assert graph.add_node("春風", corpus="a.txt", dry_run=True).occurrences
    assert [source.name for source in Corpus("a.txt").sources] == [str(tmp_path / "a.txt")]


# ---- arguments

WRONG: list[tuple[str, Callable[[Graph], Any], str]] = [
    ("a fraction of steps", lambda g: g.train(steps=1.5), "`steps` is 1.5, a float: expected an int or None"),
    ("a switch as a number", lambda g: g.train(steps=True), "`steps` is True, a bool"),
    ("a number as a switch", lambda g: g.prune(min_count=1, dry_run="no"), "`dry_run` is 'no', a str: expected a bool"),
    ("a word", lambda g: g.generate("春", temperature="hot"), "`temperature` is 'hot', a str: expected a float"),
    ("a list of nodes", lambda g: g.add_node(["a", "b"]), r"`tokens` is \['a', 'b'\], a list: .* add_node\(\*tokens\)"),
    ("numbers of nodes", lambda g: g.boost_edge(5, 6, 1.0), "`u` is 5, an int: expected a str"),
    ("a pair of three", lambda g: g.copy_edge("春", "風", source=("春",)), "`source` is .*: expected a tuple"),
    ("settings", lambda g: g.train(steps=1, optimizer={"lr": 1}), "`optimizer` is .*: expected an OptimizerConfig"),
    ("an item", lambda g: g.trace("春", also=["春", 5]), r"`also\[1\]` is 5, an int: expected a str"),
    ("memory", lambda g: Graph.open(g.path, host_memory=1e8), "`host_memory` is 100000000.0, a float: expected a str"),
    ("a path", lambda g: Graph.open(5), "`path` is 5, an int: expected a str or a Path"),
    ("a source", lambda g: g.evaluate([5]), r"`corpus\[0\]` is 5|`corpus` is \[5\]"),
    ("a rate", lambda g: OptimizerConfig(lr="fast"), "`lr` is 'fast', a str: expected a float"),
    ("a callback", lambda g: g.train(steps=1, say="loud"), "`say` is 'loud', a str: expected a Callable or None"),
]


@pytest.mark.parametrize(("call", "message"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_a_value_of_another_type_is_refused(call: Callable[[Graph], Any], message: str, graph: Graph) -> None:
    before = graph.store.snapshot
    with pytest.raises(OptionTypeError, match=message) as found:
        call(graph)
    assert isinstance(found.value, TypeError)
    assert graph.store.snapshot == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab": 50.0}, "`vocab` is 50.0, a float: expected an int"),
        ({"sparsify": "all"}, "`sparsify` is 'all'"),
        ({"vocabulary": 50}, r"build_graph\(\) has no parameter 'vocabulary': did you mean `vocab`"),
        ({"texts": [1]}, r"`texts\[0\]` is 1, of type int: expected a str"),
        ({"texts": {"a": "b"}}, "`texts` is of type dict"),
        ({"texts": Path("a.txt")}, "`texts` is the path 'a.txt': pass the names of files as `corpus`"),
        ({"texts": ["a", float("nan")]}, r"`texts\[1\]` is nan"),
        ({"texts": ["ab"], "level": "tokens"}, r"`texts\[0\]` is of type str: the graph reads lists of tokens"),
    ],
)
def test_a_build_refuses_wrong_types(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(OptionTypeError, match=message):
        sifu_graph.build_graph(path=tmp_path / "g.sifu", **options)
    assert list(tmp_path.iterdir()) == []


def test_the_name_of_a_file_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("春風\n" * 20, encoding="utf-8")
    for texts in ("a.txt", ["a.txt"], ["./a.txt", "b"], str(tmp_path)):
        with pytest.raises(OptionTypeError, match=r"the name of a file: pass (it|names of files) as `corpus`"):
            sifu_graph.build_graph(texts=texts, path="g.sifu")
    assert sifu_graph.build_graph(texts=["春風", "a.txt"] * 20, path="g.sifu").corpus_tokens > 0
    one = "春風吹又生。" * 50
    assert sifu_graph.build_graph(texts=one, path="g.sifu", force=True, holdout=0).corpus_tokens == len(one) + 2


def test_a_value_that_is_not_listed_has_a_near_one(graph: Graph) -> None:
    with pytest.raises(OptionError, match="`by` is 'enregy': did you mean energy"):
        graph.prune(to_ratio=0.1, by="enregy")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="`drive` is 'x': expected chain or mix"):
        SignalConfig(drive="x")  # type: ignore[arg-type]
    with pytest.raises(OptionTypeError, match=r"train\(\) has no parameter 'step': did you mean `steps`"):
        graph.train(step=1)  # type: ignore[call-arg]


def test_numbers_of_numpy_are_stored(text: Path, tmp_path: Path) -> None:
    path = tmp_path / "g.sifu"
    sifu_graph.build_graph(
        str(text), str(path), vocab=np.int64(12), sparsify=np.float32(0.5), seed=np.uint8(3), clones=np.int32(5)
    )
    with Graph.open(path, host_memory=np.int64(1 << 28)) as graph:
        assert graph.settings["build"]["vocab"] == 12
        json.dumps(graph.settings)
        assert graph.train(steps=np.int64(1), epochs=np.float64(0.5)).steps_done == 1
        assert graph.generate("春", tokens=np.int16(3), seed=np.int64(1)).tokens == 3


def test_a_single_text_is_a_list_of_one(graph: Graph) -> None:
    @checked
    def given(names: Sequence[str] = (), *, files: str | Path | Sequence[str | Path] = "") -> object:
        return names, files

    assert given("春風", files="/data/x.txt") == (["春風"], "/data/x.txt")
    assert given(("a", np.str_("b")), files=[Path("c")]) == (("a", "b"), [Path("c")])
    assert given(np.array(["a", "b"])) == (["a", "b"], "")
    assert inspect.signature(given).parameters["names"].annotation == "Sequence[str]"
    with pytest.raises(TypeError, match="multiple values"):  # Python's own error
        given("a", names="b")  # type: ignore[misc]
    assert str(graph.trace("春風", also="花", last=1)) == str(graph.trace("春風", also=["花"], last=1))


# ---- names


def test_the_names_of_the_package() -> None:
    names = dir(sifu_graph)
    kinds = {name for name, value in vars(errors).items() if isinstance(value, type) and name.endswith("Error")}
    assert kinds <= set(names)
    assert {"Graph", "build_graph", "TextCorpus", "OptimizerConfig", "SifuError"} <= set(names)
    assert all(hasattr(sifu_graph, name) for name in names)
    assert sifu_graph.SifuError is errors.SifuError


# ---- texts in memory


class Column:
    """A column of a table, as pandas has it: an iterable without an order of its own in Python."""

    def __init__(self, values: list[str]) -> None:
        self._values = values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)


@pytest.fixture(scope="module")
def lines(text: Path) -> list[str]:
    return text.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("kind", [list, iter, Column, np.array])
def test_texts_in_memory_are_as_a_file_of_them(
    kind: Callable[[list[str]], Any], lines: list[str], built: Path, tmp_path: Path
) -> None:
    path = tmp_path / "g.sifu"
    sifu_graph.build_graph(texts=kind(lines), path=path, vocab=40, sparsify=0.5, length=8, holdout=0.1, signal="tuned")
    with Graph.open(path) as graph, Graph.open(built) as other:
        assert graph.tokenizer.vocabulary == other.tokenizer.vocabulary
        assert np.array_equal(graph._tokens().heldout.ids, other._tokens().heldout.ids)
        assert graph.evaluate() == other.evaluate()
        assert graph.evaluate(texts=kind(lines[:50])) == other.evaluate(texts=lines[:50])
        assert graph.train(steps=1, contexts=False).heldout_perplexity == pytest.approx(
            other.evaluate().perplexity, rel=0.5
        )
        assert graph.train(texts=kind(lines), steps=1).step == 2
        assert graph.grow(corpus=TextCorpus(kind(lines)), to_ratio=0.6, dry_run=True).edges_added > 0


def test_lists_of_tokens_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "g.sifu"
    sifu_graph.build_graph(
        texts=[["a", 5, "b"], ("b", np.int64(5))] * 20, path=path, level="tokens", vocab=10, holdout=0
    )
    with Graph.open(path) as graph:
        assert {"a", "b", "5"} < set(graph.tokenizer.vocabulary)
        assert graph.evaluate(texts=[["a", 5]]).tokens > 0


def test_what_is_no_text_is_refused(graph: Graph) -> None:
    with pytest.raises(OptionError, match="both `corpus` and `texts` are given"):
        graph.evaluate("a.txt", texts=["a"])
    with pytest.raises(sifu_graph.CorpusError, match=r"texts\[1\]: '\\ud800' at character 1 is half a surrogate pair"):
        graph.evaluate(texts=["a", "b\ud800"])
    with pytest.raises(sifu_graph.CorpusError, match="texts: empty"):
        graph.evaluate(texts=["", " "])
    assert list(TextCorpus("one text").documents()) == ["one text"]
    assert list(TextCorpus(["a\nb\u2028c\r\nd"]).documents()) == ["a\nb\u2028c\nd"]


# ---- tables and notebooks


def test_tables_of_nodes_edges_and_history(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    """pandas is replaced: its frame gets the columns."""
    monkeypatch.setitem(sys.modules, "pandas", types.SimpleNamespace(DataFrame=dict))
    nodes, edges = graph.to_pandas("nodes"), graph.to_pandas()
    assert list(nodes["token"]) == graph.tokenizer.vocabulary
    assert nodes["count"].sum() == graph.store.read("nodes/count").sum()
    assert set(nodes["kind"]) == {"text"}
    counts, _ = graph.to_scipy()
    found = counts.tocoo()
    names = graph.tokenizer.vocabulary
    expected = {
        (names[u], names[v]): c for u, v, c in zip(found.coords[0], found.coords[1], found.data.tolist(), strict=True)
    }
    rows = zip(edges["source"], edges["target"], edges["count"].tolist(), strict=True)
    assert {(u, v): c for u, v, c in rows} == expected
    graph.forbid_edge("春", "風")
    graph.undo()
    history = graph.to_pandas("history")
    assert history["snapshot"] == [commit.snapshot for commit in graph.log().commits]
    assert history["kind"] == ["edit-edge", "build-graph"]
    assert history["undone"] == [True, False]
    assert {len(column) for column in history.values()} == {2}
    with pytest.raises(OptionError, match="`what` is 'node': did you mean nodes"):
        graph.to_pandas("node")  # type: ignore[arg-type]


def test_without_pandas_the_error_says_so(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(OptionError, match="this needs pandas"):
        graph.to_pandas()


def test_a_graph_is_shown_briefly(built: Path, tmp_path: Path) -> None:
    with Graph.open(built) as graph:
        shown, page = repr(graph), graph._repr_html_()
        info = graph.info()
    start = f"<Graph {str(built)!r}: {info.nodes} nodes, width {info.width}, "
    assert shown == f"{start}snapshot {info.snapshot[:8]}>"
    assert f"<th>private edges</th><td>{info.private_edges:,}</td>" in page
    assert repr(graph) == f"{start}closed>"
    assert graph._repr_html_() == f"<p>{html.escape(repr(graph))}</p>"


@pytest.mark.parametrize("seed", [-1, 2**62, 2**70])
def test_a_seed_that_the_settings_cannot_hold_is_refused_before_anything_is_written(seed: int, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=f"`seed` is {seed}"):
        sifu_graph.build_graph(texts=["abc"] * 9, path=tmp_path / "new.sifu", seed=seed)
    assert not list(tmp_path.iterdir())
    sifu_graph.build_graph(texts=["abc"] * 9, path=tmp_path / "g.sifu", length=4, holdout=0)
    with Graph.open(tmp_path / "g.sifu") as graph:
        before = graph.info().snapshot
        with pytest.raises(OptionError, match=f"`seed` is {seed}"):
            graph.train(steps=1, seed=seed)
        assert graph.info().snapshot == before
        graph.train(steps=1, seed=2**62 - 1)
    with Graph.open(tmp_path / "g.sifu") as graph:
        assert graph.settings["training"] is not None


def test_completion_and_help_have_what_is_for_users(graph: Graph) -> None:
    listed = {name for name in dir(graph) if not name.startswith("_")}
    shown = {name for name, *_ in inspect.classify_class_attrs(Graph) if not name.startswith("_")}  # by help
    assert {"train", "generate", "next", "score", "close", "info", "path"} <= shown <= listed
    for name in shown:
        text, member = inspect.getdoc(getattr(Graph, name)) or "", getattr(Graph, name)
        assert text.splitlines()[0].endswith((".", ":", "``.")), name
        if not callable(member):
            continue
        parameters = [each for each in inspect.signature(member).parameters if each != "self"]
        described, _, _ = text.partition("Returns\n---")
        for parameter in parameters:
            assert re.search(rf"^(?:\w+, )*{parameter}(?:, \w+)*$", described, re.MULTILINE), (name, parameter)
    attributes, _, _ = (inspect.getdoc(Graph) or "").partition("Notes\n---")
    for name in listed - shown:  # of an open graph, which the docstring of the class describes
        assert re.search(rf"^(?:\w+, )*{name}(?:, \w+)*$", attributes, re.MULTILINE), name
    assert set(dir(sifu_graph)) == set(sifu_graph.__all__)
    for name in sifu_graph.PRESETS:
        assert f"``{name}``" in (sifu_graph.__doc__ or "")
        assert f"``{name}``" in (sifu_graph.SignalConfig.__doc__ or "")
    for cls in (sifu_graph.SignalConfig, sifu_graph.OptimizerConfig):
        for field in dataclasses.fields(cls):
            assert re.search(rf"\b{field.name}\b", cls.__doc__ or ""), field.name


@pytest.mark.parametrize(
    ("options", "meant"),
    [
        ({"level": "wordd"}, "word"),
        ({"level": "characters"}, "char"),
        ({"level": "sentencepiece"}, "bpe"),
        ({"signal": "recurrents"}, "recurrent"),
        ({"signal": "paper_v1"}, "paper-v1"),
        ({"init": "count"}, "counts"),
    ],
)
def test_a_build_suggests_what_is_meant(options: dict[str, Any], meant: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=rf"did you mean {meant}\?$"):
        sifu_graph.build_graph(texts=["abc"] * 9, path=tmp_path / "g.sifu", **options)


def test_plot_and_export_suggest_what_is_meant(graph: Graph) -> None:
    calls: list[tuple[Any, str]] = [
        (lambda: graph.plot("los"), "loss"),  # type: ignore[arg-type]
        (lambda: graph.export("grafml"), "graphml"),  # type: ignore[arg-type]
    ]
    for call, meant in calls:
        with pytest.raises(OptionError, match=rf"`kind` is '.*': did you mean {meant}\?$"):
            call()
