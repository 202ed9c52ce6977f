"""Building: what is in the store, the same for the same text, and the store as it was when a build fails."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from sifu_store import Store
from sifu_store.errors import CorpusError, OptionError, StoreExistsError
from small import whole

from sifu_graph import Graph, build_graph
from sifu_graph.text.corpus import Corpus


def naive_counts(path: Path, vocabulary: list[str], holdout: float) -> dict[tuple[int, int], int]:
    """Pairs of the training documents, by a loop over characters."""
    at = {token: i for i, token in enumerate(vocabulary)}
    counts: dict[tuple[int, int], int] = {}
    for document in Corpus([path]).training(holdout=holdout):
        ids = [1, *(at.get(character, 0) for character in document), 1]
        for pair in pairwise(ids):
            counts[pair] = counts.get(pair, 0) + 1
    return counts


def test_the_store_holds_the_most_frequent_pairs(built: Path, text: Path) -> None:
    with Graph.open(built) as graph:
        n = graph.settings["nodes"]
        counts = naive_counts(text, graph.tokenizer.vocabulary, 0.1)
        ranked = sorted(counts, key=lambda pair: (-counts[pair], pair))
        wanted = set(ranked[: int(0.5 * n * n)])
        index = graph.parameters.index
        source = np.repeat(np.arange(n), index.row_sizes())
        found = dict(zip(zip(source.tolist(), index.target.tolist(), strict=True), index.count.tolist(), strict=True))
        assert set(found) == wanted
        assert all(counts[pair] == count for pair, count in found.items())
        covered = sum(found.values()) / sum(counts.values())
        assert graph.settings["build"]["coverage"] == pytest.approx(covered)


def test_the_same_text_gives_the_same_graph(built: Path, text: Path, tmp_path: Path) -> None:
    build_graph(text, tmp_path / "again.sifu", vocab=40, sparsify=0.5, length=8, holdout=0.1, signal="tuned")
    with Store.open(built) as one, Store.open(tmp_path / "again.sifu") as two:
        assert one.names() == two.names()
        for name in one.names():
            assert np.array_equal(whole(one, name), whole(two, name)), name
        assert one.settings == two.settings


def test_figures(text: Path, tmp_path: Path) -> None:
    report = build_graph(text, tmp_path / "g.sifu", vocab=4000, sparsify=0.1, width=16, signal="tuned")
    n = report.nodes
    assert n == 23  # 20 characters, the full stop, two special nodes
    assert report.dense_parameters == n * n * (16 * 16 + 16)
    assert report.private_edges == n * n // 10
    assert report.stored_parameters == (report.private_edges + 1) * (16 * 16 + 16) + n * 16
    distinct, held_out, covered = report.notes
    assert distinct == "the corpus has 21 distinct tokens: 23 nodes instead of 4,000"
    assert held_out.startswith("nothing is held out: a share of 0.01 of 400 documents is none")
    assert covered.startswith("only ")
    with Graph.open(tmp_path / "g.sifu") as graph:
        info = graph.info()
    assert (info.nodes, info.private_edges, info.trained_pages) == (n, report.private_edges, 0)
    assert info.store_bytes < 1 << 20


@pytest.mark.parametrize("sparsify", [0.0, 1.0])
def test_no_edge_or_every_edge_private(text: Path, tmp_path: Path, sparsify: float) -> None:
    build_graph(text, tmp_path / "g.sifu", sparsify=sparsify, length=8, holdout=0.1, signal="tuned")
    with Graph.open(tmp_path / "g.sifu") as graph:
        assert (graph.parameters.index.edges == 0) == (sparsify == 0)
        before = graph.evaluate().perplexity
        report = graph.train(steps=2, batch=8)
        assert np.isfinite(report.loss)
        assert np.isfinite(before)
        assert len(graph.generate("春", tokens=5, seed=0).text) >= 1


@pytest.mark.parametrize("signal", ["paper", "paper-v1", "brillm05", "tuned"])
@pytest.mark.parametrize("init", ["counts", "uniform"])
def test_every_preset_builds_trains_and_generates(text: Path, tmp_path: Path, signal: str, init: str) -> None:
    build_graph(text, tmp_path / "g.sifu", vocab=40, sparsify=0.3, signal=signal, init=init, length=8, holdout=0.1)
    with Graph.open(tmp_path / "g.sifu") as graph:
        report = graph.train(steps=3, batch=16)
        assert np.isfinite(report.heldout_perplexity)
        assert graph.generate("春風", tokens=20, seed=1).tokens == 20


@pytest.mark.parametrize(
    "options",
    [
        {"sparsify": -0.1}, {"sparsify": 1.5}, {"vocab": 2}, {"level": "words"}, {"width": 7}, {"min_count": 0},
        {"length": 1}, {"init": "zeros"}, {"signal": "gpt"}, {"holdout": 2.0}, {"seed": -1},
    ],
)  # fmt: skip
def test_options_without_meaning_leave_no_trace(text: Path, tmp_path: Path, options: dict) -> None:
    with pytest.raises(OptionError):
        build_graph(text, tmp_path / "g.sifu", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_build_leaves_the_old_graph(store: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.txt"
    bad.write_bytes("春風\n".encode() * 50 + b"\xff\n")
    with Store.open(store) as before:
        snapshot = before.snapshot
    with pytest.raises(CorpusError, match="byte"):
        build_graph(bad, store, force=True, signal="tuned")
    with pytest.raises(StoreExistsError):
        build_graph(tmp_path / "bad.txt", store, signal="tuned")
    with Store.open(store) as after:
        assert after.snapshot == snapshot
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.txt", "graph.sifu"]


def test_files_of_the_user_do_not_get_in_the_way(tmp_path: Path) -> None:
    for name in ("store.py", "cli.py", "tokens.py", "signal_.py", "graph.py"):
        (tmp_path / name).write_text("raise SystemExit('the wrong module')\n")
    code = "import sifu_graph; sifu_graph.Graph; import sifu_store.store, sifu_cli.main"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_importing_the_package_does_not_import_torch(tmp_path: Path) -> None:
    code = "import sys, sifu_graph; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_what_a_killed_build_leaves_is_swept_up_by_the_next(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that a build puts beside its target is named so that the store's cleaning finds it."""
    folder = tmp_path / "new"
    left: list[str] = []

    def killed(*arguments: object, **options: object) -> None:
        left.extend(path.name for path in folder.iterdir())
        raise CorpusError("here")

    with monkeypatch.context() as patch:
        patch.setattr("sifu_graph.build.count_pairs", killed)
        with pytest.raises(CorpusError):
            build_graph(text, folder / "g.sifu", signal="tuned")
    assert list(folder.iterdir()) == []
    assert len(left) == 2  # the store, and the encoded text
    dead = 2**22 + 1  # no process has this number
    for name in left:
        (folder / name.replace(f"-{os.getpid()}-", f"-{dead}-")).mkdir()
    build_graph(text, folder / "g.sifu", vocab=40, signal="tuned")
    assert [path.name for path in folder.iterdir()] == ["g.sifu"]
