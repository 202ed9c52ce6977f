"""Training of the shared recurrence: it learns what pairs cannot say, and repeats itself bit for bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sifu_store.errors import CorpusError, OptionError

from sifu_graph.ops.pair_model import PairModel
from sifu_graph.ops.recurrent import Recurrent, cpu_recurrent
from sifu_graph.text.encoded import Split
from sifu_graph.text.pair_counts import count_pairs
from sifu_graph.training.recurrent_loop import score_recurrent, train_recurrent

NODES, WIDTH = 8, 16


def text(seed: int, documents: int) -> Split:
    """Lines of seven tokens and a separator (node 0): the length of a line is more than pairs can count."""
    rng = np.random.default_rng(seed)
    lines = rng.integers(1, NODES, (documents, 3, 8))
    lines[:, :, 7] = 0
    ids = lines.reshape(-1).astype(np.int32)
    return Split(ids, np.arange(documents + 1) * 24)


def trained(seed: int, *, tokens: int) -> tuple[Recurrent, float]:
    train = text(0, 200)
    model = Recurrent.initial(NODES, WIDTH, seed=seed)
    backend = cpu_recurrent(PairModel.of(count_pairs(train, n=NODES)), WIDTH, torch.float32)
    train_recurrent(model, backend, train, tokens=tokens, streams=8, steps=16)
    nats, count = score_recurrent(model, backend, text(1, 20))
    assert count == 20 * 23
    return model, math.exp(nats / count)


def test_it_learns_where_a_line_ends() -> None:
    _, before = trained(0, tokens=1)
    _, after = trained(0, tokens=60_000)
    # 20 of 23 are one of 7 tokens, 3 a separator: 7 ** (20 / 23) = 5.43 if it is known where the line ends.
    assert before > 6.5
    assert after < 5.6


def test_a_run_repeats_itself_with_any_number_of_threads() -> None:
    usual, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(trained(3, tokens=3_000))
    finally:
        torch.set_num_threads(usual)
    (one, perplexity), (two, other) = found
    assert perplexity == other
    for name, value in one.tensors().items():
        assert torch.equal(value, two.tensors()[name]), name


def test_a_score_is_that_of_every_document_alone() -> None:
    model, _ = trained(0, tokens=2_000)
    train, heldout = text(0, 200), text(1, 5)
    backend = cpu_recurrent(PairModel.of(count_pairs(train, n=NODES)), WIDTH, torch.float32)
    whole, _ = score_recurrent(model, backend, heldout)
    parts = [
        Split(heldout.ids[a:b], np.array([0, b - a]))
        for a, b in zip(heldout.offsets, heldout.offsets[1:], strict=False)
    ]
    assert whole == pytest.approx(sum(score_recurrent(model, backend, part)[0] for part in parts), rel=1e-6)


def test_what_cannot_be_trained() -> None:
    train = text(0, 2)
    model = Recurrent.initial(NODES, WIDTH, seed=0)
    backend = cpu_recurrent(PairModel.of(count_pairs(train, n=NODES)), WIDTH, torch.float32)
    with pytest.raises(TypeError, match="one of tokens and minutes"):
        train_recurrent(model, backend, train)
    with pytest.raises(OptionError, match="tokens is 0"):
        train_recurrent(model, backend, train, tokens=0)
    single = Split(np.array([1, 2, 3], np.int32), np.arange(4))
    with pytest.raises(CorpusError, match="nothing to train on"):
        train_recurrent(model, backend, single, tokens=10)
