"""Repetition along one stream is what it is in windows of streams, and what counting by hand finds."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sifu_graph.model.base_forward import tensors
from sifu_graph.ops import repetition
from sifu_graph.ops.pair_model import PairModel
from sifu_graph.ops.recurrent import Recurrent, repeated
from sifu_graph.ops.repetition import Repetition, frequency_basis, repeat_weights
from sifu_graph.text.encoded import Split
from sifu_graph.text.pair_counts import count_pairs
from sifu_graph.text.streams import MOST_PAST, windows

NODES = 5
PAIRS = PairModel.of(count_pairs([np.array([0, 1, 2, 3, 4, 2, 1, 1])], n=NODES))


def model_of(seed: int) -> Recurrent:
    rng = np.random.default_rng(seed)
    parts = {"repeat": (NODES, 2), "repeat_shared": (2, 3), "repeat_after": (2,)}
    initial = Recurrent.initial(NODES, 16, seed=seed).tensors()
    return Recurrent(**{**initial, **{k: torch.from_numpy(rng.normal(size=v).astype("f4")) for k, v in parts.items()}})


def by_hand(model: Recurrent, path: list[int], current: int) -> list[float]:
    """What a document adds after its current node, the last of ``path``; -1 is a node that does not count."""
    past, found = path[:-1], []
    for v in range(NODES):
        times = past.count(v)
        after_one = sum(a == current and b == v for a, b in pairwise(path))
        after_two = sum([a, b, c] == [path[-2], current, v] for a, b, c in zip(path, path[1:], path[2:], strict=False))
        z = 1 + PAIRS.log_lower[v] / 10
        a, b = model.repeat[v].double().numpy() + model.repeat_shared.double().numpy() @ [1, z, z * z]
        one, two = model.repeat_after.tolist()
        again = a + b * math.log(times) if times else 0.0
        found.append(again + one * math.log1p(after_one) + two * math.log1p(after_two))
    return found


@given(
    seed=st.integers(0, 9), most=st.integers(1, 9),
    texts=st.lists(st.lists(st.integers(0, NODES - 1), min_size=1, max_size=40), min_size=1, max_size=3),
    silent=st.sets(st.integers(0, 40), max_size=4),
)  # fmt: skip
def test_a_stream_counts_what_came_before(seed: int, most: int, texts: list[list[int]], silent: set[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repetition, "MOST_PAST", most)
        model = model_of(seed)
        basis = torch.from_numpy(frequency_basis(PAIRS.log_lower)).float()
        stream = Repetition(
            repeat_weights(model.repeat, model.repeat_shared, basis).numpy(), model.repeat_after.numpy()
        )
        for text in texts:
            counted = [-1 if at in silent else node for at, node in enumerate(text)]
            for at, node in enumerate(text):
                (stream.carry if at else stream.start)(node, silent=at in silent)
                wanted = by_hand(model, counted[max(0, at - most) : at + 1], node)
                assert stream.energies() == pytest.approx(wanted, abs=1e-5)


def test_windows_look_back_as_far_as_a_stream() -> None:
    rng = np.random.default_rng(0)
    text = Split.from_arrays([rng.integers(0, NODES, size) for size in (3 * MOST_PAST, 7, MOST_PAST + 1, 1, 40)])
    places: dict[int, list[np.ndarray]] = {}
    for window in windows(text, streams=3, steps=50):
        times = [x.numpy() for x in repeated(tensors(window, PAIRS), NODES)]
        for index in np.argwhere(window.target >= 0):
            places[int(window.place[*index])] = [x[*index] for x in times]
    checked = 0
    for document in range(text.documents):
        begin, ids = int(text.offsets[document]), text.document(document).tolist()
        for at in range(0, len(ids) - 1, 97):
            path = ids[max(0, at - MOST_PAST) : at + 1]
            assert places[begin + at][0].tolist() == np.bincount(path[:-1], minlength=NODES).tolist()
            followed = [b for a, b in pairwise(path) if a == path[-1]]
            assert places[begin + at][1].tolist() == np.bincount(followed, minlength=NODES).tolist()
            checked += 1
    assert checked > 40
