"""A graph within a budget of memory: the same store, text and figures as without one, in the memory allowed."""

from __future__ import annotations

import gc
import json
import random
import shutil
import subprocess
import sys
import time
import weakref
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sifu_store import Store
from sifu_store.errors import DiskFullError, HostMemoryError, OptionError
from small import whole, write_poems
from warm import WarmProcess

from sifu_graph import Graph, build_graph
from sifu_graph.config import OptimizerConfig
from sifu_graph.edit import edit_texts
from sifu_graph.paging.budget import UNITS, budget, parse_bytes
from sifu_graph.paging.spill_file import SpillFile

BUDGET = "52MiB"  # of which the edges have 17 in training, and would take 21


def build(folder: Path, *, width: int) -> Path:
    """A graph of about 50 pages from shipped poems."""
    path, text = folder / "graph.sifu", write_poems(folder / "poems.txt", poems=3000)
    build_graph([text], path, vocab=300, sparsify=0.3, width=width, length=16, holdout=0.02, signal="tuned")
    return path


@pytest.fixture(scope="session")
def many_pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed: see `paged`."""
    return build(tmp_path_factory.mktemp("many"), width=16)


@pytest.fixture
def paged(many_pages: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(many_pages, tmp_path / "graph.sifu"))


def assert_same(one: Path, two: Path) -> None:
    with Store.open(one) as a, Store.open(two) as b:
        assert set(a.names()) == set(b.names())
        for name in a.names():
            assert np.array_equal(whole(a, name), whole(b, name)), name
        assert a.settings == b.settings


@pytest.mark.parametrize("kind", ["rowwise", pytest.param("adamw", marks=pytest.mark.slow)])
def test_training_within_a_budget_writes_the_same_store(paged: Path, tmp_path: Path, kind: str) -> None:
    other = Path(shutil.copytree(paged, tmp_path / "other.sifu"))
    optimizer = OptimizerConfig(kind=kind, lr=1e-2, beta2=0.99) if kind == "adamw" else None
    options = {"optimizer": optimizer, "batch": 8, "seed": 1}
    allowed = BUDGET if kind == "rowwise" else "68MiB"
    with Graph.open(paged) as graph:
        report = graph.train(steps=4, eval_every=0, **options)
        assert report.cache["evicted"] == 0
        perplexity = graph.evaluate(limit=500).perplexity
        text = graph.generate("春風", tokens=40, seed=1).text
    with Graph.open(other, host_memory=allowed) as graph:
        first = graph.train(steps=3, eval_every=0, commit_every=1, **options)
    with Graph.open(other, host_memory=allowed) as graph:  # resumed from the store
        second = graph.train(steps=1, eval_every=0)
        assert first.cache["evicted"] > 0
        assert first.cache["scratch_bytes_written"] > 0
        assert first.cache["host_pool_bytes"] <= parse_bytes(allowed)
        assert second.step == 4
        assert graph.evaluate(limit=500).perplexity == perplexity
        assert graph.generate("春風", tokens=40, seed=1).text == text
    with Graph.open(other, host_memory="29MiB") as graph:
        assert graph.generate("春風", tokens=40, seed=1).text == text
        assert 0 < graph.cache()["hit_rate"] < 1
    assert_same(paged, other)
    assert not list((other / "scratch").iterdir())


def test_a_forecast_keeps_to_the_budget_too(paged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edit_texts, "EVAL_TOKENS", 500)
    with Graph.open(paged) as graph:
        graph.train(steps=1, batch=8, eval_every=0)
        wanted = graph.prune(to_ratio=0.1, evaluate=True, dry_run=True)
        looked = graph.inspect("春"), graph.inspect("春", "風")
    with Graph.open(paged, host_memory=BUDGET) as graph:
        report = graph.prune(to_ratio=0.1, evaluate=True, dry_run=True)
        assert report.heldout_before == wanted.heldout_before is not None
        assert report.heldout_after == wanted.heldout_after is not None
    with Graph.open(paged, at="HEAD", modest=True) as graph:
        assert (graph.inspect("春"), graph.inspect("春", "風")) == looked


def test_a_budget_that_is_too_small(paged: Path) -> None:
    before = whole_settings(paged)
    with Graph.open(paged, host_memory="256KiB") as graph:
        with pytest.raises(HostMemoryError, match="the least that works here is"):
            graph.train(steps=1, batch=8)
        with pytest.raises(HostMemoryError, match="host_memory"):
            graph.generate("春", tokens=1)
    assert whole_settings(paged) == before


def whole_settings(path: Path) -> tuple[str, dict]:
    with Store.open(path) as store:
        return store.snapshot, store.settings


def test_a_full_scratch_disk_loses_nothing(paged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Graph.open(paged, host_memory=BUDGET) as graph:
        graph.train(steps=1, batch=8, eval_every=0)
        saved = graph.store.snapshot

    def full(self: SpillFile, *_: object) -> None:
        raise DiskFullError(f"{self.folder}: no space left")

    with monkeypatch.context() as patch:
        patch.setattr(SpillFile, "write_at", full)
        with Graph.open(paged, host_memory=BUDGET) as graph, pytest.raises(DiskFullError):
            graph.train(steps=3, batch=8, eval_every=0)
    with Graph.open(paged, host_memory=BUDGET) as graph:
        assert graph.store.snapshot == saved
        graph.train(steps=1, eval_every=0)


def test_too_little_room_is_said_before_training(paged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = whole_settings(paged)
    monkeypatch.setattr(SpillFile, "free_bytes", lambda _: 10 << 20)
    with Graph.open(paged, host_memory=BUDGET) as graph, pytest.raises(DiskFullError, match="`scratch`"):
        graph.train(steps=1, batch=8)
    assert whole_settings(paged) == before


# ---- sizes


@given(st.integers(1, 2**20), st.sampled_from(sorted(UNITS)), st.sampled_from(["", " "]))
def test_sizes(count: int, unit: str, space: str) -> None:
    assert parse_bytes(f"{count}{space}{unit.upper()}") == count * UNITS[unit]
    assert parse_bytes(count) == count


def test_percent_is_of_the_machine() -> None:
    assert parse_bytes("50%") == pytest.approx(psutil.virtual_memory().total / 2, rel=1e-6)


@pytest.mark.parametrize("size", ["", "much", "-1MiB", "1XiB", "0", 0, -5, "nan", "5 5MiB"])
def test_sizes_without_meaning(size: str | int) -> None:
    with pytest.raises(OptionError, match="host_memory"):
        parse_bytes(size)


def test_what_is_said_of_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    class Little:
        total, available = 2**30, 2**29

    monkeypatch.setattr("sifu_graph.paging.budget.psutil.virtual_memory", lambda: Little)
    assert budget(None, whole_bytes=2**20, held_bytes=0) == (None, None)
    allowed, note = budget(None, whole_bytes=2**40, held_bytes=0)
    assert allowed == int(0.8 * 2**29)
    assert note is not None and "`host_memory`" in note
    assert budget("1MiB", whole_bytes=2**40, held_bytes=0) == (2**20, None)
    assert budget("1MiB", whole_bytes=2**20, held_bytes=0) == (None, None)
    allowed, note = budget("2GiB", whole_bytes=2**40, held_bytes=0)
    assert allowed == 2**31
    assert note is not None and "more than the machine's" in note


# ---- real processes

CHILD = """
import sys, threading, time
from pathlib import Path
import torch  # what the library itself takes is not the graph's
from sifu_graph import Graph
from sifu_graph.config import OptimizerConfig

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon", "RssShmem")))

