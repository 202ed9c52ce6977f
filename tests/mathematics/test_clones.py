"""Clones: which contexts have one, their counts, and the model of the counts, against naive versions."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sifu_graph.disk_arrays import DiskArrays
from sifu_graph.ops.pair_model import PairModel
from sifu_graph.text.clone_tree import CloneTree
from sifu_graph.text.clones import MOST_NODES, CloneCounts, choose
from sifu_graph.text.encoded import Split
from sifu_graph.text.kneser_ney import KneserNey, estimate_discounts, every_place
from sifu_graph.text.pair_counts import count_pairs
from sifu_graph.training.pieces import Pieces

Name = tuple[int, ...]
Counted = dict[Name, Counter[int]]  # source, as its name -> targets

cases = given(
    seed=st.integers(0, 2**16), nodes=st.integers(2, 9), documents=st.integers(1, 40), clones=st.integers(0, 60)
)


def random_text(seed: int, *, nodes: int, documents: int) -> Split:
    """Documents in which nodes depend on the two before."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(documents):
        ids = rng.integers(0, nodes, 2).tolist()
        for step in rng.integers(0, 2, rng.integers(0, 20)).tolist():
            ids.append((ids[-1] + 2 * ids[-2] + step) % nodes)
        found.append(np.array(ids, np.int32))
    return Split.from_arrays(found)


def clones_of(text: Split, nodes: int, clones: int, least_gain: float = -math.inf) -> CloneCounts:
    return choose(text, count_pairs(text, n=nodes), clones=clones, least_gain=least_gain)


def names_of(tree: CloneTree) -> list[Name]:
    return [tuple(tree.name(source)) for source in range(tree.sources)]


def naive_source(document: list[int], names: set[Name]) -> Name:
    """The longest name that the document ends with, of those whose shorter forms are names too."""
    best = tuple(document[-1:])
    for size in range(2, len(document) + 1):
        if tuple(document[-size:]) not in names:
            break
        best = tuple(document[-size:])
    return best


def occurrences(text: Split, names: set[Name]) -> Counted:
    """How often each target follows each source."""
    found: Counted = {name: Counter() for name in names}
    for k in range(text.documents):
        document = text.document(k).tolist()
        for end in range(1, len(document)):
            found[naive_source(document[:end], names)][document[end]] += 1
    return found


def with_parents(own: Counted) -> Counted:
    """Kneser-Ney's counts: each distinct pair of a clone and a target counts once for the clone's parent."""
    found = {name: Counter(targets) for name, targets in own.items()}
    for name in sorted(found, key=len, reverse=True):
        if len(name) > 1:
            found[name[1:]].update(target for target, count in found[name].items() if count)
    return found


@settings(max_examples=30)
@cases
def test_counts_are_those_of_the_text(seed: int, nodes: int, documents: int, clones: int) -> None:
    text = random_text(seed, nodes=nodes, documents=documents)
    found = clones_of(text, nodes, clones)
    names = names_of(found.tree)
    assert len(set(names)) == len(names)
    assert all(len(name) <= MOST_NODES and (len(name) == 1 or name[1:] in names) for name in names)
    wanted = with_parents(occurrences(text, set(names)))
    for source, name in enumerate(names):
        row = slice(found.first[source], found.first[source + 1])
        assert found.target[row].tolist() == sorted(wanted[name])
        assert found.count[row].tolist() == [wanted[name][int(v)] for v in found.target[row]]


@settings(max_examples=20)
@cases
def test_blocks_files_and_threads_change_nothing(seed: int, nodes: int, documents: int, clones: int) -> None:
    text = random_text(seed, nodes=nodes, documents=documents)
    wanted = clones_of(text, nodes, clones, 0.0)
    with pytest.MonkeyPatch.context() as patch:
        for name, size in (("arrays.BLOCK", 16), ("text.clones.BLOCK", 16), ("text.ngrams.BLOCK", 16)):
            patch.setattr(f"sifu_graph.{name}", size)
        patch.setattr("sifu_graph.text.ngrams.BLOCK_TOKENS", 7)
        patch.setattr("sifu_graph.disk_arrays.SMALL_BYTES", 0)
        patch.setattr("sifu_graph.disk_arrays._threads", lambda: 3)
        counts, arrays = count_pairs(text, n=nodes), DiskArrays(Path(tempfile.gettempdir()))
        found = choose(text, counts, clones=clones, least_gain=0.0, arrays=arrays)
    for one, two in (
        (found.tree.parent, wanted.tree.parent),
        (found.tree.token, wanted.tree.token),
        (found.first, wanted.first),
        (found.target, wanted.target),
        (found.count, wanted.count),
    ):
        assert one.tolist() == two.tolist()
    assert found.gain == pytest.approx(wanted.gain, rel=1e-6)  # sums of blocks round


