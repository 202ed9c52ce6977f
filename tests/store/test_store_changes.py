"""A reader of a store that another process replaces, collects or starves of resources is told what is true."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import numpy as np
import pytest
import small_store
from sifu_store import Store, durable, repository
from sifu_store.errors import ResourceError, StoreChangedError
from sifu_store.lock import WriterLock
from sifu_store.staging import Staging


def replace(path: Path) -> None:
    with Store.create(path, force=True) as store:
        small_store.fill(store, seed=1)
        small_store.write_page(store, 0, 5.0)
        store.commit("build", command="build-graph", changes={})


def test_a_reader_of_a_replaced_store_is_told(tmp_path: Path) -> None:
    path = tmp_path / "s"
    small_store.make(path)
    small_store.train(path, 3.0)
    with Store.open(path) as reader:
        replace(path)
        for read in (
            lambda: reader.read_pages("edges/weight", 0, 3),
            lambda: reader.read("rows/total"),
            lambda: reader.verify(),
            lambda: reader.history(),
            lambda: reader.resolve("HEAD~1"),
        ):
            with pytest.raises(StoreChangedError, match=r"s was replaced by another process .*: repeat"):
                read()
    with Store.open(path) as reader:
        assert reader.verify().ok


def test_a_reader_of_a_deleted_snapshot_is_told(tmp_path: Path) -> None:
    path = tmp_path / "s"
    small_store.make(path)
    small_store.train(path, 3.0)
    with Store.open(path) as reader, Store.open(path) as steady:
        for value in range(4, 8):
            small_store.train(path, float(value))
        with Store.open(path, write=True) as writer:
            assert writer.collect_garbage(1).snapshots == 4
        with pytest.raises(StoreChangedError, match=f"{reader.snapshot} of .* was deleted by another process"):
            reader.read_pages("edges/weight", 0, 1)
        assert len(steady.tree().commits) == 2  # the tree is that of now


def test_real_damage_is_still_damage(tmp_path: Path) -> None:
    path = tmp_path / "s"
    small_store.make(path)
    with Store.open(path) as reader:
        small_store.data_file(path, "edges/weight", 2).unlink()
        assert not reader.verify().ok


@pytest.mark.parametrize("mode", ["read", "write"])
def test_too_few_open_files_are_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    path = tmp_path / "s"
    small_store.make(path)
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}

    def fail(directory: Path) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(repository, "open_icechunk", fail)
        with pytest.raises(ResourceError, match="open files, which are too few"):
            Store.open(path, write=mode == "write")
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENFILE, "x"), "open files"),
        (RuntimeError("can't start new thread"), "no more threads"),
        (ValueError("os error 24)"), "open files"),
        (ValueError("24 files"), None),
        (OSError(errno.ENOENT, "x"), None),
    ],
)
def test_what_a_process_lacks(error: Exception, says: str | None) -> None:
    outer = RuntimeError("outer")
    outer.__cause__ = error
    for each in (error, outer):
        found = durable.resource_error(each)
        assert (found is None) if says is None else (found is not None and says in str(found))


def test_a_collection_frees_what_killed_builds_left(tmp_path: Path) -> None:
    path = tmp_path / "s"
    small_store.make(path)
    killed = tmp_path / ".s.building-999999999-abcd"  # no process has this number
    small_store.make(killed)
    reused = tmp_path / f".s.building-{os.getpid()}-abcd"  # this process began later
    small_store.make(reused)
    os.utime(reused, (time.time() - 1e6, time.time() - 1e6))
    replaced = tmp_path / ".s.replaced-1-abcd"
    small_store.make(replaced)
    held = tmp_path / ".s.building-999999998-abcd"
    held.mkdir()
    other = tmp_path / ".other.building-999999999-abcd"
    other.mkdir()
    lock = WriterLock(held)
    with Store.open(path, write=True) as store:
        plan = store.would_collect()
        assert plan.builds == 3
        size_bytes = sum(file.stat().st_size for each in (killed, reused, replaced) for file in each.rglob("*"))
        assert 0 < plan.builds_bytes <= plan.size_bytes and plan.builds_bytes <= size_bytes
        garbage = store.collect_garbage()
        assert (garbage.builds, garbage.builds_bytes) == (3, plan.builds_bytes)
        assert store.verify().ok
    assert not killed.exists() and not reused.exists() and not replaced.exists()
    assert held.exists() and other.exists()
    lock.release()


def test_a_build_in_this_process_is_not_freed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    small_store.make(path)
    elsewhere = Staging(tmp_path / "t", force=False)
    with Store.open(path, write=True) as store:
        assert store.collect_garbage().builds == 0
    assert elsewhere.directory.exists()
    elsewhere.abandon()
    assert np.all([not each.name.startswith(".") for each in tmp_path.iterdir()])
