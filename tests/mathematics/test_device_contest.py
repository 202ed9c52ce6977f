"""The contest in few launches, on CPU tensors: against the naive oracle, and against the contest of the CPU."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import numpy as np
import oracle
import pytest
import torch
from bounds import assert_close
from devices import CPU, DEVICES
from graphs import EDGE_PRESETS, Random, in_text_order, random_graph, texts
from hypothesis import given, settings
from hypothesis import strategies as st

from sifu_graph.config import PRESETS, OptimizerConfig, SignalConfig
from sifu_graph.device import Precision
from sifu_graph.model import forward
from sifu_graph.ops import contest, contest_tiled, optim, tiles
from sifu_graph.ops.contest import ContestBackend
from sifu_graph.ops.contest_tiled import TiledContest

OPTIMIZERS = {
    "rowwise": OptimizerConfig(lr=0.1),
    "clipped": OptimizerConfig(lr=0.1, clip=1e-3, weight_decay=0.01),
    "adamw": OptimizerConfig(kind="adamw", lr=0.01, beta2=0.99, eps=1e-4),
}
configs = st.sampled_from(EDGE_PRESETS).map(PRESETS.__getitem__)
shapes = st.fixed_dictionaries(
    {
        "nodes": st.integers(2, 30),
        "share": st.sampled_from([0.0, 0.1, 0.5, 1.0]),
        "width": st.sampled_from([8, 16]),
    }
)
WEIGHT = 0.25  # of a position in the loss
SLOPE = 1.13  # no slope of GELU is greater
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


def learnt(
    found: Case, engine: ContestBackend, optimizer: OptimizerConfig | None, aside: int
) -> dict[str, torch.Tensor]:
    """Everything that training on the case gives, with every ``aside``-th edge's gradient set aside."""
    d, group, rows = found.graph.parameters.width, found.batch.plan, found.sweep.rows
    gradient_row = torch.full((len(group.slot),), -1)
    gradient_row[::aside] = torch.arange(len(gradient_row[::aside]))
    device = engine.device if isinstance(engine, TiledContest) else CPU
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
    outcome, grads = engine.train(rows, group, found.sweep.S.to(device), weight=WEIGHT, sink=sink)
    assert torch.equal(gradient_row, sink.gradient_row)
    flat = {name: torch.cat([x.flatten() for x in xs]) for name, xs in state.items()}
    results = {
        **{field.name: getattr(outcome, field.name) for field in dataclasses.fields(outcome)},
        "dS": grads.dS, "default_W": grads.default_W, "default_b": grads.default_b, "scale": torch.tensor(grads.scale),
        "dW": sink.dW, "db": sink.db, "W": W, "b": b, **flat,
    }  # fmt: skip
    return {name: value.cpu() for name, value in results.items()}


ENERGIES = ("logsumexp", "target_energy", "default_energy")
GRADIENTS = ("dS", "dW", "db", "default_W", "default_b", "scale")


