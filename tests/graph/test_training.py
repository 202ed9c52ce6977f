"""Training: it learns, it resumes bit for bit, it stops at what is not a number, and a kill loses nothing."""

from __future__ import annotations

import json
import math
import random
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sifu_store import Store
from sifu_store.errors import CorpusError, DiskFullError, DivergedError, OptionError, StoreError, StoreLockedError
from small import whole, write_text
from warm import WarmProcess

from sifu_graph import Graph
from sifu_graph.config import OptimizerConfig
from sifu_graph.evaluation import evaluate_split

OPTIMIZERS = {
    "rowwise": OptimizerConfig(),
    "adamw": OptimizerConfig(kind="adamw", lr=1e-3, beta2=0.99),
    "adamw-dense": OptimizerConfig(kind="adamw-dense", lr=1e-3, beta2=0.99, weight_decay=0.01),
}


def contents(path: Path) -> dict[str, np.ndarray]:
    """Every array of a store, pages and all."""
    with Store.open(path) as store:
        return {name: whole(store, name) for name in store.names()}


def assert_same(one: Path, two: Path) -> None:
    first, second = contents(one), contents(two)
    assert first.keys() == second.keys()
    for name in first:
        assert np.array_equal(first[name], second[name], equal_nan=True), name
    with Store.open(one) as a, Store.open(two) as b:
        assert a.settings == b.settings


@pytest.mark.parametrize(
    ("candidates", "kind"),
    [
        *(("all", kind) for kind in OPTIMIZERS),
        (5, "rowwise"),
        *(pytest.param(5, kind, marks=pytest.mark.slow) for kind in ("adamw", "adamw-dense")),
    ],
)
def test_resumed_is_uninterrupted(store: Path, tmp_path: Path, kind: str, candidates: int | str) -> None:
    other = Path(shutil.copytree(store, tmp_path / "other.sifu"))
    options = {"batch": 16, "optimizer": OPTIMIZERS[kind], "candidates": candidates, "seed": 3}
    with Graph.open(store) as graph:
        graph.train(steps=9, **options)
    with Graph.open(other) as graph:
        graph.train(steps=2, **options, commit_every=1)
        graph.train(steps=3)  # the settings of the last run
    with Graph.open(other) as graph:
        graph.train(steps=4, eval_every=1)
    assert_same(store, other)
    assert losses(store) == losses(other)


