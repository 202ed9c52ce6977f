"""Bad input: one line on stderr, the right exit code, and the store as it was."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from calls import call, process
from sifu_store.store import Store

from sifu_graph.paging.traffic import read_traffic


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "not found"),
        (b"", "empty"),
        (b"\n \n", "empty"),
        ("春風\n".encode() + b"ab\xff\n", "not UTF-8 (0xff in line 2, byte 9)"),
        (b"\x00\x01\x02" * 100, "binary"),
    ],
)
def test_a_corpus_that_cannot_be_read(tmp_path: Path, content: bytes | None, says: str) -> None:
    corpus = tmp_path / "text.txt"
    if content is not None:
        corpus.write_bytes(content)
    result = call("build-graph", corpus, "--store", "new.sifu")
    assert (result.code, result.out) == (1, "")
    assert says in result.error
    assert "text.txt" in result.error
    assert sorted(path.name for path in tmp_path.iterdir()) == ([] if content is None else ["text.txt"])


def test_a_vocabulary_larger_than_the_text_has_is_said(poems: Path) -> None:
    result = call("build-graph", poems, "--vocab", "5000")
    assert result.code == 0
    assert "distinct tokens" in result.err
    assert "instead of 5,000" in result.err


def test_an_existing_store_needs_force(unchanged: Path, poems: Path) -> None:
    result = call("build-graph", poems, "--store", unchanged)
    assert result.code == 1
    assert "--force" in result.error


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["build-graph", "--sparsify", "1.5"], "expected a number, at least 0 and at most 1; found 1.5"),
        (["build-graph", "--sparsify", "-0.1"], "expected a number, at least 0 and at most 1; found -0.1"),
        (["build-graph", "--sparsify", "nan"], "expected a number, at least 0 and at most 1; found nan"),
        (["build-graph", "--holdout", "1"], "expected a number, at least 0 and below 1; found 1"),
        (["build-graph", "--vocab", "2"], "expected an integer, at least 3; found 2"),
        (["build-graph", "--vocab", "many"], "expected an integer, at least 3; found many"),
        (["build-graph", "--width", "3"], "even number"),
        (["build-graph", "--width", "2147483648"], "even number from 2 to 1,024"),
        (["build-graph", "--length", "9223372036854775807"], "from 2 to 65,536 tokens"),
        (
            ["build-graph", "--level", "words"],
            "'words' is not one of 'char', 'word', 'bpe', 'tokens'; did you mean word?",
        ),
        (["build-graph", "--level", "wordpiece"], "did you mean bpe?"),
        (["build-graph", "--lowercase"], "--lowercase goes with level word, not char"),
        (["build-graph", "--document", "page"], "document is 'page': it must be one of line, paragraph, file or"),
        (["train", "--document", "line"], "say how a text is read: name the text"),
        (["eval", "--glob", "*.md"], "say how a text is read: name the text"),
        (["build-graph", "--seed", "-1"], "expected an integer, at least 0; found -1"),
        (["train", "--steps", "0"], "expected an integer, at least 1; found 0"),
        (["train", "--steps", "1.5"], "expected an integer, at least 1; found 1.5"),
        (["train", "--minutes", "-1"], "expected a number, above 0; found -1"),
        (["train", "--minutes", "inf"], "expected a number, above 0; found inf"),
        (["train", "--lr", "fast"], "expected a number, above 0; found fast"),
        (["train", "--candidates", "some"], "expected all or an integer, at least 1; found some"),
        (["train", "--optimizer", "adamw", "--beta2", "1"], "--beta2 is 1: AdamW needs a number below 1"),
        (["train", "--config", "none.toml"], "none.toml: No such file"),
        (["train", "--plot", "loss.gif"], "must end with one of .png"),
        (["train", "--plot", "none/loss.png"], "no such folder"),
        (["train", "--device", "gpu"], "device is 'gpu': it must be cpu, cuda or cuda:N"),
        (["eval", "--device-memory", "much"], "device-memory is 'much'"),
        (["generate", "春", "--precision", "bf16"], "on the CPU it is float32, or bfloat16"),
        (["generate", "春", "--tokens", "-1"], "expected an integer, at least 0; found -1"),
        (["generate", "春", "--seed", "9" * 20], "below 9,223,372,036,854,775,808; 99999999999999999999 is too large"),
        (["generate", "春", "--temperature", "1e400"], "1e400 is too large for a 64-bit number"),
        (["generate", "春", "--temperature", "inf"], "expected a number, at least 0; found inf"),
        (["generate", "春", "--temperature", "hot"], "expected a number, at least 0; found hot"),
        (["generate", "春", "--top-p", "0"], "expected a number, above 0 and at most 1; found 0"),
        (["generate", "春", "--greedy", "--top-k", "5"], "leave out --top-k"),
        (["generate", "春", "--stop", ""], "the stop text is empty"),
        (["generate", ""], "the prompt is empty"),
        (["generate"], "the prompt is empty"),
        (["generate", "xyz"], "unknown characters only"),
        (["generate", "\udcff春"], "not UTF-8"),
        (["generate", "春", "--signal-vector", "none.npy"], "none.npy: No such file"),
        (["map", "map.gif"], "must end with one of .html"),
        (["map", "none/map.html"], "no such folder"),
        (["map", "--nodes", "1"], "expected an integer, at least 2; found 1"),
        (["build-graph", "--level", "wrd"], "did you mean word?"),
        (["build-graph", "--signal", "tune"], "did you mean tuned?"),
        (["train", "--optimizer", "adam"], "did you mean adamw?"),
        (["plot", "alfa"], "did you mean alpha?"),
        (["export", "safetensor"], "did you mean safetensors?"),
        (["train", "--halp"], "no such option '--halp'; did you mean --help? (see"),
        (["build-graph", "--levle", "word"], "no such option '--levle'; did you mean --level? (see"),
        (["next", "the", "sea"], "put quotes around a text or a name of several words"),
        (["map", "--by", "size"], "'size' is not one of 'information', 'energy', 'count'"),
        (["plot"], "missing argument 'KIND'"),
        (["plot", "pie"], "'pie' is not one of 'loss', 'rows'"),
        (["plot", "rows", "rows.gif"], "must end with one of .png"),
        (["plot", "loss"], "no training of the branch main was recorded"),
        (["eval", "--limit", "0"], "expected an integer, at least 1; found 0"),
        (["eval", "--edits", "0"], "expected an integer, at least 1; found 0"),
        (["eval", "--edits", "3", "--baselines"], "leave out --baselines"),
        (["eval", "--edits", "3", "a.txt"], "leave out FILE"),
        (["eval", "--edits", "3"], "edits are measured in graphs whose edges share a base"),
        (["eval", "--seed", "3"], "--seed chooses the edits of --edits N: give both"),
        (["log", "--limit", "x"], "expected an integer, at least 1; found x"),
        (["gc"], "pass --yes"),
        (["info", "extra"], "unexpected extra argument"),
        (["info", "--nonsense"], "--nonsense"),
        (["trian"], "did you mean train?"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_an_option_that_cannot_be_used(
    unchanged: Path, poems: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], says: str
) -> None:
    monkeypatch.setenv("SIFU_STORE", str(unchanged))
    if args[0] == "build-graph":
        args = [*args, str(poems), "--force"]
    result = call(*args)
    assert (result.code, result.out) == (2, "")
    assert says in result.error


@pytest.mark.parametrize(
    "command", [["train"], ["generate", "春"], ["eval"], ["map"], ["plot", "rows"], ["info"], ["log"], ["verify"]]
)
def test_a_store_that_is_not_there(tmp_path: Path, command: list[str]) -> None:
    result = call(*command)
    assert (result.code, result.out) == (1, "")
    assert "graph.sifu does not exist: create one with sifu build-graph, or give another --store" in result.error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("stepz = 3", "no option 'stepz'"),
        ('steps = "many"', "steps: expected an integer, at least 1; found many"),
        ("steps = true", "steps: expected an integer, at least 1; found True"),
        ("steps = ", "not TOML"),
        ("[train]\nsteps = 3", "no option 'train'"),
    ],
)
def test_a_config_that_cannot_be_used(unchanged: Path, tmp_path: Path, toml: str, says: str) -> None:
    (tmp_path / "run.toml").write_text(toml)
    result = call("train", "--config", "run.toml", "--store", unchanged)
    assert result.code == 2
    assert f"run.toml: {says}" in result.error


@pytest.mark.parametrize("content", ["1 2 3", "one two", "[1, [2]]"])
def test_a_signal_that_cannot_be_used(unchanged: Path, tmp_path: Path, content: str) -> None:
    for name in ("v.txt", "v.json", "v.npy"):
        (tmp_path / name).write_text(content)
        result = call("generate", "春", "--store", unchanged, "--signal-vector", name)
        assert (result.code, result.out) == (2, "")
        assert result.error


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        (b"\xff\xe6\x98\xa5", "the prompt: not UTF-8 (0xff in line 1, byte 0)"),
        ("春".encode("utf-16"), "the prompt: text in UTF-16"),
        (b"\x93NUMPY\x01\0", "the prompt: a NumPy array"),
        (b"a\0b", "the prompt: binary or UTF-16"),
    ],
)
def test_a_prompt_that_is_no_text(unchanged: Path, prompt: bytes, says: str) -> None:
    result = call("generate", "--store", unchanged, stdin=prompt)
    assert (result.code, result.out) == (2, "")
    assert says in result.error


def test_a_byte_order_mark_is_no_part_of_a_prompt(unchanged: Path) -> None:
    options = ["generate", "--store", unchanged, "--seed", "1", "--tokens", "4", "-q"]
    plain = call(*options, "春")
    assert plain.code == 0
    assert call(*options, stdin="\ufeff春\r\n".encode()).out == plain.out
    assert call(*options, "\ufeff春").out == plain.out


def test_a_prompt_in_the_locale_c(built: Path) -> None:
    """Its bytes are those that were typed."""
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "utf-8"}
    started = process("generate", "春", "--store", built, "-q", "--seed", "1", "--tokens", "4", **environment)
    out, err = started.communicate(timeout=100)
    assert (started.returncode, err) == (0, "")
    assert out.startswith("春")


@pytest.mark.parametrize(
    ("args", "name"),
    [
        (["generate", "春", "--signal-vector"], "f.npy"),
        (["train", "--config"], "f.toml"),
        (["add-node", "--from"], "f.txt"),
        (["eval"], "f.txt"),
        (["build-graph", "--force"], "f.jsonl"),
        (["import", "--force"], "f.safetensors"),
        (["import-brillm", "--force", "--vocab", "none.json"], "f.bin"),
        (["import-brillm", "--force", "none.bin", "--vocab"], "f.json"),
    ],
)
def test_a_pipe_in_the_place_of_a_file_is_refused_at_once(
    unchanged: Path, tmp_path: Path, args: list[str], name: str
) -> None:
    os.mkfifo(tmp_path / name)
    result = call(*args, name, "--store", unchanged)
    assert result.code != 0
    if "none.json" not in args:  # the vocabulary is read first
        assert f"{name}: " in result.error and "a pipe, not a file" in result.error


@pytest.mark.parametrize(
    ("name", "content"), [("v.json", "[" * 50_000), ("v.json", "[1e999]"), ("v.npy", "\x93NUMPY\1")]
)
def test_a_damaged_signal(unchanged: Path, tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="latin-1")
    result = call("generate", "春", "--store", unchanged, "--signal-vector", name)
    assert result.code == 2
    assert f"{name}: not a list of numbers" in result.error


def test_a_deep_file_of_options(unchanged: Path, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("a = " + "[" * 50_000)
    result = call("train", "--store", unchanged, "--config", "run.toml")
    assert result.code == 2
    assert "run.toml: not TOML" in result.error


def test_damaged_counters_of_traffic_are_ignored(graph: Path, tmp_path: Path) -> None:
    pages = 1
    np.savez_compressed(graph / "traffic.npz", reads=np.ones(pages, int), writes=np.ones(pages, int), resident=[True])
    whole = (graph / "traffic.npz").read_bytes()
    assert read_traffic(graph, pages=pages) is not None
    for at in range(0, 8 * len(whole), 7):
        data = bytearray(whole)
        data[at // 8] ^= 1 << at % 8
        (graph / "traffic.npz").write_bytes(data)
        read_traffic(graph, pages=pages)  # whatever it finds, it raises nothing


def test_a_corpus_that_has_changed_since_the_build(tmp_path: Path, poems: Path) -> None:
    text = Path(shutil.copy(poems, tmp_path / "mine.txt"))
    assert call("build-graph", text, "-q").code == 0
    shutil.rmtree(tmp_path / "graph.sifu" / "cache")
    with text.open("a", encoding="utf-8") as file:
        file.write("明月。\n")
    for command in (["train", "--steps", "1"], ["eval"]):
        result = call(*command)
        assert result.code == 1
        assert "changed since the graph was built" in result.error


def test_two_writers(graph: Path) -> None:
    with Store.open(graph, write=True):
        for command in (["train", "--steps", "1"], ["gc", "--yes"]):
            result = call(*command)
            assert result.code == 1
            assert result.error
        assert call("info").code == 0  # readers are not kept waiting


def test_an_unexpected_error_is_one_line_and_shows_where_if_asked(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object, **options: object) -> None:
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setattr(Store, "tree", fails)
    result = call("log", "--store", built)
    assert result.code == 1
    assert result.error == "unexpected ZeroDivisionError: by zero (SIFU_DEBUG=1 shows where)"
    monkeypatch.setenv("SIFU_DEBUG", "1")
    result = call("log", "--store", built)
    assert result.code == 1
    assert "Traceback" in result.err
    assert result.err.endswith("(SIFU_DEBUG=1 shows where)\n")


def test_an_error_is_one_short_line_that_moves_no_cursor(tmp_path: Path) -> None:
    result = call("info", "--store", "a\x1b[2Jb\u202ec\nd")
    assert r"a\x1b[2Jb\u202ec d does not exist" in result.error
    result = call("info", "--store", "長" * 100_000)
    assert result.code == 1
    assert len(result.error) < 1100
    assert " ... " in result.error


def test_too_little_memory_is_said(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object, **options: object) -> None:
        torch.empty(1 << 60)

    monkeypatch.setattr(Store, "tree", fails)
    assert "too little free memory" in call("log", "--store", built).error


def test_a_fallback_to_an_older_snapshot_is_said(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Store.open

    def fallen_back(*args: object, **options: object) -> Store:
        store = opened(*args, **options)  # type: ignore[arg-type]
        store.recovered_from = "the newest snapshot cannot be read"
        return store

    monkeypatch.setattr(Store, "open", fallen_back)
    for command in ("info", "log", "eval"):
        result = call(command, "--store", built, "-q")
        assert (result.code, result.err) == (0, "sifu: warning: the newest snapshot cannot be read\n")
    assert call("verify", "--store", built).code == 1


def test_a_path_that_the_shell_split_is_joined_in_the_message(graph: Path) -> None:
    Path("my text.txt").write_text("春風\n", encoding="utf-8")
    for args in (["build-graph", "--store", "new.sifu"], ["train", "--steps", "1"], ["eval"]):
        result = call(*args, "my", "text.txt")
        assert result.code == 1
        assert "my: not found" in result.error
        assert result.error.endswith("put quotes around 'my text.txt'")


def test_a_graph_to_compare_with_is_checked_first(graph: Path) -> None:
    result = call("eval", "--against", "WRONG@HEAD")
    assert result.code == 2
    assert "invalid value for '--against': WRONG is no graph: expected STORE" in result.error
    assert "--store" not in result.error
    assert "evaluating" not in result.err


@pytest.mark.parametrize(
    ("delimiter", "suffix"), [(",", ".csv"), (";", ".csv"), ("\t", ".csv"), ("|", ".csv"), ("\t", ".tsv")]
)
def test_a_table_of_edges_may_have_other_separators(graph: Path, delimiter: str, suffix: str) -> None:
    table = Path("edges" + suffix)
    table.write_text(f"source{delimiter}target{delimiter}boost\n春{delimiter}風{delimiter}0.5\n", encoding="utf-8")
    assert call("edit-edge", "--from", table, "--dry-run").code == 0
    table.write_text(f"from{delimiter}to{delimiter}boost\n春{delimiter}風{delimiter}0.5\n", encoding="utf-8")
    assert "no column 'from'; did you mean source?" in call("edit-edge", "--from", table, "--dry-run").error
