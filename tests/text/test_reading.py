"""Text as people have it: line ends, documents that are no lines, columns, and what cannot be read."""

from __future__ import annotations

import csv
import io
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sifu_store.errors import CorpusError, OptionError
from small import write_text

from sifu_graph.build import build_graph
from sifu_graph.graph import Graph
from sifu_graph.text import decompress, text_blocks, units
from sifu_graph.text.corpus import Corpus

WRAPPED = "\n\n".join("It was the best of times,\nit was the worst of times,\n  indented." for _ in range(10))


def read(path: Path, **reading: Any) -> list[object]:
    return list(Corpus([path], **reading).settled(tokens=False).documents())


# ---- line ends


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\r\r\n"])
@pytest.mark.parametrize("block", [1, 2, 5, 1 << 20])
def test_every_line_end_and_a_mark_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, block: int
) -> None:
    monkeypatch.setattr(text_blocks, "_BLOCK_BYTES", block)
    path = tmp_path / "a.txt"
    parts = [f"春a{end}b{end}", f"c{end}{end}d{end}"]  # two files that were joined, each with its mark
    path.write_bytes("".join("\ufeff" + part for part in parts).encode())
    assert read(path, document="line") == ["春a", "b", "c", "d"]
    assert read(path, document="paragraph") == ["春a\nb\nc", "d"]
    assert read(path, document="file") == ["春a\nb\nc\n\nd"]
    rows = tmp_path / "a.jsonl"
    rows.write_bytes(end.join(json.dumps({"text": f"x{end}y{k}"}) for k in range(3)).encode())
    assert read(rows) == [f"x\ny{k}" for k in range(3)]


@given(st.lists(st.sampled_from(["a", "春", "\r", "\n", "\r\n", "\ufeff", " "]), max_size=40), st.integers(1, 9))
def test_line_ends_are_found_whatever_the_blocks(tmp_path_factory: Any, pieces: list[str], block: int) -> None:
    path = tmp_path_factory.getbasetemp() / "ends.txt"
    text = "".join(pieces)
    path.write_bytes(text.encode())
    plain = re.split("\r*\n|\r", text)
    meant = [line for each in plain if (line := each.replace("\ufeff", "")) and not line.isspace()]
    before, text_blocks._BLOCK_BYTES = text_blocks._BLOCK_BYTES, block
    try:
        found = read(path, document="line") if meant else []
    finally:
        text_blocks._BLOCK_BYTES = before
    assert found == meant


