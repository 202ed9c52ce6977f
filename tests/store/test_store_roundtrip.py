"""What is written is read: arrays, JSON, pages, settings, history; against a plain dictionary."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import small_store
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from sifu_store import PAGE_EDGES, Store
from sifu_store.errors import OptionError, StoreError


def test_everything_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "graph.sifu"
    snapshot = small_store.make(path)
    with Store.open(path) as store:
        assert store.snapshot == snapshot and store.recovered_from is None
        assert store.read_json("nodes/vocabulary")[1] == {"text": chr(0x6626)}
        assert store.settings == {"width": small_store.D, "seed": 0}
        assert store.pages == 3 and store.page_stored().tolist() == [True, False, True]
        assert store.read("edges/source").dtype == np.int32
        assert np.array_equal(store.read_page("edges/weight", 2), small_store.page(store, "edges/weight", 2, 2.0))
        assert store.read_page("edges/weight", 2).shape == (1300 - 2 * PAGE_EDGES, 4, 4)
        assert not store.read_page("edges/weight", 1).any()
        out = np.empty((1300, 4, 4), np.float32)
        assert store.read_pages("edges/weight", 0, 3, out=out) is out
        assert np.array_equal(out, store.read_pages("edges/weight", 0, 3))
        assert not store.has("optimizer/edge_v")
        (commit,) = store.history()
        assert (commit.snapshot, commit.message, commit.kind) == (snapshot, "build", "build-graph")
        assert commit.changes == {"nodes": 60} and commit.time.tzinfo is not None
        report = store.verify()
        assert report.ok and report.pages == 2
        assert store.size_bytes() > 2 * 512 * 16 * 4


def test_settings_are_a_copy(tmp_path: Path) -> None:
    small_store.make(tmp_path / "s")
    with Store.open(tmp_path / "s") as store:
        store.settings["width"] = 99
        assert store.settings["width"] == small_store.D


def test_older_snapshots_stay_readable_by_prefix(tmp_path: Path) -> None:
    first = small_store.make(tmp_path / "s")
    second = small_store.train(tmp_path / "s", 7.0)
    with Store.open(tmp_path / "s", at=first[:10].lower()) as store:
        assert store.snapshot == first and store.read_page("edges/bias", 0)[0, 1] == 1.0
        assert [commit.snapshot for commit in store.history()] == [first]
    with Store.open(tmp_path / "s") as store:
        assert store.read_page("edges/bias", 0)[0, 1] == 7.0
        assert [commit.snapshot for commit in store.history()] == [second, first]
        assert [commit.snapshot for commit in store.history(limit=1)] == [second]
    for prefix in ("", "no such"):
        with pytest.raises(OptionError, match=r"`log\(\)`"):
            Store.open(tmp_path / "s", at=prefix)


def test_a_reader_sees_one_snapshot_while_another_writes(tmp_path: Path) -> None:
    small_store.make(tmp_path / "s")
    with Store.open(tmp_path / "s") as reader:
        small_store.train(tmp_path / "s", 7.0)
        assert reader.read_page("edges/bias", 0)[0, 1] == 1.0


def test_rollback_and_close_drop_changes_and_their_files(tmp_path: Path) -> None:
    small_store.make(tmp_path / "s")
    chunks = tmp_path / "s" / "repository" / "chunks"
    before = {file.name for file in chunks.iterdir()}
    with Store.open(tmp_path / "s", write=True) as store:
        small_store.write_page(store, 1, 5.0)
        assert {file.name for file in chunks.iterdir()} > before
        store.rollback()
        assert {file.name for file in chunks.iterdir()} == before
        assert not store.page_stored()[1] and not store.read_page("edges/weight", 1).any()
        small_store.write_page(store, 1, 5.0)
    assert {file.name for file in chunks.iterdir()} == before
    with Store.open(tmp_path / "s") as store:
        assert not store.page_stored()[1] and store.verify().ok


def test_more_slots_and_fewer(tmp_path: Path) -> None:
    small_store.make(tmp_path / "s")
    with Store.open(tmp_path / "s", write=True) as store:
        for name in ("source", "target"):
            old = store.read(f"edges/{name}")
            store.write(f"edges/{name}", np.concatenate([old, np.full(700, -1, np.int32)]))
        store.write("edges/count", np.concatenate([store.read("edges/count"), np.zeros(700, np.int64)]))
        assert store.pages == 4 and store.page_stored().tolist() == [True, False, True, False]
        small_store.write_page(store, 3, 3.0)
        store.commit("grow", command="grow", changes={})
        assert store.verify().ok
        for name in ("source", "target", "count"):
            store.write(f"edges/{name}", store.read(f"edges/{name}")[:900])
        assert store.page_stored().tolist() == [True, False]
        store.write("pages/stored", np.zeros(2, np.uint8))
        store.commit("shrink", command="compact", changes={})
        report = store.verify()
        assert report.ok and report.pages == 0


def test_optional_arrays(tmp_path: Path) -> None:
    small_store.make(tmp_path / "s")
    with Store.open(tmp_path / "s", write=True) as store:
        for _ in range(2):
            store.create_paged("optimizer/edge_v", (), "float64")
        store.write_pages("optimizer/edge_v", 0, np.arange(512.0))
        store.write("training/state", np.arange(3))
        store.write("empty", np.zeros(0, np.uint8))
        store.commit("state", command="train", changes={})
    with Store.open(tmp_path / "s") as store:
        assert store.read_page("optimizer/edge_v", 0)[511] == 511.0
        assert store.read("training/state").tolist() == [0, 1, 2] and store.read("empty").shape == (0,)
        assert not store.read_page("optimizer/edge_v", 2).any()
        assert store.verify().ok


def test_stored_pages_of_zeros_have_chunks(tmp_path: Path) -> None:
    small_store.make(tmp_path / "s")
    with Store.open(tmp_path / "s", write=True) as store:
        for name in ("edges/weight", "edges/bias"):
            store.write_pages(name, 1, np.zeros_like(store.read_page(name, 1)))
        store.mark_stored(np.array([1]))
        store.commit("zeros", command="edit-edge", changes={})
        assert store.verify().ok


def test_what_the_caller_must_not_do(tmp_path: Path) -> None:
    small_store.make(tmp_path / "s")
    with Store.open(tmp_path / "s") as store:
        with pytest.raises(StoreError, match="opened for reading"):
            store.write("rows/total", np.zeros(60, np.int64))
        with pytest.raises(ValueError, match="is paged"):
            store.read("edges/weight")
        with pytest.raises(ValueError, match="pages 0 to 3 of 3"):
            store.read_pages("edges/weight", 0, 4)
        with pytest.raises(StoreError, match="no array nonsense"):
            store.read("nonsense")
    with pytest.raises(StoreError, match="closed"):
        store.read("rows/total")
    with Store.open(tmp_path / "s", write=True) as store:
        with pytest.raises(ValueError, match="must be int64"):
            store.write("rows/total", np.zeros(60, np.int32))
        with pytest.raises(ValueError, match="found"):
            store.write_pages("edges/bias", 0, np.zeros((100, 4), np.float32))
        store.write_pages("edges/bias", 1, np.zeros((512, 4), np.float32))
        with pytest.raises(ValueError, match="not marked as stored"):
            store.commit("x", command="train", changes={})
        store.rollback()
        store.write("rows/total", np.zeros(61, np.int64))
        with pytest.raises(ValueError, match="rows/total has shape"):
            store.commit("x", command="train", changes={})
    lacks = pytest.raises(ValueError, match="the store lacks nodes/vocabulary")
    with Store.create(tmp_path / "other") as store, lacks:
        store.commit("x", command="build-graph", changes={})
    assert not (tmp_path / "other").exists()


def test_codecs_are_as_documented(tmp_path: Path) -> None:
    small_store.make(tmp_path / "s")
    with Store.open(tmp_path / "s") as store:
        for name in store.names():
            array = zarr.open_array(store._session.store, path=name, mode="r")
            codecs = [codec.to_dict()["name"] for codec in array.metadata.codecs]
            paged = name in ("edges/weight", "edges/bias")
            assert codecs == (["bytes", "crc32c"] if paged else ["bytes", "zstd", "crc32c"])
            assert array.fill_value == 0 and (not paged or array.chunks[0] == PAGE_EDGES)


operations = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 4), st.integers(1, 3), st.integers(-3, 3)),
        st.tuples(st.just("commit"), st.just(0), st.just(0), st.just(0)),
        st.tuples(st.just("rollback"), st.just(0), st.just(0), st.just(0)),
        st.tuples(st.just("reopen"), st.just(0), st.just(0), st.just(0)),
    ),
    max_size=10,
)


@settings(max_examples=8, deadline=None)
@given(operations, st.integers(2049, 2560))
def test_pages_against_a_dictionary(steps: list[tuple[str, int, int, int]], slots: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s"
        with Store.create(path) as store:
            small_store.fill(store, slots=slots, d=2)
            store.commit("build", command="build-graph", changes={})
        committed: dict[int, float] = {}
        current: dict[int, float] = {}
        store = Store.open(path, write=True)
        try:
            for kind, first, length, value in steps:
                if kind == "write":
                    stop = min(first + length, store.pages)
                    for name in ("edges/weight", "edges/bias"):
                        shape = store.read_pages(name, first, stop).shape
                        store.write_pages(name, first, np.full(shape, value, np.float32))
                    store.mark_stored(np.arange(first, stop))
                    current |= dict.fromkeys(range(first, stop), float(value))
                elif kind == "commit":
                    store.commit("x", command="train", changes={})
                    committed = dict(current)
                elif kind == "rollback":
                    store.rollback()
                    current = dict(committed)
                else:
                    store.close()
                    current = dict(committed)
                    store = Store.open(path, write=True)
                assert set(np.flatnonzero(store.page_stored()).tolist()) == set(current)
                everything = store.read_pages("edges/weight", 0, store.pages)
                assert len(everything) == slots
                for index in range(store.pages):
                    page = store.read_page("edges/weight", index)
                    assert (page == current.get(index, 0.0)).all()
                    assert np.array_equal(page, everything[index * PAGE_EDGES :][: len(page)])
            store.rollback()
            assert store.verify().ok
        finally:
            store.close()
