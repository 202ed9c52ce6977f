"""The closed-form start: what is written into the edges is the formula, computed here transition by transition."""

from __future__ import annotations

import itertools
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from oracle import gelu
from sifu_store import Store
from sifu_store.errors import OptionError
from sifu_store.layout import BIAS, WEIGHT
from small import whole, write_text

from sifu_graph import Graph, build_graph
from sifu_graph.config import SignalConfig
from sifu_graph.model import forward
from sifu_graph.model.parameters import Parameters
from sifu_graph.ops.origins import BASE_ENERGY
from sifu_graph.text.batches import chunk_table
from sifu_graph.text.encoded import Split
from sifu_graph.training import closed_form
from sifu_graph.training.closed_form import count_contexts, node_directions


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fresh")
    text = write_text(folder / "poems.txt", documents=300)
    build_graph(text, folder / "graph.sifu", vocab=20, sparsify=0.4, length=8, holdout=0.1, signal="tuned")
    return folder / "graph.sifu"


def chunks_of(text: Split, length: int) -> list[list[int]]:
    return [text.ids[a : a + k].tolist() for a, k in zip(*chunk_table(text, length=length), strict=True)]


def test_an_edge_of_the_fitted_graph_has_the_energy_of_the_formula(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beta, gamma = 0.7, 0.4
    monkeypatch.setattr(closed_form, "_chosen_strengths", lambda *_: ((beta, gamma), 1.0, 1.0, 1))
    monkeypatch.setattr(closed_form, "CHUNKS", 50)  # several parts
    with Graph.open(fresh) as graph:
        text, parameters, config = graph._tokens().train, graph.parameters, graph.signal
        index, initial, width = parameters.index, parameters.edges.initial, parameters.width
        rest = (initial.energies(index.slots()) + closed_form.RAISED).tolist()
        energy = {(int(k) // index.nodes, int(k) % index.nodes): e for k, e in zip(index.keys(), rest, strict=True)}
        every = closed_form._Chunks.of(text, length=8)
        directions = node_directions(every, index.nodes, width, recency=config.recency).astype(np.float64)
        default = BASE_ENERGY + closed_form.RAISED

        def mix(past: list[int]) -> np.ndarray:
            """S where the tokens so far are ``past`` and one more: r_k weighs e^k."""
            signals = [default * directions[past[0]]]
            for u, v in pairwise(past):
                signals.append(energy[u, v] * directions[v] if (u, v) in energy else default * directions[-1])
            S = sum(np.exp(config.recency * k) * r for k, r in enumerate(signals))
            S = S - S.mean()
            return np.asarray(S / np.sqrt((S**2).mean() + 1e-6))

        seen = [
            (mix(tokens[:i]), tokens[i], tokens[i + 1])
            for number, tokens in enumerate(chunks_of(text, 8))
            if number % closed_form.LEFT_OUT != closed_form.LEFT_OUT - 1
            for i in range(1, len(tokens) - 1)
        ]  # fmt: skip
        S, u, v = np.array([s for s, _, _ in seen]), np.array([u for _, u, _ in seen]), np.array([v for *_, v in seen])
        m = S.mean(0)
        m_u = np.array([S[u == node].mean(0) if (u == node).any() else 0 * m for node in range(index.nodes)])
        C = (S - m_u[u]).T @ (S - m_u[u]) / len(S) + closed_form.RIDGE * np.eye(width)

        count_contexts(parameters, config, text, length=8).write(parameters)
        for source, target in list(energy)[::7]:
            mine = S[(u == source) & (v == target)]
            t_v = S[v == target].mean(0) - m if (v == target).any() else 0 * m
            own = (mine - m_u[source] - t_v).sum(0) / (len(mine) + closed_form.KAPPA)
            w = np.linalg.solve(C, beta * t_v + gamma * own)
            c = w @ m_u[source] + 0.5 * w @ (t_v + own)
            slot = np.array([index.slot_of(source, target)])
            W, b = (parameters.edges.get(name, slot)[0] for name in (WEIGHT, BIAS))
            for context in S[:: len(S) // 5]:
                found = gelu(torch.from_numpy(context).float() @ W + b).norm()
                wanted = energy[source, target] + w @ context - c
                assert float(found) == pytest.approx(wanted, abs=0.02)  # GELU is not quite linear
            assert float(gelu(b).norm()) == pytest.approx(energy[source, target] - c, rel=1e-4)
        assert float(gelu(parameters.default_b).norm()) == pytest.approx(default, rel=1e-5)


def test_nodes_before_the_same_nodes_point_the_same_way() -> None:
    """1 and 2 stand two steps before 5, 3 and 4 before 6."""
    lines = [[1, 7, 5], [2, 7, 5], [3, 7, 6], [4, 7, 6]] * 50
    chunks = closed_form._Chunks.of(Split.from_arrays([np.array(line) for line in lines]), length=4)
    directions = node_directions(chunks, 8, 16)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, rtol=1e-5)
    assert directions.min() > 0
    centred = directions - directions.mean(1, keepdims=True)
    assert np.linalg.norm(centred[1] - centred[2]) < 1e-5 < 0.1 < np.linalg.norm(centred[1] - centred[3])
    assert np.abs(centred[-1]).max() < 1e-6  # the default edge says nothing


def test_the_strengths_are_the_best_that_there_are(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said of the chunks left out is what the graph then does on them, and no other pair does better."""
    left_out = []
    for only in (None, *itertools.product((0.0, 0.4, 0.8), repeat=2)):
        with Graph.open(fresh) as graph, monkeypatch.context() as patched:
            text, parameters = graph._tokens().train, graph.parameters
            patched.setattr(closed_form, "STRENGTHS", (0.0, 0.4, 0.8))
            patched.setattr(closed_form, "TOGETHER", 3)
            if only is not None:
                patched.setattr(closed_form, "_chosen_strengths", lambda *_, only=only: (only, 1.0, 1.0, 1))
            fit = count_contexts(parameters, graph.signal, text, length=8).write(parameters)
            chunks = closed_form._Chunks.of(text, length=8)
            nats = [
                loss
                for tokens, size in chunks.every(chunks.left_out())
                for loss, at in zip(*scored(parameters, graph.signal, tokens, size), strict=True) if at > 0
            ]  # fmt: skip
            left_out.append(float(np.exp(np.mean(nats))))
            if only is None:
                chosen = fit
    assert left_out[0] == pytest.approx(min(left_out), rel=1e-6)
    assert chosen.after == pytest.approx(left_out[0], rel=1e-3)  # GELU is not quite linear
    assert chosen.before == pytest.approx(left_out[1], rel=1e-3)


def scored(parameters: Parameters, config: SignalConfig, tokens: np.ndarray, size: np.ndarray) -> tuple[list, list]:
    """The losses of all positions, and how far into their chunk they are."""
    found = forward.examine(parameters, config, tokens.astype(np.int32), size.astype(np.int64))
    return found.loss.tolist(), found.step.tolist()


@pytest.fixture
def copied(fresh: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fresh, tmp_path / "graph.sifu"))


def test_training_begins_with_it_once(copied: Path) -> None:
    said: list[str] = []
    with Graph.open(copied) as graph:
        first = graph.train(steps=1, batch=8, say=said.append)
        assert first.contexts is not None and first.contexts.edge_strength in closed_form.STRENGTHS
        assert first.contexts.after <= first.contexts.before
        assert any(line.startswith("contexts counted") for line in said)
        assert graph.train(steps=1).contexts is None
        with pytest.raises(OptionError, match="it was trained before"):
            graph.train(steps=1, contexts=True)


def test_without_it_no_edge_is_touched_that_no_text_meets(copied: Path) -> None:
    with Graph.open(copied) as graph:
        before = graph.parameters.default_b.clone()
        assert graph.train(steps=1, batch=8, contexts=False).contexts is None
        assert float((graph.parameters.default_b - before).norm()) < 0.1


def test_other_mathematics_begins_without_it(tmp_path: Path) -> None:
    text = write_text(tmp_path / "poems.txt", documents=30)
    build_graph(text, tmp_path / "g.sifu", vocab=20, sparsify=0.4, length=8, holdout=0.1, signal="paper")
    with Graph.open(tmp_path / "g.sifu") as graph:
        assert graph.train(steps=1, batch=8).contexts is None
        with pytest.raises(OptionError, match="contexts of this graph cannot be counted"):
            graph.train(steps=1, contexts=True)


def test_what_is_learned_from_contexts_is_believed(tmp_path: Path) -> None:
    """What follows 春 depends on what stood before it, which no bigram model can know."""
    (tmp_path / "t.txt").write_text("花春風。月春水。\n山春風。夜春水。\n" * 400, encoding="utf-8")
    build_graph(tmp_path / "t.txt", tmp_path / "g.sifu", vocab=12, sparsify=1.0, length=8, holdout=0.0, signal="tuned")
    with Graph.open(tmp_path / "g.sifu") as graph:
        found = count_contexts(graph.parameters, graph.signal, graph._tokens().train, length=8).fit
        assert max(found.target_strength, found.edge_strength) > 0
        assert found.after < 0.8 * found.before


def test_the_same_bits_in_little_memory(tmp_path: Path) -> None:
    text = write_text(tmp_path / "poems.txt", documents=300)
    build_graph(text, tmp_path / "a.sifu", vocab=60, sparsify=1.0, length=8, holdout=0.1, signal="tuned")
    shutil.copytree(tmp_path / "a.sifu", tmp_path / "b.sifu")
    with Graph.open(tmp_path / "a.sifu") as graph:
        graph.train(steps=1, batch=8)
    with Graph.open(tmp_path / "b.sifu") as graph:
        graph.host_memory = "100KB"
        with pytest.raises(Exception, match="the least that works here") as error:
            graph.train(steps=1, batch=8)
        graph.host_memory = 80_000_000
        del error
        graph.train(steps=1, batch=8)
    with Store.open(tmp_path / "a.sifu") as one, Store.open(tmp_path / "b.sifu") as two:
        for name in one.names():
            np.testing.assert_array_equal(whole(one, name), whole(two, name), err_msg=name)
