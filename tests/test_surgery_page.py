"""docs/surgery.md is run from top to bottom: every command works, and prints what the page shows."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "surgery.md"
VARIES = re.compile(
    r"\b[0-9A-HJKMNP-TV-Z]{8}\b|\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)?|(?<=time)\s+[\d.:]+ (?:s|min)"
    r"|[\d.,]+ (?:bytes|[KMG]iB)(?=  \S)"  # on disk: of a store, of a commit
)


def sifu(command: str, folder: Path) -> str:
    """What a command prints, as the page shows it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TZ": "UTC", "COLUMNS": "120"}
    done = subprocess.run(
        [sys.executable, "-m", "sifu_cli", *shlex.split(command)[1:]],
        cwd=folder, capture_output=True, encoding="utf-8", env=environment, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


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
    assert len(sessions(page)) > 10
    for command, output in sessions(page):
        found, shown = plain(sifu(command, tmp_path)), plain(output)
        if command.startswith("sifu generate"):  # the chosen tokens may depend on the last bit of an energy
            found, shown = [found[0][:2]], [shown[0][:2]]
        assert found == shown, command
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"[\d,]+ edges became default\n", done.stdout)


def write() -> None:
    """``python tests/test_surgery_page.py``: puts what the commands print into the page."""
    import tempfile

    page = PAGE.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:

        def filled(block: re.Match[str]) -> str:
            parts = []
            for part in block[1].split("$ ")[1:]:
                command = part.partition("\n")[0]
                shown = "\n".join(line.rstrip() for line in sifu(command, Path(folder)).splitlines())
                parts.append(f"$ {command}\n{shown}".rstrip() + "\n")
            return "```console\n" + "\n".join(parts) + "```"

        PAGE.write_text(re.sub(r"```console\n(.*?)```", filled, page, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    write()
