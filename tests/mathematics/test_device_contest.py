"""The contest in few launches, on CPU tensors: against the naive oracle, and against the contest of the CPU."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import oracle
import pytest
import torch
from devices import CPU, DEVICES
from graphs import Random, random_graph, texts
from hypothesis import given, settings
from hypothesis import strategies as st

from sifu_graph.config import PRESETS, OptimizerConfig, SignalConfig
from sifu_graph.device import Precision
from sifu_graph.model import forward
from sifu_graph.ops import contest, contest_tiled
from sifu_graph.ops.contest_tiled import Grouped

OPTIMIZERS = {
    "rowwise": OptimizerConfig(lr=0.1),
    "clipped": OptimizerConfig(lr=0.1, clip=1e-3, weight_decay=0.01),
    "adamw": OptimizerConfig(kind="adamw", lr=0.01, beta2=0.99, eps=1e-4),
}
configs = st.sampled_from(sorted(PRESETS)).map(PRESETS.__getitem__)
shapes = st.fixed_dictionaries(
    {
        "nodes": st.integers(2, 30),
        "share": st.sampled_from([0.0, 0.1, 0.5, 1.0]),
        "width": st.sampled_from([8, 16]),
    }
)
sizes = st.tuples(st.integers(1, 12), st.integers(2, 24))
"""Sequences and tokens: with two nodes, a source has up to 276 positions."""


@dataclasses.dataclass
class Case:
    """A batch of a random graph, ready for the contest."""

    graph: Random
    config: SignalConfig
    batch: forward.Batch
    sweep: forward.Sweep


def case(
    seed: int,
    config: SignalConfig,
    shape: dict,
    size: tuple[int, int],
    dtype: torch.dtype,
    candidates: int | None = None,
) -> Case:
    graph = random_graph(seed, config=config, dtype=dtype, **shape)
    tokens, lengths = texts(seed, nodes=shape["nodes"], batch=size[0], length=size[1])
    batch = forward.plan(
        graph.parameters, config, tokens, lengths, candidates=candidates, rng=np.random.default_rng(seed)
    )
    sweep = forward.carry(graph.parameters, config, batch)
    sweep.rows.place[:] = batch.plan.slot
    return Case(graph, config, batch, sweep)


def learnt(found: Case, engine: object, optimizer: OptimizerConfig | None, aside: int) -> dict[str, torch.Tensor]:
    """Everything that training on the case gives, with every ``aside``-th edge's gradient set aside."""
    d, group, rows = found.graph.parameters.width, found.batch.plan, found.sweep.rows
    gradient_row = torch.full((len(group.slot),), -1)
    gradient_row[::aside] = torch.arange(len(gradient_row[::aside]))
    device = engine.device if isinstance(engine, Grouped) else CPU
    W, b = rows.W.clone().to(device), rows.b.clone().to(device)
    state = {
        name: [W.new_zeros(len(W), *shape) for shape in (((),) if name == "v_row" else ((d, d), (d,)))]
        for name in ("v_row", "m", "v")
    }
    sink = contest.Sink(
        gradient_row, W.new_zeros(len(gradient_row[::aside]), d, d), W.new_zeros(len(gradient_row[::aside]), d),
        optimizer, 3, state,
    )  # fmt: skip
    small = {name: getattr(rows, name).to(device) for name in ("default_W", "default_b", "pe")}
    rows = dataclasses.replace(rows, W=W, b=b, **small)
    outcome, grads = engine.train(rows, group, found.sweep.S.to(device), weight=0.25, sink=sink)  # type: ignore[attr-defined]
    assert torch.equal(gradient_row, sink.gradient_row)
    flat = {name: torch.cat([x.flatten() for x in xs]) for name, xs in state.items()}
    results = {
        **{field.name: getattr(outcome, field.name) for field in dataclasses.fields(outcome)},
        "dS": grads.dS, "default_W": grads.default_W, "default_b": grads.default_b, "scale": torch.tensor(grads.scale),
        "dW": sink.dW, "db": sink.db, "W": W, "b": b, **flat,
    }  # fmt: skip
    return {name: value.cpu() for name, value in results.items()}


