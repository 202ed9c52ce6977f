"""A run that time alone limits ends with its best state, or with the one before it if that is clearly better."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import whole, write_text

from sifu_graph import Graph, build_graph
from sifu_graph.evaluation import SplitReport
from sifu_graph.training import kept_state, loop


@pytest.fixture
def store(tmp_path: Path) -> Path:
    text = write_text(tmp_path / "poems.txt")
    build_graph(text, tmp_path / "graph.sifu", vocab=40, sparsify=0.5, width=16, length=8, holdout=0.1)
    return tmp_path / "graph.sifu"


def scripted(monkeypatch: pytest.MonkeyPatch, means: list[float], noise: float) -> None:
    """Runs of three steps with an evaluation before, after the second and after the third.

    Each evaluation finds a mean loss in nats; those of a token differ by ``noise`` from one to the next.
    """
    found, real = iter(enumerate(means)), loop.evaluate_split

    def evaluated(*args: Any, **options: Any) -> SplitReport:
        at, mean = next(found)
        report = real(*args, **options)
        signs = np.resize([1.0, -1.0], len(report.losses) // 2 * 2)
        losses = mean + noise * at * signs
        return dataclasses.replace(report, perplexity=float(np.exp(losses.mean())), losses=losses)

    monkeypatch.setattr(loop, "evaluate_split", evaluated)
    monkeypatch.setattr(loop.Clock, "over", lambda self, step: step >= self.first_step + 3)


WORSE, SMALL, EARLIER = "the graph is as before it", "is no clear difference", "the graph is that of this step"


@pytest.mark.parametrize(
    ("means", "noise", "kept", "said"),
    [
        ([2.0, 2.004, 2.003], 0.0, 0, [WORSE]),  # worse of every token
        ([2.0, 2.004, 2.003], 1.0, 3, [SMALL]),  # worse of half of the tokens, and better of the others
        ([2.0, 2.003, 2.004], 1.0, 2, [EARLIER, SMALL]),
        ([2.0, 4.0, 4.0], 1.0, 0, [WORSE]),
        ([2.0, 2.004, 1.999], 1.0, 3, []),
        ([2.0, 1.998, 1.999], 1.0, 2, [EARLIER]),
        ([2.0, 2.0, 2.0], 0.0, 3, []),
    ],
)
def test_a_run_ends_with_its_best_state_unless_that_is_clearly_worse_than_before(
    store: Path, monkeypatch: pytest.MonkeyPatch, means: list[float], noise: float, kept: int, said: list[str]
) -> None:
    with Graph.open(store) as graph:
        graph.train(steps=2, batch=16)
        before, arrays = graph.store.snapshot, {name: whole(graph.store, name) for name in graph.store.names()}
        scripted(monkeypatch, means, noise)
        lines: list[str] = []
        steps: list[Any] = []
        report = graph.train(minutes=60, batch=16, eval_every=2, say=lines.append, on_step=steps.append)
        ended = (report.step, report.heldout_perplexity, report.snapshot, True)
        assert (steps[-1].step, steps[-1].heldout_perplexity, steps[-1].snapshot, steps[-1].last) == ended
        assert report.heldout_before == pytest.approx(np.exp(means[0]))
        assert report.steps_done == kept
        assert report.heldout_perplexity == pytest.approx(np.exp(means[max(0, kept - 1)]))
        for text in (WORSE, SMALL, EARLIER):
            assert [text in note for note in report.notes] == [text in said for _ in report.notes], text
        assert bool(report.notes) == bool(said)
        assert not [line for line in lines if "held-out perplexity was" in line]  # once, as a note
        assert (graph.store.snapshot == before) == (kept == 0)
        if kept == 0:
            for name, value in arrays.items():
                np.testing.assert_array_equal(whole(graph.store, name), value)


def test_a_run_that_is_given_up_is_said_in_python_too(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Graph.open(store) as graph:
        graph.train(steps=2, batch=16)
        scripted(monkeypatch, [2.0, 2.004, 2.003], 0.0)
        with pytest.warns(UserWarning, match="held-out perplexity was 7.39 before this run and 7.41 at the best of it"):
            graph.train(minutes=60, batch=16, eval_every=2)


def test_the_standard_error_is_that_of_the_mean_difference() -> None:
    draw = np.random.default_rng(0)
    token = draw.normal(4.0, 2.0, (2000, 500))
    after = token + draw.normal(0.0, 0.1, token.shape)
    means = [kept_state.difference(*each) for each in zip(token, after, strict=True)]
    assert np.std([mean for mean, _ in means]) == pytest.approx(np.mean([error for _, error in means]), rel=0.1)
    assert np.mean([mean > kept_state.NOISE * error for mean, error in means]) == pytest.approx(0.023, abs=0.012)
