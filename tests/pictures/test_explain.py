"""Explained generation: the same text, and figures that agree with all candidates written out one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bounds import assert_close
from graphs import EDGE_PRESETS, random_graph
from hypothesis import given
from hypothesis import strategies as st

from sifu_graph import PRESETS, Graph
from sifu_graph.generation.choices import explain
from sifu_graph.generation.sampler import Sampler
from sifu_graph.generation.walk import Walk
from sifu_graph.text.tokenizer import SEPARATOR, UNKNOWN


@given(
    seed=st.integers(0, 40),
    preset=st.sampled_from(EDGE_PRESETS),
    share=st.sampled_from([0.0, 0.3, 0.95]),
    temperature=st.sampled_from([0.0, 1.0]),
)
def test_a_choice_is_that_of_the_opened_contest(seed: int, preset: str, share: float, temperature: float) -> None:
    config = PRESETS[preset]
    graph = random_graph(seed, nodes=11, share=share, config=config, width=8)
    walk = Walk(graph.parameters, config, forbidden=[UNKNOWN])
    rng, names = np.random.default_rng(seed), [f"n{node}" for node in range(11)]
    walk.start(1)
    for _ in range(5):
        at, index = walk.node, graph.parameters.index
        node = walk.choose(Sampler(temperature=temperature), rng)
        found = explain(walk, node, names=names, text="")
        energies, default = walk.energies()
        full = np.full(11, float(default))
        full[index.target[index.row(at)]] = energies
        allowed = np.array([v != UNKNOWN and (config.self_decode or v != at) for v in range(11)])
        others = full[allowed & (np.arange(11) != node)]
        logits = full[allowed] * float(graph.parameters.scale)
        assert (found.node, found.token) == (node, names[node])
        assert found.private == (index.slot_of(at, node) is not None)
        assert found.energy == full[node]
        assert found.margin == full[node] - others.max()
        assert found.rank == 1 + (others > full[node]).sum()
        assert full[int(found.best[1:])] == full[allowed].max()
        p = np.exp(full[node] * float(graph.parameters.scale) - np.logaddexp.reduce(logits))
        size = (1 + float(abs(logits).max())) * p  # the rounding of a logit moves p by the factor logit eps
        assert_close(found.probability, p, terms=len(logits), size=size)
        if temperature == 0:
            assert found.rank == 1
            assert found.best == found.token
            assert found.margin >= 0
        walk.carry(node)


def test_explaining_changes_no_text_and_costs_plain_generation_nothing(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph.parameters.edges.require(np.arange(graph.parameters.edges.slots))
    graph.parameters.edges.W.normal_(0, 0.3, generator=torch.Generator().manual_seed(0))
    with monkeypatch.context() as patch:
        patch.delattr("sifu_graph.generation.stream.explain")
        plain = graph.generate(["春", "風"], tokens=60, seed=4)
    told = graph.generate(["春", "風"], tokens=60, seed=4, explain=True)
    assert told.text == plain.text
    assert plain.choices == []
    assert len(told.choices) == told.tokens == 60
    assert "".join(choice.text for choice in told.choices) == told.text


def test_explained_text_that_stops(graph: Graph) -> None:
    whole = graph.generate(["春"], tokens=40, seed=2, explain=True)
    stop = whole.text[12:15]
    cut = graph.generate(["春"], tokens=40, seed=2, explain=True, stop=stop)
    assert "".join(choice.text for choice in cut.choices).startswith(cut.text)
    assert len(cut.choices) == cut.tokens


def test_a_new_document_is_explained_like_any_token(graph: Graph) -> None:
    told = graph.generate(["春"], tokens=200, seed=1, explain=True, temperature=2.0, top_p=None)
    names = graph.tokenizer.vocabulary
    assert SEPARATOR in [choice.node for choice in told.choices]
    for choice in told.choices:
        assert choice.token == names[choice.node]
        assert choice.node != UNKNOWN
        assert 0 < choice.probability <= 1
        assert (choice.margin >= 0) == (choice.rank == 1)
