"""Tokenizers against plain Python: order of nodes, exact decoding, added nodes, streaming."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from functools import cache

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st
from sifu_store.errors import CorpusError, OptionError, StoreDamagedError, StoreVersionError

from sifu_graph.text import pretokens as pretokens_module
from sifu_graph.text.bpe import no_surrogates
from sifu_graph.text.corpus import Corpus
from sifu_graph.text.pretokens import pretokens
from sifu_graph.text.registry import read_tokenizer, train_tokenizer
from sifu_graph.text.tokenizer import LEVELS, SEPARATOR, UNKNOWN, Tokenizer

small_text = st.text("abc春風雲\n😀", max_size=30)
any_text = st.text(st.characters(codec="utf-8"), max_size=40)
POEMS = ["春風春雨", "春眠", "風"]
ENGLISH = ["the cat and the dog", "the dog's naïve cat 😀", "a dog and a cat sat", "春風"] * 3


@cache
def english() -> Tokenizer:
    return train_tokenizer(ENGLISH, level="bpe", vocab=280)


@cache
def poems() -> Tokenizer:
    return train_tokenizer(POEMS, level="char", vocab=100)


def naive_encode(text: str, nodes: dict[str, int], added: list[str]) -> list[int]:
    """Longest added node first, else one character; one position at a time."""
    ids, at = [], 0
    while at < len(text):
        match = max((token for token in added if text.startswith(token, at)), key=len, default=text[at])
        ids.append(nodes.get(match, SEPARATOR if match == "\n" else UNKNOWN))
        at += len(match)
    return ids


# ---- characters


@given(st.lists(small_text, min_size=1, max_size=10).filter(any), st.integers(3, 12))
def test_characters_are_ordered_by_frequency(documents: list[str], vocab: int) -> None:
    tokenizer = train_tokenizer(iter(documents), level="char", vocab=vocab)
    counts = Counter("".join(documents))
    expected = sorted(counts, key=lambda character: (-counts[character], character))
    assert tokenizer.vocabulary == ["<unk>", "<sep>", *expected][:vocab]
    assert len(tokenizer) == min(vocab, 2 + len(counts))


@given(st.lists(small_text, min_size=1).filter(any), small_text, st.lists(small_text, max_size=4))
def test_char_encode_equals_naive(documents: list[str], text: str, added: list[str]) -> None:
    tokenizer = train_tokenizer(documents, level="char", vocab=6)
    fresh = [token for token in dict.fromkeys(added) if token and tokenizer.token_id(token) is None]
    tokenizer = tokenizer.with_added(fresh)
    nodes = {name: node for node, name in enumerate(tokenizer.vocabulary) if node > 1}
    assert tokenizer.encode(text).tolist() == naive_encode(text, nodes, tokenizer.added)
    assert tokenizer.encode(text).dtype == np.int32
    rest = re.sub("|".join(map(re.escape, sorted(fresh, key=len, reverse=True))) or "(?!)", "", text)
    unknown = [character for character in dict.fromkeys(rest) if character not in nodes and character != "\n"]
    assert tokenizer.unknown_characters(text) == unknown


def test_char_decoding() -> None:
    tokenizer = poems()
    assert tokenizer.decode(tokenizer.encode_document("春風")) == "\n春風\n"
    assert tokenizer.decode(tokenizer.encode("春X風\nY")) == "春\ufffd風\n\ufffd"
    assert tokenizer.encode("\ud800").tolist() == [UNKNOWN]
    assert tokenizer.encode("").tolist() == []
    assert tokenizer.token_id("春") == 2
    assert tokenizer.token_id("X") is None


def test_a_line_break_in_the_text_is_a_node() -> None:
    tokenizer = train_tokenizer(["a\nb"], level="char", vocab=10)
    assert tokenizer.encode("\n").tolist() == [tokenizer.token_id("\n")]
    assert tokenizer.decode(tokenizer.encode("a\nb")) == "a\nb"


# ---- every level


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("added", [[], ["the dog", "dog c", "og and"]])
@given(documents=st.lists(st.one_of(small_text, st.sampled_from(ENGLISH)), max_size=8))
def test_batch_equals_one_by_one(level: str, added: list[str], documents: list[str]) -> None:
    tokenizer = trained(level).with_added(added)
    ids, lengths = tokenizer.encode_batch(documents)
    parts = [tokenizer.encode_document(document) for document in documents]
    assert ids.tolist() == [node for part in parts for node in part.tolist()]
    assert lengths.tolist() == [len(part) for part in parts]
    assert all(part[0] == part[-1] == SEPARATOR for part in parts)
    assert (ids.dtype, lengths.dtype) == (np.int32, np.int64)


@cache
def trained(level: str) -> Tokenizer:
    documents = [text.split() for text in ENGLISH] if level == "tokens" else ENGLISH
    return train_tokenizer(documents, level=level, vocab=270)


@pytest.mark.parametrize("level", LEVELS)
def test_json_round_trip(level: str) -> None:
    tokenizer = trained(level).with_added(["cat and", "<odd>", "日"])
    again = read_tokenizer(json.loads(json.dumps(tokenizer.to_json())))
    assert again.to_json() == tokenizer.to_json()
    assert again.fingerprint == tokenizer.fingerprint != trained(level).fingerprint
    assert again.vocabulary == tokenizer.vocabulary
    assert again.added == ["cat and", "<odd>", "日"]
    assert len(set(tokenizer.vocabulary)) == len(tokenizer) == len(trained(level)) + 3
    assert [tokenizer.token_id(name) for name in tokenizer.vocabulary] == list(range(len(tokenizer)))
    assert np.array_equal(again.encode(ENGLISH[0]), tokenizer.encode(ENGLISH[0]))


def test_bad_options() -> None:
    with pytest.raises(OptionError, match=r"`level` is .words.: there are char, .*; did you mean word"):
        train_tokenizer(POEMS, level="words", vocab=10)
    with pytest.raises(OptionError, match="did you mean bpe"):
        train_tokenizer(POEMS, level="wordpiece", vocab=10)
    for level, vocab in {"char": 2, "bpe": 257, "tokens": 0}.items():
        with pytest.raises(OptionError, match="needs at least"):
            train_tokenizer(POEMS, level=level, vocab=vocab)
        with pytest.raises(CorpusError, match="no document"):
            train_tokenizer([], level=level, vocab=300)
    with pytest.raises(OptionError, match="is a node already"):
        poems().with_added(["春"])
    with pytest.raises(OptionError, match="is a node already"):
        poems().with_added(["xy", "xy"])
    for token in ("", "a\ud800"):
        with pytest.raises(OptionError, match="cannot be a node"):
            poems().with_added([token])
    with pytest.raises(TypeError, match="twice"):
        train_tokenizer(iter(POEMS), level="bpe", vocab=300)


def test_bad_records() -> None:
    good = english().to_json()
    with pytest.raises(StoreVersionError, match="format 2"):
        read_tokenizer({**good, "format": 2})
    for change in ({"level": "x"}, {"nodes": 5}, {"nodes": ["a"]}, {"added": [9999]}, {"merges": [["a"]]}):
        with pytest.raises(StoreDamagedError, match="tokenizer cannot be read"):
            read_tokenizer({**good, **change})
    with pytest.raises(StoreDamagedError):
        read_tokenizer({"format": 1})


# ---- byte-level BPE


@given(any_text)
def test_bpe_decodes_exactly(text: str) -> None:
    tokenizer = english()
    ids = tokenizer.encode(text)
    assert UNKNOWN not in ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.unknown_characters(text) == []
    added = tokenizer.with_added(["the dog", "春風", "😀 "])
    assert added.decode(added.encode(text)) == text


SPACES = " \u00a0\u3000\u2028\t\n\r\x0b\x0c\x1c\x1f\x85\x00\u200b\ufeff"
MIXED = st.text(st.sampled_from("aZé春ß09²Ⅷ'stredvml.,-_!\u0301😀" + SPACES))


@given(st.one_of(MIXED, any_text, st.text(st.sampled_from("a1 '.s"))).map(no_surrogates))
@example("a  b\n c")
@example("!\x1c!")
@example("it's 'tis 's")
def test_pretokens_are_cut_where_the_library_cuts(text: str) -> None:
    library = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)

    def pieces(part: str) -> list[str]:
        return [piece for piece, _ in library.pre_tokenize_str(part)]

    parts = pretokens(text)
    assert "".join(parts) == text
    assert [piece for part in parts for piece in pieces(part)] == pieces(text)
    if text.isascii():
        assert len(parts) == len(pieces(text))


def test_bpe_has_the_vocabulary_asked_for_by_frequency() -> None:
    tokenizer = english()
    assert len(tokenizer) == 280
    counts = np.bincount(tokenizer.encode_batch(ENGLISH)[0], minlength=280)[2:]
    assert np.all(np.diff(counts) <= 0)
    assert len(train_tokenizer(["ab"], level="bpe", vocab=5_000)) == 2 + 256 + 1
    assert " dog" in tokenizer.vocabulary
    assert "<0xFF>" in tokenizer.vocabulary


@pytest.mark.parametrize("most", [0, 10, 1 << 20])
def test_more_pretokens_than_are_kept_change_nothing(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretokens_module, "MOST_CHARACTERS", most)
    tokenizer = train_tokenizer(ENGLISH, level="bpe", vocab=280)
    assert tokenizer.to_json() == english().to_json()
    encode = tokenizer.encoder()
    for batch in (ENGLISH[:1], ENGLISH, [], ENGLISH[::-1]):
        ids, lengths = encode(batch)
        documents = [tokenizer.encode_document(text) for text in batch]
        assert ids.tolist() == [node for document in documents for node in document]
        assert lengths.tolist() == list(map(len, documents))


def test_bpe_added_nodes_come_first_and_longest() -> None:
    tokenizer = english().with_added(["og", "the do", "dog and"])
    names = [tokenizer.vocabulary[node] for node in tokenizer.encode("the dog and")]
    assert names[0] == "the do"
    names = [tokenizer.vocabulary[node] for node in tokenizer.encode("xdog and")]
    assert names[-1] == "dog and"


def test_bpe_reads_half_a_surrogate_pair_as_a_replacement() -> None:
    tokenizer = english()
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"
    assert tokenizer.decode(tokenizer.encode_batch(["a\ud800b"])[0]) == "\na\ufffdb\n"


def test_bpe_names_are_different_even_for_hostile_text() -> None:
    tokenizer = train_tokenizer(["<unk><unk>", "<sep><sep>", "<0x41>", "A"] * 20, level="bpe", vocab=290)
    assert len(set(tokenizer.vocabulary)) == len(tokenizer)
    assert tokenizer.token_id("<sep>") == SEPARATOR
    assert tokenizer.decode(tokenizer.encode("<sep><unk><0x41>")) == "<sep><unk><0x41>"
    assert SEPARATOR not in tokenizer.encode("<sep>")


def test_bpe_training_errors_come_through() -> None:
    class Broken:
        def __iter__(self) -> object:
            raise CorpusError("a.txt: not UTF-8")

    def broken() -> object:
        yield "fine"
        raise CorpusError("a.txt: not UTF-8")

    class BrokenLater:
        def __iter__(self) -> object:
            return broken()

    for documents in (Broken(), BrokenLater()):
        with pytest.raises(CorpusError, match="not UTF-8"):
            train_tokenizer(documents, level="bpe", vocab=300)


PRINT_FINGERPRINT = """
import sys
from sifu_graph.text.registry import train_tokenizer
words = [f"{a}{b} {b * 2}{a}" for a in ("ab", "ba", "cd", "dc") for b in ("x", "y", "zz", "xy")] * 3
print(train_tokenizer(words, level=sys.argv[1], vocab=300).fingerprint)
"""


@pytest.mark.parametrize("level", ["char", "word", "bpe"])
def test_training_is_deterministic_across_processes(level: str) -> None:
    found = set()
    for seed, threads in (("1", "1"), ("2", "4")):
        environment = {"PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": threads, "PYTHONPATH": ":".join(sys.path)}
        command = [sys.executable, "-c", PRINT_FINGERPRINT, level]
        found.add(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)
    assert len(found) == 1


# ---- streaming


@given(st.lists(st.integers(0, 279), max_size=60))
def test_streaming_equals_decoding_and_never_prints_half_a_character(ids: list[int]) -> None:
    tokenizer = english()
    decoder = tokenizer.decoder()
    printed = [decoder.push(node) for node in ids]
    assert "".join(printed) + decoder.flush() == tokenizer.decode(ids)


@given(any_text)
def test_streaming_of_real_text_prints_no_replacement(text: str) -> None:
    decoder = english().decoder()
    printed = [decoder.push(int(node)) for node in english().encode(text)]
    assert "".join(printed) == text
    assert decoder.flush() == ""


def test_broken_bytes_are_replaced() -> None:
    tokenizer = english()
    half = tokenizer.token_id("<0xE6>")
    assert half is not None
    assert tokenizer.decode([half]) == "\ufffd"
    assert tokenizer.decode([half, SEPARATOR, half]) == "\ufffd\n\ufffd"
    decoder = tokenizer.decoder()
    assert [decoder.push(half), decoder.push(SEPARATOR)] == ["", "\ufffd\n"]


# ---- lists of tokens


def test_lists_of_tokens() -> None:
    documents = [["img_5", "7", "img_5"], ["7", "img_5", "a b"]]
    tokenizer = train_tokenizer(iter(documents), level="tokens", vocab=4)
    assert tokenizer.vocabulary == ["<unk>", "<sep>", "img_5", "7"]
    assert tokenizer.encode(["7", "a b", "<sep>", "img_5"]).tolist() == [3, 0, 1, 2]
    assert tokenizer.encode("7 img_5").tolist() == [3, 2]
    assert tokenizer.unknown_characters(["a b", "7", "x", "a b"]) == ["a b", "x"]
    assert tokenizer.decode([1, 3, 2, 1, 2, 0]) == "\n7 img_5\nimg_5 <unk>"


def test_wordnet_bpe_of_a_part() -> None:
    documents = [text for _, text in zip(range(3_000), Corpus(["wordnet"]).documents(), strict=False)]
    tokenizer = train_tokenizer(documents, level="bpe", vocab=1_000)
    assert len(tokenizer) == 1_000
    assert all(tokenizer.decode(tokenizer.encode(text)) == text for text in documents[:200])