def losses(path: Path) -> dict[int, float]:
    """What was noted of every step."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines}


def test_figures_that_cannot_be_noted_end_the_run(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Graph.open(store) as graph:
        saved = graph.train(steps=1, batch=8).snapshot
        with monkeypatch.context() as patch:
            patch.setattr("sifu_graph.training.loop.METRICS", "none/metrics.jsonl")
            with pytest.raises(StoreError, match=r"No such file.*step 2 cannot be noted.*its last commit"):
                graph.train(steps=2)
            if Path("/dev/full").exists():
                patch.setattr("sifu_graph.training.loop.drop_later_lines", lambda *_: float("inf"))
                patch.setattr("sifu_graph.training.loop.METRICS", "/dev/full")
                with pytest.raises(DiskFullError, match="No space left"):
                    graph.train(steps=2)
        assert graph.store.snapshot == saved
        assert graph.train(steps=1).step == 2


def test_another_optimizer_begins_anew(store: Path) -> None:
    """Its state begins as zeros, its steps are counted from one, and what the old one kept is gone from the store."""
    with Graph.open(store) as graph:
        graph.train(steps=3, batch=16, optimizer=OPTIMIZERS["adamw"])
    with Graph.open(store) as graph:
        graph.train(steps=2, optimizer=OPTIMIZERS["rowwise"])
        assert not graph.store.has("optimizer/weight_m")
        assert graph.settings["training"]["began"] == 3
        graph.train(steps=2, optimizer=OPTIMIZERS["adamw-dense"])
    with Graph.open(store) as graph:
        assert not graph.store.has("optimizer/v_edge")
        assert graph.store.read_pages("optimizer/last_step", 0, 1).max() == 2
        assert graph.train(steps=1).step == 8


def test_a_long_run_outlives_the_snapshot_it_began_from(store: Path) -> None:
    """Each commit lets go of older training snapshots; pages that are needed later must still be found."""
    with Graph.open(store) as graph:
        graph.train(steps=2, batch=64)
    with Graph.open(store) as graph:
        report = graph.train(steps=12, batch=1, commit_every=1)
        assert report.step == 14
        assert graph.store.verify().ok


def test_an_older_snapshot_cannot_be_trained(store: Path) -> None:
    with Graph.open(store) as graph:
        first = graph.store.snapshot
        graph.train(steps=1, batch=16)
    with Graph.open(store, at=first) as graph, pytest.raises(OptionError, match="older snapshot"):
        graph.train(steps=1)


def test_training_learns(store: Path) -> None:
    """The text is drawn from independent characters: a uniform start must come close to their frequencies."""
    with Graph.open(store) as graph:
        text = graph._tokens()
        start = evaluate_split(graph.parameters, graph.signal, text.train, 8, None).perplexity
        graph.train(epochs=2, batch=16, optimizer=OptimizerConfig(kind="adamw", lr=3e-3, beta2=0.99, shared_rate=1.0))
        end = evaluate_split(graph.parameters, graph.signal, text.train, 8, None).perplexity
    assert end < 0.97 * start


def test_what_is_reported_is_what_is_stored(graph: Graph) -> None:
    seen = []
    report = graph.train(steps=6, batch=16, commit_every=2, eval_every=3, on_step=seen.append)
    assert [r.step for r in seen] == [1, 2, 3, 4, 5, 6, 6]
    assert [r.step for r in seen if r.snapshot] == [2, 4, 6, 6]
    assert [r.step for r in seen if r.heldout_perplexity] == [3, 6, 6]
    assert [r.last for r in seen] == [False] * 6 + [True]
    assert seen[-1].heldout_perplexity == report.heldout_perplexity
    assert seen[-1].loss == report.loss
    assert report.step == report.steps_done == 6
    assert report.snapshot == seen[-1].snapshot == graph.store.snapshot
    lines = [json.loads(line) for line in (graph.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6, 6]
    assert lines[-1]["heldout_perplexity"] == report.heldout_perplexity
    assert graph.settings["training"]["step"] == 6
    assert graph.evaluate().perplexity == pytest.approx(report.heldout_perplexity)
    with Graph.open(graph.path) as again:
        assert again.evaluate() == graph.evaluate()


def test_the_end_of_a_run_without_evaluations_reaches_the_callback(graph: Graph) -> None:
    seen: list[Any] = []
    report = graph.train(steps=2, batch=16, eval_every=0, commit_every=0, on_step=seen.append)
    assert [r.heldout_perplexity for r in seen] == [None, None, report.heldout_perplexity]
    assert [r.snapshot for r in seen] == [None, None, report.snapshot]


def test_an_error_of_the_callback_at_the_end_is_raised_after_the_commit(graph: Graph) -> None:
    def on_step(report: Any) -> None:
        if report.last:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        graph.train(steps=2, batch=16, on_step=on_step)
    assert "step 2 is committed" in caught.value.__notes__[0]
    assert graph.settings["training"]["step"] == 2


def test_the_metrics_forget_steps_that_were_not_committed(graph: Graph) -> None:
    graph.train(steps=2, batch=16)
    metrics = graph.path / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"step": 3, "loss": 1.0}\n{"step": 4, "lo')
    graph.train(steps=1)
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == [1, 2, 2, 3, 3]


def test_the_metrics_have_the_step_of_a_commit_that_was_killed_before_its_line(graph: Graph) -> None:
    graph.train(steps=3, batch=16)
    metrics = graph.path / "metrics.jsonl"
    lines = metrics.read_text().splitlines()
    metrics.write_text("".join(line + "\n" for line in lines[:2]))  # all but what is noted of step 3
    graph.train(steps=1)
    lost, found = json.loads(lines[2]), json.loads(metrics.read_text().splitlines()[2])
    assert found["step"] == 3
    assert {name: found[name] for name in ("tokens", "loss", "perplexity")} == {
        name: lost[name] for name in ("tokens", "loss", "perplexity")
    }


def test_what_diverges_stops_and_leaves_the_last_commit(graph: Graph) -> None:
    graph.train(steps=2, batch=16)
    before, figures = contents(graph.path), graph.evaluate()
    with pytest.raises(DivergedError, match=r"diverged.*last commit"):
        graph.train(steps=50, optimizer=OptimizerConfig(kind="adamw", lr=1e25, beta2=0.9))
    after = contents(graph.path)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert graph.evaluate() == figures  # the graph in memory went back too


def test_another_corpus(graph: Graph, tmp_path: Path) -> None:
    report = graph.train([write_text(tmp_path / "more.txt", seed=9)], steps=3, batch=8)
    assert report.step == 3
    graph.train(steps=1)  # back to the corpus of the build: it begins anew
    assert graph.settings["training"]["position"] == 1


def test_a_missing_or_changed_corpus_is_said(graph: Graph, text: Path) -> None:
    kept = text.read_bytes()
    try:
        text.write_bytes(kept + "春\n".encode())
        with pytest.raises(CorpusError, match="changed"):
            graph.train(steps=1)
    finally:
        text.write_bytes(kept)


@pytest.mark.parametrize(
    "options",
    [{}, {"steps": 0}, {"steps": -1}, {"minutes": 0}, {"minutes": math.inf}, {"epochs": math.inf}, {"epochs": -0.5},
     {"steps": 1, "batch": 0},
     {"steps": 1, "candidates": 0}, {"steps": 1, "commit_every": -1}],
)  # fmt: skip
def test_options_without_meaning(graph: Graph, options: dict) -> None:
    with pytest.raises(OptionError):
        graph.train(**options)


def test_no_time_for_a_step_is_said(graph: Graph) -> None:
    with pytest.warns(UserWarning, match="left time for 0 steps"):
        report = graph.train(minutes=1e-6, contexts=False)
    assert report.steps_done == 0
    said: list[str] = []
    assert "left time for 0 steps" in graph.train(minutes=1e-6, contexts=False, say=said.append).notes[0]


def test_the_batch_is_kept(graph: Graph) -> None:
    assert graph.train(steps=1, batch=7, contexts=False).batch == 7
    assert graph.train(steps=1).batch == 7
    assert graph.train(steps=1, batch=9).batch == 9


@pytest.mark.parametrize("by", ["on_step", "progress"])
def test_what_is_done_before_a_callback_fails_is_kept(graph: Graph, tmp_path: Path, by: str) -> None:
    """As after Ctrl-C, and the caller's exception is raised."""
    plain = Path(shutil.copytree(graph.path, tmp_path / "plain.sifu"))
    steps = []

    def count(report: object) -> None:
        if by == "on_step" or getattr(report, "stage", None) == "training":
            steps.append(report)
        if len(steps) == (3 if by == "on_step" else 2):
            raise ZeroDivisionError("mine")

    before = graph.store.snapshot
    with pytest.raises(ZeroDivisionError, match="mine") as found:
        graph.train(steps=80, batch=16, contexts=False, **{by: count})
    step = graph.settings["training"]["step"]
    assert f"step {step} is committed ({graph.store.snapshot[:8]})" in found.value.__notes__[0]
    assert step == 3 if by == "on_step" else step > 0
    assert graph.store.snapshot != before
    with Graph.open(plain) as other:
        other.train(steps=step, batch=16, contexts=False)
    assert_same(plain, graph.path)
    assert graph.train(steps=1).step == step + 1


