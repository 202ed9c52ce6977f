"""No character of a name, a text or a file name acts on the terminal: in a pipe, on a terminal, in written files."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import click
import pytest
from calls import call
from hypothesis import given
from hypothesis import strategies as st
from sifu_cli.main import run
from sifu_cli.output.terminal import echo, echo_json, echo_text, styled, visible

from sifu_graph.command_text import quoted

HOSTILE = [
    "clear\x1b[2J",
    "\x1b]0;OWNED\x07",
    "\x1b]8;;http://example.com\x07link\x1b]8;;\x07",
    "\x1b]52;c;T1dORUQ=\x07",
    "\x1b[38;5;123mcolour",
    "\u202ereversed",
    "\u2067isolate\u2069",
    "\u009b2J",
    "\u009d0;OWNED\u009c",
    "\x07",
    "two\nlines",
    "back\rspace\b",
    "sep\u2028arator",
    "\x7f",
]
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
OURS = re.compile(r"\x1b\[(?:0|1|2|22|3[0-7]|0;3[0-7]|1;3[0-7]|2;3[0-7])m")
"""Colours and styles that sifu itself prints; none of them is in `HOSTILE`."""


def words(name: str) -> str:
    """A name as part of a text of level `tokens`: one that is split at spaces."""
    return name.replace("\n", "_").replace("\r", "_").replace("\u2028", "_")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph whose nodes, history, tag, corpus and folder have names that would act on a terminal."""
    folder = tmp_path_factory.mktemp("hostile") / "fol\x1b]0;OWNED\x07der"
    folder.mkdir()
    draw, corpus, store = random.Random(1), folder / "text\u202e.jsonl", folder / "graph.sifu"
    lines = (json.dumps(["ok", *draw.choices([*HOSTILE, "ok", "fine"], k=12)]) for _ in range(200))
    corpus.write_text("\n".join(lines) + "\n", encoding="utf-8")
    built = call(
        "build-graph", "-q", corpus, "--store", store, "--level", "tokens", "--vocab", "40", "--sparsify", "0.5",
        "--signal", "tuned", "--holdout", "0.1",
    )  # fmt: skip
    assert built.code == 0, built
    assert call("add-node", "-q", "new\x1b]0;OWNED\x07", "--store", store).code == 0
    return store


COMMANDS: list[list[str]] = [
    ["generate", "ok", "--tokens", "60", "--seed", "1"],
    ["generate", "ok " + words(HOSTILE[0]), "--tokens", "60", "--seed", "2", "--explain"],
    ["generate", "ok", "--tokens", "60", "--seed", "1", "--count", "2", "--json"],
    ["generate", "ok \x1b[2Junknown", "--tokens", "5", "--seed", "1"],
    ["trace", "ok fine " + words(HOSTILE[1])],
    ["trace", "ok fine", "--json", "--also", HOSTILE[7]],
    ["inspect", HOSTILE[1]],
    ["inspect", "ok", HOSTILE[7]],
    ["inspect", "ok", "--json"],
    ["info"],
    ["info", "--card"],
    ["info", "--json"],
    ["log"],
    ["log", "--json"],
    ["diff"],
    ["diff", "--json"],
    ["add-node", "\x1b[2Jxy", "--like", HOSTILE[7]],
    ["log", "--limit", "1"],
    ["diff", "--top", "20"],
    ["edit-edge", "ok", HOSTILE[5], "--boost", "1"],
    ["edit-edge", HOSTILE[10], HOSTILE[1], "--forbid"],
    ["diff", "HEAD~2"],
    ["edit-node", HOSTILE[2], "--rename", "\u009b2Jrenamed"],
    ["diff"],
    ["remove-node", "--yes", HOSTILE[3]],
    ["diff"],
    ["prune", "--to-ratio", "0.2", "--yes"],
    ["grow", "--to-ratio", "0.4"],
    ["train", "--steps", "2", "--batch", "8"],
    ["eval"],
    ["tag", "first"],
    ["tag"],
    ["branch", "other"],
    ["branch"],
    ["switch", "other"],
    ["undo", "--dry-run"],
    ["undo"],
    ["compact"],
    ["gc", "--yes"],
    ["verify"],
    ["map", "--force", "map.html", "map.svg"],
    ["export", "graphml", "out.graphml", "--force"],
    ["estimate", "--json"],
]
WRONG: list[list[str]] = [
    ["inspect", "\x1b]0;none\x07"],
    ["edit-edge", "\u202enone", "ok", "--boost", "1"],
    ["log", "\x1b[2J"],
    ["tag", "\x1b[2J"],
    ["tain\x1b[2J"],
    ["generate", "ok", "--tokens", "\x1b[2J"],
    ["build-graph", "none\x1b[2J.txt", "--force"],
]


def acts(shown: str) -> str | None:
    """What acts on a terminal in a text that sifu printed, with what is around it."""
    found = CONTROL.search(OURS.sub("", shown))
    return None if found is None else repr(OURS.sub("", shown)[max(0, found.start() - 40) : found.end() + 40])


def on_a_terminal(*args: str | Path) -> tuple[int, str]:
    """The exit code of a command, and what it prints on a terminal."""
    pty = pytest.importorskip("pty")
    master, slave = pty.openpty()
    came: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # the other end is closed
            while piece := os.read(master, 1 << 16):
                came.append(piece)

    reading = threading.Thread(target=read)
    reading.start()
    with open(slave, "w", encoding="utf-8", newline="") as screen:  # noqa: PTH123  (a descriptor)
        assert screen.isatty()
        with contextlib.redirect_stdout(screen), contextlib.redirect_stderr(screen):
            code = run([str(arg) for arg in args])
    reading.join(60.0)
    os.close(master)
    return code, b"".join(came).decode("utf-8").replace("\r\n", "\n")


