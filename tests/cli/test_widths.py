"""Tables on terminals of 60 to 200 columns, in Chinese and English: no line is wider, names and numbers stay whole."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from calls import call
from rich.cells import cell_len
from sifu_cli.output.tables import Column, Grid, table_of

LONG = ["the", "mountainous", "government", "considered", "international", "understanding", "of", "communities"]
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
DRAWN = re.compile("[─│├└█ ]+")

COMMANDS: dict[str, tuple[str, ...]] = {
    "info": ("info",),
    "log": ("log",),
    "diff": ("diff", "HEAD~1", "HEAD"),
    "next": ("next", "TEXT"),
    "score": ("score", "TEXT"),
    "node": ("inspect", "A"),
    "edge": ("inspect", "A", "B"),
    "clone": ("inspect", "A>B"),
    "trace": ("trace", "TEXT", "--position", "1"),
    "what-if": ("trace", "TEXT", "--position", "1", "--what-if", "position 0 off"),
    "eval": ("eval",),
    "against": ("eval", "--baselines", "--against", "@HEAD~1"),
    "estimate": ("estimate",),
    "verify": ("verify",),
    "gc": ("gc", "--dry-run"),
    "compact": ("compact", "--dry-run"),
    "add-node": ("add-node", "unbelievable", "--dry-run"),
    "remove-node": ("remove-node", "A", "--dry-run"),
    "edit-edge": ("edit-edge", "A", "B", "--boost", "1", "--dry-run"),
    "edit-node": ("edit-node", "A", "--rename", "characteristically", "--dry-run"),
    "prune": ("prune", "--min-count", "2", "--dry-run"),
    "grow": ("grow", "--to-ratio", "0.9", "--dry-run"),
    "map": ("map", "map.html", "--force"),
    "plot": ("plot", "counts", "--force"),
}
LOSES = {"next", "edit-edge", "trace", "what-if", "against"}
"""Commands with tables whose columns of words, which say little, may be left out."""


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory, poems: Path) -> dict[str, dict[str, str]]:
    """A Chinese and an English graph with two commits, and what stands for the names in a command."""
    folder = tmp_path_factory.mktemp("widths")
    lines = [" ".join([*LONG[at % 7 :], *LONG[: at % 5], *LONG[at % 3 :: 3]]) for at in range(120)]
    (folder / "en.txt").write_text("\n".join(lines), encoding="utf-8")
    made = {
        "zh": (poems, "char", {"A": "春", "B": "風", "TEXT": "春風吹綠江南岸", "A>B": "春>風"}),
        "en": (
            folder / "en.txt",
            "word",
            {
                "A": "government",
                "B": "considered",
                "TEXT": "the international mountainous communities",
                "A>B": "government>considered",
            },
        ),
    }
    found = {}
    for language, (text, level, names) in made.items():
        store = folder / f"{language}.sifu"
        options = ("--level", level, "--holdout", "0.2", "--clones", "30", "--store", store)
        assert call("build-graph", text, *options, "--min-count", "1").code == 0
        assert call("edit-edge", names["A"], names["B"], "--boost", "1", "--store", store).code == 0
        found[language] = {**names, "folder": str(folder), "store": store.name}
    return found


def words(command: str, text: str) -> set[str]:
    """The words of an output, without what is drawn, and without measured times and free memory."""
    text = re.sub(r"[\d.,:]+ (?=s\b)|[\d.,:]+" if command == "estimate" else r"[\d.,:]+ (?=s\b)", "", text)
    return {word for word in text.split() if not DRAWN.fullmatch(word)} - {"KiB", "MiB", "GiB"}


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("language", ["zh", "en"])
def test_a_table_fits(
    graphs: dict[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch, language: str, command: str, width: int
) -> None:
    names = graphs[language]
    monkeypatch.chdir(names["folder"])
    args = [names.get(arg, arg) for arg in COMMANDS[command]]
    if command == "clone":
        with_clone = call("inspect", names["B"], "--json", "--store", names["store"])
        args[1] = json.loads(with_clone.out)["clones"][0]["name"]
    outputs = {}
    for columns in (width, 1000):
        monkeypatch.setenv("COLUMNS", str(columns))
        result = call(*args, "--store", names["store"], "-q", screen=True)
        assert result.code == 0, result
        outputs[columns] = COLOUR.sub("", result.out)
    lines = outputs[width].splitlines()
    for line in lines:
        whole = line.startswith(" " * 4) and len(line.split()) == 1  # a path is never broken
        logged = line.lstrip(" *|").startswith("sifu ")  # nor is a command, so that it can be copied
        assert cell_len(line) <= width or whole or logged, line
    assert "…" not in outputs[width]
    narrow, wide = (words(command, outputs[columns]) for columns in (width, 1000))
    assert narrow <= wide, "a name or a number is cut"
    lost = {word for word in wide - narrow if command not in LOSES or any(map(str.isdigit, word))}
    assert not lost, "a name or a number is left out"


def test_a_name_that_is_wider_than_the_terminal_goes_on_in_the_next_line() -> None:
    from rich.console import Console

    grid = Grid([Column("token", right=False), Column("p"), Column("edge", right=False, drop=1)])
    name = "pneumonoultramicroscopicsilicovolcanoconiosis" * 2
    grid.add(name, "12.3 %", "private")
    grid.add("春眠不覺曉" * 12, "0.045 %", "default")
    console = Console(width=60, color_system=None)
    with console.capture() as captured:
        console.print(table_of(grid, 60))
    lines = captured.get().splitlines()
    assert max(map(cell_len, lines)) <= 60
    assert "private" not in captured.get()
    joined = "".join(line.split()[0] for line in lines if line.strip())
    assert name in joined
    assert "春眠不覺曉" * 12 in joined
    assert any("12.3 %" in line for line in lines)
    assert any("0.045 %" in line for line in lines)
