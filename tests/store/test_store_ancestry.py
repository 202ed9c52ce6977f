"""Snapshot files in the place of others, and references that lead back: every command ends, with one clear line."""

from __future__ import annotations

import shutil
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import pytest
import small_store
from sifu_store import Store, folder_refs, refs
from sifu_store.errors import StoreDamagedError
from sifu_store.refs import EMPTY

EVERYTHING = """
import sys
from pathlib import Path
from sifu_store import Store
from sifu_store.errors import StoreError

path, ids = Path(sys.argv[1]), sys.argv[2:]

def attempt(name, call):
    try:
        found = call()
        print(name, "done", found if name in ("verify", "tree") else "", flush=True)
    except StoreError as error:
        print(name, type(error).__name__, str(error).replace(chr(10), "LINE BREAK"), flush=True)

reader = Store.open(path)

def reading(call):
    return call(reader)

def writing(call):
    with Store.open(path, write=True) as store:
        return call(store)

attempt("verify", lambda: reading(lambda s: [str(damage) for damage in s.verify().damage]))
attempt("history", lambda: reading(lambda s: s.history()))
attempt("tree", lambda: reading(lambda s: s.tree().faults))
attempt("resolve", lambda: reading(lambda s: s.resolve("HEAD~2")))
for older in ids:
    for newer in ids:
        attempt("writes", lambda: reading(lambda s: s.writes_between(older, newer)))
    attempt("changed", lambda: reading(lambda s: s.changed_pages(older)))
    attempt("view", lambda: reading(lambda s: s.view(older).read("nodes/count")))
    attempt("at", lambda: Store.open(path, at=older).close())
attempt("would_undo", lambda: reading(lambda s: s.would_undo(2)))
attempt("would_collect", lambda: reading(lambda s: s.would_collect(0)))
attempt("gc", lambda: writing(lambda s: s.collect_garbage(0)))
attempt("undo", lambda: writing(lambda s: s.undo(2)))
"""


def outcomes(path: Path, ids: list[str]) -> list[str]:
    """What every operation on a store says; an operation that does not end fails the test."""
    done = subprocess.run(
        [sys.executable, "-c", EVERYTHING, str(path), *ids], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def make(path: Path) -> list[str]:
    return [small_store.make(path), *(small_store.train(path, value) for value in (5.0, 6.0, 7.0))]


@pytest.mark.parametrize(("replaced", "by"), list(permutations(range(3), 2)))
def test_a_snapshot_file_that_is_another_one(tmp_path: Path, replaced: int, by: int) -> None:
    """The newest snapshot has a checksum of its own; of the others only the id within tells."""
    path = tmp_path / "s"
    ids = make(path)
    snapshots = path / "repository" / "snapshots"
    shutil.copyfile(snapshots / ids[by], snapshots / ids[replaced])
    lines = outcomes(path, ids)
    assert not [line for line in lines if "LINE BREAK" in line]
    by_name = {line.split()[0]: line for line in lines}
    for name in ("verify", "history", "tree", "would_undo", "gc", "undo"):
        assert f"the file of snapshot {ids[replaced]} is that of snapshot {ids[by]}" in by_name[name]
    at = [line for line in lines if line.startswith("at ")]
    views = [line for line in lines if line.startswith("view ")]
    for index, lines_of in enumerate(zip(at, views, strict=True)):
        for line in lines_of:
            assert ("StoreDamagedError" in line) == (index == replaced)


@pytest.mark.parametrize("by", range(4))
def test_the_file_of_the_empty_snapshot_is_another_one(tmp_path: Path, by: int) -> None:
    path = tmp_path / "s"
    ids = make(path)
    snapshots = path / "repository" / "snapshots"
    shutil.copyfile(snapshots / ids[by], snapshots / EMPTY)
    lines = outcomes(path, ids)
    assert not [line for line in lines if "LINE BREAK" in line]
    by_name = {line.split()[0]: line for line in lines}
    for name in ("verify", "tree", "gc"):
        assert f"the file of snapshot {EMPTY} is that of snapshot {ids[by]}" in by_name[name]
    assert by_name["history"] == "history done "


@pytest.mark.parametrize("target", range(1, 4))
def test_a_reference_that_leads_back(tmp_path: Path, target: int) -> None:
    path = tmp_path / "s"
    ids = make(path)
    folder_refs.point(path, {refs.BRANCH + refs.BEFORE + ids[0]: ids[target]})
    for line in outcomes(path, ids):
        name = line.split()[0]
        if name in ("verify", "history", "tree", "would_undo", "gc", "undo"):
            assert "the history returns to snapshot" in line and "LINE BREAK" not in line


def test_what_the_damage_does_not_touch_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "s"
    ids = make(path)
    snapshots = path / "repository" / "snapshots"
    shutil.copyfile(snapshots / ids[1], snapshots / ids[0])
    with Store.open(path) as store:
        assert store.snapshot == ids[3] and store.read_page("edges/bias", 0)[0, 1] == 7.0
        assert [commit.snapshot for commit in store.history(limit=3)] == ids[:0:-1]
        with pytest.raises(StoreDamagedError, match=ids[0]):
            store.history()
    with Store.open(path, write=True) as store:
        small_store.write_page(store, 1, 8.0)
        assert store.commit("on", command="train", changes={}) == store.history(limit=1)[0].snapshot
