"""Growing clones: from the graph's own text as a build makes them, from another text as if both had been counted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sifu_store.errors import OptionError

from sifu_graph import Graph, build_graph
from sifu_graph.ops.pair_model import PairModel
from sifu_graph.text.corpus import Corpus
from sifu_graph.text.encoded import Split, encode_corpus

Name = tuple[int, ...]
LETTERS = "abcdefg"
OPTIONS = {"vocab": 20, "holdout": 0.0, "signal": "recurrent"}


def written(path: Path, seed: int, *, step: int = 2, documents: int = 60) -> Path:
    """Documents in which a letter depends on the two before; ``step`` says how."""
    rng = np.random.default_rng(seed)
    lines = []
    for _ in range(documents):
        ids = rng.integers(0, 7, 2).tolist()
        for more in rng.integers(0, 2, rng.integers(1, 15)).tolist():
            ids.append((ids[-1] + step * ids[-2] + more) % 7)
        lines.append("".join(LETTERS[k] for k in ids))
    path.write_text("\n".join([LETTERS, *lines]) + "\n", encoding="utf-8")
    return path


def pairs_of(graph: Graph) -> PairModel:
    base = graph.parameters.base
    assert base is not None
    return base.pairs


def names_of(pairs: PairModel) -> list[Name]:
    return [tuple(pairs.tree.name(source)) for source in range(pairs.tree.sources)]


def naive_counts(texts: list[Split], names: list[Name]) -> dict[Name, Counter[int]]:
    """The occurrences at the longest name that a place ends with; a parent counts each target of a clone once."""
    every = set(names)
    found: dict[Name, Counter[int]] = {name: Counter() for name in names}
    for text in texts:
        for document in (text.document(k).tolist() for k in range(text.documents)):
            for end in range(1, len(document)):
                size = 1
                while size < end and tuple(document[end - size - 1 : end]) in every:
                    size += 1
                found[tuple(document[end - size : end])][document[end]] += 1
    for name in sorted(names, key=len, reverse=True):
        if len(name) > 1:
            found[name[1:]].update(target for target, count in found[name].items() if count)
    return found


def assert_counts(pairs: PairModel, texts: list[Split]) -> None:
    """Every row is what counting the texts by hand gives, and the totals are those of the rows."""
    names = names_of(pairs)
    wanted = naive_counts(texts, names)
    for source, name in enumerate(names):
        row = slice(pairs.first[source], pairs.first[source + 1])
        assert dict(zip(pairs.target[row].tolist(), pairs.count[row].tolist(), strict=True)) == dict(wanted[name])
    source = np.repeat(np.arange(len(names)), np.diff(pairs.first))
    assert np.array_equal(pairs.total, np.bincount(source, pairs.count, minlength=len(names)))
    taken = np.array([(0.0, *d) for d in pairs.discounts])[pairs.tree.depth[source], np.minimum(pairs.count, 3)]
    assert pairs.discounted == pytest.approx(np.bincount(source, taken, minlength=len(names)))


def split_of(graph: Graph, path: Path, folder: Path) -> Split:
    return encode_corpus(Corpus([path]), graph.tokenizer, directory=folder, holdout=0.0).train


@settings(max_examples=6)
@given(seed=st.integers(0, 2**16), before=st.integers(0, 40), after=st.integers(41, 200))
def test_from_its_own_text_a_graph_grows_to_what_a_build_makes(
    seed: int, before: int, after: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("grow")
    text = written(folder / "a.txt", seed)
    for name, clones in (("small", before), ("large", after)):
        build_graph(text, folder / f"{name}.sifu", clones=clones, **OPTIONS)
    with Graph.open(folder / "large.sifu") as graph:
        wanted, gain = pairs_of(graph), graph.store.read("clones/gain") if graph.info().clones else np.empty(0)
    with Graph.open(folder / "small.sifu") as graph:
        had = graph.info().clones
        report = graph.grow(clones=after)
        assert report.clones_added == len(wanted.tree) - had and report.tokens_counted == 0
        found = pairs_of(graph)
        for column in ("first", "target", "count", "total"):
            assert np.array_equal(getattr(found, column), getattr(wanted, column))
        assert np.array_equal(found.tree.parent, wanted.tree.parent)
        assert np.array_equal(found.tree.token, wanted.tree.token)
        if len(wanted.tree):
            assert np.array_equal(graph.store.read("clones/gain"), gain)
        assert_counts(found, [graph._tokens().train])


@settings(max_examples=6)
@given(seed=st.integers(0, 2**16), clones=st.integers(0, 60), more=st.integers(1, 80))
def test_from_another_text_a_graph_has_the_counts_of_both(
    seed: int, clones: int, more: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("grow")
    text, other = written(folder / "a.txt", seed), written(folder / "b.txt", seed + 1, step=3, documents=20)
    build_graph(text, folder / "g.sifu", clones=clones, **OPTIONS)
    with Graph.open(folder / "g.sifu") as graph:
        count, had = graph.inspect("a").count, graph.info().clones
        texts = [graph._tokens().train, split_of(graph, other, folder)]
        report = graph.grow(corpus=[other], clones=had + more, evaluate=True)
        assert report.tokens_counted == texts[1].tokens and report.clones_added is not None
        assert report.note is not None and "no perplexity" in report.note  # nothing is held out
        assert_counts(pairs_of(graph), texts)
        a = graph.tokenizer.encode("a")[0]
        assert graph.inspect("a").count == count + int((np.asarray(texts[1].ids) == a).sum())
        again = graph.grow(corpus=[other], gain=0.0)
        assert again.tokens_counted == 0  # it was counted before
        assert_counts(pairs_of(graph), texts)
        graph.grow(gain=0.0)  # from the graph's own text: the new clones know both
        assert_counts(pairs_of(graph), texts)
        graph.prune(clones=0)
        assert_counts(pairs_of(graph), texts)
        assert graph.store.verify().ok


def test_what_has_no_new_clone_keeps_its_bits(tmp_path: Path) -> None:
    build_graph(written(tmp_path / "a.txt", 3), tmp_path / "g.sifu", clones=8, **OPTIONS)
    with Graph.open(tmp_path / "g.sifu") as graph:
        before = pairs_of(graph)
        graph.boost_edge("a", "b", 1.0)
        graph.grow(clones=9)
        after = pairs_of(graph)
    new = [name for name in names_of(after) if name not in names_of(before)]
    assert len(new) == 1
    changed = {new[0][k:] for k in range(len(new[0]))}  # the clone takes occurrences from its parent
    place = {name: source for source, name in enumerate(names_of(after))}
    checked = 0
    for source, name in enumerate(names_of(before)):
        if not {name[k:] for k in range(len(name))} & changed:
            mine, other = before.rows(np.array([source])), after.rows(np.array([place[name]]))
            assert np.array_equal(mine, other)
            checked += 1
    assert checked > 5


def test_an_edge_of_a_clone_keeps_what_an_edit_gave_it(tmp_path: Path) -> None:
    build_graph(written(tmp_path / "a.txt", 3), tmp_path / "g.sifu", clones=8, **OPTIONS)
    with Graph.open(tmp_path / "g.sifu") as graph:
        name = ">".join(graph.tokenizer.vocabulary[node] for node in names_of(pairs_of(graph))[-1])
        graph.boost_edge(name, "a", 2.0)
        graph.grow(gain=0.0)
        pairs = pairs_of(graph)
        source = names_of(pairs).index(tuple(graph.tokenizer.encode(name.replace(">", "")).tolist()))
        assert pairs.added_rows(np.array([source]))[0, graph.tokenizer.encode("a")[0]] == pytest.approx(2.0)


def test_what_cannot_grow_says_so(tmp_path: Path) -> None:
    text, other = written(tmp_path / "a.txt", 0), written(tmp_path / "b.txt", 1)
    build_graph(text, tmp_path / "t.sifu", vocab=20, holdout=0.0, signal="tuned")
    with Graph.open(tmp_path / "t.sifu") as graph, pytest.raises(OptionError, match="share a base has clones"):
        graph.grow(clones=5)
    build_graph(text, tmp_path / "g.sifu", clones=8, **OPTIONS)
    with Graph.open(tmp_path / "g.sifu") as graph:
        for options, message in (
            ({}, "say how far to grow"),
            ({"clones": 8}, "the graph has 8: name more"),
            ({"gain": np.nan}, "expected a finite number"),
            ({"corpus": [text, other], "gain": 0.0}, "name the new ones alone"),
        ):
            with pytest.raises(OptionError, match=message):
                graph.grow(**options)
        text.rename(tmp_path / "moved.txt")
        report = graph.grow(corpus=[other], gain=0.0)
        assert report.clones_added and report.note is not None and "lack their occurrences" in report.note
        report = graph.grow(corpus=[tmp_path / "moved.txt"], gain=0.0, dry_run=True)
        assert report.tokens_counted == 0  # by its content it is the graph's own text
