"""A store from someone else, with links in the place of its files and folders: nothing outside the store is written."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from sifu_store import Store
from sifu_store.errors import SifuError, StoreError
from small import write_text

from sifu_graph import Graph, build_graph


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph with every kind of file that a store can have: paged, spilled, trained, tagged, branched."""
    folder = tmp_path_factory.mktemp("links")
    text = write_text(folder / "text.txt", documents=120)
    build_graph([text], folder / "g.sifu", vocab=24, signal="tuned", width=8, holdout=0.1)
    write(folder / "g.sifu", None)
    with Store.open(folder / "g.sifu", write=True) as store:
        store.create_tag("kept")
        store.create_branch("other")
    (folder / "g.sifu" / "scratch").mkdir(exist_ok=True)
    (folder / "g.sifu" / "collecting").mkdir(exist_ok=True)
    for name in (".writer.json.tmp", ".traffic.npz", "writer.json", ".acknowledged.tmp"):
        (folder / "g.sifu" / name).write_bytes(b"left")
    return folder / "g.sifu"


def write(path: Path, host_memory: str | None) -> None:
    """Training, an undo, a branch and a garbage collection."""
    with Graph.open(path, host_memory=host_memory) as graph:
        graph.train(steps=2, batch=4, contexts=False)
        graph.evaluate(limit=50)
    with Store.open(path, write=True) as store:
        store.undo()
        store.redo()
    with Store.open(path, write=True) as store:
        store.collect_garbage(1)


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder below a folder, with its bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def places(store: Path) -> list[str]:
    """Every folder, and every file that is not one of many of its kind."""
    found = []
    for path in sorted(store.rglob("*")):
        name = str(path.relative_to(store))
        if path.is_dir() or path.parent.name not in ("chunks", "manifests", "snapshots", "transactions"):
            found.append(name)
    for kind in ("chunks", "manifests", "snapshots", "transactions"):
        found += sorted(f"repository/{kind}/{path.name}" for path in (store / "repository" / kind).iterdir())[-2:]
    return found


def test_nothing_is_written_through_a_link(trained: Path, tmp_path: Path) -> None:
    names = places(trained)
    assert {"repository", "cache", "writer.lock", "cache/lock", "metrics.jsonl", "acknowledged"} <= set(names)
    worked, refused = [], []
    for number, name in enumerate(names):
        folder = tmp_path / str(number)
        copy, victim = folder / "g.sifu", folder / "outside"
        shutil.copytree(trained, copy)
        (folder / "beside").mkdir()
        shutil.move(copy / name, victim)
        (copy / name).symlink_to(victim)
        before = tree(folder / "outside") if victim.is_dir() else victim.read_bytes()
        try:
            write(copy, None)
            worked.append(name)
        except SifuError as error:
            assert "\n" not in str(error), name
            refused.append(name)
        after = tree(folder / "outside") if victim.is_dir() else victim.read_bytes()
        assert after == before, name
        shutil.rmtree(folder)
    assert {".writer.json.tmp", ".traffic.npz", "writer.json", "acknowledged"} <= set(worked)
    assert {"repository", "repository/chunks", "repository/refs/branch.main", "cache", "writer.lock"} <= set(refused)


@pytest.mark.parametrize("name", ["repository", "repository/refs/branch.main", "writer.lock", "cache", "metrics.jsonl"])
def test_a_dangling_link_creates_nothing(trained: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "g.sifu"
    shutil.copytree(trained, copy)
    shutil.move(copy / name, tmp_path / "moved")
    (copy / name).symlink_to(tmp_path / "outside")
    with pytest.raises(SifuError) as caught:
        write(copy, None)
    assert "\n" not in str(caught.value) and not os.path.lexists(tmp_path / "outside")


def test_a_scratch_folder_that_is_a_link(trained: Path, tmp_path: Path) -> None:
    copy = tmp_path / "g.sifu"
    shutil.copytree(trained, copy)
    (tmp_path / "outside").mkdir()
    (copy / "scratch").rmdir()
    (copy / "scratch").symlink_to(tmp_path / "outside")
    with pytest.raises(StoreError, match="scratch is a symbolic link"), Graph.open(copy) as graph:
        graph.evaluate(limit=50)
    with Graph.open(copy, scratch=tmp_path / "outside") as graph:  # named by the user: it may be anywhere
        graph.evaluate(limit=50)


def test_a_store_may_be_reached_through_a_link(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    shutil.copytree(trained, tmp_path / "disk" / "g.sifu")
    (tmp_path / "near").symlink_to(tmp_path / "disk")
    (tmp_path / "link.sifu").symlink_to(tmp_path / "near" / "g.sifu")
    write(tmp_path / "link.sifu", None)
    with Store.open(tmp_path / "near" / "g.sifu") as store:
        assert store.verify().ok
