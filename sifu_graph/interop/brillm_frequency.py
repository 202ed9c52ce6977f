"""The frequency file of the released BriLLM code: source -> {target: count}, as JSON of up to 16 million pairs.

`read_rows` reads a correct file, `judge_rows` says what is wrong with any other (decision 7). The module knows one
vocabulary and one file; it does not know checkpoints.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import GenericAlias
from typing import Any, Literal

import msgspec
import numpy as np
from sifu_store.errors import ForeignFileError

from sifu_graph.arrays import Ids, Ints
from sifu_graph.input_file import HEAD_BYTES, MOST_JSON_BYTES, kind_of, open_regular, read_small
from sifu_graph.interop.torch_checkpoint import POINTER

BLOCK_BYTES = 1 << 20
QUOTE = ord('"')
SHOWN = 3  # names in a message

Row = tuple[Ids, Ints]
"""Targets and their counts."""


class Pairs(list[tuple[str, Any]]):
    """A JSON object as a list of its pairs, in their order, with repeated keys."""


def read_json(path: Path, *, hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """The content of a JSON file of at most `MOST_JSON_BYTES`.

    Parameters
    ----------
    hook
        Makes a value of the pairs of each object; None: a dictionary.

    Raises
    ------
    ForeignFileError
        The file cannot be read, is too large, or is not JSON.
    """
    content = _read(path, most_bytes=MOST_JSON_BYTES)
    try:
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=hook, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        kind = kind_of(content[:HEAD_BYTES])
        what = "not JSON, or incomplete" if kind is None else f"{kind}, not JSON"
        raise ForeignFileError(f"{path}: {what} ({error})") from error


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _read(path: Path, *, most_bytes: int | None = None) -> bytes:
    """The content of a file that is not a Git LFS pointer."""
    try:
        if most_bytes is not None:
            content = read_small(path, most_bytes=most_bytes)
        else:
            with open_regular(path) as file:
                content = file.read()
    except OSError as error:
        raise ForeignFileError(f"{path}: {error.strerror or error}") from error
    if content.startswith(POINTER):
        raise ForeignFileError(f"{path}: a Git LFS pointer, not the file itself: fetch it (git lfs pull)")
    return content


def frequency_rows(path: Path, names: Sequence[str]) -> list[Row]:
    """The targets and counts of every token, in the order of the vocabulary.

    Raises
    ------
    ForeignFileError
        The file is not source -> {target: count}, or is not of this vocabulary.
    """
    try:
        return read_rows(path, names)
    except ForeignFileError:
        if path.stat().st_size > MOST_JSON_BYTES:  # as objects it would take up to 25 times as much
            raise
    return judge_rows(path, names)


def read_rows(path: Path, names: Sequence[str]) -> list[Row]:
    """The rows of a correct file, one row in memory as Python objects at a time.

    Returns
    -------
    list of (int32 [k], int64 [k])
        Targets and counts of every token, in the order of the vocabulary.

    Raises
    ------
    ForeignFileError
        The file has a fault; `judge_rows` describes it better.
    """
    text, node_of = _read(path), {name: node for node, name in enumerate(names)}
    tokens, where = Literal.__getitem__(tuple(names)), "its sources"
    try:
        sources = msgspec.json.decode(text, type=GenericAlias(dict, (tokens, msgspec.Raw)))
        if missing := [name for name in names if name not in sources]:
            raise ForeignFileError(f"{path}: {len(missing):,} of its sources are missing ({_shown(missing)})")
        decoder, rows, keys = msgspec.json.Decoder(GenericAlias(dict, (tokens, int))), [], len(sources)
        for name in names:
            where = f"the counts of {name!r}"
            row = _row(decoder.decode(sources[name]), node_of)
            if (row[1] < 0).any():
                raise ForeignFileError(f"{path}: {where}: a count is below 0")
            keys += len(row[0])
            rows.append(row)
    except (OverflowError, RecursionError, UnicodeError, msgspec.MsgspecError) as error:
        raise ForeignFileError(f"{path}: {where}: expected source -> {{target: count}} ({error})") from error
    if 2 * keys != _quotes(text):  # a dictionary keeps one of several equal keys
        raise ForeignFileError(f"{path}: a source or a target is there twice; expected each once")
    return rows


def _shown(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:SHOWN]))


def _row(row: dict[str, int], node_of: dict[str, int]) -> Row:
    target = np.fromiter(map(node_of.__getitem__, row), np.int32, len(row))
    return target, np.fromiter(row.values(), np.int64, len(row))


def _quotes(text: bytes) -> int:
    """Number of quotes that begin or end a string of a JSON text: two for each key if all values are numbers."""
    if b"\\" in text:
        text = text.replace(b"\\\\", b"")  # every backslash that is left escapes the character after it
    characters = np.frombuffer(text, np.uint8)
    blocks = (characters[at : at + BLOCK_BYTES] for at in range(0, len(text), BLOCK_BYTES))
    return sum(int(np.count_nonzero(block == QUOTE)) for block in blocks) - text.count(b'\\"')


def judge_rows(path: Path, names: Sequence[str]) -> list[Row]:
    """The rows of `read_rows` by the `json` module, which takes twice as long, or an error that names the fault.

    Raises
    ------
    ForeignFileError
        The file is not source -> {target: count}, or is not of this vocabulary.
    """
    node_of = {name: node for node, name in enumerate(names)}
    rows = read_json(path, hook=lambda pairs: _row_or_rows(pairs, node_of, path))
    if not isinstance(rows, dict) or not rows:
        raise ForeignFileError(f"{path}: expected source -> {{target: count}}")
    foreign = [name for name in rows if name not in node_of]
    missing = [name for name in names if name not in rows]
    if foreign or missing:
        raise ForeignFileError(
            f"{path}: the frequency file of another vocabulary: "
            + " and ".join(
                f"{len(found):,} of its sources {what} ({_shown(found)})"
                for found, what in ((foreign, "are not in the vocabulary"), (missing, "are missing"))
                if found
            )
        )
    return [rows[name] for name in names]


def _row_or_rows(pairs: list[tuple[str, Any]], node_of: dict[str, int], path: Path) -> Row | dict[str, Row]:
    """One source's counts (targets and counts as arrays), or all of them."""
    if pairs and isinstance(pairs[0][1], tuple):
        rows = dict(pairs)
        if len(rows) < len(pairs) or not all(isinstance(row, tuple) for row in rows.values()):
            raise ForeignFileError(f"{path}: a source is there twice, or has no counts; expected each once")
        return rows
    given, values = zip(*pairs, strict=True) if pairs else ((), ())
    try:
        target = np.fromiter(map(node_of.__getitem__, given), np.int32, len(pairs))
    except KeyError as error:
        raise ForeignFileError(
            f"{path}: the frequency file of another vocabulary: {error.args[0]!r} is not in the vocabulary"
        ) from error
    try:
        count = np.array(values or np.empty(0, np.int64))
    except (ValueError, OverflowError):
        count = np.empty(0, object)
    if count.dtype.kind != "i" or count.ndim != 1:
        odd = next((name for name, value in pairs if type(value) is not int), given[0])
        raise ForeignFileError(
            f"{path}: the count of {odd!r} is not a whole number; expected source -> {{target: count}}"
        )
    if int(np.bincount(target, minlength=1).max()) > 1 or (count < 0).any():
        raise ForeignFileError(f"{path}: a target is there twice with one source, or has a count below 0")
    return target, count.astype(np.int64)
