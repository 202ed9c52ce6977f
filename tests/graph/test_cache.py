"""The cache never changes a result: any budget, any order of eviction, the same bits as with everything in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from graphs import Random, random_graph, texts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sifu_store.errors import DiskFullError, HostMemoryError, OptionError, StoreDamagedError
from sifu_store.layout import BIAS, WEIGHT

from sifu_graph.arrays import runs
from sifu_graph.config import PRESETS, OptimizerConfig
from sifu_graph.edge_index import EdgeIndex
from sifu_graph.generation.walk import Walk
from sifu_graph.kernels import native as kernel
from sifu_graph.model import forward
from sifu_graph.paging import mapped_array
from sifu_graph.paging.edge_pool import EdgePool, row_pages
from sifu_graph.paging.row_pager import in_turns
from sifu_graph.training import step as steps

PAGE = 8
NODES = 40
OPTIMIZERS = {
    "rowwise": OptimizerConfig(lr=0.1),
    "adamw": OptimizerConfig(kind="adamw", lr=0.01, beta2=0.99, eps=1e-4),
    "adamw-dense": OptimizerConfig(kind="adamw-dense", lr=0.01, beta2=0.99, eps=1e-4),
}
SLOW = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


class Memory:
    """A store in memory: pages of arrays, as `EdgePool.read` gives them."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self.read_pages = 0

    def read(self, name: str, first: int, stop: int) -> np.ndarray:
        self.read_pages += stop - first
        return self.arrays[name][first * PAGE : stop * PAGE].copy()

    def commit(self, pool: EdgePool) -> None:
        for first, stop in pool.dirty_runs():
            for name, array in pool.arrays.items():
                shape = (pool.slots, *array.shape[1:])
                values = pool.values(name, first, stop)
                kept = self.arrays.setdefault(name, np.full(shape, np.nan, np.float32))
                kept[first * PAGE : first * PAGE + len(values)] = values
        pool.mark_stored()


