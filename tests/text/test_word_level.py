"""The tokenizer of words: what a word is, spaces that come back, names that can be seen, lower case."""

from __future__ import annotations

import json
import unicodedata
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sifu_store.errors import ForeignFileError, OptionError

from sifu_graph.text.imported import level_of_library, library_file, read_vocabulary
from sifu_graph.text.registry import read_tokenizer, train_tokenizer
from sifu_graph.text.tokenizer import SEPARATOR, UNKNOWN, Tokenizer
from sifu_graph.text.words import JOIN, WordTokenizer, asks_for_spaces

TEXT = [
    "The cat sat on the mat.",
    'He said: "Don\'t (ever) pay $3.14 for 1,000 cats -- or dogs!"  Two  spaces.',
    "e.g. a/b and foo.bar; naïve café, नमस्ते दुनिया, 春眠不覺曉。The end",
    "New York is new; York is not\u00a0new, soft\u00adhyphen",
]
texts = st.text(st.sampled_from(list("aB\u00e9e\u03011.,'’ \t\n\u00a0\u00ad\u200b\ufe0f春。(-$\"_İΣ😀")), max_size=24)
any_text = st.text(st.characters(codec="utf-8"), max_size=30)
word_text = st.lists(st.sampled_from(["the", "cat", "New", "York", *'.,()$-"春', "3.14", " ", "  "])).map("".join)


@cache
def words(*, lowercase: bool = False) -> Tokenizer:
    return train_tokenizer(TEXT, level="word", vocab=200, lowercase=lowercase)


@cache
def of(text: str, *, lowercase: bool = False) -> Tokenizer:
    """A tokenizer that knows every word of a text."""
    return train_tokenizer([text], level="word", vocab=1000, lowercase=lowercase)


