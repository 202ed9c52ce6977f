"""A full disk: said before a long write where it can be known, translated where it cannot, nothing lost."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import icechunk
import needs
import numpy as np
import pytest
import small_store
from sifu_store import Store, durable
from sifu_store.errors import DiskFullError, StoreError

Usage = namedtuple("Usage", "total used free")
STATVFS = [
    f"f_{name}"
    for name in ("bsize", "frsize", "blocks", "bfree", "bavail", "files", "ffree", "favail", "flag", "namemax", "fsid")
]


def test_free_space_is_checked_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = small_store.make(tmp_path / "s")
    with Store.open(tmp_path / "s", write=True) as store:
        data = small_store.page(store, "edges/weight", 1, 1.0)
        monkeypatch.setattr(durable.shutil, "disk_usage", lambda path: Usage(1 << 30, 0, 1_000_000))
        with pytest.raises(
            DiskFullError,
            match=r"writing 1 page of edges/weight needs 1.0 MiB, 976.6 KiB are free .* free 79.4 KiB more",
        ):
            store.write_pages("edges/weight", 1, data)
        with pytest.raises(DiskFullError):
            store.write("rows/total", np.zeros(60, np.int64))
    with pytest.raises(DiskFullError, match=r"needs 2\.0 GiB"):
        durable.require_free_bytes(tmp_path / "not" / "there", (2 << 30) - (1 << 20), "building")
    monkeypatch.undo()
    with Store.open(tmp_path / "s") as store:
        assert store.snapshot == snapshot and store.verify().ok


def test_no_space_for_the_last_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = small_store.make(tmp_path / "s")

    def fail(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with Store.open(tmp_path / "s", write=True) as store:
        small_store.write_page(store, 0, 9.0)
        with monkeypatch.context() as patch:
            patch.setattr("sifu_store.store.acknowledge", fail)
            with pytest.raises(DiskFullError, match="became full while committing"):
                store.commit("x", command="train", changes={})
        with Store.open(tmp_path / "s") as reader:
            assert reader.snapshot == snapshot
        store.rollback()
        assert store.read_page("edges/bias", 0)[0, 1] == 1.0 and store.verify().ok
        small_store.write_page(store, 0, 9.0)
        saved = store.commit("x", command="train", changes={})
    with Store.open(tmp_path / "s") as store:
        assert store.snapshot == saved and store.read_page("edges/bias", 0)[0, 1] == 9.0 and store.verify().ok


def test_on_a_full_disk_garbage_can_still_be_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It frees space; neither the note of who writes nor a reserve of free space may stand in its way."""
    small_store.make(tmp_path / "s")
    with Store.open(tmp_path / "s", write=True) as store:
        for value in (1.0, 2.0, 3.0):
            small_store.write_page(store, 0, value)
            store.commit("x", command="train", changes={})

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(durable.shutil, "disk_usage", lambda path: Usage(1 << 30, 1 << 30, 0))
    monkeypatch.setattr("sifu_store.lock._write_holder", full)
    with Store.open(tmp_path / "s", write=True) as store:
        assert store.collect_garbage(1).size_bytes > 0
        with pytest.raises(DiskFullError):
            small_store.write_page(store, 0, 4.0)
    with Store.open(tmp_path / "s") as store:
        assert store.verify().ok and store.read_page("edges/bias", 0)[0, 1] == 3.0


def test_errors_are_translated() -> None:
    def translated(error: Exception) -> Exception:
        with pytest.raises(StoreError if not durable.is_disk_full(error) else DiskFullError) as caught:  # noqa: SIM117
            with durable.disk_errors(Path("/x"), "writing"):
                raise error
        return caught.value

    full = OSError(errno.ENOSPC, "No space left on device")
    assert "became full while writing: nothing was committed" in str(translated(full))
    with (
        pytest.raises(DiskFullError, match="nothing was written"),
        durable.disk_errors(Path("/x"), "x", done="written"),
    ):
        raise full
    assert isinstance(translated(icechunk.IcechunkError("No space left on device (os error 28)")), DiskFullError)
    assert "Permission denied" in str(translated(PermissionError(errno.EACCES, "Permission denied")))
    wrapped = RuntimeError("writing failed")
    wrapped.__cause__ = OSError(errno.EDQUOT, "quota")
    assert isinstance(translated(wrapped), DiskFullError)


