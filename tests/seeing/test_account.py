"""The account of a trace adds up, on random graphs, presets and texts, and its energies are those of the engine."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import oracle
import torch
from bounds import assert_close
from graphs import EDGE_PRESETS, Random, random_graph
from hypothesis import given, settings
from hypothesis import strategies as st

from sifu_graph.config import PRESETS, SignalConfig
from sifu_graph.inspection.attribution import Account
from sifu_graph.inspection.trace import Trace, TraceOptions, follow
from sifu_graph.ops.functional import mix_weights, mixing_matrix

NODES = 12
LENGTH = 5  # of a chunk of evaluation
TERMS = 32 * 8  # of an energy: a matrix product of width 32 for each of the edges that a signal passes

configs = st.builds(
    lambda preset, reset: dataclasses.replace(PRESETS[preset], reset_after=reset),
    st.sampled_from(EDGE_PRESETS),
    st.sampled_from([None, 1, 4]),
)
likes = st.sampled_from(["generate", "eval"])


def traced(graph: Random, config: SignalConfig, tokens: list[int], *, silent: frozenset[int] = frozenset(), **options):
    return follow(
        graph.parameters, config, tokens, names=tuple(map(str, range(graph.parameters.index.nodes))), length=LENGTH,
        silent=silent, options=TraceOptions(**options),
    )  # fmt: skip


def text(seed: int, length: int = 9) -> list[int]:
    return [1, *np.random.default_rng(seed).integers(0, NODES, length - 1).tolist()]


def size_of(account: Account) -> torch.Tensor:
    """The parts of each energy without their signs [k]."""
    return account.signals.abs().sum(1) + account.bias.abs() + account.encoding.abs() + account.energy


def pieces(config: SignalConfig, tokens: list[int], like: str) -> list[list[int]]:
    """What the oracle runs one by one: evaluation cuts into chunks that overlap by one."""
    if like == "generate":
        return [tokens]
    return [tokens[at : at + LENGTH] for at in range(0, len(tokens) - 1, LENGTH - 1)]


@settings(max_examples=20)
@given(seed=st.integers(0, 2**16), config=configs, share=st.sampled_from([0.0, 0.3, 1.0]), like=likes)
def test_energies_are_the_oracles_and_the_account_adds_up(seed: int, config, share: float, like: str) -> None:
    graph = random_graph(seed, nodes=NODES, share=share, config=config, alphas=3)
    tokens = text(seed)
    trace = traced(graph, config, tokens, like=like, top=4)
    energies, losses = [], []
    for piece in pieces(config, tokens, like):
        found, loss = oracle.run(graph.model, config, piece, training=like == "eval")
        energies += found
        losses += loss.flatten().tolist()
    largest = float(trace.energy.max())
    for one, wanted in zip(trace.energy, energies, strict=False):  # generation has one contest more, the next one
        assert_close(one, wanted, terms=TERMS, size=largest)
    if like == "eval":
        logit = trace.scale * largest + math.log(NODES)
        assert_close([one.loss for one in trace.positions], losses, terms=TERMS, size=logit)
    for i, one in enumerate(trace.positions):
        total = one.account.signals.sum(1) + one.account.bias + one.account.encoding
        assert torch.equal(one.account.energy, torch.tensor([c.energy for c in one.candidates], dtype=torch.float64))
        size = size_of(one.account)
        assert_close(total, one.account.energy, terms=TERMS, size=size)
        assert_close(one.account.remainder, 0 * size, terms=TERMS, size=size)
        assert [c.energy for c in one.candidates] == [float(trace.energy[i, c.node]) for c in one.candidates]
        signals = trace.r[one.begin - trace.first : one.position - trace.first + 1]
        mixed, divisor = torch.as_tensor(one.weights) @ signals, 1.0
        if config.normalise_mix:
            divisor = float(torch.sqrt(mixed.var(correction=0) + 1e-6))
            mixed = torch.layer_norm(mixed, mixed.shape, eps=1e-6)
        assert_close(mixed, trace.mix[i], terms=TERMS, size=float(signals.abs().max()) / divisor)
        if (margin := one.margin) is not None:
            parts = margin.signals.sum() + margin.bias + margin.encoding + margin.remainder
            gap = one.candidates[0].energy - one.candidates[1].energy
            assert_close(parts, [gap], terms=TERMS, size=size[:2].sum())


@settings(max_examples=8)
@given(seed=st.integers(0, 2**16), config=configs, like=likes)
def test_in_float32_the_remainder_is_rounding(seed: int, config, like: str) -> None:
    graph = random_graph(seed, nodes=NODES, share=0.4, config=config, dtype=torch.float32)
    for one in traced(graph, config, text(seed), like=like).positions:
        size = size_of(one.account)
        assert_close(one.account.remainder, 0 * size, terms=TERMS, size=size, dtype=torch.float32)
        if one.margin is not None:
            assert_close(one.margin.remainder, [0], terms=TERMS, size=size[:2].sum(), dtype=torch.float32)


@settings(max_examples=8)
@given(seed=st.integers(0, 2**16), config=configs)
def test_the_parts_by_the_definition(seed: int, config) -> None:
    """E = sum_j c_j z_j with the gates held, one signal and one dimension at a time."""
    graph = random_graph(seed, nodes=NODES, share=0.5, config=config)
    trace = traced(graph, config, text(seed), top=3)
    one = trace.positions[-1]
    signals = trace.r[one.begin - trace.first : one.position - trace.first + 1]
    raw = torch.as_tensor(one.weights) @ signals
    divisor = float(torch.sqrt((raw - raw.mean()).square().mean() + 1e-6)) if config.normalise_mix else 1.0
    for k, candidate in enumerate(one.candidates):
        W, b = (part.detach() for part in graph.model.edge(one.node, candidate.node))
        pe = oracle.positional(config, one.position - one.begin + config.decode_offset, 32, torch.float64)
        z = (trace.mix[-1] @ W + b + pe).detach()
        gate = 0.5 * (1 + torch.erf(z / math.sqrt(2)))
        E = (z * gate).norm()
        c = gate * (z * gate) / E
        size = float(size_of(one.account)[k])
        assert_close(E, candidate.energy, terms=TERMS, size=size)
        for m, signal in enumerate(signals):
            x = one.weights[m] * (signal - signal.mean() if config.normalise_mix else signal) / divisor
            terms = (x.abs() @ W.abs()) @ c.abs()
            assert_close(((x @ W) * c).sum(), one.account.signals[k, m], terms=TERMS, size=float(terms) + size)
        assert_close((b * c).sum(), one.account.bias[k], terms=TERMS, size=float((b * c).abs().sum()))
        assert_close((pe * c).sum(), one.account.encoding[k], terms=TERMS, size=float((pe * c).abs().sum()))


@given(config=configs, alphas=st.integers(1, 6), positions=st.integers(1, 8))
def test_weights_are_those_of_the_propagation(config, alphas: int, positions: int) -> None:
    alpha = torch.linspace(-1, 2, alphas, dtype=torch.float64)
    matrix = mixing_matrix(config, alpha, positions)
    for step in range(positions):
        wanted = matrix[step, : step + 1]
        logit = 2 + abs(config.recency) * positions  # its rounding moves a weight by the factor logit eps
        assert_close(mix_weights(config, alpha.tolist(), step), wanted, terms=positions, size=(1 + logit) * wanted)


def silenced(model: oracle.Model, config: SignalConfig, tokens: list[int], off: set[int]) -> list[torch.Tensor]:
    """The mix of every position when some signals never enter it, by the definition."""
    mixes: list[torch.Tensor] = []
    signals: list[torch.Tensor] = []
    step = 0
    for i, node in enumerate(tokens):
        if config.reset_after is not None and step == config.reset_after:
            signals, step = [], 0
        if not signals:
            begin = i
            z = model.r_0 + model.node_bias[node] + oracle.positional(config, 0, 32, torch.float64)
            signals = [oracle.gelu(z) if config.first == "biased" else model.r_0]
        last = len(signals) - 1 if config.skip_current else len(signals)
        seen = list(range(config.mix_from - 1, last)) or [len(signals) - 1]
        kept = [k for k in seen if begin + k not in off]
        S = torch.zeros(32, dtype=torch.float64)
        if kept:
            logits = [model.alpha[min(max(0, k + 1 - config.mix_from), len(model.alpha) - 1)] for k in kept]
            for weight, k in zip(torch.softmax(torch.stack(logits), 0), kept, strict=True):
                S = S + weight * signals[k]
        if config.normalise_mix:
            S = (S - S.mean()) / torch.sqrt((S - S.mean()).square().mean() + 1e-6)
        mixes.append(S.detach())
        if i + 1 < len(tokens):
            W, b = model.edge(node, tokens[i + 1])
            pe = oracle.positional(config, step + config.decode_offset, 32, torch.float64)
            signals.append(oracle.gelu((S if config.drive == "mix" else signals[-1]) @ W + b + pe))
            step += 1
    return mixes


@settings(max_examples=12)
@given(seed=st.integers(0, 2**16), config=configs, off=st.frozensets(st.integers(0, 8), min_size=1, max_size=3))
def test_a_silent_position_leaves_the_mix(seed: int, config, off: frozenset[int]) -> None:
    graph = random_graph(seed, nodes=NODES, share=0.4, config=config, alphas=3)
    tokens = text(seed)
    trace = traced(graph, config, tokens, silent=off)
    for found, wanted in zip(trace.mix, silenced(graph.model, config, tokens, set(off)), strict=True):
        assert_close(found, wanted, terms=TERMS, size=max(1.0, float(trace.r.abs().max())))
    for one in trace.positions:
        size = size_of(one.account)
        assert_close(one.account.remainder, 0 * size, terms=TERMS, size=size)
        assert not any(one.weights[k - one.begin] for k in off if one.begin <= k <= one.position)


def test_a_window_shows_the_same_as_all_of_it() -> None:
    config = dataclasses.replace(PRESETS["tuned"], reset_after=4)
    graph = random_graph(3, nodes=NODES, share=0.4, config=config, dtype=torch.float32)
    for like in ("generate", "eval"):
        every, last = (traced(graph, config, text(3), like=like, last=n) for n in (None, 3))
        assert len(last.positions) == 3
        assert torch.equal(every.energy[-3:], last.energy)
        assert torch.equal(every.r[last.first :], last.r)


def test_the_stages_are_tensors_of_known_shape() -> None:
    graph = random_graph(5, nodes=NODES, share=0.4, config=PRESETS["paper"])
    trace: Trace = traced(graph, PRESETS["paper"], text(5), top=3)
    assert trace.r.shape == trace.mix.shape == (9, 32)
    assert trace.energy.shape == trace.candidate.shape == trace.private.shape == (9, NODES)
    assert trace.z.shape == (*trace.shown.shape, 32)
    shown = torch.gather(trace.energy, 1, trace.shown)
    energies = torch.nn.functional.gelu(trace.z).norm(dim=-1)
    assert_close(energies, shown, terms=TERMS, size=float(shown.max()))
    assert trace.shown[:-1, -1].tolist() == list(trace.nodes[1:])
