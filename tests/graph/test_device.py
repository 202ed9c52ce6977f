"""Frames on a device, with the device ``cpu``: any budget, any order of eviction, the same bits as all of it there."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from bounds import assert_close
from devices import CPU, DEVICES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sifu_store import Store
from sifu_store.errors import DeviceMemoryError, OptionError
from small import whole, write_poems, write_text
from test_cache import NODES, OPTIMIZERS, Memory, all_values, graph_of_pages

from sifu_graph import Graph, build_graph
from sifu_graph.config import PRESETS
from sifu_graph.generation.sampler import Sampler
from sifu_graph.generation.walk import Walk
from sifu_graph.model import forward
from sifu_graph.ops.contest_tiled import TiledContest
from sifu_graph.paging import device_budget
from sifu_graph.paging.device_budget import WORK_BYTES
from sifu_graph.paging.device_pool import DevicePool
from sifu_graph.training import step as steps

SLOW = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
CONFIG = PRESETS["tuned"]


def tier_over(pool: object, frames: int | None, device: torch.device = CPU) -> DevicePool:
    """A tier of at least so many frames, or of all."""
    all_bytes = pool.pages * pool.page_bytes()  # type: ignore[attr-defined]
    tier = DevicePool(pool, TiledContest(device), device_bytes=all_bytes)  # type: ignore[arg-type]
    if frames is None:
        return tier
    tier.close()
    device_bytes = max(pool.least_bytes(), frames * pool.page_bytes())  # type: ignore[attr-defined]
    return DevicePool(pool, TiledContest(device), device_bytes=device_bytes)  # type: ignore[arg-type]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["rowwise", "adamw-dense", pytest.param("adamw", marks=pytest.mark.slow)])
@settings(max_examples=4, suppress_health_check=SLOW)
@given(seed=st.integers(0, 2**16), data=st.data())
def test_training_on_any_part_of_a_device_gives_the_same_bits(
    kind: str, device: torch.device, seed: int, data: st.DataObject, tmp_path: Path
) -> None:
    """With commits, looks at other text and orders of eviction in between; near what the CPU gives without a tier."""
    optimizer, actions = OPTIMIZERS[kind], data.draw(st.lists(st.sampled_from("ttcesw"), min_size=2, max_size=5))
    shuffled = np.random.default_rng(data.draw(st.integers(0, 99)))
    budgets = [("none", None), (None, None), (data.draw(st.integers(1, 30)), data.draw(st.sampled_from([None, 1, 20])))]
    found = []
    for frames, host_frames in budgets:
        memory = Memory()
        graph = graph_of_pages(seed, optimizer, frames=host_frames, folder=tmp_path, memory=memory)
        parameters, pool = graph.parameters, graph.parameters.edges
        tier = None if frames == "none" else tier_over(pool, frames, device)  # type: ignore[arg-type]
        parameters.tier = tier
        assert tier is None or tier.resident == (frames is None or tier.frames == tier.pages)
        seen: list[object] = []
        at = 0
        for k, action in enumerate(actions):
            tokens, lengths = texts_of(seed + k)
            if action == "t":
                at += 1
                following = texts_of(seed + k + 1)[0]
                seen.append(
                    steps.train(parameters, CONFIG, optimizer, tokens, lengths, step=at, following=following)[0]
                )
            elif action == "e":
                seen += forward.evaluate(parameters, CONFIG, tokens, lengths)[0].tolist()
                examined = forward.examine(parameters, CONFIG, tokens, lengths)
                seen += examined.loss.tolist()
            elif action == "c":
                if tier is not None:
                    tier.write_back()
                memory.commit(pool)
            elif action == "s":
                parameters.working.table.reads = shuffled.random(pool.pages)  # any order of eviction
            elif action == "w":
                parameters.working.prefetch = not parameters.working.prefetch
        values = {
            name: value.cpu().numpy().copy() for name, value in parameters.working.stage(np.arange(pool.slots)).items()
        }
        if tier is not None:
            tier.write_back()
            tier.close()
            for name, value in all_values(pool).items():
                assert np.array_equal(value, values[name]), name
        found.append((seen, {**values, **{name: value.numpy() for name, value in parameters.small.items()}}))
        pool.close()
    plain, everything, part = found
    assert everything[0] == part[0]
    # Not rounding alone: an optimizer divides by the length of a gradient, so the rounding of a small one is enlarged.
    # That its terms are rounded as they may be is what test_device_contest compares.
    assert np.allclose(plain[0], everything[0], rtol=1e-4)
    for name, value in everything[1].items():
        assert np.array_equal(value, part[1][name]), name
        if kind != "adamw-dense" or not name.startswith("optimizer/"):
            scale = max(1.0, float(np.abs(value).max(initial=0)))
            assert np.allclose(value, plain[1][name], rtol=1e-2, atol=1e-3 * scale), name


def texts_of(seed: int) -> tuple[np.ndarray, np.ndarray]:
    from graphs import texts

    return texts(seed, nodes=NODES, batch=4, length=7)


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=4, suppress_health_check=SLOW)
@given(seed=st.integers(0, 2**16), frames=st.integers(1, 40), host_frames=st.sampled_from([None, 1]))
def test_decoding_on_any_part_of_a_device_gives_the_same_bits(
    device: torch.device, seed: int, frames: int, host_frames: int | None, tmp_path: Path
) -> None:
    ids = np.random.default_rng(seed).integers(0, NODES, 30).tolist()
    found = []
    for part in (None, frames):
        graph = graph_of_pages(seed, None, frames=host_frames, folder=tmp_path)
        parameters = graph.parameters
        parameters.tier = tier_over(parameters.edges, part, device)
        walk, seen, sampler = Walk(parameters, CONFIG), [], Sampler(temperature=0.0)
        walk.start(ids[0])
        plain = Walk(graph_of_pages(seed, None, frames=None, folder=tmp_path).parameters, CONFIG)
        plain.start(ids[0])
        for node in ids[1:]:
            energies, default = walk.energies()
            other, other_default = plain.energies()
            one, two = [*energies, default], [*other, other_default]
            assert_close(one, two, terms=32 * len(ids), size=max(two), dtype=torch.float32)
            seen.append((energies.tolist(), default, walk.choose(sampler, np.random.default_rng(0))))
            walk.carry(node)
            plain.carry(node)
        found.append(seen)
        parameters.tier.close()
        parameters.edges.close()
    assert found[0] == found[1]


def test_pages_move_only_as_often_as_they_must(tmp_path: Path) -> None:
    optimizer = OPTIMIZERS["rowwise"]
    graph = graph_of_pages(1, optimizer, frames=None, folder=tmp_path)
    parameters, pool = graph.parameters, graph.parameters.edges
    tier = parameters.tier = tier_over(pool, None)
    tokens, lengths = texts_of(1)
    for at in (1, 2):
        steps.train(parameters, CONFIG, optimizer, tokens, lengths, step=at)
    found = tier.report()
    met = tier.pages - tier.missing
    assert found["device_bytes_in"] <= met * pool.page_bytes()
    assert found["device_bytes_in"] > (met - 1) * pool.page_bytes()
    assert found["device_bytes_out"] == found["device_evicted"] == 0
    tier.write_back()
    assert 0 < tier.report()["device_bytes_out"] <= met * pool.page_bytes()
    before = tier.report()["device_bytes_out"]
    tier.write_back()
    assert tier.report()["device_bytes_out"] == before
    assert set(np.flatnonzero(pool.table.dirty)) <= set(np.flatnonzero(tier.table.frame_of >= 0))
    tier.close()
    part = parameters.tier = tier_over(pool, 1)
    steps.train(parameters, CONFIG, optimizer, tokens, lengths, step=3)
    found = part.report()
    assert found["device_evicted"] > 0
    assert found["device_bytes_out"] > 0
    assert 0 <= found["device_hit_rate"] < 1
    assert found["device_pool_bytes"] == part.frames * pool.page_bytes()
    assert part.frames < pool.pages
    part.close()


# ---- graphs in a store


@pytest.fixture
def store(tmp_path: Path) -> Path:
    text = write_text(tmp_path / "text.txt", documents=600)
    path = tmp_path / "graph.sifu"
    build_graph([text], path, vocab=60, sparsify=1.0, length=16, holdout=0.1, signal="tuned")
    return path


def test_a_run_on_a_device_of_any_size_writes_the_same_store(tmp_path: Path) -> None:
    store, other = tmp_path / "graph.sifu", tmp_path / "other.sifu"
    text = write_poems(tmp_path / "poems.txt", poems=800)
    build_graph([text], store, vocab=200, sparsify=0.3, width=16, length=16, holdout=0.02, signal="tuned")
    shutil.copytree(store, other)
    made = {}
    for path, device_memory in {store: "1GiB", other: "10MiB"}.items():
        with Graph.open(path, device_memory=device_memory) as graph:
            report = graph.train(steps=2, batch=8, seed=1, commit_every=1)
            assert report.cache["device_evicted"] == 0 if path == store else report.cache["device_evicted"] > 0
            assert 0 < report.cache["device_pool_bytes"] <= (1 << 30 if path == store else 10 << 20)
            made[path] = (
                report.perplexity, report.heldout_perplexity, graph.evaluate(limit=300),
                graph.generate("春風", tokens=20, seed=1).text,
            )  # fmt: skip
            graph.trace("春風")  # on the CPU, whatever the graph was opened with
            graph.inspect("春", "風")
    assert made[store] == made[other]
    with Store.open(store) as a, Store.open(other) as b:
        for name in a.names():
            assert np.array_equal(whole(a, name), whole(b, name)), name
    with Graph.open(store) as graph:  # what the CPU says of it
        assert graph.evaluate(limit=300).perplexity == pytest.approx(made[store][2].perplexity, rel=1e-4)


def test_too_little_of_the_device(store: Path) -> None:
    with Graph.open(store, device_memory="1MiB") as graph:
        before = graph.store.snapshot
        with pytest.raises(DeviceMemoryError, match=r"`device_memory` is 1\.0 MiB: the least that works here is"):
            graph.train(steps=1, batch=8)
        assert graph.store.snapshot == before


def test_devices_that_are_not_there(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for device in ("gpu", "cuda:", "cuda:x", "CPU"):
        with pytest.raises(OptionError, match="it must be cpu, cuda or cuda:N"):
            Graph.open(store, device=device)
    with pytest.raises(OptionError, match="`device_memory` is 'much'"):
        Graph.open(store, device_memory="much")
    with pytest.raises(OptionError, match="it must be float32, tf32, bf16"):
        Graph.open(store, precision="int8")
    with pytest.raises(OptionError, match='pass `device="cuda"` with it'):
        Graph.open(store, precision="bf16")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.version.hip", None)
    monkeypatch.setattr("torch.version.cuda", None)
    with pytest.raises(OptionError, match="is built for the CPU only"):
        Graph.open(store, device="cuda")
    monkeypatch.setattr("torch.version.cuda", "12.8")
    with pytest.raises(OptionError, match=r"is built for CUDA 12\.8, but finds no GPU"):
        Graph.open(store, device="cuda:1")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(OptionError, match="the GPUs here are cuda:0 to cuda:0"):
        Graph.open(store, device="cuda:1")


def test_a_gpu_that_runs_out_of_memory_loses_nothing(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of")

    with Graph.open(store, device_memory="1GiB") as graph:
        graph.train(steps=1, batch=8)
        before = graph.store.snapshot
        with monkeypatch.context() as patch:
            patch.setattr(TiledContest, "train", full)
            with pytest.raises(DeviceMemoryError, match="lower `device_memory` or `batch`") as error:
                graph.train(steps=1)
            assert "\n" not in str(error.value)
        assert graph.store.snapshot == before
        assert graph.train(steps=1).step == 2


def test_what_is_free_is_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_budget, "memory_of", lambda _: (10 << 30, 80 << 30))
    assert device_budget.budget("25%", CPU) == 20 << 30
    assert device_budget.budget(None, CPU) == int(0.8 * (10 << 30)) - WORK_BYTES
    monkeypatch.setattr(device_budget, "memory_of", lambda _: (1 << 20, 80 << 30))
    assert device_budget.budget(None, CPU) == 0