def terms_of(found: Case) -> tuple[int, dict[str, float]]:
    """How many terms the contest's sums have, and for each result the sum of their absolute values.

    A gradient is a sum, over positions or candidates, of weight (p - [v is the target]) dE_v. In the bias the greatest
    entry of dE_v is at most 1.13: a vector of length 1 times the slope of GELU; in the matrix it has a factor S, and in
    S itself it is a row of the matrix times such a vector. The rounding of a logit moves p by the factor logit eps.
    """
    rows, group, S = found.sweep.rows, found.batch.plan, found.sweep.S
    outcome, flat = found.graph.parameters.backend.forward(rows, group, S, energies=True)
    assert flat is not None
    scale, energy = abs(rows.scale), float(torch.cat([flat, outcome.default_energy]).max())
    logit = scale * energy + float(group.log_defaults.max().clamp_min(0))
    p_default = torch.exp(rows.scale * outcome.default_energy + group.log_defaults.repeat_interleave(
        torch.diff(group.first_position)) - outcome.logsumexp)  # fmt: skip
    most = float((p_default + (group.target < 0)).sum())  # the largest sum of p + [v is the target] of one edge
    begin = 0
    for first, stop, k in zip(
        group.first_position, group.first_position[1:], torch.diff(group.first_edge), strict=False
    ):
        E = flat[begin : begin + int((stop - first) * k)].view(int(stop - first), int(k))
        begin += E.numel()
        p = torch.exp(rows.scale * E - outcome.logsumexp[first:stop, None])
        p += torch.arange(int(k)) == group.target[first:stop, None]
        most = max(most, float(p.sum(0).max()) if k else 0.0)
    bias = WEIGHT * scale * SLOPE * most
    row = max(float(W.norm(dim=-1).max()) if len(W) else 0.0 for W in (rows.W, rows.default_W[None]))
    sizes = {
        "logsumexp": logit, "target_energy": energy, "default_energy": energy, "db": bias, "default_b": bias,
        "dW": bias * float(S.abs().max()), "default_W": bias * float(S.abs().max()),
        "dS": 2 * WEIGHT * scale * SLOPE * row, "scale": 2 * WEIGHT * group.positions * energy,
    }  # fmt: skip
    return S.shape[1] + group.positions + int(logit**2), sizes


def compare(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], at: Case, names: tuple[str, ...]) -> None:
    terms, sizes = terms_of(at)
    for name in names:
        assert_close(found[name], wanted[name], terms=terms, size=sizes[name], dtype=at.sweep.S.dtype, what=name)


def stepped(found: Case, engine: ContestBackend, optimizer: OptimizerConfig, aside: int) -> dict[str, torch.Tensor]:
    """The edges and their state as the engine's own gradients move them, where they are not set aside.

    An optimizer divides a gradient by its length: one that cancels to nothing, but for rounding, moves an edge as far
    as any other. So the step is compared with that of the same gradient.
    """
    rows, group = found.sweep.rows, found.batch.plan
    every = learnt(found, engine, None, 1)
    moved = torch.ones(len(group.slot), dtype=torch.bool)
    moved[::aside] = False
    parts = [rows.W.clone(), rows.b.clone()]
    state = (
        {"v_row": [parts[1].new_zeros(len(parts[1]))]}
        if optimizer.kind == "rowwise"
        else {name: [torch.zeros_like(part) for part in parts] for name in ("m", "v")}
    )
    grads = [every["dW"][moved], every["db"][moved]]
    optim.update(optimizer, step=3, parts=parts, grads=grads, state=state, rows=group.slot[moved])
    flat = {name: torch.cat([x.flatten() for x in xs]) for name, xs in state.items()}
    return {"W": parts[0], "b": parts[1], **flat}


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
    engine, rows = TiledContest(device, launch_bytes=launch_bytes), found.sweep.rows
    there = {name: getattr(rows, name).to(device) for name in ("W", "b", "default_W", "default_b", "pe")}
    on_device, energies_there = engine.forward(
        dataclasses.replace(rows, **there), group, found.sweep.S.to(device), energies=True
    )
    assert energies_there is not None
    outcome, flat = on_device.cpu(), energies_there.cpu()
    tokens, lengths = texts(seed, nodes=shape["nodes"], batch=size[0], length=size[1])
    losses, energies = [], []
    for row, length in zip(tokens, lengths, strict=True):
        every, each = oracle.run(found.graph.model, config, row[:length].tolist())
        energies += every
        losses.append(each.flatten())
    wanted, at = torch.stack(energies), in_text_order(found.batch, config, tokens, lengths)
    terms, largest = shape["width"] * (size[1] - 1), float(wanted.detach().max())
    loss = outcome.loss(found.sweep.rows.scale)
    logit = abs(rows.scale) * largest + math.log(shape["nodes"])
    assert_close(loss, torch.cat(losses)[at], terms=terms, size=logit)
    begin = 0
    for g, u in enumerate(group.source):
        here = slice(int(group.first_position[g]), int(group.first_position[g + 1]))
        row = parameters.index.row(int(u))
        own = flat[begin : begin + (here.stop - here.start) * (row.stop - row.start)].view(here.stop - here.start, -1)
        begin += own.numel()
        full = outcome.default_energy[here, None].repeat(1, shape["nodes"])
        full[:, parameters.index.target[row].astype(np.int64)] = own
        assert_close(full, wanted[at[here]], terms=terms, size=largest)
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
    optimizer = OPTIMIZERS[kind]
    for dtype in (torch.float64, torch.float32):
        found = case(seed, config, shape, size, dtype, candidates)
        cpu = found.graph.parameters.backend
        wanted = learnt(found, cpu, optimizer, aside)
        got = learnt(found, TiledContest(device), optimizer, aside)
        compare(got, wanted, found, (*ENERGIES, *GRADIENTS))
        if dtype == torch.float64:
            assert torch.equal(got["best"], wanted["best"])
        d, before = shape["width"], {"W": found.sweep.rows.W, "b": found.sweep.rows.b}
        for engine, result in ((cpu, wanted), (TiledContest(device), got)):
            for name, value in stepped(found, engine, optimizer, aside).items():
                way = (value - before[name]).abs() + value.abs() if name in before else value
                what = f"{name} of {type(engine).__name__}"
                assert_close(result[name], value, terms=d * d + d, size=way, dtype=dtype, what=what)


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

    class InParts(TiledContest):
        def train(self, *args: object, **options: object) -> object:
            return super().train(*args, **options, parts=iter(parts))  # type: ignore[arg-type]

    blocks, pairs = data.draw(st.sampled_from([1, 3, 4096])), data.draw(st.sampled_from([1, 999, 1 << 24]))
    whole = learnt(found, TiledContest(device), OPTIMIZERS["clipped"], 3)
    cut = learnt(found, InParts(device, piece_blocks=blocks, piece_pairs=pairs), OPTIMIZERS["clipped"], 3)
    for name, value in whole.items():
        assert torch.equal(value, cut[name]), name