def assert_close(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], tolerance: float) -> None:
    for name, value in wanted.items():
        if name == "best":
            continue
        scale = max(1.0, float(value.abs().max())) if value.numel() else 1.0
        assert torch.allclose(found[name].to(value.dtype), value, rtol=tolerance, atol=tolerance * scale), name


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("launch_bytes", [None, 1])
@settings(max_examples=8)
@given(seed=st.integers(0, 2**16), config=configs, shape=shapes, size=sizes)
def test_losses_and_energies_are_those_of_the_oracle(
    launch_bytes: int | None, device: torch.device, seed: int, config: SignalConfig, shape: dict, size: tuple[int, int]
) -> None:
    size = (min(size[0], 4), min(size[1], 12))  # the oracle is slow
    found = case(seed, config, shape, size, torch.float64)
    group, parameters = found.batch.plan, found.graph.parameters
    engine, rows = Grouped(device, launch_bytes=launch_bytes), found.sweep.rows
    there = {name: getattr(rows, name).to(device) for name in ("W", "b", "default_W", "default_b", "pe")}
    on_device, energies_there = engine.forward(
        dataclasses.replace(rows, **there), group, found.sweep.S.to(device), energies=True
    )
    assert energies_there is not None
    outcome, flat = on_device.cpu(), energies_there.cpu()
    tokens, lengths = texts(seed, nodes=shape["nodes"], batch=size[0], length=size[1])
    losses, energies, sources = [], [], []
    for row, length in zip(tokens, lengths, strict=True):
        every, each = oracle.run(found.graph.model, config, row[:length].tolist())
        energies += every
        losses.append(each.detach().flatten())
        sources += row[: length - 1].tolist()
    loss = outcome.loss(found.sweep.rows.scale)
    assert torch.allclose(loss.sort()[0], torch.cat(losses).sort()[0], rtol=1e-10, atol=1e-10)
    begin = 0
    for g, u in enumerate(group.source):
        here = slice(int(group.first_position[g]), int(group.first_position[g + 1]))
        row = parameters.index.row(int(u))
        own = flat[begin : begin + (here.stop - here.start) * (row.stop - row.start)].view(here.stop - here.start, -1)
        begin += own.numel()
        full = outcome.default_energy[here, None].repeat(1, shape["nodes"])
        full[:, parameters.index.target[row].astype(np.int64)] = own
        wanted = torch.stack([energies[i].detach() for i in np.flatnonzero(np.array(sources) == u)])
        assert torch.allclose(full.sum(1).sort()[0], wanted.sum(1).sort()[0], rtol=1e-10)
        assert torch.allclose(full.flatten().sort()[0], wanted.flatten().sort()[0], rtol=1e-10)
    assert begin == len(flat)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("candidates", [None, 7])