def test_a_lack_of_inodes_is_not_a_lack_of_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, full = os.statvfs(tmp_path), OSError(errno.ENOSPC, "No space left on device")

    def inodes(free: int, total: int, blocks: int = 1 << 20) -> None:
        fields = {"f_bsize": 4096, "f_frsize": 4096, "f_bavail": blocks, "f_files": total, "f_favail": free}
        found = os.statvfs_result([fields.get(name, getattr(real, name)) for name in STATVFS])
        monkeypatch.setattr(durable.os, "statvfs", lambda path: found)

    for free, total, blocks in ((0, 0, 1 << 20), (100_000, 200_000, 1 << 20), (0, 4096, 10)):
        inodes(free, total, blocks)  # no limit of inodes (btrfs), many free, no space either
        assert durable.lack_of_inodes(tmp_path) is None and durable.reason_of(full, tmp_path) == full.strerror
        with pytest.raises(DiskFullError, match="became full"), durable.disk_errors(tmp_path, "writing"):
            raise full
    inodes(0, 4096)
    with pytest.raises(DiskFullError, match=r"building needs new files, .* has no free inodes \(0 of 4,096\)"):
        durable.require_free_bytes(tmp_path / "not" / "there", 1, "building")
    for free, said in ((0, "no free inodes"), (5, "too few free inodes")):
        inodes(free, 4096)
        with (
            pytest.raises(DiskFullError, match=rf"writing failed.*has {said} \({free} of 4,096\), .*4.0 GiB are free"),
            durable.disk_errors(tmp_path, "writing"),
        ):
            raise full
        assert durable.reason_of(full, tmp_path).startswith(said)
        assert durable.reason_of(OSError(errno.EACCES, "Permission denied"), tmp_path) == "Permission denied"


