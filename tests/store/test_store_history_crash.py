"""kill -9 amid undo, switch, branch and gc: the state is that before the last operation, or that after it."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numbered_store
import pytest
from plain_history import Plain
from sifu_store import Store


def run_and_kill(path: Path, seed: int, delay_s: float) -> list[list[str]]:
    """What the child said, killed `delay_s` after its first words."""
    program = Path(__file__).with_name("history_child.py")
    child = subprocess.Popen([sys.executable, str(program), str(path), str(seed)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    first = child.stdout.readline()
    time.sleep(delay_s)
    child.send_signal(signal.SIGKILL)
    lines = [first, *child.stdout.read().splitlines(keepends=True)]
    child.wait()
    child.stdout.close()
    return [line[:-1].split(" ") for line in lines if line.endswith("\n")]


def apply(plain: Plain, action: str, name: str) -> None:
    if action in ("train", "edit"):
        plain.commit(int(name), train=action == "train")
    elif action == "undo":
        plain.undo()
    elif action == "redo":
        plain.redo_some()
    elif action == "switch":
        plain.current = name
    elif action == "branch":
        plain.branches[name] = plain.head
    elif action == "delete":
        plain.delete_branch(name)
    else:
        plain.collect(1, keep_undone=True)


def crash(path: Path, kills: int) -> None:
    numbered_store.make(path)
    plain, moments = Plain(), random.Random(0)
    for kill in range(kills):
        said = run_and_kill(path, kill, moments.uniform(0.0, 0.3))
        for (word, action, name), after in zip(said, [*said[1:], None], strict=True):
            if word == "end":
                continue
            before = plain.copy()
            apply(plain, action, name)
            if after is None:  # it did not end: nobody knows
                # What a collection that was cut off leaves to a reader, the next writer puts back.
                with Store.open(path, write=kill % 2 == 0 or action == "gc") as store:
                    found = numbered_store.view(store)
                assert found in (before.view(), plain.view())
                plain = before if found == before.view() else plain
        with Store.open(path, write=kill % 2 == 1) as store:
            assert store.recovered_from is None
            assert numbered_store.view(store) == plain.view()
            assert store.verify().ok


def test_three_kills(tmp_path: Path) -> None:
    crash(tmp_path / "s", 3)


@pytest.mark.slow
def test_fifty_kills(tmp_path: Path) -> None:
    crash(tmp_path / "s", 50)
