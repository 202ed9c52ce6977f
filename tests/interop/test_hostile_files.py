"""Hostile files are refused with one line, or become a sound graph; nothing is executed, and a good store stays.

``--hypothesis-seed`` chooses other files; the seed is in every failure.
"""

from __future__ import annotations

import contextlib
import json
import random
import resource
import time
from collections import Counter
from pathlib import Path

import hostile
import numpy as np
import pytest
from foreign_files import NAMES, Files
from sifu_store import Store
from sifu_store.errors import SifuError
from test_import_brillm import bpe_files

from sifu_graph import Graph, build_graph, import_brillm, import_safetensors
from sifu_graph.verification import verify

KINDS = ("safetensors", "checkpoint", "vocab", "frequency", "tokenizer", "corpus")
GROWTH_BYTES = 200 << 20


@pytest.fixture
def good(files: Files, tmp_path: Path) -> hostile.Good:
    """A graph with a base and clones has every array of the format."""
    (tmp_path / "text.txt").write_text("春風花月夜\n花月春風江水\n夜來風雨聲\n" * 60, encoding="utf-8")
    build_graph(tmp_path / "text.txt", tmp_path / "good.sifu", vocab=20, clones=5, length=8, holdout=0.1, width=4)
    with Graph.open(tmp_path / "good.sifu") as graph:
        graph.export("safetensors", tmp_path / "good.safetensors")
    folder = tmp_path / "bpe"
    folder.mkdir()
    _, vocab, tokenizer, _ = bpe_files(folder)
    return hostile.Good(
        (tmp_path / "good.safetensors").read_bytes(),
        files.checkpoint.read_bytes(),
        files.state,
        json.loads(vocab.read_text()),
        json.loads(files.frequency.read_text()),
        json.loads(tokenizer.read_text()),
    )


def attack(kind: str, good: hostile.Good, files: Files, folder: Path, draw: random.Random) -> int:
    """Makes one file and reads it. Returns its size in bytes; raises `SifuError` where it is refused."""
    target = folder / "target.sifu"
    path = folder / kind
    if kind == "safetensors":
        path.write_bytes(hostile.safetensors(good, draw))
        import_safetensors(path, target, force=True)
    elif kind == "checkpoint":
        path.write_bytes(hostile.checkpoint(good, draw))
        import_brillm(path, target, vocab=files.vocab, frequency=files.frequency, force=True)
    elif kind == "vocab":
        names = {name: at for at, name in enumerate(NAMES)}
        path.write_bytes(hostile.json_of(hostile.changed(names, draw), draw))
        import_brillm(files.checkpoint, target, vocab=path, frequency=files.frequency, force=True)
    elif kind == "frequency":
        path.write_bytes(hostile.json_of(hostile.changed(good.frequency, draw), draw))
        import_brillm(files.checkpoint, target, vocab=files.vocab, frequency=path, force=True)
    elif kind == "tokenizer":
        path.write_bytes(hostile.json_of(hostile.changed(good.tokenizer, draw), draw))
        bpe = folder / "bpe"
        import_brillm(bpe / "model_en.bin", target, vocab=bpe / "vocab_en.json", tokenizer=path, force=True)
    else:
        suffix, content = hostile.corpus(draw)
        path = folder / f"corpus{suffix}"
        path.write_bytes(content)
        level = draw.choice(["char", "tokens"]) if ".jsonl" in suffix else "char"
        build_graph(path, target, vocab=20, level=level, length=8, holdout=0, clones=0, force=True)
    return path.stat().st_size


def require_sense(path: Path) -> None:
    """What was accepted is a graph: sound, all finite, each node once; it reads, predicts and generates."""
    with Store.open(path) as store:
        assert verify(store).ok, [str(damage) for damage in verify(store).damage]
        for name in store.names():
            values = store.read_pages(name, 0, store.pages) if store.is_paged(name) and store.pages else None
            values = store.read(name) if values is None and not store.is_paged(name) else values
            if values is not None and values.dtype.kind == "f" and name not in ("edges/energy", "clones/energy"):
                assert np.isfinite(values).all(), name
            if name.endswith(("count", "total", "distinct", "predecessors")) and values is not None:
                assert (values >= 0).all(), name
    with Graph.open(path) as graph:
        names = graph.tokenizer.vocabulary
        assert len(set(names)) == len(names) == len(graph.store.read("nodes/count")) == graph.info().nodes
        prompt = [names[-1], names[-1]] if graph.tokenizer.level == "tokens" else names[-1] * 2
        try:
            assert isinstance(graph.generate(prompt, tokens=3, seed=1).text, str)
        except SifuError as error:
            assert "unknown" in str(error) or "empty" in str(error), error


def fuzz(kind: str, times: int, seed: int, good: hostile.Good, files: Files, folder: Path) -> Counter[str]:
    """Attacks with `times` files of a kind. The good store stays byte for byte where a file is refused."""
    target = folder / "target.sifu"
    outcomes: Counter[str] = Counter()
    for number in range(times):
        draw, before = random.Random(f"{kind} {seed} {number}"), snapshot(target)
        size_bytes, peak = 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            size_bytes = attack(kind, good, files, folder, draw)
            require_sense(target)
            outcomes["accepted"] += 1
        except SifuError as error:
            assert "\n" not in str(error), (kind, seed, number, str(error))
            assert snapshot(target) == before, (kind, seed, number)
            outcomes["refused"] += 1
        except BaseException as error:
            error.add_note(f"file: {kind} {seed} {number}")
            raise
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) << 10
        assert grown <= max(GROWTH_BYTES, 3 * size_bytes), (kind, seed, number, grown)
        assert not (folder / hostile.MARK).exists(), (kind, seed, number)
        assert not [*folder.glob(".target.sifu*")], (kind, seed, number)
    return outcomes


def snapshot(path: Path) -> str | None:
    """The newest snapshot of the store at a path."""
    if not path.exists():
        return None
    with Store.open(path) as store:
        return store.snapshot


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_hostile_files(
    kind: str, good: hostile.Good, files: Files, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    seed = request.config.getoption("hypothesis_seed", None) or 1
    with contextlib.chdir(tmp_path):
        outcomes = fuzz(kind, 12, int(seed), good, files, tmp_path)
    assert outcomes["refused"] > 0, f"seed {seed}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_thousands_of_hostile_files(
    kind: str, good: hostile.Good, files: Files, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    seed = int(request.config.getoption("hypothesis_seed", None) or time.time())
    print(f"--hypothesis-seed={seed}")  # noqa: T201  # shown where the test fails
    with contextlib.chdir(tmp_path):
        outcomes = fuzz(kind, 400, seed, good, files, tmp_path)
    assert outcomes["refused"] > 100, f"seed {seed}"
