"""The frequency file: the quick reader gives what the `json` module gives, or refuses the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from sifu_store.errors import ForeignFileError

from sifu_graph.interop.brillm_frequency import frequency_rows, judge_rows, read_rows

TOKENS = st.text(st.characters(codec="utf-8"), max_size=20)
QUIET = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[str], dict[str, dict[str, int]]]:
    names = draw(st.lists(TOKENS, min_size=1, max_size=8, unique=True))
    order = draw(st.permutations(names))
    row = st.dictionaries(st.sampled_from(names), st.integers(0, 10**18 - 1) | st.integers(0, 12))
    return names, {name: draw(row) for name in order}


def assert_same(found: Any, expected: Any) -> None:
    assert found is not None and len(found) == len(expected)
    for (target, count), (wanted, counts) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(target, wanted)
        np.testing.assert_array_equal(count, counts)


@QUIET
@given(
    table=tables(),
    spelling=st.sampled_from(["ascii", "utf-8"]),
    separators=st.sampled_from([(", ", ": "), (",", ":"), (",", ": ")]),
    end=st.sampled_from(["", "\n", " \r\n"]),
)
def test_what_json_writes_is_read_quickly(
    table: Any, spelling: str, separators: tuple[str, str], end: str, tmp_path: Path
) -> None:
    names, rows = table
    path = tmp_path / "freq.json"
    path.write_text(json.dumps(rows, ensure_ascii=spelling == "ascii", separators=separators) + end, encoding="utf-8")
    assert_same(read_rows(path, names), judge_rows(path, names))


@QUIET
@given(table=tables(), data=st.data())
def test_a_file_with_one_wrong_character_is_never_misread(table: Any, data: st.DataObject, tmp_path: Path) -> None:
    """Either both readers say the same, or the quick one refuses the file."""
    names, rows = table
    text = bytearray(json.dumps(rows).encode())
    at = data.draw(st.integers(0, len(text) - 1))
    change = data.draw(st.sampled_from([*b'{}",: \\019-.x[', None]))
    text[at : at + 1] = b"" if change is None else bytes([change])
    path = tmp_path / "freq.json"
    path.write_bytes(text)
    try:
        quick = read_rows(path, names)
    except ForeignFileError:
        return
    assert_same(quick, judge_rows(path, names))


@pytest.mark.parametrize(
    "text",
    [
        '{"a": {"a": 1, "b": 2}, "b": {"a": 1, "a": 2}}',
        '{"a": {"a": 1}, "b": {"c": 1}}',
        '{"a": {"a": 1}}',
        '{"a": {"a": 1}, "b": {"a": 1.5}}',
        '{"a": {"a": 1}, "b": {"a": -1}}',
        '{"a": {"a": 1}, "b": {"a": 1}',
        '{"a": {"a": 1}, "b": {"a": 1}}}',
        '{"a": {"a": 1}, "b": {"a": 1}}, "b": {}}',
        '{"a": {"a": 1}, "b": {"a": 1}, "b": {}}',
        '{"a": {"a": 1}, "b": {"a": 1, "\\u0061": 2}}',
        '{"a": {"a": 1}, "b": {"a": 9223372036854775808}}',
        '{"a": {"a": 1}, "b": {"a": 1.0}}',
        '{"a": {"a": 01}, "b": {"a": 1}}',
        '{"a": {"a": 1}, "a": {"a": 1}}',
        '{"a": 1, "b": 2}',
        "{}",
        "",
    ],
)
def test_what_is_wrong_is_said_by_json(text: str, tmp_path: Path) -> None:
    path = tmp_path / "freq.json"
    path.write_text(text, encoding="utf-8")
    for read in (read_rows, frequency_rows):
        with pytest.raises(ForeignFileError) as caught:
            read(path, ["a", "b"])
        assert str(path) in str(caught.value)


def test_another_spelling_is_read_all_the_same(tmp_path: Path) -> None:
    rows = {"a": {"b": 7}, "b": {}}
    path = tmp_path / "freq.json"
    path.write_text(json.dumps(rows, indent=4), encoding="utf-8")
    assert_same(read_rows(path, ["a", "b"]), judge_rows(path, ["a", "b"]))
    assert [(target.tolist(), count.tolist()) for target, count in frequency_rows(path, ["a", "b"])] == [
        ([1], [7]),
        ([], []),
    ]


@pytest.mark.parametrize("names", [['"', "\\"], ['\\"', '\\\\"'], ['":', "\\\\"]])
def test_quotes_and_backslashes_in_names(names: list[str], tmp_path: Path) -> None:
    rows = {name: dict.fromkeys(names, 3) for name in names}
    path = tmp_path / "freq.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    assert_same(read_rows(path, names), judge_rows(path, names))
    quoted = json.dumps(names[0])
    path.write_text(json.dumps(rows).replace("}, ", f", {quoted}: 1}}, ", 1), encoding="utf-8")
    with pytest.raises(ForeignFileError, match="a source or a target is there twice"):
        read_rows(path, names)
    with pytest.raises(ForeignFileError, match="a target is there twice"):
        frequency_rows(path, names)