@pytest.mark.parametrize("end", ["\r", "\r\n", "\r\r\n"])
def test_an_error_names_the_line_after_any_line_end(tmp_path: Path, end: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(f"one{end}two{end}".encode() + b"\xff")
    with pytest.raises(CorpusError, match=rf"0xff in line 3, byte {6 + 2 * len(end)}"):
        read(path, document="line")


def test_no_line_end_becomes_a_node(tmp_path: Path) -> None:
    plain, other = write_text(tmp_path / "plain.txt"), tmp_path / "other.txt"
    other.write_bytes(b"\xef\xbb\xbf" + plain.read_bytes().replace(b"\n", b"\r\r\n"))
    reports = [build_graph(path, tmp_path / f"{path.stem}.sifu", vocab=100, holdout=0.1) for path in (plain, other)]
    assert len({(each.nodes, each.corpus_tokens, each.heldout_tokens) for each in reports}) == 1
    with Graph.open(tmp_path / "other.sifu") as graph:
        assert not {"\r", "\n", "\ufeff"} & set(graph.tokenizer.vocabulary)


# ---- what a document is


def test_units(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n\none\n two\n \t\n\n\nthree\n---\nfour\n\n", encoding="utf-8")
    assert read(path, document="line") == ["one", " two", "three", "---", "four"]
    assert read(path, document="paragraph") == ["one\n two", "three\n---\nfour"]
    assert read(path, document="file") == ["one\n two\n \t\n\n\nthree\n---\nfour"]
    assert read(path, document=r"separator:\n---\n") == ["one\n two\n \t\n\n\nthree", "four"]
    assert read(path, document="separator:o") == ["ne\n tw", " \t\n\n\nthree\n---\nf", "ur"]
    for wrong in ("word", "separator:", ""):
        with pytest.raises(OptionError, match="line, paragraph, file or separator:STR"):
            Corpus([path], document=wrong)


@given(st.text(alphabet="ab \n", max_size=60), st.lists(st.integers(0, 60), max_size=5), st.sampled_from(units.UNITS))
def test_pieces_do_not_change_the_documents(text: str, cuts: list[int], unit: str) -> None:
    if unit == "line":  # its pieces are whole lines
        pieces = text.splitlines(keepends=True)
    else:
        places = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
        pieces = [text[a:b] for a, b in pairwise(places)]
    assert list(units.split(pieces, unit)) == list(units.split([text], unit))


def test_a_giant_document_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "MOST_CHARACTERS", 10)
    found = list(units.split(["a" * 7, "b" * 20, "\n\nc"], "paragraph"))
    assert "".join(found) == "a" * 7 + "b" * 20 + "c"
    assert max(map(len, found)) <= 10


@pytest.mark.parametrize(
    ("text", "files", "unit"),
    [
        (WRAPPED, 1, "paragraph"),
        (WRAPPED, 300, "file"),
        ("one line, one document\n" * 100, 1, "line"),
        ("one\n\ntwo\n\n" * 50, 1, "line"),
        (("x" * 10 + "\n") * 100 + "\n\n", 1, "line"),
        ("春眠不覺曉\n處處聞啼鳥\n\n" * 20, 1, "paragraph"),
        ("", 1, "line"),
    ],
)
def test_the_guess(text: str, files: int, unit: str) -> None:
    found, why = units.guess([text], files=files, mean_bytes=1000)
    assert found == unit
    assert bool(why) is (unit != "line")


def test_the_guess_is_said_stored_and_holds_for_later_texts(tmp_path: Path) -> None:
    path = tmp_path / "prose.md"
    path.write_text("\n\n".join(f"The {k}th of them\ncame by night." for k in range(200)), encoding="utf-8")
    report = build_graph(path, tmp_path / "g.sifu", vocab=100, holdout=0.1)
    assert any("a document is a paragraph: blank lines separate blocks of 2.0 lines" in note for note in report.notes)
    other = tmp_path / "other.txt"
    other.write_text("It came by\nnight.\n\nIt came.", encoding="utf-8")
    with Graph.open(tmp_path / "g.sifu") as graph:
        assert graph.settings["build"]["corpus"]["reading"] == {"document": "paragraph"}
        assert graph._tokens().documents == 200
        assert graph._tokens([other], holdout=0.0).documents == 2
        assert graph._tokens(Corpus([other], document="line"), holdout=0.0).documents == 3
        assert "\n" in graph.tokenizer.vocabulary
    line = build_graph(Corpus([path], document="line"), tmp_path / "l.sifu", vocab=100)
    assert line.notes == [note for note in line.notes if "a document is" not in note]


# ---- columns


@given(st.lists(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0\ufeff")), max_size=8))
def test_a_column_of_csv(tmp_path_factory: Any, texts: list[str]) -> None:
    path = tmp_path_factory.getbasetemp() / "table.csv"
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerows([["id", "body"], *([str(k), text] for k, text in enumerate(texts))])
    path.write_bytes(out.getvalue().encode())
    meant = [units.normal(text) for text in texts]
    kept = [text for text in meant if text and not text.isspace()]
    if kept:
        assert read(path, field="body") == kept
    else:
        with pytest.raises(CorpusError, match="empty"):
            read(path, field="body")


@pytest.mark.parametrize(("name", "mark"), [("a.csv", ","), ("a.csv", ";"), ("a.csv", "\t"), ("a.tsv", "\t")])
def test_what_separates_the_fields(tmp_path: Path, name: str, mark: str) -> None:
    path = tmp_path / name
    path.write_text(f"id{mark}text\r\n1{mark}春\r\n2{mark}\r\n3{mark}風\r\n", encoding="utf-8")
    assert read(path) == ["春", "風"]
    with pytest.raises(CorpusError, match="no column 'body' in its first line; there are id, text: `field`"):
        read(path, field="body")


def test_a_member_of_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_text('{"body": "春", "text": 1}\n{"body": "風", "n": NaN}\n', encoding="utf-8")
    assert read(path, field="body") == ["春", "風"]
    with pytest.raises(CorpusError, match=r"line 1: expected .*; `field` names another member"):
        read(path)


# ---- what cannot be read


def test_what_cannot_be_read_is_left_out_and_counted(tmp_path: Path) -> None:
    files = {
        "a.jsonl": b'{"text": "one"}\nnot json\n{"text": 5}\n{"text": "two"}\n',
        "b.txt": b"three\nf\xffour\nfive\n",
        "c.csv": b'id,text\n1,six\n2\n3,"sev"en\n4,eight\n',
        "d.txt.gz": b"not an archive",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    corpus = Corpus([tmp_path], skip_bad=True, document="line")
    for _ in range(2):  # each pass counts anew
        assert list(corpus.documents()) == ["one", "two", "three", "five", "six", "eight"]
        assert corpus.skipped.count == 6
    assert "6 lines or files could not be read and were left out; the first: " in corpus.notes[-1]
    assert "a.jsonl: line 2: not JSON" in corpus.notes[-1]
    for name in files:
        with pytest.raises(CorpusError, match=re.escape(name)):
            read(tmp_path / name)
    with pytest.raises(CorpusError, match=r"nothing in the corpus can be read; the first: .*d\.txt\.gz"):
        list(Corpus([tmp_path / "d.txt.gz"], skip_bad=True).documents())
    again = Corpus.from_record(json.loads(json.dumps(corpus.record())))
    assert list(again.documents()) == list(corpus.documents())
    assert again.fingerprint() == corpus.fingerprint() != Corpus([tmp_path]).fingerprint()


def test_zstd_without_a_library_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decompress, "_module", lambda name: None)
    (tmp_path / "a.txt.zst").write_bytes(b"(\xb5/\xfd")
    with pytest.raises(CorpusError, match="pip install zstandard"):
        read(tmp_path / "a.txt.zst")


def test_zstd_by_a_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the libraries has one of two interfaces; here both are those of gzip."""

    class Library:
        class ZstdError(Exception): ...

        class ZstdDecompressor:
            def stream_reader(self, raw: Any, *, read_across_frames: bool) -> Any:
                assert read_across_frames
                return io.BytesIO(raw.read()[4:])

        @staticmethod
        def ZstdFile(raw: Any) -> Any:
            return io.BytesIO(raw.read()[4:])

    path = tmp_path / "a.txt.zst"
    path.write_bytes(b"(\xb5/\xfdtext")
    for name in ("compression.zstd", "zstandard"):
        monkeypatch.setattr(decompress, "_module", lambda asked, name=name: Library if asked == name else None)
        assert read(path) == ["text"]
