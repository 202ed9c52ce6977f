"""Corpora: every kind of source, every bad input, the held-out choice, and the record that finds them."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sifu_store.errors import CorpusError, OptionError

from sifu_graph.text import text_blocks
from sifu_graph.text.corpus import Corpus, batched, is_held_out

POEM = "春眠不覺曉\n\n處處聞啼鳥\r\n  \n夜來風雨聲"
LINES = ["春眠不覺曉", "處處聞啼鳥", "夜來風雨聲"]


def read(*sources: str | Path, tokens: bool = False) -> list[object]:
    return list(Corpus(sources, tokens=tokens).documents())


def error(*sources: str | Path, tokens: bool = False) -> str:
    with pytest.raises(CorpusError) as caught:
        read(*sources, tokens=tokens)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("compression", ["", ".gz", ".xz", ".bz2"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_every_kind_of_file(tmp_path: Path, compression: str, bom: bytes) -> None:
    squeeze = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}[compression]
    text = tmp_path / f"a.txt{compression}"
    text.write_bytes(squeeze(bom + POEM.encode()))
    rows = tmp_path / f"a.jsonl{compression}"
    objects = "\n\n".join(json.dumps({"text": line, "year": 700}) for line in [*LINES, "", " "])
    rows.write_bytes(squeeze(bom + objects.encode()))
    assert read(text) == LINES
    assert read(rows) == LINES
    assert read(text, rows) == LINES + LINES


def test_token_lists(tmp_path: Path) -> None:
    rows = tmp_path / "a.jsonl"
    rows.write_text('["a", 5, "b c"]\n{"tokens": [-1, "x"]}\n[]\n', encoding="utf-8")
    assert read(rows, tokens=True) == [["a", "5", "b c"], ["-1", "x"]]


def test_a_folder_is_sorted_and_every_text_in_it_is_read(tmp_path: Path) -> None:
    for folder in ("b", ".hidden", "mine.sifu/repository/snapshots", "mine.sifu/repository/refs"):
        (tmp_path / folder).mkdir(parents=True)
    texts = ["Makefile", "a.txt", "b/1.TXT", "b/2.log", "c.md"]
    for name in (*texts, ".hidden/x.txt", "b/._1.txt", "mine.sifu/metrics.txt"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    (tmp_path / "d.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    (tmp_path / "e.md").write_bytes("é".encode("latin-1"))
    (tmp_path / "f.pdf").write_bytes(b"%PDF-1.4 all of it ASCII")
    (tmp_path / "g.gz").write_bytes(b"not compressed")
    (tmp_path / "empty").touch()
    corpus = Corpus([tmp_path])
    assert list(corpus.documents()) == texts
    (note,) = corpus.notes
    assert note == (
        f"{tmp_path}: 5 files read; left out: 4 that are not text in UTF-8 (.png, .md, .pdf, ...), 1 empty, "
        "2 hidden (a name that begins with a dot), 1 graph"
    )
    some = Corpus([tmp_path], glob=["*.md", "b/*"])
    assert list(Corpus([tmp_path], glob=["b/*"]).documents()) == ["b/1.TXT", "b/2.log"]
    with pytest.raises(CorpusError, match=r"e\.md: not UTF-8"):  # named by a pattern: its error is said
        list(some.documents())
    assert "6 that no pattern matches" in some.notes[0]
    with pytest.raises(CorpusError, match="without a single text; left out: 10 that no pattern matches"):
        Corpus([tmp_path], glob=["*.rst"])
    (tmp_path / "h.txt").write_bytes(b"\0")  # its suffix says that it is text
    assert "h.txt: binary" in error(tmp_path)


def test_standard_input_can_be_read_again() -> None:
    corpus = Corpus(["-"], stdin=io.BytesIO(POEM.encode()))
    assert list(corpus.documents()) == LINES == list(corpus.documents())
    spool = Path(str(corpus.sources[0].location))
    assert spool.exists()
    recorded = Corpus.from_record(corpus.record())
    assert recorded.fingerprint() == corpus.fingerprint()
    with pytest.raises(CorpusError, match="built from standard input, and there is no copy"):
        list(recorded.documents())
    del corpus
    assert not spool.exists()
    with pytest.raises(CorpusError, match="empty"):
        list(Corpus(["-"], stdin=io.BytesIO(b"\n")).documents())
    with pytest.raises(CorpusError, match="twice"):
        Corpus(["-", "-"], stdin=io.BytesIO(b"a"))
    assert list(Corpus(["-"], tokens=True, stdin=io.BytesIO(b"[1]")).documents()) == [["1"]]


@pytest.mark.parametrize("root", [Path("/"), "/", "/.", "/tmp/.."])
def test_the_root_of_a_file_system_is_no_corpus(root: str | Path) -> None:
    with pytest.raises(CorpusError, match="the root of a file system"):
        Corpus(root)


@pytest.mark.parametrize(("name", "documents"), [("tang", 56_332), ("wordnet", 111_777)])
def test_shipped(name: str, documents: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    corpus = Corpus([name])
    assert sum(1 for _ in corpus.documents()) == documents
    assert Corpus.from_record(json.loads(json.dumps(corpus.record()))).fingerprint() == corpus.fingerprint()
    (tmp_path / name).mkdir()
    (tmp_path / name / "a.txt").write_text("mine", encoding="utf-8")
    assert read(name) == ["mine"]
    assert Corpus.from_record(corpus.record()).sources[0].name == name
    licence = Path(str(corpus.sources[0].location)).parent / f"LICENSE-{name}"
    assert "ermission" in licence.read_text(encoding="utf-8")


# ---- bad input


def test_bad_names(tmp_path: Path) -> None:
    assert "no corpus was named" in error()
    assert "not found" in error(tmp_path / "none.txt")
    assert "without a single text" in error(tmp_path)
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.4\n\xe2\xe3")
    assert "a.pdf: a PDF (0xe2 in line 2, byte 9); expected text in UTF-8" in error(tmp_path / "a.pdf")
    (tmp_path / "a.txt").write_bytes(b"x")
    assert "lists of tokens are read from .jsonl" in error(tmp_path / "a.txt", tokens=True)
    assert "a.txt: " in error("x" * 5_000 + "a.txt")


@pytest.mark.parametrize("content", [b"", b"\n \n\r\n", b"\xef\xbb\xbf"])
def test_empty(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    assert error(tmp_path / "a.txt") == f"{tmp_path / 'a.txt'}: empty, expected at least one line of text"
    (tmp_path / "b.txt").write_bytes(b"text")
    assert read(tmp_path) == ["text"]


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("before", [b"", b"one\ntwo\n" * 400_000])
def test_not_utf8_names_line_and_byte(tmp_path: Path, bom: bytes, before: bytes) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(bom + before + b"ok\n\xe6\x98\xa5\xff rest\nmore")
    line, byte = before.count(b"\n") + 2, len(bom) + len(before) + 6
    assert f"{path}: not UTF-8 (0xff in line {line}, byte {byte:,})" in error(path)
    path.write_bytes(bom + before + b"ok\n\xe6\x98\xa5\0")
    assert f"{path}: binary or UTF-16 (a NUL byte in line {line}, byte {byte:,})" in error(path)


def test_a_character_cut_by_the_end(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("春".encode()[:2])
    assert "not UTF-8 (0xe6 in line 1, byte 0)" in error(tmp_path / "a.txt")
    (tmp_path / "b.txt").write_text("春", encoding="utf-16")
    assert "b.txt: text in UTF-16 (0xff in line 1, byte 0); expected text in UTF-8" in error(tmp_path / "b.txt")


@pytest.mark.parametrize("compression", [".gz", ".xz", ".bz2"])
def test_damaged_archives(tmp_path: Path, compression: str) -> None:
    squeeze = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}[compression]
    whole = squeeze("\n".join(map(str, range(50_000))).encode())
    path = tmp_path / f"a.txt{compression}"
    for content in (whole[:-5], whole[: len(whole) // 2], whole[:3], b"not an archive"):
        path.write_bytes(content)
        assert str(path) in error(path)
        assert "truncated or not a valid" in error(path)


@pytest.mark.parametrize(
    ("line", "tokens", "message"),
    [
        ("{", False, "line 2: not JSON"),
        ("[" * 100_000, True, "line 2: expected a list of tokens"),
        ('{"a": ' + "[" * 100_000, True, "line 2: not JSON"),
        ('{"txt": "a"}', False, 'line 2: expected {"text": "..."}'),
        ('{"text": 5}', False, "line 2: expected"),
        ('"a"', False, "line 2: expected"),
        ("[1]", False, "line 2: a list; expected"),
        ('{"text": "a"}', True, "line 2: expected a list of tokens"),
        ("[1.5]", True, "line 2: expected a list of tokens"),
        ("[true]", True, "line 2: expected a list of tokens"),
        ('["a", ""]', True, 'line 2: "" is no token'),
        ("[[1]]", True, "line 2: expected a list of tokens"),
        ('{"text": "\\ud800"}', False, "half a surrogate pair"),
        ('["\\udfff"]', True, "half a surrogate pair"),
    ],
)
def test_bad_json_names_the_line(tmp_path: Path, *, line: str, tokens: bool, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(("[1]" if tokens else '{"text": "fine"}') + "\n" + line + "\n", encoding="utf-8")
    found = error(path, tokens=tokens)
    assert f"{path}: line 2: " in found and message in found


# ---- giant lines


def test_a_giant_line_is_cut_the_same_whatever_the_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_blocks, "MAX_LINE_BYTES", 100)
    giant = "春a" * 301
    (tmp_path / "a.txt").write_text(f"one\n{giant}\ntwo\n{giant}", encoding="utf-8")
    found = []
    for block in (1, 7, 100):  # a block is never larger than the limit
        monkeypatch.setattr(text_blocks, "_BLOCK_BYTES", block)
        found.append(read(tmp_path / "a.txt"))
    first = found[0]
    assert all(other == first for other in found)
    assert first[0] == "one"
    assert first[first.index("two") + 1] != giant
    assert "".join(map(str, first)) == f"one{giant}two{giant}"
    assert all(len(str(piece).encode()) <= 100 for piece in first)


def test_a_giant_line_of_json_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_blocks, "MAX_JSON_LINE_BYTES", 2 << 20)
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": "' + "b" * (5 << 20), encoding="utf-8")
    assert "line 2 is longer than 2 MiB" in error(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "b" * (3 << 19)}), encoding="utf-8")
    assert read(tmp_path / "b.jsonl") == ["b" * (3 << 19)]


# ---- record


def test_record_finds_the_text_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("one\n", encoding="utf-8")
    record = Corpus(["a.txt"]).record()
    assert record["sources"][0]["name"] == str(tmp_path / "a.txt")
    assert record["sources"][0]["bytes"] == 4
    monkeypatch.chdir("/")
    again = Corpus.from_record(json.loads(json.dumps(record)))
    assert list(again.documents()) == ["one"]
    assert again.record() == record
    (tmp_path / "a.txt").write_text("two\n", encoding="utf-8")
    with pytest.raises(CorpusError, match=r"a\.txt: changed since"):
        Corpus.from_record(record)
    (tmp_path / "a.txt").unlink()
    with pytest.raises(CorpusError, match=r"a\.txt: missing"):
        Corpus.from_record(record)


def test_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    for name, content in {"a.txt": "x", "b.txt": "x", "c.txt": "y"}.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    a, b, c = (Corpus([tmp_path / name]).fingerprint() for name in ("a.txt", "b.txt", "c.txt"))
    assert a == b != c


# ---- held-out documents


def test_the_held_out_choice_never_changes() -> None:
    documents = [f"document {index}" for index in range(40)]
    held = [index for index in range(40) if is_held_out(documents[index], fraction=0.2)]
    assert held == [15, 26, 27, 36, 37]  # written down from the first release
    lists = [is_held_out(["春", str(index)], fraction=0.5) for index in range(8)]
    assert lists == [False, True, False, True, True, False, False, True]
    assert not is_held_out("春風", fraction=0.76298)
    assert is_held_out("春風", fraction=0.76299)


@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_held_out_grows_with_the_fraction(text: str, one: float, two: float) -> None:
    low, high = sorted((one, two))
    assert is_held_out(text, fraction=low) <= is_held_out(text, fraction=high)
    assert not is_held_out(text, fraction=0)
    assert is_held_out(text, fraction=1)


def test_held_out_ignores_line_ends() -> None:
    for index in range(50):
        a = is_held_out(f"a\r\nb{index}\r\n", fraction=0.5)
        assert a is is_held_out(f"a\nb{index}", fraction=0.5)


def test_the_two_sides_share_nothing_and_lose_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(map(str, range(5_000))), encoding="utf-8")
    corpus = Corpus([tmp_path / "a.txt"])
    train, heldout = corpus.training(holdout=0.1), corpus.heldout(holdout=0.1)
    assert list(train) == list(train)
    assert sorted([*train, *heldout], key=str) == sorted(map(str, range(5_000)))
    assert 400 < len(list(heldout)) < 600
    for wrong in (-0.1, 1.0, float("nan")):
        with pytest.raises(OptionError, match="held-out share"):
            iter(corpus.training(holdout=wrong))


@given(st.lists(st.text(max_size=20), max_size=50), st.integers(1, 60))
def test_batched_keeps_order(documents: list[str], units: int) -> None:
    batches = list(batched(documents, units=units))
    assert [document for batch in batches for document in batch] == documents
    assert all(batches)


LINES = ["春眠不覺曉", "處處聞啼鳥", "夜來風雨聲"]


@settings(max_examples=60)
@given(
    ends=st.lists(st.sampled_from(["\n", "\r", "\r\n", "\r\r\n", "\n\n"]), min_size=12, max_size=12),
    marks=st.lists(st.booleans(), min_size=12, max_size=12),
    kind=st.sampled_from([".txt", ".jsonl"]),
)
def test_every_line_end_ends_a_line_and_a_byte_order_mark_is_nothing(
    tmp_path_factory: pytest.TempPathFactory, ends: list[str], marks: list[bool], kind: str
) -> None:
    lines = [LINES[at % 3] for at in range(12)]
    written = lines if kind == ".txt" else [json.dumps({"text": line}, ensure_ascii=False) for line in lines]
    text = "".join("\ufeff" * mark + line + end for mark, line, end in zip(marks, written, ends, strict=True))
    path = tmp_path_factory.mktemp("ends") / f"text{kind}"
    path.write_bytes(text.encode())
    assert list(Corpus([path]).documents()) == lines


def test_line_ends_inside_json_are_line_feeds(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "a\r\nb\rc\r\r\nd\ufeff"}) + "\n", encoding="utf-8")
    assert list(Corpus([path]).documents()) == ["a\nb\nc\nd"]


def test_a_long_text_with_carriage_returns_is_cut_at_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_blocks, "MAX_LINE_BYTES", 40)
    monkeypatch.setattr(text_blocks, "_BLOCK_BYTES", 64)
    path = tmp_path / "a.txt"
    path.write_bytes(("\r".join(LINES * 20) + "\r").encode())
    assert list(Corpus([path]).documents()) == LINES * 20


def test_a_folder_that_leaves_its_device_is_refused_unless_that_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a/one.txt", "a/mounted/two.txt", ".hidden/three.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text\n", encoding="utf-8")
    (tmp_path / "elsewhere").symlink_to(tmp_path / "a/mounted")
    real = Path.stat

    def stat(self: Path, **options: bool) -> os.stat_result:
        found = real(self, **options)
        if not any(part in ("mounted", ".hidden", "elsewhere") for part in self.parts):
            return found
        fields = list(found)
        fields[2] += 1  # st_dev
        return os.stat_result(fields)

    monkeypatch.setattr(Path, "stat", stat)
    with pytest.raises(CorpusError, match=r"a.mounted below it is on another device.*`everywhere=True`"):
        Corpus(tmp_path)
    names = [Path(source.name).name for source in Corpus(tmp_path, everywhere=True).sources]
    assert names == ["two.txt", "one.txt"]
    assert len(Corpus(tmp_path / "a/mounted").sources) == 1  # a device of its own is not left
    assert len(Corpus(tmp_path / "a/one.txt").sources) == 1


def test_the_root_of_a_file_system_can_be_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one.txt").write_text("text\n", encoding="utf-8")
    found: list[tuple[Path, bool]] = []

    def below(path: Path, left_out: object, *, everywhere: bool) -> list[Path]:
        found.append((path, everywhere))
        return []

    monkeypatch.setattr("sifu_graph.text.sources._below", below)
    for name in ("/", "/tmp/..", "//"):
        with pytest.raises(CorpusError, match="the root of a file system: name the folders"):
            Corpus(name)
    assert not found  # nothing was read
    with pytest.raises(CorpusError, match="a folder without a single text"):
        Corpus("/", everywhere=True)
    assert [everywhere for _, everywhere in found] == [True]
