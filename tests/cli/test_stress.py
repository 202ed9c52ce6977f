"""Commands that are killed, that meet another writer, or that are read at the same time: nothing is lost, all is true.

Each test has a short run, and a long one that is `slow`. The seed is in the name of a test and in its failures.
"""

from __future__ import annotations

import hashlib
import random
import re
import time
from collections import Counter
from collections.abc import Sequence
from itertools import combinations_with_replacement
from pathlib import Path

import pytest
from calls import call
from sifu_store import Store
from small import whole
from warm import WarmProcess

RUN = "import sys; from sifu_cli.main import main; main()"
FILES = {"acknowledged", "repository", "cache", "metrics.jsonl", "traffic.npz", "writer.lock", "writer.json"}
"""What a store has when no process writes to it; `writer.json` may remain of a killed one."""
UNTRUE = ("unexpected", "Traceback", "backup", "damage", "missing", "fails its checksum")
CHANGED = ("was replaced by another process", "was deleted by another process")


def writing(store: Path, corpus: Path, copy: Path) -> dict[str, list[str]]:
    """The command lines that write; `N` in one stands for a number that no command before it had."""
    return {
        "train": ["train", "--steps", "6", "--batch", "8", "--commit-every", "2", "--eval-every", "0"],
        "add-node": ["add-node", "<N>", "--like", "月"],
        "edit-edge": ["edit-edge", "春", "風", "--boost", "0.01"],
        "edit-node": ["edit-node", "月", "--bias-from", "日"],
        "remove-node": ["remove-node", "<L>", "--yes"],
        "prune": ["prune", "--to-ratio", "0.05", "--yes"],
        "grow": ["grow", "--to-ratio", "0.2", "--corpus", str(corpus)],
        "gc": ["gc", "--yes", "--keep-training", "1"],
        "compact": ["compact"],
        "undo": ["undo"],
        "redo": ["undo", "--redo"],
        "tag": ["tag", "tN"],
        "branch": ["branch", "bN"],
        "build --force": ["build-graph", str(corpus), "--force", "--holdout", "0.2", "--signal", "tuned"],
        "import --force": ["import", str(copy), "--force"],
    }