@settings(max_examples=30)
@cases
def test_sources_are_the_longest_names(seed: int, nodes: int, documents: int, clones: int) -> None:
    text = random_text(seed, nodes=nodes, documents=documents)
    tree = clones_of(text, nodes, clones).tree
    names, every = names_of(tree), np.arange(text.tokens)
    begins = np.isin(every, text.offsets[:-1])
    found = tree.sources_at(text.ids, begins, every.reshape(1, -1))[0]
    for k in range(text.documents):
        document = text.document(k).tolist()
        for end in range(1, len(document) + 1):
            wanted = naive_source(document[:end], set(names))
            assert names[found[text.offsets[k] + end - 1]] == wanted == names[tree.source_of(document[:end])]


def naive_kind(row: Counter[int]) -> tuple[int, int]:
    """The kind of a context, from its targets."""
    total, targets = sum(row.values()), sum(count > 0 for count in row.values())
    size = next(size for size in (1, 2, 3, 4, 8, 16, 32, 64, 128, 256, 512, 1024) if total <= size)
    return size, 0 if targets == 1 else math.ceil(Fraction(4 * targets, total))


def discounts_of(counted: dict[int, Counted]) -> dict[int, tuple[float, ...]]:
    """The discounts of the counts of each length of a context."""
    every = {size: [count for row in rows.values() for count in row.values()] for size, rows in counted.items()}
    return {size: (0.0, *estimate_discounts(np.array(counts))) for size, counts in every.items()}


def naive_gains(text: Split, nodes: int) -> dict[Name, float]:
    """What contexts like each context gain, from the counts of all n-grams."""
    grams: dict[int, Counted] = {size: {} for size in range(1, MOST_NODES + 1)}
    for k in range(text.documents):
        document = text.document(k).tolist()
        for end, size in product(range(1, len(document)), range(1, MOST_NODES + 1)):
            if size <= end:
                grams[size].setdefault(tuple(document[end - size : end]), Counter())[document[end]] += 1
    before = Counter(v for row in grams[1].values() for v in row)
    discounts = discounts_of(grams)

    def p(context: Name, v: int) -> float:
        if not context:
            return (before[v] + 0.5) / sum(before[w] + 0.5 for w in range(nodes))
        row, d = grams[len(context)][context], discounts[len(context)]
        left = sum(d[min(count, 3)] for count in row.values())
        return (row[v] - d[min(row[v], 3)] + left * p(context[1:], v)) / sum(row.values())

    found: dict[Name, float] = {}
    for size in range(2, MOST_NODES + 1):
        d, gained, alike = discounts[size], Counter[tuple[int, int]](), Counter[tuple[int, int]]()
        for name, row in grams[size].items():
            alike[naive_kind(row)] += sum(row.values())
            for v, count in row.items():
                if rest := row - Counter({v: 1}):
                    lower, left = p(name[1:], v), sum(d[min(other, 3)] for other in rest.values())
                    without = (rest[v] - d[min(rest[v], 3)] + left * lower) / sum(rest.values())
                    gained[naive_kind(rest)] += count * math.log(without / lower)
        for name, row in grams[size].items():
            found[name] = sum(row.values()) * gained[naive_kind(row)] / alike[naive_kind(row)]
    return found


@settings(max_examples=15)
@given(seed=st.integers(0, 2**16), nodes=st.integers(2, 6), documents=st.integers(1, 40))
def test_the_contexts_of_greatest_gain_are_chosen(seed: int, nodes: int, documents: int) -> None:
    text = random_text(seed, nodes=nodes, documents=documents)
    every = clones_of(text, nodes, 10**6)
    gains = dict(zip(names_of(every.tree)[nodes:], every.gain.tolist(), strict=True))
    naive = naive_gains(text, nodes)
    assert gains.keys() == naive.keys()
    for name, gain in gains.items():
        assert gain == pytest.approx(naive[name], rel=1e-5, abs=1e-5)
    few = clones_of(text, nodes, 5, 0.0)
    worth: dict[Name, float] = {}  # a clone brings its parents along
    for name in (name for name in gains if gains[name] > 0):
        for k in range(len(name) - 1):
            worth[name[k:]] = max(worth.get(name[k:], 0), gains[name])
    wanted = set(sorted(worth, key=lambda name: (-worth[name], len(name), name))[:5])
    assert set(names_of(few.tree)[nodes:]) == wanted


