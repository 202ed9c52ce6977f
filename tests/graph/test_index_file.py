"""The index of a large graph as mapped files: the same as in memory, whatever was edited, damaged or without room."""

from __future__ import annotations

import errno
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sifu_store.store import Store
from small import write_text

from sifu_graph import Graph, arrays, build_graph, edge_index
from sifu_graph.model import index_file
from sifu_graph.model.index_file import FOLDER, IndexFile
from sifu_graph.verification import verify

TEXT = "春風"


@pytest.fixture(scope="module", params=["tuned", "paper", "recurrent"])
def original(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new graph; of ``paper`` the untrained values come from the hash."""
    folder = tmp_path_factory.mktemp("index")
    init = "uniform" if request.param == "paper" else "counts"
    path = folder / "graph.sifu"
    build_graph(
        write_text(folder / "poems.txt"), path, vocab=40, sparsify=0.5, length=8, signal=request.param, init=init
    )
    return path


@pytest.fixture
def mapped(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small graphs are mapped too, and made in blocks of a few edges."""
    monkeypatch.setattr(index_file, "MAPPED_SLOTS", 0)
    monkeypatch.setattr(arrays, "BLOCK", 7)
    monkeypatch.setattr(edge_index, "BLOCK", 7)
    yield


def state(path: Path) -> dict[str, np.ndarray]:
    """What the index and the initial values of a graph are, and the energies of a text."""
    with Graph.open(path) as graph:
        index, initial = graph.parameters.index, graph.parameters.edges.initial
        slots = index.slots()
        found = {
            "row_start": index.row_start,
            "target": index.target,
            "count": index.count,
            "slots": slots,
            "keys": index.keys(),
            "forbidden": index.forbidden,
            "origin": initial.origins.keys(slots),
            "energy": initial.energies(slots),
            "bias": initial.bias(slots),
            "scores": np.array([token.log_p for token in graph.score(TEXT * 3).tokens]),
        }
        return {name: np.array(values) for name, values in found.items()}  # not mapped


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    """Bit for bit; an energy that is NaN comes from the hash."""
    for name, values in wanted.items():
        assert np.array_equal(found[name], values, equal_nan=values.dtype.kind == "f"), name


def edit(graph: Graph, which: int) -> None:
    """One of several edits."""
    (
        lambda: graph.add_node("龘", like="春"),
        lambda: graph.boost_edge("春", "風", 0.5),
        lambda: graph.default_edge("花", "月"),
        lambda: graph.prune(to_ratio=0.2),
        lambda: graph.forbid_edge("月", "春"),
        lambda: graph.remove_node("花"),
        lambda: graph.compact(),
    )[which]()


@pytest.mark.usefixtures("mapped")
@settings(max_examples=8)
@given(edits=st.lists(st.integers(0, 6), max_size=3, unique=True))
def test_mapped_is_in_memory(original: Path, tmp_path_factory: pytest.TempPathFactory, edits: list[int]) -> None:
    path = Path(shutil.copytree(original, tmp_path_factory.mktemp("copy") / "graph.sifu"))
    with Graph.open(path) as graph:
        for which in edits:
            try:
                edit(graph, which)
            except ValueError:
                continue  # there is nothing to prune, or no such edge
    found = state(path)
    assert (path / FOLDER).is_dir()
    assert isinstance(_index(path).target, np.memmap)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_file, "MAPPED_SLOTS", 1 << 40)
        wanted = state(path)
    assert_same(found, wanted)


def _index(path: Path) -> IndexFile:
    with Store.open(path) as store:
        folder = max((x for x in (path / FOLDER).iterdir() if x.is_dir()), key=lambda x: x.stat().st_mtime_ns)
        return IndexFile.open(folder, nodes=store.shape("nodes/count")[0], slots=store.slots)


def changed(folder: Path, name: str, at: int, value: int) -> None:
    """Writes another value into a file of an index, and the checksum that it then has."""
    meta = json.loads((folder / "meta.json").read_text())
    for each in meta["files"]:
        if each[0] == name:
            values = np.fromfile(folder / name, each[1])
            values[at] = value
            values.tofile(folder / name)
            each[3] = zlib.crc32((folder / name).read_bytes())
    (folder / "meta.json").write_text(json.dumps(meta))


@pytest.mark.usefixtures("mapped")
@pytest.mark.parametrize(
    ("name", "at", "value"),
    [("target", 3, 40), ("target", 3, -1), ("target", 0, 39), ("row_start", 4, -1), ("row_start", 4, 10**9)],
)
def test_values_that_the_kernels_rely_on_are_checked(
    original: Path, tmp_path: Path, name: str, at: int, value: int
) -> None:
    path = Path(shutil.copytree(original, tmp_path / "graph.sifu"))
    wanted = state(path)
    changed(next(x for x in (path / FOLDER).iterdir() if x.is_dir()), name, at, value)
    assert_same(state(path), wanted)  # it is made again


@pytest.mark.usefixtures("mapped")
def test_an_index_of_other_counts_is_found_by_verify(original: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(original, tmp_path / "graph.sifu"))
    state(path)
    changed(next(x for x in (path / FOLDER).iterdir() if x.is_dir()), "count", 3, 77)
    with Store.open(path) as store:
        assert ["not that of the edges" in damage.reason for damage in verify(store).damage] == [True]
    assert not list((path / FOLDER).glob("partial-*"))


@pytest.mark.usefixtures("mapped")
def test_what_is_damaged_is_found_and_made_again(original: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(original, tmp_path / "graph.sifu"))
    wanted = state(path)
    folder = next(x for x in (path / FOLDER).iterdir() if x.is_dir())
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        for torn in (content[:-1] + bytes([content[-1] ^ 1]), content[:-1]):
            file.write_bytes(torn)
            with Store.open(path) as store:
                assert [damage.array for damage in verify(store).damage] == ["index"]
            assert_same(state(path), wanted)
            with Store.open(path) as store:
                assert not verify(store).damage
    shutil.rmtree(folder)
    (path / FOLDER / "partial-of-a-killed-process").mkdir()
    state(path)
    assert sorted(x.name for x in (path / FOLDER).iterdir()) == sorted([folder.name, "lock"])


@pytest.mark.usefixtures("mapped")
def test_indices_of_the_last_two_states_are_kept(original: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(original, tmp_path / "graph.sifu"))
    first = state(path)
    for k in range(3):
        with Graph.open(path) as graph:
            graph.add_node("龘鱻麤"[k])
        state(path)
        assert len([x for x in (path / FOLDER).iterdir() if x.is_dir()]) == index_file.KEPT
    with Graph.open(path) as graph:
        graph.undo(steps=3)
    assert_same(state(path), first)


@pytest.mark.usefixtures("mapped")
def test_without_room_the_index_is_read_into_memory(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copytree(original, tmp_path / "graph.sifu"))
    wanted = state(path)
    shutil.rmtree(path / FOLDER)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert_same(state(path), wanted)
    assert [x.name for x in (path / FOLDER).iterdir()] == ["lock"]
