"""Counting against a plain dictionary, on random graphs and on the shipped poems."""

from __future__ import annotations

import errno
import math
import tempfile
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import needs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sifu_store.errors import DiskFullError, OptionError

from sifu_graph.disk_arrays import DiskArrays
from sifu_graph.text.corpus import Corpus, is_held_out
from sifu_graph.text.encoded import Split, encode_corpus
from sifu_graph.text.merged_counts import MergedCounts, run_of
from sifu_graph.text.pair_counts import PairCounts, count_pairs, coverage, select_private
from sifu_graph.text.registry import train_tokenizer

DATA = Path(__file__).parents[3] / "shared" / "data"

documents_of_ids = st.lists(st.lists(st.integers(0, 6), max_size=12), max_size=12)


def arrays(documents: list[list[int]]) -> list[np.ndarray]:
    return [np.array(document, dtype=np.int32) for document in documents]


def naive(documents: list[list[int]]) -> Counter[tuple[int, int]]:
    return Counter(pair for document in documents for pair in pairwise(document))


def as_dict(counts: PairCounts) -> dict[tuple[int, int], int]:
    keys = zip(counts.source.tolist(), counts.target.tolist(), strict=True)
    return dict(zip(keys, counts.count.tolist(), strict=True))


@given(
    documents=documents_of_ids,
    block=st.integers(1, 40),
    n=st.sampled_from([7, 9, 70_000]),
    stream=st.booleans(),
)
def test_counts_equal_a_dictionary(*, documents: list[list[int]], block: int, n: int, stream: bool) -> None:
    given_arrays = arrays(documents)
    tokens = iter(given_arrays) if stream else Split.from_arrays(given_arrays)
    counts = count_pairs(tokens, n=n, block_tokens=block)
    expected = naive(documents)
    assert as_dict(counts) == expected
    keys = list(as_dict(counts))
    assert keys == sorted(keys)
    nodes = Counter(node for document in documents for node in document)
    assert counts.node_count.tolist() == [nodes[node] for node in range(n)]
    assert counts.total == sum(expected.values())
    assert len(counts) == len(expected)
    if n < 70_000:
        rows = [[count for (u, _), count in expected.items() if u == node] for node in range(n)]
        assert counts.row_total.tolist() == [sum(row) for row in rows]
        assert counts.row_distinct.tolist() == [len(row) for row in rows]
        assert counts.row_start.tolist() == [0, *np.cumsum([len(row) for row in rows]).tolist()]
    assert (counts.source.dtype, counts.target.dtype, counts.count.dtype) == (np.int32, np.int32, np.int64)


@given(runs=st.lists(st.lists(st.integers(0, 30), max_size=30), max_size=9), block=st.integers(1, 40))
def test_merged_counts_equal_a_dictionary(runs: list[list[int]], block: int) -> None:
    for folder in (None, Path(tempfile.gettempdir())):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sifu_graph.text.merged_counts.BLOCK", block)
            patch.setattr("sifu_graph.disk_arrays.SMALL_BYTES", 0)
            merged = MergedCounts(np.dtype(np.int64), DiskArrays(folder))
            for run in runs:
                merged.add(*run_of(np.array(run, np.int64)))
            keys, count = merged.result()
        wanted = Counter(key for run in runs for key in run)
        assert list(zip(keys.tolist(), count.tolist(), strict=True)) == sorted(wanted.items())


def test_a_full_disk_is_an_error_before_the_map_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    assert not DiskArrays(tmp_path).zeros(3, np.int64).any()  # small: in memory
    with pytest.raises(DiskFullError, match="while counting"):
        DiskArrays(tmp_path).zeros(1 << 24, np.int64)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("n", [1 << 16, (1 << 16) + 1])
def test_the_largest_ids(n: int) -> None:
    top = n - 1
    counts = count_pairs([np.array([top, top, 0, top], dtype=np.int32)], n=n)
    assert as_dict(counts) == {(0, top): 1, (top, 0): 1, (top, top): 1}


@given(documents_of_ids, st.floats(0, 1), st.integers(1, 4))
def test_selection_equals_sorting(documents: list[list[int]], sparsify: float, min_count: int) -> None:
    n = 7
    counts = count_pairs(arrays(documents), n=n)
    mask = select_private(counts, sparsify=sparsify, min_count=min_count)
    ranked = sorted(as_dict(counts).items(), key=lambda item: (-item[1], item[0]))
    budget = math.floor(Fraction(repr(sparsify)) * n * n)
    expected = {pair for pair, count in ranked if count >= min_count and count > 0}
    expected &= {pair for pair, _ in ranked[:budget]}
    chosen = {pair for pair, private in zip(as_dict(counts), mask, strict=True) if private}
    assert chosen == expected
    covered = sum(as_dict(counts)[pair] for pair in expected)
    assert coverage(counts, mask) == (covered / counts.total if counts.total else 0.0)


