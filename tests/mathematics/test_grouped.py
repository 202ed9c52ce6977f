"""Grouped against naive: energies, loss and every gradient, on both paths of the contest."""

from __future__ import annotations

import dataclasses

import numpy as np
import oracle
import pytest
import torch
from graphs import Random, random_graph, texts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sifu_graph.config import PRESETS, OptimizerConfig, SignalConfig
from sifu_graph.kernels import native as kernel
from sifu_graph.model import forward
from sifu_graph.ops import contest
from sifu_graph.training import step as steps

PATHS = ["torch", "native"]
RATE = 2.0**10
DESCENT = OptimizerConfig(
    kind="rowwise", lr=RATE * 2.0**50, eps=2.0**50, shared_rate=1.0
)  # so large an eps that sqrt(v) is nothing


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The torch path, or the compiled one."""
    if request.param == "torch":
        monkeypatch.setattr(contest, "native", lambda *_: None)
    elif kernel.compiler() is None:
        pytest.skip("no C++ compiler")
    return str(request.param)


configs = st.builds(
    lambda preset, reset, skip: dataclasses.replace(PRESETS[preset], reset_after=reset, skip_current=skip),
    st.sampled_from(sorted(PRESETS)),
    st.sampled_from([None, 1, 3, 7]),
    st.booleans(),
)
shapes = st.fixed_dictionaries(
    {
        "nodes": st.integers(2, 40),
        "share": st.sampled_from([0.0, 0.1, 0.5, 1.0]),
        "width": st.sampled_from([16, 32]),
    }
)
batches = st.tuples(st.integers(1, 6), st.integers(2, 12))


def naive(graph: Random, config: SignalConfig, tokens: np.ndarray, lengths: np.ndarray) -> torch.Tensor:
    """The losses of all positions, text after text."""
    found = [oracle.run(graph.model, config, row[:size].tolist())[1] for row, size in zip(tokens, lengths, strict=True)]
    return torch.cat(found)


def gradients(
    graph: Random, config: SignalConfig, tokens: np.ndarray, lengths: np.ndarray
) -> tuple[float, dict[str, torch.Tensor]]:
    """The package's loss and gradients: a step of plain descent moves each parameter by its gradient times RATE."""
    parameters = graph.parameters
    parameters.edges.configure(state=steps.edge_state_arrays(DESCENT, parameters.width))
    before = {"W": parameters.edges.W.clone(), "b": parameters.edges.b.clone()}
    before |= {name: value.clone() for name, value in parameters.small.items()}
    loss, _ = steps.train(parameters, config, DESCENT, tokens, lengths, step=1)
    after = {"W": parameters.edges.W, "b": parameters.edges.b, **parameters.small}
    return loss, {name: (before[name] - after[name]) / RATE for name in before}


def close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float, *, terms: float = 0.5) -> None:
    """Equal to the tolerance, relative to the greatest value, or to ``terms`` where such terms cancel to nothing."""
    if wanted.numel():
        assert float((found - wanted).abs().max()) <= tolerance * max(terms, float(wanted.abs().max()))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**16), config=configs, shape=shapes, batch=batches)
def test_loss_and_energies(
    path: str,
    dtype: torch.dtype,
    tolerance: float,
    seed: int,
    config: SignalConfig,
    shape: dict,
    batch: tuple,
) -> None:
    graph = random_graph(seed, config=config, dtype=dtype, **shape)
    tokens, lengths = texts(seed, nodes=shape["nodes"], batch=batch[0], length=batch[1])
    planned = forward.plan(graph.parameters, config, tokens, lengths)
    sweep = forward.carry(graph.parameters, config, planned)
    outcome, energies = contest.forward(sweep.rows, planned.plan, sweep.S, energies=True)
    assert energies is not None

    wanted_energies, wanted_losses = [], []
    for row, size in zip(tokens, lengths, strict=True):
        found, losses = oracle.run(graph.model, config, row[:size].tolist())
        wanted_energies += found
        wanted_losses.append(losses.detach())
    close(outcome.loss(sweep.rows.scale).mean(), torch.cat(wanted_losses).mean(), tolerance)

    # Every energy: the package's are grouped by source, so they are looked up by (source, target).
    pieces = torch.split(
        energies, (torch.diff(planned.plan.first_position) * torch.diff(planned.plan.first_edge)).tolist()
    )
    sums: dict[int, torch.Tensor] = {}
    for g, u in enumerate(planned.plan.source):
        span = slice(int(planned.plan.first_position[g]), int(planned.plan.first_position[g + 1]))
        full = outcome.default_energy[span, None].repeat(1, shape["nodes"])
        row = graph.parameters.index.row(int(u))
        full[:, graph.parameters.index.target[row].astype(np.int64)] = pieces[g].reshape(full.shape[0], -1)
        sums[int(u)] = full
    sources = np.concatenate([row[: size - 1] for row, size in zip(tokens, lengths, strict=True)])
    for u, full in sums.items():
        wanted = torch.stack([wanted_energies[i].detach() for i in np.flatnonzero(sources == u)])
        order = lambda rows: rows[np.lexsort(np.round(rows.double().numpy(), 4).T)]  # noqa: E731
        close(order(full), order(wanted), 1e-4 if dtype == torch.float32 else tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**16), config=configs, shape=shapes, batch=batches)