@pytest.mark.parametrize("kind", OPTIMIZERS)
@settings(max_examples=5)
@given(seed=st.integers(0, 2**16), config=configs, shape=shapes, size=sizes, aside=st.integers(1, 5))
def test_everything_is_what_the_contest_of_the_cpu_gives(
    kind: str,
    candidates: int | None,
    device: torch.device,
    seed: int,
    config: SignalConfig,
    shape: dict,
    size: tuple[int, int],
    aside: int,
) -> None:
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        found = case(seed, config, shape, size, dtype, candidates)
        wanted = learnt(found, contest, OPTIMIZERS[kind], aside)
        got = learnt(found, Grouped(device), OPTIMIZERS[kind], aside)
        if dtype == torch.float64:
            assert_close(got, wanted, tolerance)
            assert torch.equal(got["best"], wanted["best"])
        else:
            compared = ("logsumexp", "target_energy", "default_energy", "dS", "dW", "db", "default_W", "W", "b")
            assert_close(got, {name: wanted[name] for name in compared}, tolerance)


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=8)
@given(seed=st.integers(0, 2**16), shape=shapes, size=sizes, data=st.data())
def test_the_same_bits_however_the_groups_are_handed_out(
    device: torch.device, seed: int, shape: dict, size: tuple[int, int], data: st.DataObject
) -> None:
    found = case(seed, PRESETS["tuned"], shape, size, torch.float32)
    groups = len(found.batch.plan.source)
    cuts = sorted(data.draw(st.sets(st.integers(1, groups))) | {0, groups})
    parts = list(pairwise(cuts))

    class InParts(Grouped):
        def train(self, *args: object, **options: object) -> object:
            return super().train(*args, **options, parts=iter(parts))  # type: ignore[arg-type]

    blocks, pairs = data.draw(st.sampled_from([1, 3, 4096])), data.draw(st.sampled_from([1, 999, 1 << 24]))
    whole = learnt(found, Grouped(device), OPTIMIZERS["clipped"], 3)
    cut = learnt(found, InParts(device, piece_blocks=blocks, piece_pairs=pairs), OPTIMIZERS["clipped"], 3)
    for name, value in whole.items():
        assert torch.equal(value, cut[name]), name


def test_gradients_without_an_optimizer_are_dropped_but_for_those_set_aside() -> None:
    found = case(3, PRESETS["tuned"], {"nodes": 30, "share": 0.5, "width": 32}, (4, 20), torch.float64)
    got, wanted = (learnt(found, engine, None, 2) for engine in (Grouped(CPU), contest))
    assert_close(got, wanted, 1e-10)
    assert torch.equal(got["W"], found.sweep.rows.W)


@pytest.mark.parametrize(("precision", "tolerance"), [("tf32", 1e-2), ("bf16", 0.1)])
def test_rounded_products_are_near_the_others(precision: Precision, tolerance: float) -> None:
    found = case(5, PRESETS["tuned"], {"nodes": 40, "share": 0.5, "width": 32}, (6, 30), torch.float32)
    before = torch.get_float32_matmul_precision()
    got = learnt(found, Grouped(CPU, precision=precision), OPTIMIZERS["rowwise"], 3)
    wanted = learnt(found, Grouped(CPU), OPTIMIZERS["rowwise"], 3)
    assert torch.get_float32_matmul_precision() == before
    assert_close(got, {name: wanted[name] for name in ("logsumexp", "target_energy", "dS")}, tolerance)
    if precision == "bf16":
        assert not torch.equal(got["logsumexp"], wanted["logsumexp"])


@settings(max_examples=8)
@given(rows=st.lists(st.integers(0, 4), max_size=30), step_=st.sampled_from([1, 3, 2048]))
def test_scatter_adds_outer_products(rows: list[int], step_: int) -> None:
    left, right = torch.randn(2, len(rows), 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    into, bias = torch.ones(5, 6, 6, dtype=torch.float64), torch.ones(5, 6, dtype=torch.float64)
    wanted, wanted_bias = into.clone(), bias.clone()
    for k, row in enumerate(rows):
        wanted[row] += torch.outer(left[k], right[k])
        wanted_bias[row] += right[k]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contest_tiled, "SCATTER", step_)
        contest_tiled.scatter(into, np.array(rows, np.int64), left, right)
        contest_tiled.scatter(bias, np.array(rows, np.int64), left[:, :0], right)
    assert torch.allclose(into, wanted, rtol=1e-12)
    assert torch.allclose(bias, wanted_bias, rtol=1e-12)


@settings(max_examples=100)
@given(st.lists(st.integers(1, 3000), min_size=1, max_size=20))
def test_tiles_hold_every_position_and_are_at_most_half_empty(positions: list[int]) -> None:
    counts = np.array(positions)
    padded = contest_tiled._padded(counts)
    assert (padded >= counts).all()
    assert (padded <= np.maximum(2 * counts, counts + 3)).all()
