"""kill -9 in the middle of edits: each is whole, or it never happened."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from sifu_store import Store
from warm import WarmProcess

from sifu_graph import Graph

CHILD = Path(__file__).with_name("edit_child.py")


def killed(path: Path, *, wait_s: float) -> list[list[str]]:
    """What a child said until it was killed, so long after its first word."""
    with WarmProcess(CHILD.read_text("utf-8"), path) as child:
        first = child.stdout.readline()
        time.sleep(wait_s)
        child.kill()
        return [line.split() for line in [first, *child.stdout.read().splitlines()]]


def crash(path: Path, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(kills):
        with Store.open(path) as store:
            commits = len(store.history())
        lines = killed(path, wait_s=rng.uniform(0.0, 0.8))
        saved = [line for line in lines if line[0] == "saved"]
        begun = sum(line[0] == "begin" for line in lines)
        with Graph.open(path) as graph:
            history = graph.store.history()
            assert commits + len(saved) <= len(history) <= commits + begun
            if saved:
                assert saved[-1][2] in [commit.snapshot for commit in history]
            # Every edit adds one node: those that are there are those of the commits, and the arrays agree.
            done = [
                int(commit.message.removeprefix("edit ")) for commit in history if commit.message.startswith("edit")
            ]
            assert [f"<{number}>" for number in sorted(done)] == graph.tokenizer.vocabulary[-len(done) :] or not done
            assert graph.parameters.index.nodes == len(graph.tokenizer)
            assert graph.store.verify().ok
    with Graph.open(path) as graph:
        assert graph.train(steps=1, batch=8).steps_done == 1
        assert graph.generate("春", tokens=3, seed=1).tokens == 3


def test_kill_9(store: Path) -> None:
    with Graph.open(store) as graph:
        graph.train(steps=1, batch=8)
    crash(store, kills=3, seed=1)


@pytest.mark.slow
def test_kill_9_fifty_times(store: Path) -> None:
    with Graph.open(store) as graph:
        graph.train(steps=1, batch=8)
    crash(store, kills=50, seed=2)
