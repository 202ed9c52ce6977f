"""Optimizers: the fused updates against the reference, and AdamW against torch's own on a small dense graph."""

from __future__ import annotations

import dataclasses

import needs
import numpy as np
import oracle
import pytest
import torch
from bounds import assert_close
from graphs import random_graph, texts
from hypothesis import given, settings
from hypothesis import strategies as st
from sifu_store.errors import OptionError

from sifu_graph.config import PRESETS, OptimizerConfig
from sifu_graph.kernels import native as kernel
from sifu_graph.ops import contest, optim
from sifu_graph.ops.contest_native import cpu_contest
from sifu_graph.training import step as steps

WIDTH, SLOTS = 32, 7

optimizers = st.builds(
    lambda kind, lr, beta2, eps, decay, clip: OptimizerConfig(
        kind=kind,
        lr=lr,
        beta2=beta2 if kind == "rowwise" else min(beta2, 0.999),
        eps=eps,
        weight_decay=decay,
        clip=clip,
    ),
    st.sampled_from(["rowwise", "adamw"]),
    st.floats(1e-3, 0.5),
    st.sampled_from([0.9, 0.999, 1.0]),
    st.sampled_from([1e-8, 1e-3]),
    st.sampled_from([0.0, 0.1]),
    st.sampled_from([0.0, 0.5]),
)


def state_of(config: OptimizerConfig, rng: np.random.Generator) -> dict[str, list[torch.Tensor]]:
    def draw(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.random(shape))

    if config.kind == "rowwise":
        return {"v_row": [draw(SLOTS)]}
    return {name: [draw(SLOTS, WIDTH, WIDTH), draw(SLOTS, WIDTH)] for name in ("m", "v")}


@settings(max_examples=30)
@given(seed=st.integers(0, 2**16), config=optimizers, at=st.integers(1, 1000))
def test_the_fused_update_is_the_reference(seed: int, config: OptimizerConfig, at: int) -> None:
    if kernel.compiler() is None:
        pytest.skip(needs.COMPILER)
    results, before = [], []
    for native in (True, False):
        rng = np.random.default_rng(seed)
        W, b = (
            torch.from_numpy(rng.random((SLOTS, WIDTH, WIDTH))),
            torch.from_numpy(rng.random((SLOTS, WIDTH))),
        )
        before = [W.clone(), b.clone()]
        slot = torch.from_numpy(rng.permutation(SLOTS)[:4].copy())
        dW, db = (
            torch.from_numpy(rng.random((4, WIDTH, WIDTH)) - 0.5),
            torch.from_numpy(rng.random((4, WIDTH)) - 0.5),
        )
        state = state_of(config, rng)
        sink = contest.Sink(torch.empty(0, dtype=torch.int64), dW, db, config, at, state)
        rows = contest.Rows(W, b, slot, W[0], b[0], b)
        if native:
            cpu_contest(WIDTH, W.dtype).update_edges(rows, sink)
        else:
            optim.update(config, step=at, parts=[W, b], grads=[dW, db], state=state, rows=slot)
        results.append([W, b, *(t for parts in state.values() for t in parts)])
    for k, (fused, reference) in enumerate(zip(*results, strict=True)):
        # a parameter and its step; a state, which is at most 1, and a gradient: the row's length has the most terms
        size = before[k].abs() + (reference - before[k]).abs() if k < 2 else 1 + reference.abs()
        assert_close(fused, reference, terms=WIDTH * WIDTH + WIDTH, size=size)


@pytest.mark.parametrize("preset", ["paper", "brillm05", "tuned"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_dense_equivalent_adamw_is_torch_on_the_dense_graph(preset: str, decay: float) -> None:
    """Some sources occur only now and then: their rows must catch up as torch moves them in every step."""
    config = dataclasses.replace(PRESETS[preset], train_default=True, reset_after=None)
    graph = random_graph(3, nodes=8, share=1.0, config=config, alphas=9)
    optimizer = OptimizerConfig(kind="adamw-dense", lr=5e-3, beta2=0.999, eps=1e-8, weight_decay=decay, shared_rate=1.0)
    parameters, model = graph.parameters, graph.model
    parameters.edges.configure(state=steps.edge_state_arrays(optimizer, parameters.width))
    trained = model.parameters() if config.learn_scale else model.parameters()[:-1]
    reference = torch.optim.AdamW(trained, lr=5e-3, weight_decay=decay)
    rng = np.random.default_rng(0)
    for at in range(1, 9):
        # a row of its own for every step: node at - 1 and two others
        tokens = np.concatenate([np.full((2, 1), at - 1), rng.choice([at - 1, 0, 7], (2, 5))], 1).astype(np.int32)
        lengths = np.array([6, 4])
        losses = [oracle.run(model, config, row[:n].tolist())[1] for row, n in zip(tokens, lengths, strict=True)]
        wanted = torch.cat(losses).mean()
        reference.zero_grad(set_to_none=False)
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        wanted.backward()
        reference.step()
        loss, _ = steps.train(parameters, config, optimizer, tokens, lengths, step=at)
        assert loss == pytest.approx(wanted.item(), rel=1e-10)
    steps.catch_up(optimizer, parameters.edges.arrays, torch.from_numpy(parameters.index.slots()), 8)
    for name, found, leaf in (
        ("W", parameters.edges.W, model.W), ("b", parameters.edges.b, model.b),
        ("default", parameters.default_W, model.default_W), ("alpha", parameters.alpha, model.alpha),
        ("node bias", parameters.node_bias, model.node_bias),
    ):  # fmt: skip
        assert torch.allclose(found, leaf.detach(), rtol=1e-9, atol=1e-12), name


def test_lazy_adamw_leaves_untouched_edges_alone() -> None:
    config = PRESETS["paper"]
    graph = random_graph(5, nodes=20, share=0.5, config=config)
    optimizer = OptimizerConfig(kind="adamw", beta2=0.999)
    graph.parameters.edges.configure(state=steps.edge_state_arrays(optimizer, 32))
    tokens, lengths = texts(5, nodes=6, batch=3, length=5)
    before = graph.parameters.edges.W.clone()
    steps.train(graph.parameters, config, optimizer, tokens, lengths, step=1)
    moved = (before != graph.parameters.edges.W).flatten(1).any(1).numpy()
    index = graph.parameters.index
    source = np.empty(index.edges, np.int64)
    source[index.slots()] = np.repeat(np.arange(index.nodes), index.row_sizes())
    read = np.unique(np.concatenate([row[: n - 1] for row, n in zip(tokens, lengths, strict=True)]))
    assert moved[np.isin(source, read)].all()
    assert not moved[~np.isin(source, read)].any()


def test_schedule() -> None:
    config = OptimizerConfig(lr=1.0, warmup_steps=10, decay_steps=100, final_fraction=0.1)
    assert config.rate(5) == pytest.approx(0.5)
    assert config.rate(10) == pytest.approx(1.0)
    assert config.rate(60) == pytest.approx(0.55)
    assert config.rate(1000) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "options",
    [{"lr": 0.0}, {"lr": float("nan")}, {"kind": "sgd"}, {"beta1": 1.0}, {"kind": "adamw", "beta2": 1.0}],
)
def test_settings_without_meaning_are_refused(options: dict) -> None:
    with pytest.raises(OptionError):
        OptimizerConfig(**options)
