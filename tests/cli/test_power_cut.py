"""Power cuts in the middle of every command that writes: every acknowledged commit is there, and exact."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import needs
import numpy as np
import pytest
from power_cut import Call, Disk, can_record, record, states
from sifu_store import Store
from sifu_store.errors import SifuError

TEXT = "abcd\nbadc\ncabd\n" * 40
COMMANDS = {
    "gc": ["gc", "--yes", "--keep-training", "1"],
    "undo": ["undo", "--steps", "2"],
    "redo": ["undo", "--redo"],
    "tag": ["tag", "fresh", "HEAD~1"],
    "tag --delete": ["tag", "--delete", "v1"],
    "branch": ["branch", "fresh"],
    "branch --delete": ["branch", "--delete", "side"],
    "switch": ["switch", "side"],
    "verify --repair": ["verify", "--repair", "--yes"],
    "train": ["train", "--steps", "4", "--commit-every", "1"],
    "build": ["build-graph", "--vocab", "10", "--store", "new.sifu", "a.txt"],
    "build --force": ["build-graph", "--vocab", "8", "--force", "a.txt"],
    "import --force": ["import", "--force", "a.safetensors"],
    "add-node": ["add-node", "xy", "--like", "a"],
    "edit-edge": ["edit-edge", "a", "b", "--boost", "1"],
    "prune": ["prune", "--to-ratio", "0.2", "--yes"],
    "grow": ["grow", "--to-ratio", "0.6"],
    "compact": ["compact"],
}
QUICK = ["gc", "undo", "tag --delete"]


def sifu(folder: Path, *arguments: str, store: str = "g.sifu") -> list[str]:
    given = [] if "--store" in arguments else ["--store", store]
    return [sys.executable, "-m", "sifu_cli", *arguments, *given]


def run(folder: Path, *arguments: str) -> None:
    done = subprocess.run(sifu(folder, *arguments), cwd=folder, check=False, capture_output=True, text=True)
    assert done.returncode == 0, (arguments, done.stderr)


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        yield


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder, in memory if possible: syncs take most of the time on a disk."""
    if not Path("/dev/shm").is_dir():
        yield tmp_path_factory.mktemp("power")
        return
    with tempfile.TemporaryDirectory(prefix="sifu-power-", dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture
def place(memory: Path) -> Iterator[Path]:
    folder = memory / "place"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def before(memory: Path) -> Path:
    """A folder with a text and a graph: training, an edit, a branch, a tag, undone commits, garbage."""
    if not can_record():
        pytest.skip(needs.STRACE)
    folder = memory / "before"
    folder.mkdir()
    (folder / "a.txt").write_text(TEXT)
    run(folder, "build-graph", "--vocab", "10", "--signal", "tuned", "--sparsify", "0.5", "a.txt")
    run(folder, "branch", "side")
    for name in ("v1", "v2"):
        run(folder, "train", "--steps", "1")
        run(folder, "tag", name)
    run(folder, "edit-edge", "a", "b", "--boost", "0.5")
    run(folder, "prune", "--to-ratio", "0.3", "--yes")
    for _ in range(3):  # the last of them has its parent; a collection of one more takes it
        run(folder, "train", "--steps", "1")
    run(folder, "edit-edge", "b", "a", "--boost", "0.5")
    run(folder, "undo")
    return folder


@dataclass(frozen=True)
class View:
    """What a store holds: the content of each commit, the line of each, the names, the newest commit."""

    content: dict[str, bytes]
    lines: dict[str, list[str]]
    names: dict[str, str]
    head: str


def content(store: Any) -> bytes:
    parts = [str(sorted(store.settings.items())).encode()]
    for name in store.names():
        whole = store.read_pages(name, 0, store.pages) if store.is_paged(name) else store.read(name)
        parts += [name.encode(), np.ascontiguousarray(whole).tobytes()]
    return b"".join(parts)


Known = dict[tuple[str, int], bytes]
"""The content of a commit by its id and `fingerprint`: most cuts leave the same data."""


def fingerprint(path: Path) -> int:
    """A checksum of all data of a store."""
    files = sorted(each for name in ("snapshots", "manifests", "chunks") for each in (path / name).glob("*"))
    return zlib.crc32("".join(f"{each.name} {zlib.crc32(each.read_bytes())} " for each in files).encode())


def view(store: Store, known: Known | None) -> View:
    """What a store holds; without the content of its commits if `known` is None."""
    tree = store.tree()
    parents = {commit.snapshot: commit.parent for commit in tree.commits}
    lines: dict[str, list[str]] = {}
    for snapshot in parents:
        at, line = parents[snapshot], [snapshot]
        while at is not None:
            line.append(at)
            at = parents[at]
        lines[snapshot] = line
    names = {**tree.branches, **{f"tag {name}": snapshot for name, snapshot in tree.tags.items()}}
    if known is None:
        return View(dict.fromkeys(parents, b""), lines, names, tree.head)
    now = fingerprint(store.path / "repository")
    for snapshot in parents:
        if (snapshot, now) not in known:
            known[snapshot, now] = content(store.view(snapshot))
    return View({each: known[each, now] for each in parents}, lines, names, tree.head)


def look(path: Path, known: Known) -> View | None:
    if not path.exists():
        return None
    with Store.open(path) as store:
        return view(store, known)


def fault(
    path: Path, was: View | None, will_be: View, said: set[str], *, ended: bool, sound: bool, known: Known
) -> str | None:
    """What an acknowledged commit lacks after a power cut; None: nothing. `sound`: nothing was damaged before."""
    if not path.exists():
        return "the store is gone" if was is not None or ended else None
    for write in (False, True):
        try:
            with Store.open(path, write=write) as store:
                # What a reader found, the writer's repair does not change.
                found, report = view(store, None if write else known), store.verify()
        except SifuError as error:
            return f"{'writer' if write else 'reader'}: {error}"
        if write and not report.ok and (ended or sound):
            return f"verify: {report.damage[0]}"
        wrong = lacks(found, needed(found, was, will_be, said, ended=ended))
        if wrong is not None:
            return wrong
    return None


def needed(found: View, was: View | None, will_be: View, said: set[str], *, ended: bool) -> View:
    """What must be there: of commands that did not end, what was there before, unless it is meant to go."""
    replaced = was is not None and not set(was.content) & set(will_be.content)
    if ended or was is None or (replaced and found.head in will_be.content):
        return will_be
    if replaced:
        return was
    reported = {each for each in will_be.content if each[:8] in said}
    kept = (set(was.content) & set(will_be.content)) | reported
    names = {name: tip for name, tip in was.names.items() if will_be.names.get(name) == tip}
    old = found.head in was.content and found.head not in (was.head, will_be.head)
    head = will_be.head if old else ""  # neither that of before nor a newer one
    # A repair connects commits that were not connected.
    lines = {
        each: line
        for each, line in will_be.lines.items()
        if line_in(was, each, kept) in ([], line_in(will_be, each, kept))
    }
    return View({each: will_be.content[each] for each in kept}, lines, names, head)


def line_in(found: View, snapshot: str, kept: Collection[str]) -> list[str]:
    """The commits among `kept` up to a snapshot."""
    return [each for each in found.lines.get(snapshot, []) if each in kept]


def lacks(found: View, expected: View) -> str | None:
    """What a store lacks of what must be there."""
    for snapshot, bits in expected.content.items():
        if snapshot not in found.content:
            return f"the commit {snapshot[:8]} is lost"
        if found.content[snapshot] not in (bits, b""):
            return f"the commit {snapshot[:8]} changed"
        line = line_in(expected, snapshot, expected.content)
        if line and line_in(found, snapshot, expected.content) != line:
            return f"the commits before {snapshot[:8]} changed"
    for name, tip in expected.names.items():
        if found.names.get(name) != tip:
            return f"the name {name} changed"
    if expected.head and found.head != expected.head:
        return f"the newest commit is {found.head[:8]}, not {expected.head[:8]}"
    return None


def replay(name: str, before: Path, place: Path, count: int) -> None:
    """Run a command on a copy of `before`, cut the power `count` times, and check each state."""
    seed = int(os.environ.get("POWER_CUT_SEED", time.time_ns() % 10**6))
    sys.stdout.write(f"{name}: POWER_CUT_SEED={seed}\n")  # shown if the test fails
    rng, folder = random.Random(seed), place / "w"
    shutil.copytree(before, folder)
    arguments = COMMANDS[name]
    path = folder / (arguments[arguments.index("--store") + 1] if "--store" in arguments else "g.sifu")
    if name == "import --force":
        run(folder, "export", "safetensors", "a.safetensors")
    sound = name != "verify --repair"
    if not sound:
        damage_references(path)
    start = shutil.copytree(folder, place / "start", symlinks=True)
    known: Known = {}
    was = look(start / path.name, known)
    calls: list[Call] = record(sifu(folder, *arguments), folder)
    will_be = look(path, known)
    assert will_be is not None
    disk = Disk(start, folder)
    made, faults = 0, []
    for number, how, ended in states(disk, calls, count, rng):
        after = place / f"cut-{made}"
        disk.cut(after, rng, how)
        wrong = fault(after / path.name, was, will_be, set(disk.said), ended=ended, sound=sound, known=known)
        made += 1
        if wrong is not None:
            faults.append(f"{name}, call {number} of {len(calls)}, {how}: {wrong}")
        shutil.rmtree(after)
    sys.stdout.write(f"{name}: {made} states, {len(faults)} faults\n")
    assert made >= count
    assert not faults, "\n".join(faults[:10])


def damage_references(path: Path) -> None:
    """All references to the commits before others, and the record of the last commit."""
    for folder in (path / "repository" / "refs").glob("branch.sifu.before.*"):
        (folder / "ref.json").write_bytes(b"")
    (path / "acknowledged").unlink()


@pytest.mark.parametrize("name", QUICK)
def test_power_cuts(name: str, before: Path, place: Path) -> None:
    replay(name, before, place, 10)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_many_power_cuts(name: str, before: Path, place: Path) -> None:
    replay(name, before, place, int(os.environ.get("POWER_CUTS", "120")))
