"""Token files, chunks and batches: against plain loops, through torn caches, from any step."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sifu_store.errors import CorpusError, DiskFullError, OptionError, ResourceError

from sifu_graph.text import encoded as tokens_module
from sifu_graph.text.batches import Batches, chunk_table
from sifu_graph.text.corpus import Corpus, is_held_out
from sifu_graph.text.encoded import Split, damaged_token_files, encode_corpus
from sifu_graph.text.registry import train_tokenizer
from sifu_graph.text.tokenizer import Tokenizer

LINES = [f"line {index} of {index * index % 97}" for index in range(500)]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "a.txt"
    path.write_text("\n".join(LINES), encoding="utf-8")
    return path


def prepare(text: Path, *, level: str = "char") -> tuple[Corpus, Tokenizer]:
    corpus = Corpus([text])
    vocab = 300 if level == "bpe" else 50
    return corpus, train_tokenizer(corpus.training(holdout=0.1), level=level, vocab=vocab)


@pytest.mark.parametrize("level", ["char", "bpe"])
def test_both_parts_hold_every_document(text: Path, tmp_path: Path, level: str) -> None:
    corpus, tokenizer = prepare(text, level=level)
    file = encode_corpus(corpus, tokenizer, directory=tmp_path / "cache", holdout=0.1)
    for split, held_out in ((file.train, False), (file.heldout, True)):
        wanted = [line for line in LINES if is_held_out(line, fraction=0.1) is held_out]
        assert split.documents == len(wanted) > 0
        for index, line in enumerate(wanted):
            assert np.array_equal(split.document(index), tokenizer.encode_document(line))
        assert split.ids.dtype == np.uint16
    assert file.documents == len(LINES)
    assert file.tokens == sum(len(tokenizer.encode_document(line)) for line in LINES)
    assert file.n == len(tokenizer)


def test_batches_of_the_encoder_do_not_show(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, tokenizer = prepare(text)
    whole = Split.from_documents(corpus.documents(), tokenizer)
    monkeypatch.setattr(tokens_module, "batched", lambda documents: ([document] for document in documents))
    single = Split.from_documents(corpus.documents(), tokenizer)
    assert np.array_equal(whole.ids, single.ids)
    assert np.array_equal(whole.offsets, single.offsets)


def test_more_than_65536_nodes(tmp_path: Path) -> None:
    rows = tmp_path / "a.jsonl"
    rows.write_text("\n".join(json.dumps([index, index + 1]) for index in range(66_000)), encoding="utf-8")
    corpus = Corpus([rows], tokens=True)
    tokenizer = train_tokenizer(corpus.documents(), level="tokens", vocab=100_000)
    file = encode_corpus(corpus, tokenizer, directory=tmp_path / "cache", holdout=0)
    assert file.train.ids.dtype == np.int32
    assert int(file.train.ids.max()) == len(tokenizer) - 1 > 1 << 16
    assert file.heldout.documents == file.heldout.tokens == file.heldout.transitions == 0
    assert file.train.transitions == 3 * 66_000


# ---- the cache


def test_a_cache_is_opened_not_rebuilt(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, tokenizer = prepare(text)
    first = encode_corpus(corpus, tokenizer, directory=tmp_path / "cache", holdout=0.1)
    monkeypatch.setattr(Corpus, "documents", lambda self: pytest.fail("read again"))
    again = encode_corpus(Corpus([text]), tokenizer, directory=tmp_path / "cache", holdout=0.1)
    assert again.path == first.path
    assert np.array_equal(again.train.ids, first.train.ids)


def test_another_key_is_another_cache(text: Path, tmp_path: Path) -> None:
    corpus, tokenizer = prepare(text)
    directory = tmp_path / "cache"
    paths = {encode_corpus(corpus, tokenizer, directory=directory, holdout=0.1).path}
    paths.add(encode_corpus(corpus, tokenizer, directory=directory, holdout=0.2).path)
    paths.add(encode_corpus(corpus, tokenizer.with_added(["line "]), directory=directory, holdout=0.1).path)
    text.write_text("other\ntext\nhere", encoding="utf-8")
    paths.add(encode_corpus(Corpus([text]), tokenizer, directory=directory, holdout=0.1).path)
    assert len(paths) == 4


def overwrite(path: Path, value: int, where: slice, *, checksums: bool = True) -> None:
    """Sets values of a token file; without ``checksums`` in one as earlier releases wrote it."""
    values = np.fromfile(path, "<u2" if path.suffix == ".ids" else "<i8")
    values[where] = value
    values.tofile(path)
    if not checksums:
        edit_meta(path.parent, crc32=None)


def edit_meta(path: Path, **changes: object) -> None:
    meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
    (path / "meta.json").write_text(json.dumps(meta | changes), encoding="utf-8")


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: (path / "meta.json").unlink(),
        lambda path: (path / "meta.json").write_text("{", encoding="utf-8"),
        lambda path: (path / "meta.json").write_text('{"format": 99}', encoding="utf-8"),
        lambda path: (path / "meta.json").write_text("[]", encoding="utf-8"),
        lambda path: (path / "train.ids").write_bytes(b"xx"),
        lambda path: (path / "heldout.offsets").unlink(),
        lambda path: (path / "train.offsets").write_bytes(bytes((path / "train.offsets").stat().st_size)),
        lambda path: (shutil.rmtree(path), path.write_text("a file", encoding="utf-8")),
        lambda path: overwrite(path / "train.ids", 5, slice(None)),
        lambda path: overwrite(path / "train.ids", 6, slice(100, 200)),
        lambda path: overwrite(path / "heldout.ids", 65535, slice(3, 4), checksums=False),
        lambda path: overwrite(path / "train.offsets", 1 << 40, slice(7, 8), checksums=False),
        lambda path: overwrite(path / "train.offsets", -1, slice(7, 8), checksums=False),
        lambda path: overwrite(path / "train.offsets", 1, slice(0, 1), checksums=False),
        lambda path: shutil.copyfile(path / "heldout.ids", path / "train.ids"),
        lambda path: edit_meta(path, dtype="|O"),
        lambda path: edit_meta(path, n=2),
        lambda path: edit_meta(path, tokens={"train": -1, "heldout": 0}),
        lambda path: (path / "meta.json").write_text("[" * 100_000, encoding="utf-8"),
        lambda path: (path.rename(path.with_name("moved")), path.symlink_to(path.with_name("moved"))),
    ],
)
def test_a_torn_cache_is_rebuilt(text: Path, tmp_path: Path, damage: object) -> None:
    corpus, tokenizer = prepare(text)
    directory = tmp_path / "cache"
    file = encode_corpus(corpus, tokenizer, directory=directory, holdout=0.1)
    expected, offsets = np.array(file.train.ids), np.array(file.train.offsets)
    (directory / "partial-left-by-a-kill").mkdir()
    assert not list(damaged_token_files(directory))
    damage(file.path)  # type: ignore[operator]
    assert list(damaged_token_files(directory))
    again = encode_corpus(corpus, tokenizer, directory=directory, holdout=0.1)
    assert np.array_equal(again.train.ids, expected)
    assert np.array_equal(again.train.offsets, offsets)
    assert not list(directory.glob("partial-*"))
    shutil.rmtree(directory / "moved", ignore_errors=True)
    assert not list(damaged_token_files(directory))


def test_a_token_file_of_an_earlier_release_is_opened(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, tokenizer = prepare(text)
    file = encode_corpus(corpus, tokenizer, directory=tmp_path / "cache", holdout=0.1)
    meta = json.loads((file.path / "meta.json").read_text(encoding="utf-8"))
    del meta["crc32"]
    (file.path / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    monkeypatch.setattr(Corpus, "documents", lambda self: pytest.fail("read again"))
    again = encode_corpus(Corpus([text]), tokenizer, directory=tmp_path / "cache", holdout=0.1)
    assert np.array_equal(again.train.ids, file.train.ids) and not list(damaged_token_files(tmp_path / "cache"))


def test_a_failure_leaves_nothing(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, tokenizer = prepare(text)
    directory = tmp_path / "cache"
    with pytest.raises(OptionError, match="held-out share"):
        encode_corpus(corpus, tokenizer, directory=directory, holdout=1.5)
    held = [line for line in LINES if is_held_out(line, fraction=0.1)]
    text.write_text(held[0], encoding="utf-8")
    with pytest.raises(CorpusError, match="all 1 documents are held out"):
        encode_corpus(Corpus([text]), tokenizer, directory=directory, holdout=0.1)
    for number, kind in ((errno.ENOSPC, DiskFullError), (errno.EACCES, ResourceError)):

        def fail(file: object, number: int = number) -> None:
            raise OSError(number, "no")

        monkeypatch.setattr(tokens_module, "_sync", fail)
        text.write_text("\n".join(LINES), encoding="utf-8")
        with pytest.raises(kind, match="cannot be written"):
            encode_corpus(Corpus([text]), tokenizer, directory=directory, holdout=0.1)
    assert [path.name for path in directory.iterdir() if path.name != "lock"] == []
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ResourceError, match="cannot be written"):
        encode_corpus(Corpus([text]), tokenizer, directory=tmp_path / "file", holdout=0.1)


# ---- chunks


def split_of(sizes: list[int]) -> Split:
    total = sum(sizes)
    ids = np.arange(total, dtype=np.int32) % 1_000
    return Split(ids, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))


def naive_chunks(split: Split, length: int) -> list[tuple[int, int]]:
    chunks = []
    for begin, end in zip(split.offsets[:-1], split.offsets[1:], strict=True):
        at = int(begin)
        while end - at >= 2:
            chunks.append((at, min(length, int(end) - at)))
            at += length - 1
    return chunks


@given(st.lists(st.integers(0, 40), max_size=20), st.integers(2, 12))
def test_chunks_equal_a_loop_and_hold_every_transition_once(sizes: list[int], length: int) -> None:
    split = split_of(sizes)
    start, n_tokens = chunk_table(split, length=length)
    assert list(zip(start.tolist(), n_tokens.tolist(), strict=True)) == naive_chunks(split, length)
    seen = [at + step for at, size in zip(start, n_tokens, strict=True) for step in range(size - 1)]
    inside = [at for begin, size in zip(split.offsets, sizes, strict=False) for at in range(begin, begin + size - 1)]
    assert seen == inside
    assert len(inside) == split.transitions
    assert (start.dtype, n_tokens.dtype) == (np.int64, np.int32)


def test_a_length_below_two() -> None:
    with pytest.raises(OptionError, match="at least 2 tokens"):
        chunk_table(split_of([5]), length=1)


# ---- batches


@given(
    st.lists(st.integers(0, 25), min_size=1, max_size=12).filter(lambda sizes: max(sizes) > 1),
    st.integers(2, 9),
    st.integers(1, 7),
    st.integers(0, 2**40),
)
def test_an_epoch_is_every_chunk_once(sizes: list[int], length: int, batch: int, seed: int) -> None:
    split = split_of(sizes)
    batches = Batches(split, length=length, batch=batch, seed=seed)
    expected = sorted(tuple(split.ids[at : at + size].tolist()) for at, size in naive_chunks(split, length))
    for epoch in (0, 1):
        found = list(batches.epoch(epoch))
        assert len(found) == batches.per_epoch
        rows = []
        for part in found:
            assert part.tokens.shape == (len(part.lengths), length)
            assert (part.tokens.dtype, part.lengths.dtype) == (np.int32, np.int32)
            for row, size in zip(part.tokens, part.lengths, strict=True):
                assert not row[size:].any()
                rows.append(tuple(row[:size].tolist()))
        assert sorted(rows) == expected
        assert all(len(part.lengths) == batch for part in found[:-1])


def test_any_step_can_be_had_alone() -> None:
    split = split_of([30] * 40)
    first = [Batches(split, length=8, batch=7, seed=3).batch_at(step) for step in range(60)]
    shuffled = Batches(split, length=8, batch=7, seed=3)
    for step in np.random.default_rng(0).permutation(60):
        batch = shuffled.batch_at(int(step))
        assert np.array_equal(batch.tokens, first[step].tokens)
        assert np.array_equal(batch.lengths, first[step].lengths)
    per_epoch = shuffled.per_epoch
    assert not np.array_equal(first[0].tokens, first[per_epoch].tokens)
    other = Batches(split, length=8, batch=7, seed=4).batch_at(0)
    assert not np.array_equal(first[0].tokens, other.tokens)


def test_bad_batches() -> None:
    with pytest.raises(OptionError, match="batch is 0"):
        Batches(split_of([5]), length=4, batch=0, seed=0)
    with pytest.raises(OptionError, match="seed is -1"):
        Batches(split_of([5]), length=4, batch=1, seed=-1)
    empty = Batches(split_of([1, 0, 1]), length=4, batch=2, seed=0)
    assert empty.per_epoch == 0
    with pytest.raises(CorpusError, match="no two tokens"):
        empty.batch_at(0)
