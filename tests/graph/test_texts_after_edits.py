"""A graph of texts in memory, or of standard input, keeps a copy of them: they are read again with other nodes."""

from __future__ import annotations

import dataclasses
import gzip
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sifu_store.errors import CorpusError
from small import write_text

from sifu_graph import Graph, build_graph
from sifu_graph.text.corpus import Corpus
from sifu_graph.verification import verify

OPTIONS: dict[str, Any] = {"vocab": 12, "sparsify": 0.5, "length": 8, "holdout": 0.1, "signal": "tuned"}
GONE = (
    r"^the graph was built from {}, and there is no copy of that text in its folder cache \(no file of `export\(\)` "
    r"has one\): pass the text again, with `train\(texts=...\)` or `evaluate\(texts=...\)`$"
)
EDITS: dict[str, Callable[[Graph], Any]] = {
    "add": lambda graph: graph.add_node("春風", "龍"),
    "add an unknown character": lambda graph: graph.add_node("日", "來"),
    "remove": lambda graph: graph.remove_node("春"),
    "rename": lambda graph: graph.rename_node("春", "日"),
    "merge": lambda graph: graph.merge_node("春", into="花"),
}


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_text(tmp_path_factory.mktemp("text") / "poems.txt").read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def of_file(lines: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph of a file."""
    folder = tmp_path_factory.mktemp("file")
    (folder / "poems.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    build_graph(folder / "poems.txt", folder / "g.sifu", **OPTIONS)
    return folder / "g.sifu"


@pytest.fixture(scope="module", params=["texts", "stdin"])
def of_copy(request: pytest.FixtureRequest, lines: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph of the same text, which no file has."""
    path = tmp_path_factory.mktemp(request.param) / "g.sifu"
    if request.param == "texts":
        build_graph(texts=iter(lines), path=path, **OPTIONS)
    else:
        build_graph(Corpus("-", stdin=io.BytesIO("\n".join(lines).encode()), document="line"), path, **OPTIONS)
    return path


def copied(path: Path, folder: Path) -> Graph:
    return Graph.open(shutil.copytree(path, folder))


@pytest.mark.parametrize("name", EDITS)
def test_after_an_edit_it_is_as_with_a_file(name: str, of_copy: Path, of_file: Path, tmp_path: Path) -> None:
    with copied(of_copy, tmp_path / "a.sifu") as graph, copied(of_file, tmp_path / "b.sifu") as other:
        for each in (graph, other):
            EDITS[name](each)
        with Graph.open(graph.path) as again:  # in another process, too
            assert again.evaluate() == other.evaluate()
        for part in ("train", "heldout"):
            mine, theirs = (getattr(each._tokens(), part) for each in (graph, other))
            np.testing.assert_array_equal(mine.ids, theirs.ids)
        if name == "add an unknown character":
            assert graph.evaluate().unknown_share < graph.evaluate(like=other).unknown_share + 1e-9
        assert graph.evaluate(with_baselines=True).baselines == other.evaluate(with_baselines=True).baselines
        found, wanted = (each.train(steps=2, batch=8) for each in (graph, other))
        assert found.heldout_perplexity == wanted.heldout_perplexity
        found, wanted = (each.grow(to_ratio=0.9, evaluate=True) for each in (graph, other))
        assert dataclasses.replace(found, seconds=0, snapshot="") == dataclasses.replace(wanted, seconds=0, snapshot="")
        # that some held-out documents are in the training text too is found where the text is not known as held out
        assert dataclasses.replace(other.evaluate(like=graph), trained_share=0.0) == graph.evaluate()


def test_the_copy_is_the_text(of_copy: Path, lines: list[str]) -> None:
    [path] = (of_copy / "cache").glob("text-*.gz")
    text = gzip.decompress(path.read_bytes()).decode()
    assert all(line in text for line in lines)
    with Graph.open(of_copy) as graph:
        info = graph.info()
        assert info.text_copied
        assert info.text_bytes == path.stat().st_size + sum(x.stat().st_size for x in of_copy.glob("cache/*/*.ids"))


def test_a_file_is_not_copied(of_file: Path) -> None:
    assert not list((of_file / "cache").glob("text-*"))
    with Graph.open(of_file) as graph:
        assert not graph.info().text_copied


def test_without_a_copy_the_message_says_what_to_do(of_copy: Path, lines: list[str], tmp_path: Path) -> None:
    with copied(of_copy, tmp_path / "a.sifu") as graph:
        graph.rename_node("春", "日")
        what = "texts in memory" if graph.settings["build"]["corpus"]["sources"][0]["name"] == "texts" else "standard"
        [path] = (graph.path / "cache").glob("text-*.gz")
        path.unlink()
        for call in (graph.evaluate, lambda: graph.train(steps=1), lambda: graph.grow(to_ratio=0.9)):
            with pytest.raises(CorpusError, match=GONE.format(what + "( input)?")):
                call()
        note = graph.prune(to_ratio=0.1, evaluate=True).note
        assert note is not None and "no copy of that text" in note
        assert graph.train(texts=lines, steps=1, batch=8).step == 1
        assert graph.evaluate(texts=lines).tokens > 0
        graph.undo(3)
        assert graph.evaluate().tokens > 0  # it is encoded for these nodes


def test_a_damaged_copy_is_reported(of_copy: Path, tmp_path: Path) -> None:
    with copied(of_copy, tmp_path / "a.sifu") as graph:
        assert verify(graph.store, progress=False).ok
        [path] = (graph.path / "cache").glob("text-*.gz")
        content = path.read_bytes()
        for damaged in (content[:-9], gzip.compress(b"another text"), b"no gzip"):
            path.write_bytes(damaged)
            [damage] = verify(graph.store, progress=False).damage
            assert (damage.array, damage.path) == ("copy of the text", str(path))
        graph.rename_node("春", "日")
        with pytest.raises(CorpusError, match=r"not a valid \.gz file"):
            graph.evaluate()