def test_gradients_without_an_optimizer_are_dropped_but_for_those_set_aside() -> None:
    found = case(3, PRESETS["tuned"], {"nodes": 30, "share": 0.5, "width": 32}, (4, 20), torch.float64)
    cpu = found.graph.parameters.backend
    got, wanted = (learnt(found, engine, None, 2) for engine in (TiledContest(CPU), cpu))
    compare(got, wanted, found, (*ENERGIES, *GRADIENTS))
    assert torch.equal(got["W"], found.sweep.rows.W)


@pytest.mark.parametrize(("precision", "digits"), [("tf32", torch.float16), ("bf16", torch.bfloat16)])
def test_rounded_products_are_near_the_others(precision: Precision, digits: torch.dtype) -> None:
    """Factors are rounded (tf32 has as many digits as float16), products are added in float32: one rounding a term."""
    found = case(5, PRESETS["tuned"], {"nodes": 40, "share": 0.5, "width": 32}, (6, 30), torch.float32)
    before = torch.get_float32_matmul_precision()
    got = learnt(found, TiledContest(CPU, precision=precision), OPTIMIZERS["rowwise"], 3)
    wanted = learnt(found, TiledContest(CPU), OPTIMIZERS["rowwise"], 3)
    assert torch.get_float32_matmul_precision() == before
    for name in ("logsumexp", "target_energy", "dS"):
        largest = float(wanted[name].abs().max())
        assert_close(got[name], wanted[name], terms=1, size=largest, dtype=digits, what=name)
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
    terms = 1 + len(rows)
    largest = float(torch.cat([left, right]).abs().max()) if rows else 0.0
    size = 1 + len(rows) * max(largest, largest**2)
    assert_close(into, wanted, terms=terms, size=size)
    assert_close(bias, wanted_bias, terms=terms, size=size)


@settings(max_examples=100)
@given(st.lists(st.integers(1, 3000), min_size=1, max_size=20))
def test_tiles_hold_every_position_and_are_at_most_half_empty(positions: list[int]) -> None:
    counts = np.array(positions)
    padded = tiles._padded(counts)
    assert (padded >= counts).all()
    assert (padded <= np.maximum(2 * counts, counts + 3)).all()