def names(tokenizer: Tokenizer, text: str) -> list[str]:
    return [tokenizer.vocabulary[node] for node in tokenizer.encode(text)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("The cat sat on the mat.", ["The", "cat", "sat", "on", "the", "mat", "."]),
        ("Don't pay $3.14 for 1,000 cats!", ["Don't", "pay", "$", "3.14", "for", "1,000", "cats", "!"]),
        ("foo.bar", ["foo", ".", JOIN, "bar"]),
        ("two  spaces", ["two", " ", " ", "spaces"]),
        ("a (b) c", ["a", "(", "b", ")", "c"]),
        ('a "b" c', ["a", " ", '"', "b", '"', " ", "c"]),
        ("春眠不覺曉。", ["春", "眠", "不", "覺", "曉", "。"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("e\u0301te\u0301", ["été"]),
        ("soft\u00adhyphen", ["soft", "<U+00AD>", "hyphen"]),
        ("a\u00a0b\tc", ["a", "<U+00A0>", "b", "<U+0009>", "c"]),
        ("สวัสดี x_1", ["ส", "วั", "ส", "ดี", " ", "x_1"]),
        ("❤\ufe0f", ["❤", "<U+FE0F>"]),
    ],
)
def test_what_is_a_word(text: str, wanted: list[str]) -> None:
    assert names(of(text), text) == wanted
    assert of(text).decode(of(text).encode(text)) == unicodedata.normalize("NFC", text)


@given(st.one_of(texts, any_text, word_text))
def test_a_text_comes_back_from_its_nodes(text: str) -> None:
    """Exactly, in the composed form, if every word of it is a node; what is none is U+FFFD."""
    tokenizer = of("\u200b" + text)
    ids = tokenizer.encode(text)
    assert UNKNOWN not in ids
    assert tokenizer.decode(ids) == unicodedata.normalize("NFC", text)
    decoder = tokenizer.decoder()
    assert "".join([decoder.push(int(node)) for node in ids]) + decoder.flush() == tokenizer.decode(ids)


@given(word_text)
def test_spaces_around_unknown_words_come_back(text: str) -> None:
    small = train_tokenizer(["the the . ("], level="word", vocab=8)
    pieces, at = [], 0
    for name in names(of("\u200b" + text), text):  # the words, with the spaces as they are in the text
        begin = text.index(name, at) if name != JOIN else at
        pieces += [text[at:begin], "" if name == JOIN else name if small.token_id(name) else "\ufffd"]
        at = begin + (0 if name == JOIN else len(name))
    assert small.decode(small.encode(text)) == "".join(pieces)


@given(st.lists(st.one_of(texts, word_text), min_size=1, max_size=6), st.booleans(), st.booleans())
def test_batch_equals_one_by_one(documents: list[str], lowercase: bool, more: bool) -> None:  # noqa: FBT001
    tokenizer = words(lowercase=lowercase)
    if more:
        tokenizer = tokenizer.with_added(["New York", "York is", "春眠", "dogs"][lowercase:3])
    ids, lengths = tokenizer.encode_batch(documents)
    parts = [tokenizer.encode_document(document) for document in documents]
    assert ids.tolist() == [node for part in parts for node in part.tolist()]
    assert lengths.tolist() == [len(part) for part in parts]
    assert (ids.dtype, lengths.dtype) == (np.int32, np.int64)


@given(st.lists(st.one_of(texts, any_text), min_size=1, max_size=5).filter(any), st.booleans())
def test_no_two_names_differ_by_what_cannot_be_seen(documents: list[str], lowercase: bool) -> None:  # noqa: FBT001
    tokenizer = train_tokenizer(documents, level="word", vocab=500, lowercase=lowercase)

    def seen(name: str) -> str:
        kept = [c for c in unicodedata.normalize("NFC", name) if c == " " or unicodedata.category(c)[0] not in "CZ"]
        return "".join(c for c in kept if c not in "\ufe0f\u034f\u3164")

    assert len({seen(name) for name in tokenizer.vocabulary}) == len(tokenizer)
    assert {" ", JOIN} <= {*tokenizer.vocabulary}
    for name in tokenizer.vocabulary[2:]:
        if name != JOIN and not name.startswith("<U+"):
            assert names(tokenizer, name) == [name]
        assert tokenizer.token_id(name) == tokenizer.vocabulary.index(name)


def test_nodes_are_ordered_by_use_and_cut_to_the_vocabulary() -> None:
    tokenizer = train_tokenizer(["b a b c b a"], level="word", vocab=6)
    assert tokenizer.vocabulary == ["<unk>", "<sep>", "b", "a", " ", JOIN]
    assert names(tokenizer, "a b c") == ["a", "b", "<unk>"]
    assert tokenizer.unknown_characters("a c b dd c") == ["c", "dd"]
    with pytest.raises(OptionError, match="needs at least 5"):
        train_tokenizer(["a"], level="word", vocab=4)
    with pytest.raises(TypeError, match="twice"):
        train_tokenizer(iter(["a"]), level="word", vocab=10)


def test_lower_case_reads_both_forms_as_one() -> None:
    tokenizer = words(lowercase=True)
    assert names(tokenizer, "THE Cat") == ["the", "cat"]
    assert tokenizer.token_id("The") == tokenizer.token_id("the")
    assert tokenizer.decode(tokenizer.encode("The CAFÉ.")) == "the café."
    assert all(name == name.lower() for name in tokenizer.vocabulary if not name.startswith("<"))
    assert tokenizer.fingerprint != words().fingerprint
    with pytest.raises(OptionError, match="`lowercase` goes with level word, not char"):
        train_tokenizer(TEXT, level="char", vocab=100, lowercase=True)


@given(any_text)
def test_lower_case_once_is_lower_case_twice(text: str) -> None:
    tokenizer = of("\u200b" + text, lowercase=True)
    once = tokenizer.decode(tokenizer.encode(text))
    assert tokenizer.decode(tokenizer.encode(once)) == once


def test_a_line_break_that_is_no_node_ends_a_document() -> None:
    assert words().encode("cat\nmat")[1] == SEPARATOR
    assert names(of("a\nb"), "a\nb") == ["a", "<U+000A>", "b"]


def test_added_nodes_begin_and_end_where_words_do() -> None:
    tokenizer = words().with_added(["New York", "New York is", "at", "春眠"])
    assert names(tokenizer, "New York is new") == ["New York is", "new"]
    assert names(tokenizer, "New York cat") == ["New York", "cat"]
    assert "at" not in names(tokenizer, "cat mat")
    assert "New York" not in names(tokenizer, "New Yorker")
    assert names(tokenizer, "春眠不覺") == ["春眠", "不", "覺"]
    assert tokenizer.decode(tokenizer.encode("the New York (cat) at 春眠.")) == "the New York (cat) at 春眠."
    for name in ("New York is", "at"):
        tokenizer.require_readable(tokenizer.vocabulary.index(name))
    for name in (" at", "at ", "\tx"):
        with pytest.raises(OptionError, match="begins or ends with white space"):
            words().with_added([name])
    lower = words(lowercase=True).with_added(["Kubernetes"])
    assert names(lower, "KUBERNETES") == ["kubernetes"]


def test_changed_copies() -> None:
    tokenizer = words()
    cat, dogs = tokenizer.token_id("cat"), tokenizer.token_id("dogs")
    assert cat is not None
    assert dogs is not None
    merged = tokenizer.merged(dogs, cat)
    assert names(merged, "dogs sat") == ["cat", "sat"]
    assert names(tokenizer.renamed(cat, "kitten"), "kitten cat") == ["kitten", "<unk>"]
    assert names(tokenizer.without([cat]), "the cat sat") == ["the", "<unk>", "sat"]
    for name in (" ", JOIN):
        node = tokenizer.token_id(name)
        assert node is not None
        with pytest.raises(OptionError, match="keeps the spaces of texts: it cannot be removed"):
            tokenizer.without([node])
    for changed in (merged, tokenizer.renamed(cat, "kitten"), tokenizer.without([cat]), words(lowercase=True)):
        again = read_tokenizer(json.loads(json.dumps(changed.to_json())))
        assert again.to_json() == changed.to_json()
        assert again.fingerprint == changed.fingerprint
        for text in TEXT:
            assert np.array_equal(again.encode(text), changed.encode(text))


@pytest.mark.parametrize("lowercase", [False, True])
def test_a_vocabulary_that_was_exported_is_read_again(lowercase: bool) -> None:  # noqa: FBT001
    tokenizer = words(lowercase=lowercase).with_added(["new york"])
    library = library_file(tokenizer)
    assert library is not None
    assert level_of_library(library) == "word"
    again = read_vocabulary(tokenizer.raw, level="word", library=json.loads(json.dumps(library)))
    assert isinstance(again, WordTokenizer)
    assert again.lowercase is lowercase
    for text in [*TEXT, "a new york cat"]:
        assert np.array_equal(again.encode(text), tokenizer.encode(text))
    with pytest.raises(ForeignFileError, match="level word reads a vocabulary that sifu exported"):
        read_vocabulary(["the", "cat"], level="word")


def test_which_characters_ask_for_spaces() -> None:
    assert [asks_for_spaces(each) for each in "a1_"] == [(True, True)] * 3
    assert [asks_for_spaces(each) for each in ".,)%”"] == [(False, True)] * 5
    assert [asks_for_spaces(each) for each in "($#“"] == [(True, False)] * 4
    assert [asks_for_spaces(each) for each in "\"'-/春。 \u00ad（"] == [(False, False)] * 9
