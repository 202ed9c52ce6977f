"""Kneser-Ney against the definition: dictionaries, one n-gram at a time."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from bounds import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st

from sifu_graph.text import kneser_ney
from sifu_graph.text.encoded import Split
from sifu_graph.text.kneser_ney import KneserNey, baselines, estimate_discounts, every_place

NODES = 7
MARK = -1  # before a document begins


class Naive:
    """The formulas of Chen & Goodman, as they stand."""

    def __init__(self, documents: list[list[int]], order: int) -> None:
        self.levels: list[dict[tuple[int, ...], dict[int, int]]] = []  # by order: history -> token -> count
        for k in range(1, order + 1):
            grams = Counter(
                tuple([MARK] * order + document)[at - k + 1 + order : at + 1 + order]
                for document in documents for at in range(1, len(document))
            )  # fmt: skip
            if k < order:  # below the highest order: how many different tokens stood before
                longer = {
                    tuple([MARK] * order + document)[at - k + order : at + 1 + order]
                    for document in documents for at in range(1, len(document))
                }  # fmt: skip
                grams = Counter(gram[1:] for gram in longer)
            level: dict[tuple[int, ...], dict[int, int]] = defaultdict(dict)
            for gram, count in grams.items():
                level[gram[:-1]][gram[-1]] = count
            self.levels.append(dict(level))
        self.discounts = [
            (0.0, *estimate_discounts(np.array([c for row in level.values() for c in row.values()])))
            for level in self.levels
        ]

    def p(self, history: tuple[int, ...], token: int) -> float:
        row = self.levels[len(history)].get(history)
        lower = self.p(history[1:], token) if history else 1.0 / NODES
        if row is None:
            return lower
        D = self.discounts[len(history)]
        total, count = sum(row.values()), row.get(token, 0)
        left = sum(D[min(c, 3)] for c in row.values()) / total
        return (count - D[min(count, 3)]) / total + left * lower


texts = st.lists(st.lists(st.integers(0, NODES - 1), min_size=1, max_size=9), min_size=1, max_size=30)


@settings(max_examples=60)
@given(train=texts, heldout=texts, order=st.sampled_from([2, 3, 4]), block=st.sampled_from([3, 10, 1 << 20]))
def test_probabilities_are_those_of_the_definition(
    train: list[list[int]], heldout: list[list[int]], order: int, block: int
) -> None:
    train.append([0, 1])  # at least one pair
    seen, asked = (Split.from_arrays([np.array(d, np.int32) for d in docs]) for docs in (train, heldout))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kneser_ney, "BLOCK_TOKENS", block)
        model = KneserNey(seen, n=NODES)
        places = every_place(asked)
        found = dict(model.probabilities(asked, places))
        sums = model.nats(asked, places)
    naive = Naive(train, order)
    wanted = [
        naive.p(tuple(([MARK] * order + document)[at + 1 : at + order]), document[at])
        for document in heldout for at in range(1, len(document))
    ]  # fmt: skip
    # sums of positive terms: of the counts of a row, for each order
    assert_close(found[f"kneser-ney-{order}"], wanted, terms=order * NODES, size=wanted)
    nats = -sum(map(math.log, wanted))
    size = nats + len(wanted)  # log p is moved by the rounding of p
    assert_close(sums.get(f"kneser-ney-{order}", 0.0), nats, terms=order * NODES + len(wanted), size=size)


@settings(max_examples=20)
@given(train=texts, history=st.lists(st.integers(0, NODES - 1), min_size=1, max_size=4))
def test_probabilities_of_all_tokens_sum_to_one(train: list[list[int]], history: list[int]) -> None:
    train.append([0, 1])
    model = KneserNey(Split.from_arrays([np.array(d, np.int32) for d in train]), n=NODES)
    asked = Split.from_arrays([np.array([*history, token], np.int32) for token in range(NODES)])
    places = asked.offsets[1:] - 1
    for name, p in model.probabilities(asked, places):
        assert_close(p.sum(), 1.0, terms=5 * NODES, size=1.0, what=name)


def test_the_unigram() -> None:
    split = Split.from_arrays([np.array([0, 1, 1, 2])])
    found = dict(KneserNey(split, n=NODES).probabilities(split, np.array([1, 3])))
    assert_close(found["unigram"], [3 / 10, 2 / 10], terms=1, size=1.0)  # 2 of 3 and 1 of 3, each with one added


def test_orders_that_do_not_fit_are_left_out() -> None:
    split = Split.from_arrays([np.array([0, 69_999, 3, 0, 69_999])])
    assert KneserNey(split, n=65_535).orders == [2, 3, 4]
    model = KneserNey(split, n=70_000)
    assert model.orders == [2, 3]
    assert all(np.isfinite(p).all() for _, p in model.probabilities(split, every_place(split)))


def test_the_largest_keys() -> None:
    rng = np.random.default_rng(0)
    documents = [rng.integers(65_500, 65_535, 30) for _ in range(40)]
    small = Split.from_arrays([document - 65_500 for document in documents])
    large = Split.from_arrays(documents)
    one = dict(KneserNey(small, n=65_535).probabilities(small, every_place(small)))
    two = dict(KneserNey(large, n=65_535).probabilities(large, every_place(large)))
    np.testing.assert_array_equal(one["kneser-ney-4"], two["kneser-ney-4"])


def test_figures() -> None:
    (found,) = baselines(
        {"unigram": 20 * math.log(2.0)}, {"unigram": 15 * math.log(2.0)}, tokens=10, known=5, characters=40
    )
    figures = (found.perplexity, found.bits_per_token, found.bits_per_character, found.known_perplexity)
    assert_close(figures, (4.0, 2.0, 0.5, 8.0), terms=2, size=8.0)
    assert baselines({"unigram": 1.0}, {}, tokens=10, known=0, characters=None)[0].bits_per_character is None
