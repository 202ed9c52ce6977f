"""`benchmarks/editing.py`: its baselines do what their definitions say, and a run at toy size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small import write_text

from sifu_graph import Graph, build_graph
from sifu_graph.edit.counterfactuals import MARGIN, Counterfactuals
from sifu_graph.generation.base_walk import walk_of
from sifu_graph.inspection.distributions import log_p_after
from sifu_graph.ops.recurrent_torch import TorchRecurrent
from sifu_graph.text.tokenizer import UNKNOWN

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("editing")
    build_graph(write_text(folder / "a.txt"), folder / "g.sifu", vocab=40, sparsify=0.5, holdout=0.2)
    with Graph.open(folder / "g.sifu") as graph:
        graph.train(steps=5, eval_every=0)
    return folder / "g.sifu"


def test_the_baselines_are_what_they_are_called(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import editing

    with Graph.open(store) as graph:
        text, base = graph._tokens().heldout, graph.parameters.base
        assert base is not None
        records = Counterfactuals(
            graph.parameters, graph.signal, text, edits=6, frequency=graph.store.read("nodes/count"), seed=0
        )
        contexts = editing.Contexts.of(records)
        # what the records begin from is what the graph says there
        walk, places = walk_of(graph.parameters, graph.signal), list(records.place.values())
        wanted = {}
        for at, node in enumerate(np.asarray(text.ids).tolist()):
            (walk.start if at in text.offsets else walk.carry)(node)
            walk.energies()
            wanted[at] = np.delete(log_p_after(walk), UNKNOWN)
        energies = contexts.energies(base.model, TorchRecurrent(base.pairs))
        known = np.delete(energies.numpy(), UNKNOWN, axis=1)
        np.testing.assert_allclose(known, [wanted[at] for at in places], atol=1e-4)
        assert (contexts.lead(energies) < 0).all()
        # ROME: one row, along C^-1 r, by what makes v lead by the margin
        moment = editing.second_moment(graph.parameters, records, text)
        one = Counterfactuals(
            graph.parameters, graph.signal, text, edits=1, frequency=graph.store.read("nodes/count"), seed=0
        )
        single = editing.Contexts.of(one)
        changed = editing.rank_one(base, single, moment)["target"]
        delta = changed - base.model.target
        assert delta.any(1).nonzero().ravel().tolist() == single.v.tolist()
        along = torch.linalg.solve(
            moment + 1e-6 * moment.diagonal().mean() * torch.eye(len(moment)), single.r[0].double()
        )
        cosine = torch.nn.functional.cosine_similarity(delta[single.v[0]].double(), along, dim=0)
        assert float(cosine) == pytest.approx(1.0, abs=1e-5)
        after = editing.with_changed(graph.parameters, {"target": changed})
        assert after.base is not None
        lead = single.lead(single.energies(after.base.model, TorchRecurrent(base.pairs)))
        assert float(lead) == pytest.approx(MARGIN, abs=1e-3)
        assert one.effect(after).efficacy.share == 1.0
        # fine-tuning reaches the margin; bounded, no element moves further
        tuned = editing.tuned(base, single, "target", lr=0.05, steps=500)["target"]
        assert one.effect(editing.with_changed(graph.parameters, {"target": tuned})).efficacy.share == 1.0
        bounded = editing.tuned(base, contexts, "target", lr=0.05, steps=20, bound=0.01)["target"]
        assert 0.0099 < float((bounded - base.model.target).abs().max()) <= 0.01 + 1e-6
        matrix = editing.tuned(base, contexts, "W", lr=0.01, steps=1)["W"]
        assert float((matrix - base.model.W).abs().max()) == pytest.approx(0.01, rel=0.01)  # the first step of Adam


def test_it_runs(store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import editing

    editing.main([str(store), "--edits", "1", "5", "--limit", "300", "--steps", "3"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12
    assert {line.count("|") for line in lines} == {11}
    edges = [line for line in lines if "| edges |" in line]
    assert all("| 100.00 % of" in line and "the same bits" in line for line in edges)
