"""A new store appears in one step, and nothing that is not a store is ever deleted."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import small_store
from sifu_store import Store, staging
from sifu_store.errors import DiskFullError, StoreExistsError, StoreLockedError, StoreNotFoundError


def siblings(path: Path) -> list[str]:
    return sorted(file.name for file in path.parent.iterdir())


def test_nothing_is_there_before_the_first_commit(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "graph.sifu"
    with Store.create(path) as store:
        small_store.fill(store)
        assert not path.exists()
        store.commit("build", command="build-graph", changes={})
        assert path.exists() and siblings(path) == ["graph.sifu"]
        small_store.write_page(store, 1, 4.0)  # the store stays open for writing, at its new place
        store.commit("more", command="train", changes={})
        with pytest.raises(StoreLockedError):
            Store.open(path, write=True)
    with Store.open(path, write=True) as store:
        assert store.read_page("edges/bias", 1)[0, 1] == 4.0 and len(store.history()) == 2


def test_an_abandoned_build_leaves_nothing(tmp_path: Path) -> None:
    with Store.create(tmp_path / "s") as store:
        small_store.fill(store)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_store_needs_force(tmp_path: Path) -> None:
    old = small_store.make(tmp_path / "s")
    with pytest.raises(StoreExistsError, match="`force=True`"):
        Store.create(tmp_path / "s")
    with Store.create(tmp_path / "s", force=True) as store:
        small_store.fill(store, seed=1)
        with Store.open(tmp_path / "s") as reader:
            assert reader.snapshot == old
        with pytest.raises(StoreLockedError):
            Store.open(tmp_path / "s", write=True)
    with Store.open(tmp_path / "s") as reader:
        assert reader.snapshot == old  # never committed
    with Store.create(tmp_path / "s", force=True) as store:
        small_store.fill(store, seed=1)
        new = store.commit("again", command="build-graph", changes={})
        small_store.write_page(store, 0, 3.0)
        store.commit("step", command="train", changes={})
    with Store.open(tmp_path / "s") as reader:
        assert reader.history()[-1].snapshot == new and reader.settings["seed"] == 1
    assert siblings(tmp_path / "s") == ["s"]


def test_without_an_exchange_of_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_store.make(tmp_path / "s")
    monkeypatch.setattr(staging, "exchange", lambda first, second: False)
    with Store.create(tmp_path / "s", force=True) as store:
        small_store.fill(store, seed=1)
        store.commit("again", command="build-graph", changes={})
    with Store.open(tmp_path / "s") as store:
        assert store.settings["seed"] == 1
    assert siblings(tmp_path / "s") == ["s"]
    (tmp_path / "s").rename(tmp_path / ".s.replaced-1-abcd")  # a crash between the two renames
    with Store.open(tmp_path / "s") as store:
        assert store.settings["seed"] == 1


def test_a_path_that_is_no_store_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "photo").write_text("mine")
    empty = tmp_path / "empty"
    empty.mkdir()
    for path in (file, folder, empty):
        for force in (False, True):
            with pytest.raises(StoreExistsError, match="not a sifu store"):
                Store.create(path, force=force)
        with pytest.raises(StoreNotFoundError, match=r"create one with `build_graph\(\)`"):
            Store.open(path)
    assert file.read_text() == "mine" and (folder / "photo").exists() and empty.exists()
    with pytest.raises(StoreNotFoundError, match=r"create one with `build_graph\(\)`"):
        Store.open(tmp_path / "missing")


def test_two_builds_of_one_path(tmp_path: Path) -> None:
    with Store.create(tmp_path / "s") as first, Store.create(tmp_path / "s") as second:
        for store in (first, second):
            small_store.fill(store)
        kept = first.commit("first", command="build-graph", changes={})
        with pytest.raises(StoreExistsError, match="during the build"):
            second.commit("second", command="build-graph", changes={})
    with Store.open(tmp_path / "s") as store:
        assert store.snapshot == kept
    assert siblings(tmp_path / "s") == ["s"]


def test_a_killed_build_leaves_the_old_store_and_is_cleaned_up(tmp_path: Path) -> None:
    path = tmp_path / "s"
    old = small_store.make(path)
    program = (
        "import sys, time; from pathlib import Path; import small_store; from sifu_store import Store\n"
        "store = Store.create(Path(sys.argv[1]), force=True); small_store.fill(store)\n"
        "print('built', flush=True); time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "built\n"
    with pytest.raises(StoreLockedError, match=f"process {child.pid} "):
        Store.create(path, force=True)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert len(siblings(path)) == 2
    with Store.open(path, write=True) as store:
        assert store.snapshot == old
    with Store.create(path, force=True) as store:
        small_store.fill(store)
        assert len(siblings(path)) == 2  # its own
        store.commit("again", command="build-graph", changes={})
    assert siblings(path) == ["s"]


def test_a_build_that_cannot_begin_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(directory: Path) -> None:
        raise DiskFullError(f"{directory}: no space left")

    monkeypatch.setattr(staging, "WriterLock", full)
    with pytest.raises(DiskFullError):
        Store.create(tmp_path / "s")
    assert siblings(tmp_path / "s") == []


def test_a_writer_sweeps_up_what_was_being_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    small_store.make(path)
    left = path / ".acknowledged.0123abcd.tmp"
    left.write_text("half")
    with Store.open(path):
        assert left.exists()  # readers change nothing
    with Store.open(path, write=True):
        assert not left.exists()
