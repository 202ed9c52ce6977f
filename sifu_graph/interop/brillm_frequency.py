"""The frequency file of the released BriLLM code: source -> {target: count}, as JSON of up to 16 million pairs.

Two readers. `read_rows` takes the file in blocks of bytes and arrays: strings are found by their quotes and looked up
in the vocabulary by their bytes, numbers are summed digit by digit, and every character between them is checked. It
takes only what is surely right (spelled as `json.dump` spells it, every source and every target known). What it does
not take, `judge_rows` reads with the `json` module and says what is wrong with it. It knows one vocabulary and one
file; it does not know checkpoints.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sifu_store.errors import ForeignFileError

from sifu_graph.arrays import Ints
from sifu_graph.interop.torch_checkpoint import POINTER

BLOCK_BYTES = 4 << 20
WORD = 8  # bytes of a key that are compared at a time
MAX_DIGITS = 18  # more may not fit 64 bits
HASH_BITS = 24
QUOTE, BACKSLASH, COLON, COMMA, OPEN, CLOSE, ZERO, SPACE = (ord(c) for c in '"\\:,{}0 ')
WHITE = (0x20, 0x0A, 0x0D, 0x09)

Bytes = NDArray[np.uint8]
Words = NDArray[np.uint64]
Row = tuple[NDArray[np.int32], NDArray[np.int64]]
"""Targets and their counts."""


class Pairs(list[tuple[str, Any]]):
    """A JSON object as it is written, with its repeated keys."""


def read_json(path: Path, *, hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """A JSON file; `ForeignFileError` where it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
        if text.startswith(POINTER.decode()):
            raise ForeignFileError(f"{path}: a Git LFS pointer, not the file itself: fetch it (git lfs pull)")
        return json.loads(text, object_pairs_hook=hook)
    except OSError as error:
        raise ForeignFileError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ForeignFileError(f"{path}: no JSON, or cut off ({error})") from error


def frequency_rows(path: Path, names: Sequence[str]) -> list[Row]:
    """The targets and counts of every token, in the order of the vocabulary.

    Raises
    ------
    ForeignFileError
        It is not source -> {target: count}, or it is not about this vocabulary.
    """
    rows = read_rows(path, names)
    return judge_rows(path, names) if rows is None else rows


# ---- blocks of bytes


def read_rows(path: Path, names: Sequence[str]) -> list[Row] | None:
    """The rows of a file that is as it should be; None where there is any doubt."""
    vocabulary = _Vocabulary.of(names)
    if vocabulary is None:
        return None
    found: list[_Block] = []
    try:
        for text, quotes in _blocks(path):
            taken = _Block.of(text, quotes, vocabulary)
            if taken is None:
                return None
            found.append(taken)
    except (OSError, _OddError):
        return None
    if not found or not found[-1].ends or any(block.ends for block in found[:-1]):
        return None
    node, count, is_source, closes = (
        np.concatenate([getattr(block, name) for block in found]) for name in ("node", "count", "is_source", "closes")
    )
    # A row closes, then a source comes; the first string of all is a source, the last one closes a row.
    if not is_source[0] or not closes[-1] or not np.array_equal(is_source[1:], closes[:-1]):
        return None
    start = np.flatnonzero(is_source)
    order = node[start]
    if len(start) != len(names) or len(np.unique(order)) != len(names):
        return None
    rows: list[Row | None] = [None] * len(names)
    for source, first, stop in zip(order.tolist(), start.tolist(), [*start[1:].tolist(), len(node)], strict=True):
        target = node[first + 1 : stop]
        if len(target) and int(np.bincount(target).max()) > 1:
            return None
        rows[source] = target, count[first + 1 : stop]
    return [row for row in rows if row is not None]


class _OddError(Exception):
    """The file is not written as expected."""


def _blocks(path: Path) -> Iterator[tuple[Bytes, Ints]]:
    """The inside of the outer object in parts that begin with a string, and the quotes in each."""
    text = np.fromfile(path, np.uint8)
    end = len(text)
    while end and text[end - 1] in WHITE:
        end -= 1
    if end < 2 or text[0] != OPEN:
        raise _OddError
    begin, size = 1, BLOCK_BYTES
    while begin < end:
        part = text[begin : min(begin + size, end)]
        quotes = _quotes(part)
        if begin + len(part) < end:
            # Whole strings only, and the last of them waits: what follows it may not be here yet.
            whole = (len(quotes) - 1) // 2 * 2 - 2
            if whole < 2:
                size *= 2
                continue
            part, quotes = part[: quotes[whole]], quotes[:whole]
        if len(quotes) % 2:
            raise _OddError
        yield part, quotes
        begin, size = begin + len(part), BLOCK_BYTES