def no_space(*arguments: object, **options: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


HISTORY: dict[str, Callable[[Store], Any]] = {
    "create a branch": lambda store: store.create_branch("new"),
    "create a branch and switch": lambda store: store.create_branch("new", switch=True),
    "delete a branch": lambda store: store.delete_branch("old"),
    "switch": lambda store: store.switch("old"),
    "create a tag": lambda store: store.create_tag("new"),
    "delete a tag": lambda store: store.delete_tag("kept"),
    "undo": lambda store: store.undo(1),
    "redo": lambda store: store.redo(1),
}


@pytest.fixture(scope="module")
def with_history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("history") / "s"
    small_store.make(path)
    for value in (1.0, 2.0, 3.0):
        small_store.train(path, value)
    with Store.open(path, write=True) as store:
        store.create_branch("old")
        store.create_tag("kept", "HEAD~1")
        store.undo(1)
    return path


@pytest.mark.parametrize("name", HISTORY)
def test_a_change_of_names_is_made_wholly_or_not_at_all(
    with_history: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The disk is full from the record of the last commit on, and then nothing can be created."""
    path = tmp_path / "s"
    shutil.copytree(with_history, path)

    def state(store: Store) -> tuple[Any, ...]:
        tree = store.tree()
        return tree.branch, tree.branches, tree.tags, tree.undone, store.snapshot, tree.faults

    with Store.open(path) as store:
        before = state(store)

    with Store.open(path, write=True) as store:
        with monkeypatch.context() as patch:

            def full(*arguments: object, **options: object) -> None:
                patch.setattr(Path, "mkdir", no_space)
                no_space()

            patch.setattr("sifu_store.durable.write_durably", full)
            with pytest.raises(DiskFullError):
                HISTORY[name](store)
        assert state(store) == before
    for write in (False, True):
        with Store.open(path, write=write) as store:
            assert state(store) == before and store.verify().ok
    with Store.open(path, write=True) as store:  # and with space it is made
        HISTORY[name](store)
        assert state(store) != before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path, "size=5m")


def mounted(tmp_path: Path, options: str) -> Iterator[Path]:
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(mount)]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip(needs.MOUNT)
    if not sys.platform.startswith("linux") or done.returncode != 0:
        pytest.skip(needs.MOUNT)
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=False)


def test_a_disk_that_fills_up(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small_disk / "s"
    with Store.create(path) as store:
        small_store.fill(store, n=100, d=16, slots=6144)
        small_store.write_page(store, 0, 1.0)
        snapshot = store.commit("build", command="build-graph", changes={})
    with Store.open(path, write=True) as store, pytest.raises(DiskFullError, match="are free"):
        for index in range(1, 12):
            small_store.write_page(store, index, 2.0)
    monkeypatch.setattr("sifu_store.durable.require_free_bytes", lambda *arguments: None)
    with Store.open(path, write=True) as store:
        assert store.snapshot == snapshot
        with pytest.raises(DiskFullError, match="became full while writing 1 page of edges/weight"):
            for index in [*range(1, 12), *range(1, 12)]:
                small_store.write_page(store, index, 2.0)
        store.rollback()
        small_store.write_page(store, 1, 3.0)  # the space is there again
        filler = small_disk / "filler"
        with pytest.raises(OSError, match="No space"), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        with pytest.raises(DiskFullError, match="became full while"):
            store.commit("x", command="train", changes={})
        filler.unlink()
        assert Store.open(path).snapshot == snapshot
    with Store.open(path, write=True) as store:
        assert store.snapshot == snapshot and store.verify().ok
        small_store.write_page(store, 1, 3.0)
        store.commit("now it fits", command="train", changes={})


@pytest.mark.parametrize("free_bytes", [0, 4096, 1 << 20])
def test_garbage_is_collected_on_a_full_disk(small_disk: Path, free_bytes: int) -> None:
    """What only the dropped commits use is deleted first, which makes room for what must be written."""
    path = small_disk / "s"
    small_store.make(path)
    kept = [small_store.train(path, 2.0, command="edit-edge")]
    for value in (3.0, 4.0, 5.0):
        kept = [kept[0], small_store.train(path, value)]
    fill_disk(small_disk, free_bytes)
    with Store.open(path) as store:
        expected = store.would_collect(1)
    with Store.open(path, write=True) as store:
        garbage = store.collect_garbage(1)
        assert garbage == expected and [commit.message for commit in garbage.commits] == ["step 4.0", "step 3.0"]
    with Store.open(path) as store:
        assert store.verify().ok and store.recovered_from is None
        assert [commit.snapshot for commit in store.history(2)] == kept[::-1]
        assert [store.view(each).read_page("edges/bias", 0)[0, 1] for each in kept] == [2.0, 5.0]
        assert len(store.history()) == 3
    fill_disk(small_disk, 0)
    with Store.open(path, write=True) as store:  # there is nothing to delete, and nothing to write
        assert store.collect_garbage(2).snapshots == 0


@pytest.fixture
def few_inodes(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path, "size=20m,nr_inodes=250")


def test_a_disk_without_inodes(few_inodes: Path) -> None:
    path = few_inodes / "s"
    snapshot = small_store.make(path)
    small_store.train(path, 2.0)
    small_store.train(path, 3.0)
    spare = 0
    with suppress(OSError):
        while True:
            (few_inodes / f"{spare}").touch()
            spare += 1
    with Store.open(path, write=True) as store:
        for change in (lambda: store.create_branch("new", switch=True), lambda: small_store.write_page(store, 1, 4.0)):
            with pytest.raises(DiskFullError, match="no free inodes"):
                change()
        store.rollback()
        with pytest.raises(DiskFullError, match="no free inodes"):
            store.create_tag("new")
        assert store.collect_garbage(0).snapshots == 1  # which frees inodes
        assert store.create_tag("new") == store.snapshot and list(store.tree().branches) == ["main"]
    with Store.open(path) as store:
        assert store.verify().ok and store.history()[-1].snapshot == snapshot


def fill_disk(disk: Path, free_bytes: int) -> None:
    spare = disk / "spare"
    spare.write_bytes(bytes(free_bytes))
    with suppress(OSError), (disk / f"filler-{len(list(disk.iterdir()))}").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    spare.unlink()