@given(documents_of_ids.filter(lambda documents: any(len(one) > 1 for one in documents)), st.floats(0, 1))
def test_the_pairs_of_a_share_equal_sorting(documents: list[list[int]], share: float) -> None:
    counts = count_pairs(arrays(documents), n=7)
    most_first = np.sort(counts.count)[::-1].cumsum()
    assert counts.pairs_for(share) == 1 + int(np.searchsorted(most_first, share * most_first[-1]))


def test_the_budget_is_read_as_a_decimal() -> None:
    everything = [np.array([u, v], dtype=np.int32) for u in range(10) for v in range(10)]
    counts = count_pairs(everything, n=10)
    assert 0.29 * 100 < 29  # in binary
    for sparsify, private in {0.29: 29, 0.57: 57, 0: 0, 1: 100, 0.009: 0, 0.01: 1}.items():
        mask = select_private(counts, sparsify=sparsify)
        assert int(mask.sum()) == private
        assert mask[:private].all()  # all are equal: the first in order


@pytest.mark.parametrize(("option", "value"), [("sparsify", -0.1), ("sparsify", 1.01), ("sparsify", math.nan)])
def test_bad_options(option: str, value: float) -> None:
    counts = count_pairs(arrays([[0, 1]]), n=2)
    with pytest.raises(OptionError, match="`sparsify` is"):
        select_private(counts, **{option: value})
    with pytest.raises(OptionError, match="least count is 0"):
        select_private(counts, sparsify=0.5, min_count=0)


def test_nothing_to_count() -> None:
    counts = count_pairs([], n=5)
    assert len(counts) == counts.total == 0
    assert coverage(counts, select_private(counts, sparsify=1)) == 0.0


def test_tang_equals_a_dictionary(tmp_path: Path) -> None:
    poems = [str(poem) for poem, _ in zip(Corpus(["tang"]).documents(), range(10_000), strict=False)]
    (tmp_path / "poems.txt").write_text("\n".join(poems), encoding="utf-8")
    corpus = Corpus([tmp_path / "poems.txt"])
    tokenizer = train_tokenizer(corpus.training(holdout=0.01), level="char", vocab=4_000)
    file = encode_corpus(corpus, tokenizer, directory=tmp_path, holdout=0.01)
    counts = count_pairs(file, n=file.n)
    expected: Counter[tuple[str, str]] = Counter()
    names = tokenizer.vocabulary
    known = set(names)
    for line in corpus.documents():
        assert isinstance(line, str)
        if not is_held_out(line, fraction=0.01):
            nodes = [character if character in known else "<unk>" for character in line]
            expected.update(pairwise(["<sep>", *nodes, "<sep>"]))
    named = {(names[u], names[v]): count for (u, v), count in as_dict(counts).items()}
    assert named == expected
    assert np.all(np.diff(counts.node_count[2:]) <= 0)
    mask = select_private(counts, sparsify=0.05)
    assert int(mask.sum()) == min(800_000, len(counts))
    assert counts.count[mask].min() >= counts.count[~mask].max(initial=0)


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "zh_song.txt.xz").exists(), reason=needs.SHARED)
def test_tang_and_song(tmp_path: Path) -> None:
    corpus = Corpus([DATA / "zh_tang.txt.xz", DATA / "zh_song.txt.xz"])

    def stream() -> Iterator[object]:
        return iter(corpus.training(holdout=0.01))

    tokenizer = train_tokenizer(stream(), level="char", vocab=4_000)  # type: ignore[arg-type]
    file = encode_corpus(corpus, tokenizer, directory=tmp_path, holdout=0.01)
    counts = count_pairs(file, n=file.n)
    characters = counts.node_count.sum() - counts.node_count[1]
    assert 1 - counts.node_count[0] / characters == pytest.approx(0.985, abs=0.001)
    assert len(counts) == pytest.approx(1.9e6, rel=0.05)
    mask = select_private(counts, sparsify=0.1)
    assert int(mask.sum()) == 1_600_000
    assert coverage(counts, mask) == pytest.approx(0.983, abs=0.005)
