"""Old training commits are dropped, edits and builds are kept, the space comes back."""

from __future__ import annotations

from pathlib import Path

import pytest
import small_store
from sifu_store import Store
from sifu_store.errors import OptionError


def test_training_commits_are_collected_and_edits_kept(tmp_path: Path) -> None:
    path = tmp_path / "s"
    build = small_store.make(path)
    kinds = [
        "train",
        "sifu train --steps 3",
        "edit-edge a b",
        "train",
        "train",
        "train",
        "edit-node a",
        "train",
    ]
    ids = [small_store.train(path, 10.0 + i, command=kind) for i, kind in enumerate(kinds)]
    kept = [build, ids[2], ids[5], ids[6], ids[7]]
    with Store.open(path, write=True) as store:
        before = store.size_bytes()
        garbage = store.collect_garbage(keep_training=2)
        assert before - store.size_bytes() >= 0.9 * garbage.size_bytes > 3 * 512 * 16 * 4
        assert garbage.snapshots == 4 and garbage.chunks >= 8
        assert store.snapshot == ids[7] and store.read_page("edges/bias", 0)[0, 1] == 17.0
        assert [commit.snapshot for commit in store.history()] == kept[::-1]
        small_store.write_page(store, 1, 1.0)
        store.commit("on", command="train", changes={})
        garbage = store.collect_garbage(keep_training=0)  # the head itself is never dropped
        assert garbage.snapshots == 2
    with Store.open(path) as store:
        assert store.recovered_from is None and store.verify().ok
        assert [commit.kind for commit in store.history()] == [
            "train",
            "edit-node",
            "edit-edge",
            "build-graph",
        ]
        assert len(store.history(limit=2)) == 2
    for snapshot, value in ((build, 1.0), (ids[2], 12.0), (ids[6], 16.0)):
        with Store.open(path, at=snapshot) as store:
            assert store.read_page("edges/bias", 0)[0, 1] == value and store.verify().ok
            assert store.history()[0].snapshot == snapshot
    with pytest.raises(OptionError):
        Store.open(path, at=ids[0])


def test_what_a_killed_writer_left_is_collected(tmp_path: Path) -> None:
    path = tmp_path / "s"
    small_store.make(path)
    left = path / "repository" / "chunks" / "0123456789ABCDEFGHJ0"
    left.write_bytes(b"x" * 100_000)
    with Store.open(path, write=True) as store:
        garbage = store.collect_garbage()
        assert garbage.chunks == 1 and garbage.size_bytes == 100_000 and not left.exists()
        small_store.write_page(store, 1, 1.0)
        with pytest.raises(ValueError, match="uncommitted"):
            store.collect_garbage()


def test_a_commit_without_changes_makes_no_snapshot(tmp_path: Path) -> None:
    snapshot = small_store.make(tmp_path / "s")
    with Store.open(tmp_path / "s", write=True) as store:
        assert store.commit("nothing", command="train", changes={}) == snapshot
        assert len(store.history()) == 1
