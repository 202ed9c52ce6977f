"""Every kind of file of a store, damaged in every way: one clear line or the same bits, and never a wait.

`mutate` damages a copy of a store; a worker process verifies and evaluates it. A command that does not end fails.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from sifu_store import Store
from sifu_store.errors import SifuError
from small import write_text

from sifu_graph import Graph, build_graph
from sifu_graph.verification import verify

LIMIT_S = 30.0


def flip(path: Path, draw: random.Random, others: list[Path]) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(draw.choice([1, 1, 8]) if content else 0):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def truncate(path: Path, draw: random.Random, others: list[Path]) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: draw.choice([0, len(content) // 2, max(0, len(content) - 1)])])


def zeros(path: Path, draw: random.Random, others: list[Path]) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def exchange(path: Path, draw: random.Random, others: list[Path]) -> None:
    other = draw.choice(others or [path])
    one, two = path.read_bytes(), other.read_bytes()
    path.write_bytes(two)
    other.write_bytes(one)


def copy_of_another(path: Path, draw: random.Random, others: list[Path]) -> None:
    path.write_bytes(draw.choice(others or [path]).read_bytes())


def link(path: Path, draw: random.Random, others: list[Path]) -> None:
    target = draw.choice([path, path.with_name("nowhere"), *others])  # to itself, to nothing, to another
    path.unlink()
    path.symlink_to(target)


def directory(path: Path, draw: random.Random, others: list[Path]) -> None:
    path.unlink()
    path.mkdir()


def delete(path: Path, draw: random.Random, others: list[Path]) -> None:
    path.unlink()


HARMS: tuple[Callable[[Path, random.Random, list[Path]], None], ...] = (
    flip, truncate, zeros, exchange, copy_of_another, link, directory, delete,
)  # fmt: skip


def kinds(store: Path) -> dict[str, list[Path]]:
    """The files of a store by kind: chunks, manifests, snapshots, references, token files, ..."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(store.rglob("*")):
        if path.is_file():
            relative = path.relative_to(store)
            parts = relative.parts[:2] if relative.parts[0] == "repository" else relative.parts[:1]
            found["/".join(parts)].append(path)
    return found


def look(path: Path) -> tuple[str, object]:
    """What a store says of itself, and what it computes: "sound" and its figures, "damaged", or an error."""
    try:
        with Store.open(path) as store:
            if not verify(store).ok or store.recovered_from is not None:
                return "damaged", None
            store.would_undo(1)
            ids = [commit.snapshot for commit in store.history()]
        return "sound", (ids, figures(path))
    except SifuError as error:
        return ("refused" if "\n" not in str(error) else "more than one line"), str(error)
    except BaseException as error:
        return "unexpected", f"{type(error).__name__}: {error}"


def figures(path: Path, at: str | None = None) -> tuple[float, float]:
    """Perplexity and top-1 of a graph, or of an older commit of it."""
    with Graph.open(path, at=at) as graph:
        report = graph.evaluate(limit=300)
    return report.perplexity, report.top1


def work(pipe: Connection) -> None:
    """Look at each store whose path comes through the pipe."""
    while (path := pipe.recv()) is not None:
        pipe.send(look(path))


class Worker:
    """A process that looks at stores; it is replaced if it does not answer in time."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.pipe, theirs = get_context("spawn").Pipe()
        self.process = get_context("spawn").Process(target=work, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    def look(self, path: Path, limit_s: float = LIMIT_S) -> tuple[str, object]:
        self.pipe.send(path)
        if self.pipe.poll(limit_s):
            try:
                answer: tuple[str, object] = self.pipe.recv()
                return answer
            except EOFError:
                self.start()
                return "crash", None
        self.process.kill()
        self.process.join()
        self.start()
        return "hang", None

    def close(self) -> None:
        self.process.kill()
        self.process.join()


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained graph with several commits, a tag, a branch, an undone commit and encoded text."""
    folder = tmp_path_factory.mktemp("mutations")
    text = write_text(folder / "text.txt", documents=300)
    path = folder / "g.sifu"
    build_graph([text], path, vocab=24, signal="tuned", width=8, holdout=0.1)
    for _ in range(3):
        with Graph.open(path) as graph:
            graph.train(steps=2, batch=4, contexts=False)
    with Store.open(path, write=True) as store:
        store.create_tag("kept", "HEAD~1")
        store.create_branch("other", "HEAD~2")
        store.undo()
    with Graph.open(path) as graph:
        graph.evaluate(limit=300)
    return path


def attack(healthy: Path, tmp_path: Path, *, mutations: int, seed: int) -> Counter[tuple[str, str, str]]:
    """Mutate copies of a store; the outcomes by kind of file, harm and what was said. Fails at the first silent one."""
    draw, found = random.Random(seed), Counter[tuple[str, str, str]]()
    worker, copy = Worker(), tmp_path / "g.sifu"
    with Store.open(healthy) as store:
        commits = {commit.snapshot: commit.parent for commit in store.tree().commits}
    others = []
    for snapshot in commits:
        line: list[str] = []
        parent: str | None = snapshot
        while parent is not None:
            line.append(parent)
            parent = commits[parent]
        others.append((line, figures(healthy, snapshot)))
    names = sorted(kinds(healthy))
    failures: list[str] = []
    try:
        state, expected = worker.look(healthy, 300.0)
        assert state == "sound", expected
        right = [expected, *others]
        for number in range(mutations):
            kind, harm = names[number % len(names)], HARMS[(number // len(names)) % len(HARMS)]
            shutil.copytree(healthy, copy, symlinks=True)
            files = kinds(copy)[kind]
            path = draw.choice(files)
            harm(path, draw, [file for file in files if file != path])
            began = time.monotonic()
            state, value = worker.look(copy)
            # A branch that names another commit of the store reads that commit, as `branch` could have made it.
            if state == "sound" and value not in (right if kind == "repository/refs" else [expected]):
                state = "silent"
            found[kind, harm.__name__, state] += 1
            if state not in ("sound", "damaged", "refused"):
                what = f"{harm.__name__} {path.relative_to(copy)}: {state} after {time.monotonic() - began:.1f} s"
                failures.append(f"{what}: {str(value)[:300]}")
            shutil.rmtree(copy)
    finally:
        worker.close()
    totals = Counter(state for (_, _, state), times in found.items() for _ in range(times))
    sys.stdout.write(f"seed {seed}: {mutations} mutations of {len(names)} kinds of files: {dict(totals)}\n")
    assert not failures, f"seed {seed}: {len(failures)} of {mutations}\n" + "\n".join(failures)
    return found


def test_some_mutations(healthy: Path, tmp_path: Path) -> None:
    found = attack(healthy, tmp_path, mutations=len(HARMS) * len(kinds(healthy)), seed=17)
    noticed = {kind for kind, _, state in found if state != "sound"}
    assert {"repository/chunks", "repository/manifests", "repository/snapshots", "cache"} <= noticed


@pytest.mark.slow
def test_many_mutations(healthy: Path, tmp_path: Path) -> None:
    seed = int(os.environ.get("SEED", time.time_ns() % 1_000_000))
    attack(healthy, tmp_path, mutations=int(os.environ.get("MUTATIONS", "1000")), seed=seed)