@pytest.fixture(scope="module")
def copy(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graph as a .safetensors file."""
    file = tmp_path_factory.mktemp("copy") / "graph.safetensors"
    assert call("export", "safetensors", file, "--store", built).code == 0
    return file


def content(store: Store) -> str:
    """A hash of all arrays and settings of a snapshot."""
    digest = hashlib.sha256(repr(sorted(store.settings.items())).encode())
    for name in store.names():
        digest.update(name.encode() + whole(store, name).tobytes())
    return digest.hexdigest()


class Witness:
    """What a store had when commits were acknowledged, to compare it with what it has after a kill."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.hashes: dict[str, str] = {}
        self.kinds: dict[str, str] = {}
        self.look()

    def look(self) -> set[str]:
        """Check the store, and note what is new. Returns the ids of its commits."""
        with Store.open(self.path) as store:
            assert store.recovered_from is None
            assert store.verify().ok
            found = {commit.snapshot: commit for commit in store.tree().commits}
            self.head = store.snapshot
        new = found.keys() - self.hashes.keys()
        for snapshot in {self.head, *new, *random.Random(len(found)).sample(sorted(found), min(2, len(found)))}:
            with Store.open(self.path, at=snapshot) as store:
                digest = content(store)
            assert self.hashes.setdefault(snapshot, digest) == digest, snapshot
            self.kinds[snapshot] = found[snapshot].kind
        return set(found)


def words(command: Sequence[str], number: int, last: int = 0) -> list[str]:
    """A command line with a number of its own; `last` is that of the newest node."""
    return [re.sub(r"^(<|t|b)N\b", rf"\g<1>{number}", word).replace("<L>", f"<{last}>") for word in command]


def kills(path: Path, corpus: Path, copy: Path, each: int, seed: int, only: Sequence[str] = ()) -> Counter[str]:
    """Kill every writing command so often, at random moments, and check the store after each."""
    draw, last = random.Random(seed), 0
    commands = {k: v for k, v in writing(path, corpus, copy).items() if not only or k in only}
    spans = dict.fromkeys(commands, 1.5)
    witness, done = Witness(path), Counter[str]()
    rounds = [name for name in commands for _ in range(each)]
    draw.shuffle(rounds)
    for number, name in enumerate(rounds):
        if name == "remove-node":
            last = number
            call("add-node", f"<{last}>", "--like", "月", "--store", path)
            witness.look()
        before, known = witness.look(), dict(witness.kinds)
        begun = time.monotonic()
        with WarmProcess(RUN, *words(commands[name], number, last), "--store", path, "-q") as process:
            while process.poll() is None and time.monotonic() - begun < spans[name] * draw.random():
                time.sleep(0.005)
            time.sleep(spans[name] * draw.random() if draw.random() < 0.5 else 0)
            code = process.poll()
            process.kill()
        if code is not None:
            spans[name] = min(spans[name], max(0.1, time.monotonic() - begun))
        done[f"{name}: {'ended' if code is not None else 'killed'}"] += 1
        after = witness.look()
        where = f"seed {seed}, kill {number}, {name}, exit code {code}"
        if "--force" in name and not before & after:
            assert len(after) == 1, where
        else:
            lost = {snapshot for snapshot in before - after if known[snapshot] != "train"}
            assert not lost, where
            assert name in ("gc", "train") or before <= after, where
    assert call("gc", "--yes", "--store", path).code == 0
    witness.look()
    assert {each.name for each in path.iterdir()} <= FILES, sorted(each.name for each in path.iterdir())
    assert not [each.name for each in path.parent.iterdir() if each.name.startswith(f".{path.name}.")]
    with Store.open(path) as store:
        again = store.would_collect()
        assert (again.chunks, again.snapshots, again.builds) == (0, 0, 0)
    assert call("train", "--steps", "1", "--batch", "8", "--store", path).code == 0
    return done


def test_killed_commands(graph: Path, poems: Path, copy: Path) -> None:
    kills(graph, poems, copy, 1, seed=1, only=("add-node", "grow", "gc", "train", "build --force", "import --force"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_killed_commands_often(graph: Path, poems: Path, copy: Path, seed: int) -> None:
    print(sorted(kills(graph, poems, copy, 30, seed=100 + seed).items()))  # noqa: T201


def run_both(path: Path, first: Sequence[str], second: Sequence[str], gap_s: float) -> list[tuple[int, str]]:
    """Exit codes and errors of two commands at the same time."""
    ended = []
    with WarmProcess(RUN, *first, "--store", path, "-q") as one:
        time.sleep(gap_s)
        with WarmProcess(RUN, *second, "--store", path, "-q") as other:
            for process in (one, other):
                said = process.stdout.read() + process.stderr.read()
                ended.append((process.wait(120.0), said))
    return ended


def test_two_writers(graph: Path, poems: Path, copy: Path) -> None:
    two_writers(graph, poems, copy, [("train", "add-node"), ("gc", "train"), ("build --force", "edit-edge")], seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_every_pair_of_writers(graph: Path, poems: Path, copy: Path, seed: int) -> None:
    names = list(writing(graph, poems, copy))
    print(two_writers(graph, poems, copy, list(combinations_with_replacement(names, 2)), seed=seed))  # noqa: T201


def two_writers(path: Path, corpus: Path, copy: Path, pairs: Sequence[tuple[str, str]], seed: int) -> Counter[str]:
    """Run pairs of writers: each ends well, or says who writes, or what of the change is not possible."""
    draw, commands, seen = random.Random(seed), writing(path, corpus, copy), Counter[str]()
    witness = Witness(path)
    for number, (first, second) in enumerate(pairs):
        before, where = witness.look(), f"seed {seed}, pair {number}: {first}, {second}"
        lines = [words(commands[name], 2 * number + k) for k, name in enumerate((first, second))]
        ended = run_both(path, *lines, gap_s=draw.uniform(0.0, 0.3))
        after = witness.look()
        for code, said in ended:
            assert code in (0, 1, 2) and not any(word in said for word in UNTRUE), (where, said)
            seen["locked" if "is being written by" in said else "done" if code == 0 else "refused"] += 1
        edits = [name for name, (code, _) in zip((first, second), ended, strict=True) if code == 0 and name in EDITS]
        if not {first, second} & {"build --force", "import --force"}:
            assert len(after - before) >= len(edits), where
    return seen


EDITS = {"add-node", "edit-edge"}
"""Commands that always make a commit."""
DESTRUCTIVE = ("build --force", "import --force", "gc", "train", "compact", "undo", "prune")
READING = (
    ["log"],
    ["verify"],
    ["info"],
    ["inspect", "春"],
    ["diff"],
    ["generate", "春", "--tokens", "20", "--seed", "1"],
    ["eval"],
    ["gc", "--dry-run"],
    ["log", "--json"],
)


def readers(path: Path, corpus: Path, copy: Path, times: int, seed: int) -> Counter[str]:
    """Run every reader during every destructive command."""
    draw, commands, seen, number = random.Random(seed), writing(path, corpus, copy), Counter[str](), 0
    # More than one commit: for `diff` and `undo`, and for a collection to delete some.
    assert call("train", "--steps", "4", "--batch", "8", "--commit-every", "1", "--store", path).code == 0
    for _ in range(times):
        for destructive in DESTRUCTIVE:
            number += 1
            call("edit-edge", "春", "風", "--boost", "0.01", "--store", path)
            with WarmProcess(RUN, *commands[destructive], "--store", path, "-q") as writer:
                while writer.poll() is None:
                    reader = draw.choice(READING)
                    with WarmProcess(RUN, *reader, "--store", path) as process:
                        said = process.stdout.read(), process.stderr.read()
                        code = process.wait(120.0)
                    where = f"seed {seed}, run {number}: {reader} during {destructive}: {code} {said}"
                    changed = any(word in said[1] for word in CHANGED)
                    # After a build there is one commit: HEAD~1 is none.
                    assert code == 0 or changed or "goes back too far" in said[1], where
                    assert not any(word in said[1] for word in UNTRUE), where
                    assert "NOT intact" not in said[0], where
                    seen["changed" if changed else "read"] += 1
                writer.stdout.read()
                writer.stderr.read()
    return seen


def test_readers_during_destructive_commands(graph: Path, poems: Path, copy: Path) -> None:
    assert readers(graph, poems, copy, 1, seed=1)["read"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_many_readers_during_destructive_commands(graph: Path, poems: Path, copy: Path, seed: int) -> None:
    print(readers(graph, poems, copy, 10, seed=seed))  # noqa: T201
