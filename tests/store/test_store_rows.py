"""Rows of an array: only their chunks are read, with the same values and errors as the whole array."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import small_store
from hypothesis import given
from hypothesis import strategies as st
from sifu_store import Store
from sifu_store.errors import StoreDamagedError, StoreError

ROWS = 2500
"""In chunks of 1,000; smaller ones would lie in the file of the snapshot."""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with an array of several chunks, the last one short."""
    path = tmp_path_factory.mktemp("rows") / "s"
    with pytest.MonkeyPatch.context() as patch, Store.create(path) as store:
        patch.setattr("sifu_store.layout.INDEX_CHUNK", 1000)
        small_store.fill(store)
        store.write("more/long", np.random.default_rng(0).integers(0, 1 << 62, ROWS))
        store.write("more/wide", np.random.default_rng(1).random((ROWS, 2), np.float32))
        store.commit("build", command="build-graph", changes={})
    return path


@given(rows=st.lists(st.integers(0, ROWS - 1), max_size=12))
def test_rows_are_those_of_the_whole_array(path: Path, rows: list[int]) -> None:
    with Store.open(path) as store:
        for name in ("more/long", "more/wide"):
            found = store.read_rows(name, np.array(rows, np.int64))
            whole = store.read(name)
            assert found.dtype == whole.dtype
            assert np.array_equal(found, whole[np.array(rows, np.int64)])


@given(first=st.integers(0, ROWS), stop=st.integers(0, ROWS + 10))
def test_consecutive_rows_are_those_of_the_whole_array(path: Path, first: int, stop: int) -> None:
    with Store.open(path) as store:
        for name in ("more/long", "more/wide"):
            found, whole = store.read_rows(name, slice(first, stop)), store.read(name)[first:stop]
            assert found.dtype == whole.dtype and np.array_equal(found, whole)


def test_what_is_not_there(path: Path) -> None:
    with Store.open(path) as store:
        with pytest.raises(IndexError):
            store.read_rows("more/long", np.array([3, ROWS]))
        with pytest.raises(StoreError, match="has no array more/none"):
            store.read_rows("more/none", np.array([0]))
        with pytest.raises(ValueError, match="use read_pages"):
            store.read_rows("edges/bias", np.array([0]))
        assert store.has("more/long") and not store.has("more/none") and not store.has("more")
        store.names()
        assert store.has("more/long") and not store.has("more/none") and not store.has("more")


def test_a_damaged_chunk_is_named_where_one_of_its_rows_is_read(path: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(path, tmp_path / "s"))
    with Store.open(other) as store:
        store.read_rows("more/long", np.array([0]))
        for file in (other / "repository" / "chunks").iterdir():
            file.write_bytes(file.read_bytes()[:-1])
        with pytest.raises(StoreDamagedError, match=r"more/long, page 2 \(rows 2000 to 2499\)"):
            store.read_rows("more/long", slice(2000, 2100))
        with pytest.raises(StoreDamagedError, match=r"more/long, page 2 \(rows 2000 to 2499\)") as caught:
            store.read_rows("more/long", np.array([2001]))
        assert caught.value.__notes__
