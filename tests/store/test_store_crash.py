"""kill -9 at random moments: every acknowledged commit is there, with its content, and the store is sound."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import crash_child
import pytest
import small_store
from sifu_store import Store


def run_and_kill(path: Path, seed: int, delay_s: float) -> list[tuple[str, int, str]]:
    """Start the child, kill it `delay_s` after its first commit, return what it said was saved."""
    program = Path(__file__).with_name("crash_child.py")
    child = subprocess.Popen([sys.executable, str(program), str(path), str(seed)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    first = child.stdout.readline()
    time.sleep(delay_s)
    child.send_signal(signal.SIGKILL)
    lines = [first, *child.stdout.read().splitlines()]
    child.wait()
    child.stdout.close()
    said = [line.split() for line in lines if len(line.split()) == 3 and len(line.split()[2]) == 64]
    assert said, "the child did not come to its first commit"
    return [(snapshot, int(step), digest) for snapshot, step, digest in said]


def crash(path: Path, kills: int) -> None:
    small_store.make(path)
    moments = random.Random(0)
    for kill in range(kills):
        said = run_and_kill(path, seed=kill, delay_s=moments.uniform(0.0, 0.15))
        with Store.open(path, write=kill % 2 == 0) as store:
            assert store.recovered_from is None
            step = int(store.read("training/step")[0])
            # the last acknowledged, or one that was complete when the kill came before its "saved"
            assert step in (said[-1][1], said[-1][1] + 1)
            if step == said[-1][1]:
                assert store.snapshot == said[-1][0] and crash_child.content_hash(store) == said[-1][2]
            assert store.verify().ok
            known = {commit.snapshot for commit in store.history()}
            assert {snapshot for snapshot, _, _ in said} <= known
        if kill % 5 == 4:
            with Store.open(path, write=True) as store:
                store.collect_garbage()
                assert store.verify().ok
        else:
            snapshot, _, digest = said[-1]
            with Store.open(path, at=snapshot) as store:
                assert crash_child.content_hash(store) == digest


def test_four_kills(tmp_path: Path) -> None:
    crash(tmp_path / "s", 4)


@pytest.mark.slow
def test_a_hundred_kills(tmp_path: Path) -> None:
    crash(tmp_path / "s", 100)
