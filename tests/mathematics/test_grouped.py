"""Grouped against naive: energies, loss and every gradient, on both paths of the contest."""

from __future__ import annotations

import dataclasses
import math

import needs
import numpy as np
import oracle
import pytest
import torch
from bounds import assert_close, bound
from graphs import EDGE_PRESETS, Random, in_text_order, random_graph, texts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sifu_graph.config import PRESETS, OptimizerConfig, SignalConfig
from sifu_graph.kernels import native as kernel
from sifu_graph.model import forward
from sifu_graph.ops.contest_torch import TorchContest
from sifu_graph.training import step as steps

PATHS = ["torch", "native"]
DTYPES = [torch.float64, torch.float32]
RATE = 2.0**10
DESCENT = OptimizerConfig(
    kind="rowwise", lr=RATE * 2.0**70, eps=2.0**70, shared_rate=1.0
)  # so large an eps that sqrt(v) is nothing


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The torch path, or the compiled one."""
    if request.param == "torch":
        monkeypatch.setattr("sifu_graph.model.parameters.cpu_contest", lambda *_: TorchContest())
    elif kernel.compiler() is None:
        pytest.skip(needs.COMPILER)
    return str(request.param)


configs = st.builds(
    lambda preset, reset, skip: dataclasses.replace(PRESETS[preset], reset_after=reset, skip_current=skip),
    st.sampled_from(EDGE_PRESETS),
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


@dataclasses.dataclass
class Naive:
    """What the oracle finds on a batch, and how large the numbers are that it adds up."""

    energies: torch.Tensor  # [T, n]
    losses: torch.Tensor  # [T]
    targets: torch.Tensor  # [T], the energies of the true targets
    scale: torch.Tensor  # [1]
    width: int
    steps: int  # the edges that a signal passes, at most

    @classmethod
    def of(cls, graph: Random, config: SignalConfig, tokens: np.ndarray, lengths: np.ndarray) -> Naive:
        energies, losses, targets = [], [], []
        for row, size in zip(tokens.tolist(), lengths.tolist(), strict=True):
            every, each = oracle.run(graph.model, config, row[:size])
            energies += every
            losses.append(each.flatten())
            targets += [E[v] for E, v in zip(every, row[1:size], strict=True)]
        steps = min(tokens.shape[1] - 1, config.reset_after or tokens.shape[1])
        scale = graph.model.scale
        return cls(torch.stack(energies), torch.cat(losses), torch.stack(targets), scale, graph.parameters.width, steps)

    @property
    def terms(self) -> int:
        """Rounded additions on the way to an energy: a matrix product for each edge that the signal passes."""
        return self.width * self.steps

    @property
    def energy(self) -> float:
        """The largest."""
        return float(self.energies.detach().max())

    @property
    def logit(self) -> float:
        """The largest of what the loss is a difference of."""
        return float(self.scale.detach().abs()) * self.energy + math.log(self.energies.shape[1])

    def gradient_terms(self) -> int:
        """Rounded additions on the way to a gradient.

        Every term of it has a factor p - [v is the target]. An error e in a logit moves p by the factor 1 + e, so the
        rounding of a logit counts as ``logit`` roundings of p that have one sign: as ``logit**2`` independent ones.
        """
        return self.terms + math.ceil(self.logit**2)

    def gradients(self, leaves: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        """The gradients of the mean loss, and for each the size of its terms.

        The loss is the difference logsumexp - scale E_target, and its gradient that of theirs, which may cancel
        to nothing: with two default edges p is 1/2 whatever their parameters are. The gradient of the sum
        logsumexp + scale E_target has the same terms, (p + [v is the target]) dE_v, and they do not cancel.
        """
        size_of = self.losses + 2 * self.scale * self.targets
        found = []
        for values in (self.losses, size_of):
            each = torch.autograd.grad(values.mean(), list(leaves.values()), retain_graph=True, allow_unused=True)
            found.append([torch.zeros_like(x) if g is None else g for g, x in zip(each, leaves.values(), strict=True)])
        sizes = {name: float(g.abs().max()) if g.numel() else 0.0 for name, g in zip(leaves, found[1], strict=True)}
        # alpha's terms cancel once more: a softmax takes their mean away. They are products of a signal and the
        # gradient at the mix, as the terms of the matrices' gradients are.
        sizes["signal/alpha"] = max(sizes["W"], sizes["default/weight"])
        return dict(zip(leaves, found[0], strict=True)), sizes


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


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**16), config=configs, shape=shapes, batch=batches)
def test_loss_and_energies(
    path: str, dtype: torch.dtype, seed: int, config: SignalConfig, shape: dict, batch: tuple
) -> None:
    graph = random_graph(seed, config=config, dtype=dtype, **shape)
    tokens, lengths = texts(seed, nodes=shape["nodes"], batch=batch[0], length=batch[1])
    planned = forward.plan(graph.parameters, config, tokens, lengths)
    sweep = forward.carry(graph.parameters, config, planned)
    outcome, energies = graph.parameters.backend.forward(sweep.rows, planned.plan, sweep.S, energies=True)
    assert energies is not None

    wanted = Naive.of(graph, config, tokens, lengths)
    at = in_text_order(planned, config, tokens, lengths)
    loss = outcome.loss(sweep.rows.scale)
    assert_close(loss, wanted.losses[at], terms=wanted.terms, size=wanted.logit, dtype=dtype, what="loss")

    # Every energy: the package's are grouped by source.
    pieces = torch.split(
        energies, (torch.diff(planned.plan.first_position) * torch.diff(planned.plan.first_edge)).tolist()
    )
    for g, u in enumerate(planned.plan.source):
        span = slice(int(planned.plan.first_position[g]), int(planned.plan.first_position[g + 1]))
        full = outcome.default_energy[span, None].repeat(1, shape["nodes"])
        row = graph.parameters.index.row(int(u))
        full[:, graph.parameters.index.target[row].astype(np.int64)] = pieces[g].reshape(full.shape[0], -1)
        assert_close(
            full, wanted.energies[at[span]], terms=wanted.terms, size=wanted.energy, dtype=dtype, what=f"row {u}"
        )


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**16), config=configs, shape=shapes, batch=batches)
def test_gradients(path: str, dtype: torch.dtype, seed: int, config: SignalConfig, shape: dict, batch: tuple) -> None:
    config = dataclasses.replace(config, train_default=True, learn_scale=True)
    graph = random_graph(seed, config=config, dtype=dtype, **shape)
    tokens, lengths = texts(seed, nodes=shape["nodes"], batch=batch[0], length=batch[1])
    model, wanted = graph.model, Naive.of(graph, config, tokens, lengths)
    leaves = {
        "W": model.W, "b": model.b, "default/weight": model.default_W, "default/bias": model.default_b,
        "nodes/bias": model.node_bias, "signal/alpha": model.alpha, "signal/scale": model.scale,
    }  # fmt: skip
    loss, found = gradients(graph, config, tokens, lengths)
    assert_close(loss, wanted.losses.mean(), terms=wanted.terms, size=wanted.logit, dtype=dtype, what="loss")
    gradient, sizes = wanted.gradients(leaves)
    stored = 1 / RATE  # a gradient is read from parameters that it moved, of at most 1.3
    for name, value in gradient.items():
        size = sizes[name] + stored
        assert_close(found[name], value, terms=wanted.gradient_terms(), size=size, dtype=dtype, what=name)


@settings(max_examples=4)
@given(seed=st.integers(0, 2**16), config=configs, threads=st.integers(2, 4), chunks=st.sampled_from([12, 300]))
def test_any_number_of_threads_gives_the_same_bits(seed: int, config: SignalConfig, threads: int, chunks: int) -> None:
    if kernel.compiler() is None:
        pytest.skip(needs.COMPILER)
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
    full = graph.parameters.backend.forward(sweep.rows, exact.plan, sweep.S)[0]
    rows = dataclasses.replace(sweep.rows, place=sampled.plan.slot)
    part = graph.parameters.backend.forward(rows, sampled.plan, sweep.S)[0]
    assert torch.equal(full.target_energy, part.target_energy)
    size = float(full.logsumexp.max())
    assert bool((part.logsumexp <= full.logsumexp + bound(torch.float64, terms=40, size=size)).all())
    if candidates >= 40:
        assert_close(full.logsumexp, part.logsumexp, terms=40, size=size)