def in_a_pipe(*args: str | Path) -> tuple[int, str]:
    done = call(*args)
    return done.code, done.out + done.err


@pytest.mark.parametrize("reader", [in_a_pipe, on_a_terminal])
def test_no_command_line_prints_a_control_character(
    hostile: Path, tmp_path: Path, reader: Callable[..., tuple[int, str]]
) -> None:
    shutil.copytree(hostile.parent, tmp_path / hostile.parent.name)
    store = tmp_path / hostile.parent.name / hostile.name
    failed: list[object] = []
    for command in [*COMMANDS, *WRONG]:
        # On a terminal, a line of progress is rewritten in place; it has no name but that of the store.
        quiet = ["-q"] if reader is on_a_terminal and command[0] in SHOW_A_BAR else []
        where = ["--store", str(store)] if command[0] in TAKES_A_STORE else []
        code, shown = reader(*command, *quiet, *where)
        if not shown or (code == 0) != (command in COMMANDS) or acts(shown) is not None:
            failed.append((command, code, acts(shown) or shown))
        if command == ["log", "--limit", "1"]:
            assert len(shown.splitlines()) == (
                4 if reader is on_a_terminal else 2
            )  # a name with a line feed breaks no line
    assert not failed
    for written in (tmp_path / name for name in ("map.html", "map.svg", "out.graphml")):
        assert acts(written.read_text(encoding="utf-8")) is None, written


SHOW_A_BAR = ("add-node", "compact", "diff", "eval", "export", "gc", "grow", "info", "map", "prune", "train", "verify")
TAKES_A_STORE = {command[0] for command in COMMANDS + WRONG} - {"tain\x1b[2J", "estimate"}


def test_the_whole_list_is_long_enough() -> None:
    assert len({tuple(command) for command in COMMANDS}) >= 40


def test_graphml_keeps_the_names_that_xml_allows(hostile: Path, tmp_path: Path) -> None:
    assert call("export", "graphml", tmp_path / "g.graphml", "--store", hostile).code == 0
    tokens = {each.text for each in ElementTree.parse(tmp_path / "g.graphml").iter() if each.get("key") == "d0"}
    allowed = [name for name in HOSTILE if not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f]", name)]
    assert len(allowed) >= 6
    assert tokens >= set(allowed)


def test_generated_text_is_escaped_unless_raw(hostile: Path) -> None:
    args = ["generate", "ok", "--store", hostile, "--tokens", "200", "--temperature", "3", "--seed", "1"]
    [text] = (json.loads(line)["text"] for line in call(*args, "--json").out.splitlines())
    assert CONTROL.search(text)
    assert "two\nlines" in text
    raw, shown = call(*args, "--raw").out, call(*args).out
    assert raw == "ok" + text + "\n"
    assert shown == "ok" + visible(text, lines=True) + "\n"
    assert "two\nlines" in shown
    explained = call(*args, "--explain", "--raw").out
    assert explained.split("best\n", 1)[1].split("\n\n", 1)[1].startswith("ok" + text)


@given(st.text(st.characters(exclude_categories=("Cs",)) | st.sampled_from("".join(HOSTILE))))
def test_what_is_printed_has_no_control_character(text: str) -> None:
    shown = visible(text)
    assert not CONTROL.search(shown) and "\n" not in shown and "\t" not in shown
    assert visible(shown) == shown
    assert not CONTROL.search(visible(text, lines=True))
    assert visible(text, lines=True).count("\n") == text.count("\n")
    kept = [character for character in text if not CONTROL.match(character)]
    assert len(visible(text, lines=True)) >= len(kept)


@given(st.text(st.sampled_from('aé\x1b\x07\u009b\u202e\u2028\ud800"\\\n\U000e0001\u3000')))
def test_json_is_the_same_value_and_has_no_control_character(text: str) -> None:
    printed = _printed(lambda: echo_json({text: [text]}))
    assert json.loads(printed) == {text: [text]}
    assert not CONTROL.search(printed.removesuffix("\n")) and printed.count("\n") == 1


def test_styles_are_added_after_names_are_escaped() -> None:
    def both() -> None:
        echo("a\x1b[1m", styled("b\x1b[2J\n", fg="red"))
        echo_text(styled("c\x1b\n", dim=True), "d\u009b", raw=False)

    assert _printed(both) == "a\\x1b[1m\x1b[31mb\\x1b[2J\\n\x1b[0m\n\x1b[2mc\\x1b\n\x1b[0md\\x9b\n"


@pytest.mark.parametrize("word", ["a\nb", "it's\x1b[2J", "back\\slash\x07", "\u202e1"])
def test_a_command_with_control_characters_can_be_typed_again(word: str) -> None:
    line = quoted(word)
    assert visible(line) == line
    if shutil.which("bash") is None:
        pytest.skip("this system has no bash")
    environment = {"LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"]}
    done = subprocess.run(["bash", "-c", f"printf %s {line}"], capture_output=True, env=environment, check=True)
    assert done.stdout.decode() == word


def _printed(what: Callable[[], None]) -> str:
    @click.command()
    def command() -> None:
        what()

    from click.testing import CliRunner

    return CliRunner().invoke(command, color=True).stdout