def naive_p(model: PairModel, counted: Counted, name: Name, v: int, q: float) -> float:
    """p(v | the source of a name), from its counts and q."""
    below = naive_p(model, counted, name[1:], v, q) if len(name) > 1 else q
    row, d = counted[name], (0.0, *model.discounts[len(name) - 1])
    total = sum(row.values())
    if not total:
        return below
    left = sum(d[min(c, 3)] for c in row.values()) / total
    return (row[v] - d[min(row[v], 3)]) / total + left * below


@settings(max_examples=20)
@cases
def test_a_row_without_a_document_is_that_of_the_other_counts(
    seed: int, nodes: int, documents: int, clones: int
) -> None:
    text = random_text(seed, nodes=nodes, documents=documents)
    counts = clones_of(text, nodes, clones)
    model, names = PairModel.of(count_pairs(text, n=nodes), counts), names_of(counts.tree)
    own, every = occurrences(text, set(names)), np.arange(len(names))
    lower, less = np.exp(model.log_lower), np.exp(model.log_less)
    full, rows = with_parents(own), model.rows(every)
    assert np.exp(rows).sum(1) == pytest.approx(1.0)
    for source, name in enumerate(names):
        for v in range(nodes):
            assert math.exp(rows[source, v]) == pytest.approx(naive_p(model, full, name, v, lower[v]), rel=1e-9)
    predecessors = [sum(full[u,][v] > 0 for u in range(nodes)) for v in range(nodes)]
    for k in range(min(text.documents, 8)):
        alone = occurrences(Split.from_arrays([text.document(k)]), set(names))
        rest = with_parents({name: own[name] - alone[name] for name in own})
        lost = [predecessors[v] - sum(rest[u,][v] > 0 for u in range(nodes)) for v in range(nodes)]
        piece, out = Pieces(text, model).at(text.offsets[k : k + 1])
        found = model.rows_without(every, np.full(len(every), int(piece[0])), out)
        for v in range(nodes):
            q = lower[v] if not lost[v] else max(less[v] - (lost[v] - 1) * (lower - less).max(), less.min())
            if max(predecessors) > 3 and predecessors[v] - lost[v] >= 3:
                assert q == pytest.approx(lower[v] - lost[v] / sum(predecessors), rel=1e-9)
            for source, name in enumerate(names):
                assert math.exp(found[source, v]) == pytest.approx(naive_p(model, rest, name, v, q), rel=1e-9)


def test_a_long_document_is_left_out_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sifu_graph.training.pieces.MOST_TOKENS", 7)
    text = random_text(5, nodes=6, documents=9)
    text = Split.from_arrays([np.concatenate([text.ids, text.ids]), text.document(0), np.empty(0, np.int32)])
    counts = count_pairs(text, n=6)
    model = PairModel.of(counts, clones_of(text, 6, 30))
    every = np.arange(text.tokens)
    piece, out = Pieces(text, model).at(every.reshape(1, -1))
    assert piece.dtype == torch.int32
    sizes = np.diff(text.offsets)
    assert piece[0].tolist() == [int(sum(-(-sizes[:k] // 7))) + at // 7 for k in range(3) for at in range(sizes[k])]
    lost = np.zeros(len(model.target), np.int64)
    np.add.at(lost, out.pair, out.count)
    depth = model.tree.depth[model.sources_of(np.arange(len(model.target)))]
    inner = depth == depth.max()
    assert (lost <= model.count * len(out.first)).all()
    assert lost[inner].tolist() == model.count[inner].tolist()  # each occurrence is in one piece


@pytest.mark.parametrize("order", [3, 4])
def test_all_contexts_are_kneser_ney(order: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kneser-Ney pads documents with marks, clones do not: the places with a whole history agree."""
    monkeypatch.setattr("sifu_graph.text.clones.MOST_NODES", order - 1)
    nodes, rng = 30, np.random.default_rng(0)
    text = Split.from_arrays([np.cumsum(rng.choice([1, 2, 5], 30_000, p=[0.6, 0.3, 0.1])).astype(np.int32) % nodes])
    model = PairModel.of(count_pairs(text, n=nodes), clones_of(text, nodes, 10**6))
    places = every_place(text)[order:]
    source = model.tree.sources_at(text.ids, np.arange(text.tokens) == 0, places - 1)
    found = model.rows(source[:2000])[np.arange(2000), text.ids[places[:2000]]]
    wanted = KneserNey(text, n=nodes, orders=[order]).nats(text, places[:2000])[f"kneser-ney-{order}"]
    assert math.exp((-found.sum() - wanted) / 2000) == pytest.approx(1, abs=1e-3)  # perplexities