def _quotes(text: Bytes) -> Ints:
    """Places of the quotes that begin or end a string; the text begins outside one."""
    quotes = np.flatnonzero(text == QUOTE)
    if len(quotes) == 0:
        return quotes
    doubtful = quotes[text[np.maximum(quotes - 1, 0)] == BACKSLASH]
    escaped = []
    for quote in doubtful.tolist():
        first = quote
        while first > 0 and text[first - 1] == BACKSLASH:
            first -= 1
        if (quote - first) % 2:
            escaped.append(quote)
    return quotes[~np.isin(quotes, escaped)] if escaped else quotes


@dataclass(frozen=True, slots=True)
class _Block:
    """The strings of a block: which node each is, and whether it is a source, a target, the last of its row."""

    node: NDArray[np.int32]
    count: Ints
    is_source: NDArray[np.bool_]
    closes: NDArray[np.bool_]
    ends: bool  # the outer object closes with the last of them

    @classmethod
    def of(cls, text: Bytes, quotes: Ints, vocabulary: _Vocabulary) -> _Block | None:
        """The strings of a part of the file; None where there is any doubt."""
        first, last = quotes[0::2], quotes[1::2]
        if len(first) == 0 or first[0] != 0:
            return None
        node = vocabulary.find(text, first + 1, last - first - 1)
        if node is None:
            return None
        after = np.append(first[1:], len(text))
        text = np.concatenate([text, np.zeros(6, np.uint8)])  # looked at past the end
        value = last + 2 + (text[last + 2] == SPACE)
        is_source = text[value] == OPEN
        digits = _digits(text, value, after)
        at = value + np.where(is_source, 1, digits)  # where the pair ends, or the row begins
        closes = text[at] == CLOSE
        at += closes
        goes_on = is_source & ~closes  # into the row
        comma = text[at] == COMMA
        ends = bool(closes[-1] and text[at[-1]] == CLOSE)
        # ':', the value, '}' where the row ends, ',' where another comes, and then the next string, or the end of all
        right = (text[last + 1] == COLON) & (is_source | (digits > 0))
        right &= after == at + np.where(goes_on, 0, 1 + (comma & (text[at + 1] == SPACE)))
        right[:-1] &= (comma | goes_on)[:-1]
        right[-1] &= ends or comma[-1] or goes_on[-1]
        right &= (digits <= 1) | (text[value] != ZERO)
        if not right.all() or (digits > MAX_DIGITS).any():
            return None
        count = np.zeros(len(first), np.int64)
        for place in range(int(digits.max(initial=0))):
            some = np.flatnonzero(digits > place) if place else slice(None)
            longer = count[some] * 10 + (text[value[some] + place].astype(np.int64) - ZERO)
            count[some] = np.where(digits[some] > place, longer, 0)
        return cls(node, count, is_source, closes, ends)


