"""Chunks in the place of others: each is intact, and none is the one that belongs there."""

from __future__ import annotations

import json
import shutil
import zlib
from itertools import combinations
from pathlib import Path

import icechunk
import numpy as np
import pytest
import small_store
import zarr
from sifu_store import Store
from sifu_store.checksums import CHECKSUMS
from sifu_store.errors import StoreDamagedError
from sifu_store.repository import open_icechunk


def contents(store: Store) -> dict[str, bytes]:
    """Every array, as bytes."""
    return {
        name: (store.read_pages(name, 0, store.pages) if store.is_paged(name) else store.read(name)).tobytes()
        for name in store.names()
    }


def metadata(path: Path) -> dict[str, object]:
    with Store.open(path) as store:
        return dict(store._repository.lookup_snapshot(store.snapshot).metadata)


def table(path: Path) -> dict[str, str]:
    session = open_icechunk(path).readonly_session("main")
    return dict(json.loads(np.asarray(zarr.open_array(session.store, path=CHECKSUMS, mode="r")[...]).tobytes()))


def assert_table_is_true(path: Path) -> None:
    """The table against a plain walk over all chunks of the snapshot."""
    session = open_icechunk(path).readonly_session("main")
    group, found = zarr.open_group(session.store, mode="r"), {}
    for name, array in group.members(max_depth=None):
        if isinstance(array, zarr.Array) and name != CHECKSUMS:
            ends = []
            for chunk in range(-(-array.shape[0] // array.chunks[0])):
                key = "/".join([name, "c", str(chunk), *["0"] * (array.ndim - 1)])
                value = zarr.core.sync.sync(session.store.get(key, zarr.core.buffer.default_buffer_prototype()))
                ends.append("00000000" if value is None else value.to_bytes()[:-5:-1].hex())
            found[name] = "".join(ends)
    assert table(path) == found
    assert metadata(path)["checksums"] == zlib.crc32(json.dumps(found, separators=(",", ":"), sort_keys=True).encode())


def test_every_pair_of_chunk_files_exchanged(tmp_path: Path) -> None:
    path = tmp_path / "s"
    small_store.make(path)
    small_store.train(path, 5.0)
    with Store.open(path) as store:
        before = contents(store)
    chunks = sorted((path / "repository" / "chunks").iterdir())
    noticed = 0
    for one, two in combinations(chunks, 2):
        kept = one.read_bytes(), two.read_bytes()
        one.write_bytes(kept[1])
        two.write_bytes(kept[0])
        with Store.open(path) as store:
            sound = store.verify().ok
            assert not sound or contents(store) == before, (one.name, two.name)
            noticed += not sound
            if not sound:
                with pytest.raises(StoreDamagedError) as caught:
                    contents(store)
                assert "\n" not in str(caught.value)
        one.write_bytes(kept[0])
        two.write_bytes(kept[1])
    assert len(chunks) >= 6 and noticed >= len(chunks) - 1


def test_a_chunk_of_an_older_commit_in_the_place_of_the_newest(tmp_path: Path) -> None:
    path = tmp_path / "s"
    small_store.make(path)
    old = small_store.data_file(path, "edges/bias", 0)
    small_store.train(path, 5.0)
    new = small_store.data_file(path, "edges/bias", 0)
    shutil.copyfile(old, new)
    with Store.open(path) as store:
        (damage,) = store.verify().damage
        assert (damage.array, damage.page) == (
            "edges/bias",
            0,
        ) and "not the one that was written there" in damage.reason
        with pytest.raises(StoreDamagedError, match="edges/bias, page 0"):
            store.read_page("edges/bias", 0)
        assert store.read_page("edges/weight", 0)[0, 0, 1] == 5.0
    with Store.open(path, at="HEAD~1") as store:
        assert store.verify().ok


def test_the_table_follows_every_change(tmp_path: Path) -> None:
    path = tmp_path / "s"
    small_store.make(path)
    assert_table_is_true(path)

    def change(store: Store, step: int) -> None:
        if step == 0:
            store.create_paged("optimizer/second", (), "float32")
            store.write_pages("optimizer/second", 0, np.ones(512, np.float32))
        elif step == 1:
            small_store.write_page(store, 1, 8.0)
        elif step == 2:  # fewer slots, and a page that is no longer stored
            kept = np.r_[0:512, 600:1000]
            for name in ("edges/target", "edges/count"):
                store.write(name, store.read(name)[kept])
            store.write("edges/source", store.read("edges/source")[kept])
            store.write("pages/stored", np.array([1, 0], np.uint8))
        elif step == 3:
            store.delete("optimizer/second")
        elif step == 4:
            store.write("nodes/extra", np.arange(300_000))
        elif step == 5:
            store.write("nodes/extra", np.arange(600_000))
        elif step == 6:
            store.write("nodes/extra", np.arange(10))
        else:
            store.set_settings({"width": 4, "step": step})

    for step in range(8):
        with Store.open(path, write=True) as store:
            change(store, step)
            store.rollback()
            change(store, step)
            store.commit(f"step {step}", command="edit", changes={})
        assert_table_is_true(path)
        with Store.open(path) as store:
            assert store.verify().ok
    with Store.open(path, write=True) as store:
        store.undo(3)
        store.collect_garbage(0, keep_undone=False)
        assert store.verify().ok
    assert_table_is_true(path)


def commit_without_a_table(path: Path, **metadata: object) -> None:
    """A commit of a program that does not know the table: it changes page 0. ``metadata`` is added to its own."""
    repository = open_icechunk(path)
    session = repository.writable_session("main")
    zarr.open_group(session.store, mode="r+")["edges/bias"][0:512] = np.full((512, 4), 9.0, np.float32)
    session.commit("by another program", {"command": "train", "changes": {}, **metadata})


def test_a_commit_of_another_program(tmp_path: Path) -> None:
    path = tmp_path / "s"
    small_store.make(path)
    commit_without_a_table(path)
    with Store.open(path) as store:
        assert store.verify().ok and store.read_page("edges/bias", 0)[0, 1] == 9.0
    assert "checksums" not in metadata(path)
    with Store.open(path, write=True) as store:
        small_store.write_page(store, 1, 8.0)
        store.commit("on", command="train", changes={})
    assert_table_is_true(path)
    with Store.open(path) as store:
        assert store.verify().ok and store.read_page("edges/bias", 0)[0, 1] == 9.0


def test_a_damaged_table_is_reported_and_stops_no_reader(tmp_path: Path) -> None:
    path = tmp_path / "s"
    small_store.make(path)
    commit_without_a_table(path, checksums=1)
    with Store.open(path) as store:
        (damage,) = store.verify().damage
        assert damage.array == CHECKSUMS and "another commit" in damage.reason
        assert store.read_page("edges/bias", 0)[0, 1] == 9.0
    with Store.open(path, write=True) as store:
        small_store.write_page(store, 1, 8.0)
        store.commit("on", command="train", changes={})
    assert_table_is_true(path)


def test_plain_zarr_reads_the_store(tmp_path: Path) -> None:
    small_store.make(tmp_path / "s")
    storage = icechunk.local_filesystem_storage(str(tmp_path / "s" / "repository"))
    group = zarr.open_group(icechunk.Repository.open(storage).readonly_session("main").store, mode="r")
    with Store.open(tmp_path / "s") as store:
        assert np.array_equal(group["edges/bias"][:512], store.read_page("edges/bias", 0))
        assert CHECKSUMS not in store.names()
