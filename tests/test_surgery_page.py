"""docs/surgery.md is run from top to bottom: every command works, and prints what the page shows."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import warm

PAGE = Path(__file__).parents[1] / "docs" / "surgery.md"
VARIES = re.compile(
    r"\b[0-9A-HJKMNP-TV-Z]{8}\b|\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)?|(?<=time)\s+[\d.:]+ (?:s|min)"
    r"|[\d.,]+ (?:bytes|[KMG]iB)(?=  \S)"  # on disk: of a store, of a commit
)


RUN = """
import contextlib, io, json, sys, time
time.tzset()
from sifu_cli.main import run
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert run(words) == 0, words
    print(json.dumps(printed.getvalue()))
"""


def sifu(commands: Sequence[str], folder: Path) -> list[str]:
    """What commands print, one after another, as the page shows it."""
    words = json.dumps([shlex.split(command)[1:] for command in commands])
    printed = warm.run(RUN, words, cwd=folder, env={"TZ": "UTC", "COLUMNS": "120"})
    return [json.loads(line) for line in printed.splitlines()]


def plain(text: str) -> list[str]:
    """Without what differs from run to run, and without runs of spaces."""
    return [" ".join(VARIES.sub("*", line).split()) for line in text.splitlines() if line.strip()]


def sessions(page: str) -> list[tuple[str, str]]:
    """(command, what it prints) of all console blocks."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", page, re.DOTALL):
        for part in block.split("$ ")[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output))
    return found


def test_the_page_is_what_happens(tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    commands, outputs = zip(*sessions(page), strict=True)
    assert len(commands) > 10
    for command, printed, output in zip(commands, sifu(commands, tmp_path), outputs, strict=True):
        found, shown = plain(printed), plain(output)
        if command.startswith("sifu generate"):  # the chosen tokens may depend on the last bit of an energy
            found, shown = [found[0][:2]], [shown[0][:2]]
        assert found == shown, command
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert re.fullmatch(r"[\d,]+ edges became default\n", warm.run(code, cwd=tmp_path))


def write() -> None:
    """``python tests/test_surgery_page.py``: puts what the commands print into the page."""
    import tempfile

    page = PAGE.read_text(encoding="utf-8")
    commands = [command for command, _ in sessions(page)]
    with tempfile.TemporaryDirectory() as folder:
        printed = iter(sifu(commands, Path(folder)))

    def filled(block: re.Match[str]) -> str:
        parts = []
        for part in block[1].split("$ ")[1:]:
            shown = "\n".join(line.rstrip() for line in next(printed).splitlines())
            parts.append(f"$ {part.partition(chr(10))[0]}\n{shown}".rstrip() + "\n")
        return "```console\n" + "\n".join(parts) + "```"

    PAGE.write_text(re.sub(r"```console\n(.*?)```", filled, page, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    write()