def _digits(text: Bytes, begin: Ints, end: Ints) -> Ints:
    """How many digits there are from each place on."""
    count = np.zeros(len(begin), np.int64)
    going = np.arange(len(begin))
    for place in range(MAX_DIGITS + 1):
        at = begin[going] + place
        here = text[np.minimum(at, len(text) - 1)] - np.uint8(ZERO) < 10
        going = going[here & (at < end[going])]
        count[going] += 1
        if len(going) == 0:
            break
    return count


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """Tokens as they are spelled in JSON, found by their bytes: a hash table without collisions."""

    words: Words  # [spellings, most words of one]
    length: Ints  # [spellings]
    node: NDArray[np.int32]  # [spellings]
    multiplier: np.uint64
    table: NDArray[np.int32]  # spelling + 1; 0: none

    @classmethod
    def of(cls, names: Sequence[str]) -> _Vocabulary | None:
        spelled: dict[bytes, int] = {}
        for node, name in enumerate(names):
            for ascii_only in (True, False):
                try:
                    spelled[json.dumps(name, ensure_ascii=ascii_only)[1:-1].encode()] = node
                except UnicodeEncodeError:  # half a surrogate pair
                    return None
        longest = max(1, max(-(-len(key) // WORD) for key in spelled))
        text = b"".join(key.ljust(longest * WORD, b"\0") for key in spelled)
        words = np.frombuffer(text, "<u8").reshape(len(spelled), longest)
        length = np.array([len(key) for key in spelled])
        random = np.random.default_rng(0)
        for _ in range(200):
            multiplier = random.integers(1, 2**63, dtype=np.uint64) | np.uint64(1)
            place = _hash(words[:, 0].copy(), length, multiplier)
            for word in range(1, longest):
                place = np.where(length > word * WORD, _hash(words[:, word] ^ place, length, multiplier), place)
            place >>= np.uint64(64 - HASH_BITS)
            if len(np.unique(place)) == len(place):
                table = np.zeros(1 << HASH_BITS, np.int32)
                table[place] = np.arange(1, len(place) + 1)
                return cls(words, length, np.array(list(spelled.values()), np.int32), multiplier, table)
        return None

    def find(self, text: Bytes, begin: Ints, length: Ints) -> NDArray[np.int32] | None:
        """The nodes of strings given by where they lie; None where one is no token."""
        longest = self.words.shape[1]
        if int(length.max(initial=0)) > longest * WORD:
            return None
        padded = np.concatenate([text, np.zeros(WORD * (longest + 1), np.uint8)])
        every = np.ndarray(len(padded) - WORD + 1, "<u8", padded, strides=(1,))  # the word that begins at each byte
        first = every[begin] & MASKS[np.minimum(length, WORD)]
        place = _hash(first, length, self.multiplier)
        later: list[tuple[int, Ints, Words]] = []
        for word in range(1, longest):
            some = np.flatnonzero(length > word * WORD)
            if len(some) == 0:
                break
            value = every[begin[some] + word * WORD] & MASKS[np.minimum(length[some] - word * WORD, WORD)]
            place[some] = _hash(value ^ place[some], length[some], self.multiplier)
            later.append((word, some, value))
        spelling = self.table[place >> np.uint64(64 - HASH_BITS)] - 1
        # A hash only says where to look: the bytes decide.
        same = (spelling >= 0) & (self.words[spelling, 0] == first) & (self.length[spelling] == length)
        if not same.all() or not all((self.words[spelling[some], word] == value).all() for word, some, value in later):
            return None
        node: NDArray[np.int32] = self.node[spelling]
        return node


MASKS = np.array([(1 << 8 * k) - 1 for k in range(WORD + 1)], np.uint64)
"""The first bytes of a word, by their number."""


def _hash(word: Words, length: Ints, multiplier: np.uint64) -> Words:
    mixed = (word ^ length.astype(np.uint64)) * multiplier
    return (mixed ^ (mixed >> np.uint64(32))) * multiplier


# ---- what is wrong with it


def judge_rows(path: Path, names: Sequence[str]) -> list[Row]:
    """The same rows by the `json` module, five times slower; or what is wrong with the file.

    Raises
    ------
    ForeignFileError
    """
    node_of = {name: node for node, name in enumerate(names)}
    rows = read_json(path, hook=lambda pairs: _row_or_rows(pairs, node_of, path))
    if not isinstance(rows, dict) or not rows:
        raise ForeignFileError(f"{path}: expected source -> {{target: count}}")
    shown = 3
    foreign = [name for name in rows if name not in node_of]
    missing = [name for name in names if name not in rows]
    if foreign or missing:
        raise ForeignFileError(
            f"{path}: the frequency file of another vocabulary: "
            + " and ".join(
                f"{len(found):,} of its sources {what} ({', '.join(map(repr, found[:shown]))})"
                for found, what in ((foreign, "are no tokens of ours"), (missing, "are missing"))
                if found
            )
        )
    return [rows[name] for name in names]


def _row_or_rows(pairs: list[tuple[str, Any]], node_of: dict[str, int], path: Path) -> Row | dict[str, Row]:
    """One source's counts (targets and counts as arrays), or all of them."""
    if pairs and isinstance(pairs[0][1], tuple):
        rows = dict(pairs)
        if len(rows) < len(pairs) or not all(isinstance(row, tuple) for row in rows.values()):
            raise ForeignFileError(f"{path}: a source stands there twice, or has no counts; expected each once")
        return rows
    given, values = zip(*pairs, strict=True) if pairs else ((), ())
    try:
        target = np.fromiter(map(node_of.__getitem__, given), np.int32, len(pairs))
    except KeyError as error:
        raise ForeignFileError(
            f"{path}: the frequency file of another vocabulary: {error.args[0]!r} is no token of ours"
        ) from error
    try:
        count = np.array(values or np.empty(0, np.int64))
    except (ValueError, OverflowError):
        count = np.empty(0, object)
    if count.dtype.kind != "i" or count.ndim != 1:
        odd = next((name for name, value in pairs if type(value) is not int), given[0])
        raise ForeignFileError(f"{path}: the count of {odd!r} is no whole number; expected source -> {{target: count}}")
    if int(np.bincount(target, minlength=1).max()) > 1 or (count < 0).any():
        raise ForeignFileError(f"{path}: a target stands twice with one source, or has a count below 0")
    return target, count.astype(np.int64)