peak = anonymous()
def watch():
    global peak
    while True:
        peak = max(peak, anonymous())
        time.sleep(0.005)
threading.Thread(target=watch, daemon=True).start()
with Graph.open(sys.argv[1], host_memory=int(sys.argv[2])) as graph:
    report = graph.train(steps=3, batch=16, eval_every=0, optimizer=OptimizerConfig(kind="adamw", lr=1e-2, beta2=0.99))
    touched = graph.store.page_stored().sum() * graph.parameters.edges.page_bytes()
    start = graph._library_bytes
print(start, peak, touched, report.cache["host_pool_bytes"])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_memory_stays_within_the_budget(tmp_path: Path) -> None:
    """More state is touched than is allowed."""
    allowed, path = 160 << 20, build(tmp_path, width=32)
    result = subprocess.run(
        [sys.executable, "-c", CHILD, str(path), str(allowed)], capture_output=True, text=True, check=True, timeout=300
    )
    start, peak, touched, pool = map(int, result.stdout.split())
    assert pool <= allowed
    assert touched > 1.4 * allowed
    assert peak - start <= allowed


KILLED = """
import sys
from sifu_graph import Graph
with Graph.open(sys.argv[1], host_memory=sys.argv[2]) as graph:
    graph.train(steps=10_000, batch=8, commit_every=1, eval_every=0,
                on_step=lambda r: print(r.snapshot, r.step, r.cache["evicted"] if r.cache else 0, flush=True))
"""


def crash(path: Path, kills: int, seed: int) -> None:
    """Trains within a budget that forces eviction and is killed at random moments: nothing acknowledged is lost."""
    rng, last, evicted = random.Random(seed), 0, 0
    for _ in range(kills):
        with WarmProcess(KILLED, path, BUDGET) as child:
            lines = [child.stdout.readline()]
            time.sleep(rng.uniform(0.0, 1.0))
            child.kill()
            lines += child.stdout.read().splitlines()
        said = [line.split() for line in lines if len(line.split()) == 3]
        assert said, "the child made no commit"
        last, evicted = max(last, int(said[-1][1])), evicted + int(said[-1][2])
        with Store.open(path) as store:
            assert store.settings["training"]["step"] >= last
            assert store.verify().ok
        assert not list((path / "scratch").iterdir())
    assert evicted > 0
    with Graph.open(path, host_memory=BUDGET) as graph:
        assert graph.train(steps=1, eval_every=0).step > last


@pytest.mark.slow
def test_kill_9_under_eviction_fifty_times(paged: Path) -> None:
    crash(paged, kills=50, seed=2)


def test_a_killed_run_within_a_budget_ends_with_the_same_bits(paged: Path, tmp_path: Path) -> None:
    """As one that was never killed nor short of memory."""
    other = Path(shutil.copytree(paged, tmp_path / "other.sifu"))
    crash(other, kills=1, seed=3)
    with Store.open(other) as store:
        done = store.settings["training"]["step"]
    with Graph.open(other, host_memory=BUDGET) as graph:
        graph.train(steps=2, eval_every=0)
    with Graph.open(paged) as graph:
        graph.train(steps=done + 2, batch=8, eval_every=0)
    assert_same(paged, other)


def test_a_closed_graph_gives_its_memory_back(paged: Path) -> None:
    gc.disable()  # what a name in a notebook still refers to is not garbage
    try:
        with Graph.open(paged) as graph:
            graph.train(steps=1)
            weights = weakref.ref(graph.parameters.edges.W)
            assert weights() is not None
        assert weights() is None
    finally:
        gc.enable()


def test_the_figures_are_in_the_metrics(paged: Path) -> None:
    with Graph.open(paged, host_memory=BUDGET) as graph:
        graph.train(steps=2, batch=8, eval_every=1)
    last = json.loads((paged / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["cache"]["requests"] > 0
    assert 0 < last["cache"]["host_pool_bytes"] <= parse_bytes(BUDGET)