def test_two_trainers(graph: Graph) -> None:
    with Store.open(graph.path, write=True), pytest.raises(StoreLockedError):
        graph.train(steps=1)


CHILD = """
import sys
from sifu_graph import Graph
with Graph.open(sys.argv[1]) as graph:
    graph.train(steps=10_000, batch=16, commit_every=1, eval_every=0,
                on_step=lambda r: print(r.snapshot, r.step, flush=True))
"""


def killed(path: Path, *, wait_s: float) -> list[str]:
    """Starts a child, waits for its first line and a while longer, kills it, and returns all that it said."""
    with WarmProcess(CHILD, path) as child:
        first = child.stdout.readline()
        time.sleep(wait_s)
        child.kill()
        return [first, *child.stdout.read().splitlines()]


def crash(path: Path, kills: int, seed: int) -> None:
    """Trains and commits in a child that is killed at random moments; nothing that it acknowledged may be lost."""
    rng = random.Random(seed)
    acknowledged, last = 0, None
    for _ in range(kills):
        lines = killed(path, wait_s=rng.uniform(0.0, 0.6))
        said = [m for m in (re.fullmatch(r"(\w+) (\d+)\n?", line) for line in lines) if m]
        if said:
            last, acknowledged = said[-1][1], int(said[-1][2])
        with Store.open(path) as store:
            assert store.settings["training"]["step"] >= acknowledged
            assert (
                last is None
                or last in [commit.snapshot for commit in store.history()]
                or (store.settings["training"]["step"] > acknowledged)
            )
            assert store.verify().ok
    with Graph.open(path) as graph:
        step = graph.settings["training"]["step"]
        assert graph.train(steps=1).step == step + 1


def test_kill_9(store: Path) -> None:
    crash(store, kills=2, seed=1)


@pytest.mark.slow
def test_kill_9_a_hundred_times(store: Path) -> None:
    crash(store, kills=100, seed=2)


def test_a_killed_run_goes_on_bit_for_bit(store: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(store, tmp_path / "other.sifu"))
    killed(store, wait_s=0.0)
    with Graph.open(store) as graph:
        done = graph.settings["training"]["step"]
        graph.train(steps=3, batch=16)
    with Graph.open(other) as graph:
        graph.train(steps=done + 3, batch=16)
    assert_same(store, other)