def graph_of_pages(
    seed: int,
    optimizer: OptimizerConfig | None,
    *,
    frames: int | None,
    folder: Path,
    memory: Memory | None = None,
    dtype: torch.dtype = torch.float32,
) -> Random:
    """A random graph whose pages have `PAGE` edges, and of which so many pages fit into memory."""
    graph = random_graph(seed, nodes=NODES, share=0.3, config=PRESETS["tuned"], dtype=dtype)
    whole, index = graph.parameters.edges, graph.parameters.index
    memory = memory or Memory()
    total = np.random.default_rng(seed).integers(1, 100, NODES)
    pages = -(-whole.slots // PAGE)
    stored = np.zeros(pages, bool)
    if memory.arrays:
        stored = ~np.isnan(memory.arrays[BIAS][::PAGE, 0])
    pool = EdgePool(
        whole.initial, slots=whole.slots, stored=stored, read=memory.read, page_edges=PAGE, dtype=dtype,
        rows=lambda: row_pages(pages, index, total, page_edges=PAGE),
    )  # fmt: skip
    state = steps.edge_state_arrays(optimizer, 32) if optimizer is not None else {}
    kept = [name for name in state if name in memory.arrays]
    host_bytes = None
    if frames is not None:
        pool.configure(host_bytes=pool.pages * pool.page_bytes() - 1, folder=folder)  # to know the largest row
        host_bytes = max(pool.least_bytes(state), frames * pool.page_bytes(state))
    pool.configure(state=state, kept=kept, host_bytes=host_bytes, folder=folder)
    graph.parameters.edges = pool
    return graph


def committed(folder: Path, bias: Callable[[EdgePool], torch.Tensor]) -> tuple[EdgePool, Memory]:
    """All of a graph in memory, and the store that holds every page of it."""
    memory = Memory()
    whole = graph_of_pages(3, None, frames=None, folder=folder, memory=memory).parameters.edges
    whole.put(BIAS, np.arange(whole.slots), bias(whole))
    memory.commit(whole)
    return whole, memory


def all_values(pool: EdgePool) -> dict[str, np.ndarray]:
    every = np.arange(pool.slots)
    return {name: value.numpy().copy() for name, value in pool.stage(every).items()}


@pytest.mark.parametrize("kind", ["rowwise", "adamw-dense", pytest.param("adamw", marks=pytest.mark.slow)])
@settings(max_examples=6, deadline=None, suppress_health_check=SLOW)
@given(seed=st.integers(0, 2**16), share=st.sampled_from([0.02, 0.1, 0.5]), data=st.data())
def test_training_under_any_budget_gives_the_same_bits(
    kind: str, seed: int, share: float, data: st.DataObject, tmp_path: Path
) -> None:
    """Losses, parameters and state, with commits, looks at other text and orders of eviction in between."""
    optimizer, actions = OPTIMIZERS[kind], data.draw(st.lists(st.sampled_from("ttcesw"), min_size=2, max_size=8))
    shuffled = np.random.default_rng(data.draw(st.integers(0, 99)))
    found = []
    for frames in (None, 1):
        memory = Memory()
        graph = graph_of_pages(seed, optimizer, frames=frames, folder=tmp_path, memory=memory)
        parameters, pool = graph.parameters, graph.parameters.edges
        if frames is not None:
            host_bytes = max(pool.least_bytes(), int(share * pool.pages) * pool.page_bytes())
            pool.configure(state=steps.edge_state_arrays(optimizer, 32), host_bytes=host_bytes, folder=tmp_path)
            assert not pool.resident
        seen: list[object] = []
        at = 0
        for k, action in enumerate(actions):
            tokens, lengths = texts(seed + k, nodes=NODES, batch=4, length=7)
            if action == "t":
                at += 1
                following, _ = texts(seed + k + 1, nodes=NODES, batch=4, length=7)
                seen.append(
                    steps.train(parameters, PRESETS["tuned"], optimizer, tokens, lengths, step=at, following=following)
                )
            elif action == "e":
                seen.append(forward.evaluate(parameters, PRESETS["tuned"], tokens, lengths)[0].tolist())
            elif action == "c":
                memory.commit(pool)
            elif action == "s":
                pool.table.reads = shuffled.random(pool.pages)  # any order of eviction
            elif action == "w":
                pool.prefetch = not pool.prefetch
        found.append((seen, all_values(pool), {name: value.tolist() for name, value in parameters.small.items()}))
        pool.close()
    (whole, W_whole, small_whole), (paged, W_paged, small_paged) = found
    assert whole == paged
    assert small_whole == small_paged
    for name, value in W_whole.items():
        assert np.array_equal(value, W_paged[name]), name


@settings(max_examples=8, deadline=None, suppress_health_check=SLOW)
@given(seed=st.integers(0, 2**16), frames=st.integers(1, 40))
def test_decoding_under_any_budget_gives_the_same_bits(seed: int, frames: int, tmp_path: Path) -> None:
    memory = Memory()
    if seed % 2:
        first = graph_of_pages(seed, None, frames=None, folder=tmp_path, memory=memory)
        first.parameters.edges.put(WEIGHT, np.arange(20), torch.ones(20, 32, 32) / 32)
        memory.commit(first.parameters.edges)
    ids = np.random.default_rng(seed).integers(0, NODES, 40).tolist()
    found = []
    for budget in (None, frames):
        graph = graph_of_pages(seed, None, frames=budget, folder=tmp_path, memory=memory)
        walk = Walk(graph.parameters, PRESETS["tuned"])
        walk.start(ids[0])
        seen = []
        for node in ids[1:]:
            energies, default = walk.energies()
            seen.append((energies.tolist(), default))
            walk.carry(node)
        found.append(seen)
        if budget is not None:
            report = graph.parameters.edges.report()
            assert report["requests"] > 0
        graph.parameters.edges.close()
    assert found[0] == found[1]


def test_frames_stay_within_the_budget_and_count_what_they_do(tmp_path: Path) -> None:
    optimizer = OPTIMIZERS["rowwise"]
    graph = graph_of_pages(3, optimizer, frames=1, folder=tmp_path)
    pool = graph.parameters.edges
    assert pool.frame_bytes < 0.6 * pool.pages * pool.page_bytes()
    for at in range(1, 4):
        tokens, lengths = texts(at, nodes=NODES, batch=6, length=7)
        steps.train(graph.parameters, PRESETS["tuned"], optimizer, tokens, lengths, step=at)
        held = pool.table.page_of[pool.table.page_of >= 0]
        assert len(held) == len(np.unique(held)) == pool.pages - pool.missing <= pool.frames
        assert np.array_equal(pool.table.frame_of[held], np.flatnonzero(pool.table.page_of >= 0))
    report = pool.report()
    assert 0 < report["hits"] < report["requests"]
    assert report["evicted"] > 0
    assert report["from_scratch"] > 0
    assert report["scratch_bytes_written"] > 0
    elsewhere = ("from_scratch", "from_store", "generated", "past_frames")
    assert report["requests"] - report["hits"] == sum(report[name] for name in elsewhere)
    assert report["streamed_bytes"] > 0
    assert list(tmp_path.iterdir()) == []  # the scratch file has no name
    pool.close()


@pytest.mark.parametrize("way", ["kernel", "torch", "double"])
def test_rows_are_trained_where_they_lie_in_the_file(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once every page was written, none moves unless it is worth a frame; without the kernel all of them pass by."""
    if way == "torch":
        monkeypatch.setattr(kernel, "load", lambda *_: None)
    optimizer, values = OPTIMIZERS["adamw"], []
    for frames in (None, 1):
        dtype = torch.float64 if way == "double" else torch.float32
        graph = graph_of_pages(5, optimizer, frames=frames, folder=tmp_path, dtype=dtype)
        pool = graph.parameters.edges
        for at in range(1, 5):
            evicted, past = pool.stats.evicted, pool.stats.past_frames
            tokens, lengths = texts(1, nodes=NODES, batch=20, length=9)
            steps.train(graph.parameters, PRESETS["tuned"], optimizer, tokens, lengths, step=at)
        values.append(all_values(pool))
        if frames is not None:
            assert (pool.stats.evicted == evicted) == (pool.stats.past_frames > past) == (way != "torch")
        pool.close()
    for name, value in values[0].items():
        assert np.array_equal(value, values[1][name]), name


def test_a_disk_that_becomes_full_under_the_kernel(tmp_path: Path) -> None:
    optimizer = OPTIMIZERS["rowwise"]
    graph = graph_of_pages(5, optimizer, frames=1, folder=tmp_path)
    pool = graph.parameters.edges
    tokens, lengths = texts(1, nodes=NODES, batch=20, length=9)
    for at in range(1, 4):
        steps.train(graph.parameters, PRESETS["tuned"], optimizer, tokens, lengths, step=at)
    assert pool.past is not None
    with Path("/dev/full").open("wb") as full:
        pool.past.file = full.fileno()
        with pytest.raises(DiskFullError, match="pages that left memory"):
            steps.train(graph.parameters, PRESETS["tuned"], optimizer, tokens, lengths, step=4)
    assert pool.buffer.spilled is not None
    pool.past.file = pool.buffer.spilled.file.fd
    steps.train(graph.parameters, PRESETS["tuned"], optimizer, tokens, lengths, step=4)
    pool.close()


def test_a_row_is_looked_up_again_after_a_page_could_not_be_read(tmp_path: Path) -> None:
    whole, memory = committed(tmp_path, lambda pool: torch.rand(pool.slots, 32))
    graph = graph_of_pages(3, None, frames=10, folder=tmp_path, memory=memory)
    pool, index = graph.parameters.edges, graph.parameters.index
    slots = index.slots()[index.row(0)]
    mine = np.unique(slots // PAGE)
    known = pool.place_row(slots, None)
    pool.table.reads = np.ones(pool.pages)
    pool.table.reads[mine] = 0  # the first to go
    others = np.setdiff1d(np.arange(pool.pages), mine)
    pool.buffer.bring(others[pool.table.frame_of[others] < 0][: int((pool.table.page_of < 0).sum())])
    known = pool.place_row(slots, known)

    def torn(name: str, first: int, stop: int) -> np.ndarray:
        raise StoreDamagedError("page torn")

    pool.source.read = torn
    with pytest.raises(StoreDamagedError):
        pool.buffer.bring(others[pool.table.frame_of[others] < 0][:4])
    pool.source.read = memory.read
    places = torch.from_numpy(pool.place_row(slots, known).row.places)
    assert torch.equal(pool.b[places], whole.b[torch.from_numpy(slots)])
    pool.close()


def test_what_is_rare_in_the_corpus_goes_first(tmp_path: Path) -> None:
    graph = graph_of_pages(3, None, frames=20, folder=tmp_path)
    pool = graph.parameters.edges
    last = pool.frames - 1
    pool.buffer.bring(np.arange(pool.frames))
    pool.table.reads = np.arange(pool.pages, dtype=float)[::-1].copy()  # the last page is the rarest of those in memory
    pool.buffer.bring(np.array([last + 1]))
    assert pool.table.frame_of[last] < 0 <= pool.table.frame_of[last - 1]
    pool.table.reads[:] = 1
    pool.buffer.bring(np.array([0]))
    pool.buffer.bring(np.array([last + 2]), pinned=np.array([1]))
    assert pool.table.frame_of[2] < 0 <= pool.table.frame_of[:2].min()  # 0 was used just now
    pool.close()


def test_the_next_part_comes_while_this_one_is_worked_on(tmp_path: Path) -> None:
    graph = graph_of_pages(3, None, frames=30, folder=tmp_path)
    pool, index = graph.parameters.edges, graph.parameters.index
    parts = pool.parts(index.slots(), index.row_start)
    assert len(parts) > 2
    rows = sorted((part.first, part.stop) for part in parts)
    assert [0, *(stop for _, stop in rows)] == [*(first for first, _ in rows), NODES]
    for at, part in enumerate(pool.sweep(parts)):
        assert (pool.table.frame_of[part.pages] >= 0).all()
        if at + 1 < len(parts):
            assert pool.rows._pager is not None
            pool.rows._pager.submit(int).result()
            assert (pool.table.frame_of[parts[at + 1].pages] >= 0).all()
            assert (pool.table.frame_of[part.pages] >= 0).all()
    pool.close()


@given(st.lists(st.tuples(st.integers(0, 64), st.integers(1, 10**6)), min_size=1, max_size=30))
def test_what_waits_and_what_there_is_to_do_take_turns(parts: list[tuple[int, int]]) -> None:
    waiting, work = np.array(parts).T
    waiting[0] += 1
    order = in_turns(waiting, work)
    assert sorted(order) == list(range(len(parts)))
    waited, worked = np.cumsum(waiting[order]) / waiting.sum(), np.cumsum(work[order]) / work.sum()
    step = np.maximum(waiting / waiting.sum(), work / work.sum()).max()
    assert (np.abs(waited - worked) <= step + 1e-9).all()  # neither is more than a part ahead


def test_a_budget_below_the_least_is_refused(tmp_path: Path) -> None:
    graph = graph_of_pages(3, None, frames=1, folder=tmp_path)
    pool = graph.parameters.edges
    with pytest.raises(HostMemoryError, match="the least that works"):
        pool.configure(host_bytes=pool.least_bytes() - 1, folder=tmp_path)


def test_a_file_that_cannot_be_mapped_is_said_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = graph_of_pages(3, None, frames=None, folder=tmp_path).parameters.edges

    def refused(*_: object) -> None:
        raise OSError(19, "No such device")

    monkeypatch.setattr(mapped_array, "_map", refused)
    for _ in range(2):
        with pytest.raises(OptionError, match="`scratch`"):
            pool.configure(host_bytes=pool.pages * pool.page_bytes() - 1, folder=tmp_path)
    monkeypatch.undo()
    pool.configure()
    assert len(pool.get(BIAS, np.arange(4))) == 4


def test_a_scratch_folder_that_cannot_be_written(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OptionError, match="`scratch`"):
        graph_of_pages(3, None, frames=1, folder=blocked / "below")


@pytest.mark.parametrize("way", ["kernel", "torch"])
def test_amendments_wait_for_their_page_and_join_it(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "torch":
        monkeypatch.setattr(kernel, "load", lambda *_: None)
    memory = Memory()
    pool = graph_of_pages(3, OPTIMIZERS["rowwise"], frames=1, folder=tmp_path, memory=memory).parameters.edges
    everything, rng = np.arange(pool.slots), np.random.default_rng(0)
    for page in range(pool.pages):
        pool.buffer.bring(np.array([page]))
        pool.touch(np.array([page]))
    slots = rng.permutation(everything)[:60]
    values = {
        name: torch.from_numpy(rng.random((len(slots), *array.shape[1:]), dtype=np.float32))
        for name, array in pool.arrays.items()
    }
    pool.unstage(slots, values)
    spilled = pool.buffer.spilled
    assert spilled is not None
    late = spilled.file.late
    waiting = int(late.waiting.sum())
    assert waiting > 20
    for name, some in values.items():
        assert torch.equal(pool.get(name, slots), some)

    # One of two pages cannot be read: the amendments of the other remain pending.
    away = np.flatnonzero(pool.table.frame_of < 0)[:2]
    amended = len(late.of_pages(away[:1]))
    pool.stored[away[1]], spilled.in_file[away[1]] = True, False
    with pytest.raises(KeyError):
        pool.buffer.bring(away)
    assert len(late.of_pages(away[:1])) == amended
    pool.stored[away[1]], spilled.in_file[away[1]] = False, True

    for page in range(pool.pages):
        pool.buffer.bring(np.array([page]))
    assert not late.waiting.any()
    for name, some in values.items():
        assert torch.equal(pool.get(name, slots), some)
    pool.close()


@pytest.mark.parametrize("loading", ["background", "foreground"])
def test_a_page_that_cannot_be_read_stops_the_batch(loading: str, tmp_path: Path) -> None:
    memory = committed(tmp_path, lambda pool: torch.zeros(pool.slots, 32))[1]
    graph = graph_of_pages(3, None, frames=30, folder=tmp_path, memory=memory)
    pool, index = graph.parameters.edges, graph.parameters.index
    pool.prefetch = loading == "background"

    def torn(name: str, first: int, stop: int) -> np.ndarray:
        if stop > pool.pages // 2:
            raise StoreDamagedError("page torn")
        return memory.read(name, first, stop)

    pool.source.read = torn
    with pytest.raises(StoreDamagedError):
        for _ in pool.sweep(pool.parts(index.slots(), index.row_start)):
            pass
    pool.source.read = memory.read
    assert len(list(pool.sweep(pool.parts(index.slots(), index.row_start)))) > 1  # and nothing is stuck
    pool.close()


def test_reads_of_pages_and_the_largest_row() -> None:
    slot, target = np.array([0, 1, 9, 2, 3, 20]), np.array([0, 1, 2, 0, 0, 1], np.int32)
    index = EdgeIndex(3, np.array([0, 3, 4, 6]), target, np.ones(6, np.int64), slot)
    reads, largest = row_pages(3, index, np.array([5, 3, 2]), page_edges=PAGE)
    assert reads.tolist() == [1.0, 0.5, 0.2]
    assert largest == 2


@given(st.sets(st.integers(0, 60)), st.integers(1, 9))
def test_runs_cover_the_pages(pages: set[int], most: int) -> None:
    found = runs(np.array(sorted(pages), np.int64), most=most)
    assert [page for first, stop in found for page in range(first, stop)] == sorted(pages)
    assert all(0 < stop - first <= most for first, stop in found)


@settings(max_examples=12, deadline=None, suppress_health_check=SLOW)
@given(data=st.data(), seed=st.integers(0, 999))
def test_single_edges_are_found_wherever_their_page_is(data: st.DataObject, seed: int, tmp_path: Path) -> None:
    """`get`, `put` and `unstage` against plain arrays, with pages coming, going and being committed in between."""
    memory = Memory()
    pool = graph_of_pages(seed, None, frames=1, folder=tmp_path, memory=memory).parameters.edges
    everything = np.arange(pool.slots)
    model = {WEIGHT: pool.initial.weight(everything), BIAS: pool.initial.bias(everything)}
    rng = np.random.default_rng(seed)
    for action in data.draw(st.lists(st.sampled_from("gpubec"), min_size=1, max_size=20)):
        slots = np.unique(rng.integers(0, pool.slots, 30))
        names = [WEIGHT, BIAS] if action == "u" else [BIAS]
        if action == "g":
            assert np.array_equal(pool.get(BIAS, slots).numpy(), model[BIAS][slots])
        elif action in "pu":
            for name in names:
                model[name][slots] = rng.random((len(slots), *model[name].shape[1:]), dtype=np.float32)
            pool.unstage(slots, {name: torch.from_numpy(model[name][slots]) for name in names})
        elif action == "b":
            pool.buffer.bring(np.sort(rng.permutation(pool.pages)[: pool.frames // 2]))
        elif action == "e":
            place = pool.edge(int(slots[0]))
            assert np.array_equal(pool.W[place].numpy(), model[WEIGHT][slots[0]])
            assert np.array_equal(pool.b[place].numpy(), model[BIAS][slots[0]])
        else:
            memory.commit(pool)
    for name, values in model.items():
        assert np.array_equal(pool.get(name, everything).numpy(), values)
    pool.close()
