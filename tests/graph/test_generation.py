"""Generation: the signal of training, the choices of the softmax, flat memory, and what is said of bad prompts."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import oracle
import psutil
import pytest
import torch
from bounds import assert_close, bound
from graphs import EDGE_PRESETS, random_graph
from hypothesis import given, settings
from hypothesis import strategies as st
from sifu_store.errors import OptionError

from sifu_graph import Graph
from sifu_graph.config import PRESETS
from sifu_graph.generation.sampler import DEFAULT, Sampler
from sifu_graph.generation.walk import Walk, nth_missing
from sifu_graph.model import forward

configs = st.builds(
    lambda preset, reset: dataclasses.replace(PRESETS[preset], reset_after=reset),
    st.sampled_from(EDGE_PRESETS),
    st.sampled_from([None, 1, 4]),
)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**16), config=configs, share=st.sampled_from([0.0, 0.3, 1.0]))
def test_a_walk_sees_the_energies_of_the_oracle(seed: int, config, share: float) -> None:
    graph = random_graph(seed, nodes=12, share=share, config=config, alphas=3)
    tokens = np.random.default_rng(seed).integers(0, 12, 9).tolist()
    wanted, _ = oracle.run(graph.model, config, tokens, training=False)
    largest = max(float(E.detach().max()) for E in wanted)
    walk = Walk(graph.parameters, config)
    walk.start(tokens[0])
    for i, node in enumerate(tokens[:-1]):
        energies, default = walk.energies()
        full = np.full(12, default)
        full[graph.parameters.index.target[graph.parameters.index.row(node)]] = energies
        assert_close(full, wanted[i], terms=32 * len(tokens), size=largest)
        walk.carry(tokens[i + 1])


@pytest.mark.parametrize("preset", ["paper", "tuned"])
def test_decoding_and_training_compute_the_same_energies(preset: str) -> None:
    config = dataclasses.replace(PRESETS[preset], reset_after=5)
    graph = random_graph(7, nodes=30, share=0.4, config=config, dtype=torch.float32)
    tokens = np.random.default_rng(7).integers(0, 30, (1, 12)).astype(np.int32)
    batch = forward.plan(graph.parameters, config, tokens, np.array([12]))
    sweep = forward.carry(graph.parameters, config, batch)
    outcome, _ = graph.parameters.backend.forward(sweep.rows, batch.plan, sweep.S)
    trained = torch.empty_like(outcome.target_energy)
    trained[batch.plan.order] = outcome.target_energy
    walk = Walk(graph.parameters, config)
    walk.start(int(tokens[0, 0]))
    for i, node in enumerate(tokens[0, 1:]):
        energies, default = walk.energies()
        index = graph.parameters.index
        place = index.find(np.array([walk.node]), np.array([node]))[0]
        found = default if place < 0 else energies[place - index.row(walk.node).start]
        assert_close(found, trained[i], terms=32 * 5, size=float(trained.max()), dtype=torch.float32)
        walk.carry(int(node))


# ---- choosing


def opened(energy: np.ndarray, default_energy: float, defaults: int) -> np.ndarray:
    """One energy per candidate: the private ones, then every default one."""
    return np.concatenate([energy, np.full(defaults, default_energy)])


def naive(sampler: Sampler, energies: np.ndarray) -> np.ndarray:
    """Probabilities by the definition; ties go to the private candidates, then to the first."""
    p = np.exp((energies - energies.max()) / sampler.temperature)
    order = np.argsort(-p, kind="stable")
    if sampler.top_k is not None:
        p[order[sampler.top_k :]] = 0
    if sampler.top_p is not None and sampler.top_p < 1:
        running, rounding = np.cumsum(p[order]), bound(torch.float64, terms=len(p), size=1.0)
        enough = int(np.searchsorted(running, sampler.top_p * p.sum() * (1 - rounding))) + 1
        p[order[enough:]] = 0
    return p / p.sum()


@given(
    energy=st.lists(st.integers(0, 12), max_size=12),
    default_energy=st.integers(0, 12),
    defaults=st.integers(0, 9),
    temperature=st.sampled_from([0.3, 1.0, 4.0]),
    top_k=st.none() | st.integers(1, 24),
    top_p=st.none() | st.sampled_from([0.05, 0.31, 0.5, 0.77, 0.93, 1.0]),
)
def test_probabilities_are_those_of_the_opened_softmax(
    energy: list[int], default_energy: int, defaults: int, temperature: float, top_k: int | None, top_p: float | None
) -> None:
    if not energy and not defaults:
        return
    sampler = Sampler(temperature=temperature, top_k=top_k, top_p=top_p)
    values = np.array(energy, dtype=np.float64) + np.linspace(0, 0.4, len(energy))  # no ties but with the defaults
    p, p_default, left = sampler.weights(values, float(default_energy) + 0.2001, defaults)
    wanted = naive(sampler, opened(values, default_energy + 0.2001, defaults))
    total = p.sum() + left * p_default
    logit = 13 / temperature  # its rounding moves p by the factor logit eps
    cut = 0 if top_p in (None, 1.0) else 1  # within the rounding of the kept share a candidate may be in or out
    size, rest = (1 + logit) * wanted[: len(energy)] + cut, wanted[len(energy) :].sum()
    assert_close(p / total, wanted[: len(energy)], terms=len(wanted), size=size)
    assert_close(left * p_default / total, rest, terms=len(wanted), size=(1 + logit) * rest + cut)


def test_choices_follow_the_probabilities() -> None:
    energy, sampler, rng = np.array([1.0, 2.0, -np.inf, 0.5]), Sampler(), np.random.default_rng(0)
    drawn = np.zeros(4 + 3)
    for _ in range(30_000):
        rank, which = sampler.choose(energy, 0.7, 3, rng)
        drawn[4 + which if rank == DEFAULT else rank] += 1
    wanted = np.exp(opened(energy, 0.7, 3))
    np.testing.assert_allclose(drawn / drawn.sum(), wanted / wanted.sum(), atol=0.012)
    assert drawn[2] == 0


def test_greedy_takes_the_default_edge_only_when_it_wins() -> None:
    sampler, rng = Sampler(temperature=0), np.random.default_rng(0)
    assert sampler.choose(np.array([1.0, 3.0]), 2.0, 5, rng) == (1, 0)
    assert sampler.choose(np.array([1.0, 3.0]), 3.5, 5, rng) == (DEFAULT, 0)
    assert sampler.choose(np.array([1.0, 3.0]), 3.5, 0, rng) == (1, 0)
    assert sampler.choose(np.array([]), 3.5, 5, rng) == (DEFAULT, 0)


@given(present=st.sets(st.integers(0, 30)), which=st.integers(0, 10))
def test_the_nth_missing_number(present: set[int], which: int) -> None:
    wanted = [number for number in range(60) if number not in present][which]
    assert nth_missing(np.array(sorted(present), dtype=np.int64), which) == wanted


# ---- text


def test_the_same_seed_gives_the_same_text(graph: Graph) -> None:
    one = graph.generate("春風", tokens=60, seed=5)
    assert one.text == graph.generate("春風", tokens=60, seed=5).text
    assert one.text != graph.generate("春風", tokens=60, seed=6).text
    assert one.text == "".join(graph.stream("春風", tokens=60, seed=5))
    assert len(one.text) == one.tokens == 60
    assert "\ufffd" not in one.text


def test_greedy_needs_no_seed(graph: Graph) -> None:
    one = graph.generate("春風", tokens=30, greedy=True)
    assert one.text == graph.generate("春風", tokens=30, temperature=0).text
    assert one.text == graph.generate("春風", tokens=30, top_k=1).text


def test_stop_text(graph: Graph) -> None:
    whole = graph.generate("春風", tokens=80, seed=5).text
    stop = whole[10:12]
    found = graph.generate("春風", tokens=80, seed=5, stop=stop)
    assert found.text == whole[: whole.index(stop)]
    assert graph.generate("春風", tokens=80, seed=5, stop="never there").text == whole


def test_unknown_characters_are_said(graph: Graph) -> None:
    found = graph.generate("春x風y", tokens=3, seed=0)
    assert found.unknown == ["x", "y"]


@pytest.mark.parametrize("prompt", ["", "xyz"])
def test_prompts_that_start_nothing(graph: Graph, prompt: str) -> None:
    with pytest.raises(OptionError, match="prompt"):
        graph.generate(prompt)


def test_no_tokens(graph: Graph) -> None:
    assert graph.generate("春", tokens=0).text == ""


@pytest.mark.parametrize(
    "options",
    [{"tokens": -1}, {"seed": -1}, {"temperature": -1}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}, {"stop": ""},
     {"temperature": float("nan")}, {"signal_vector": [1.0]}],
)  # fmt: skip
def test_options_without_meaning(graph: Graph, options: dict) -> None:
    with pytest.raises(OptionError):
        graph.generate("春", **options)


def test_a_signal_vector_changes_what_the_signal_carries(graph: Graph) -> None:
    """An untrained counted graph does not look at the mix, so its weights are given values first."""
    graph.parameters.edges.require(np.arange(graph.parameters.edges.slots))
    graph.parameters.edges.W.normal_(0, 0.5, generator=torch.Generator().manual_seed(0))
    usual = graph.generate("春", tokens=40, seed=1)
    assert graph.generate("春", tokens=40, seed=1, signal_vector=np.ones(32)).text == usual.text
    assert graph.generate("春", tokens=40, seed=1, signal_vector=np.linspace(-90, 90, 32)).text != usual.text


def test_a_long_prompt(graph: Graph) -> None:
    assert graph.generate("春風花月" * 25_000, tokens=3, seed=0).tokens == 3


def test_memory_stays_flat(graph: Graph) -> None:
    process = psutil.Process(os.getpid())
    stream = graph.stream("春", tokens=6_000, seed=0, temperature=2.0, top_p=None)
    before = 0
    for i, _ in enumerate(stream):
        if i == 2_000:
            before = process.memory_info().rss
    assert process.memory_info().rss - before < 4 << 20


def test_evaluation_is_the_oracle_s_mean(graph: Graph) -> None:
    index, pool = graph.parameters.index, graph.parameters.edges
    pool.require(np.arange(pool.slots))
    source = np.repeat(np.arange(index.nodes), index.row_sizes())
    private = {(int(u), int(v)): int(slot) for u, v, slot in zip(source, index.target, index.slots(), strict=True)}
    small = {name: value.double() for name, value in graph.parameters.small.items()}
    model = oracle.Model(
        index.nodes, private, pool.W.double(), pool.b.double(), small["default/weight"], small["default/bias"],
        small["nodes/bias"], small["signal/alpha"], graph.parameters.r_0.double(), small["signal/scale"],
    )  # fmt: skip
    heldout = graph._tokens().heldout
    losses, energy = [], 0.0
    for i in range(heldout.documents):
        energies, loss = oracle.run(model, graph.signal, heldout.document(i).tolist())
        losses.append(loss)
        energy = max(energy, float(torch.stack(energies).max()))
    wanted = torch.cat(losses)
    found = graph.evaluate()
    assert found.tokens == len(wanted) == heldout.transitions
    logit = abs(float(model.scale.detach())) * energy + np.log(index.nodes)
    nats = [np.log(found.perplexity), found.bits_per_token * np.log(2)]
    assert_close(nats, [float(wanted.mean())] * 2, terms=32 * 8, size=logit, dtype=torch.float32)