def test_gradients(
    path: str,
    dtype: torch.dtype,
    tolerance: float,
    seed: int,
    config: SignalConfig,
    shape: dict,
    batch: tuple,
) -> None:
    config = dataclasses.replace(config, train_default=True, learn_scale=True)
    graph = random_graph(seed, config=config, dtype=dtype, **shape)
    tokens, lengths = texts(seed, nodes=shape["nodes"], batch=batch[0], length=batch[1])
    wanted_loss = naive(graph, config, tokens, lengths).mean()
    wanted_loss.backward()
    loss, found = gradients(graph, config, tokens, lengths)
    assert loss == pytest.approx(wanted_loss.item(), rel=tolerance, abs=tolerance)  # the difference of two energies
    model = graph.model
    for name, leaf in (
        ("W", model.W), ("b", model.b), ("default/weight", model.default_W), ("default/bias", model.default_b),
        ("nodes/bias", model.node_bias), ("signal/alpha", model.alpha), ("signal/scale", model.scale),
    ):  # fmt: skip
        wanted = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        close(found[name], wanted, tolerance, terms=5.0 if name == "signal/scale" else 1.0)  # of energies


@settings(max_examples=15)
@given(seed=st.integers(0, 2**16), config=configs, threads=st.integers(2, 4), chunks=st.sampled_from([12, 300]))
def test_any_number_of_threads_gives_the_same_bits(seed: int, config: SignalConfig, threads: int, chunks: int) -> None:
    if kernel.compiler() is None:
        pytest.skip("no C++ compiler")
    results = []
    usual = torch.get_num_threads()
    try:
        for count in (1, threads):
            torch.set_num_threads(count)
            graph = random_graph(seed, nodes=90, share=0.9, config=config, dtype=torch.float32)
            tokens, lengths = texts(seed, nodes=90, batch=chunks, length=9)
            results.append(gradients(graph, config, tokens, lengths))
    finally:
        torch.set_num_threads(usual)
    (loss, one), (other_loss, other) = results
    assert loss == other_loss
    for name, gradient in one.items():
        assert torch.equal(gradient, other[name]), name


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**16), candidates=st.integers(1, 60))
def test_sampled_candidates_are_a_softmax_over_a_part_of_the_nodes(path: str, seed: int, candidates: int) -> None:
    config = PRESETS["paper"]
    graph = random_graph(seed, nodes=40, share=0.3, config=config)
    tokens, lengths = texts(seed, nodes=40, batch=3, length=6)
    exact = forward.plan(graph.parameters, config, tokens, lengths)
    sweep = forward.carry(graph.parameters, config, exact)
    rng = np.random.default_rng(seed)
    sampled = forward.plan(graph.parameters, config, tokens, lengths, candidates=candidates, rng=rng)
    full = contest.forward(sweep.rows, exact.plan, sweep.S)[0]
    rows = dataclasses.replace(sweep.rows, place=sampled.plan.slot)
    part = contest.forward(rows, sampled.plan, sweep.S)[0]
    assert torch.equal(full.target_energy, part.target_energy)
    assert bool((part.logsumexp <= full.logsumexp + 1e-12).all())
    if candidates >= 40:
        assert torch.allclose(full.logsumexp, part.logsumexp, rtol=1e-12)
