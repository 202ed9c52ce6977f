"""What the README and the examples show is run, on a smaller graph than they show it with."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(code: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", ["README.md"])
def test_python_blocks_run(page: str, tmp_path: Path) -> None:
    found = blocks(ROOT / page, "python")
    assert found
    for block in found:
        small = block.replace("vocab=4000", "vocab=300")
        assert small != block
        assert run(small, tmp_path)


def test_the_example_runs(tmp_path: Path) -> None:
    code = (ROOT / "examples" / "first_graph.py").read_text(encoding="utf-8")
    printed = run(code.replace("VOCAB = 4000", "VOCAB = 300").replace("STEPS = 4", "STEPS = 1"), tmp_path)
    assert len(printed.splitlines()) == 6


def test_every_command_in_the_readme_exists() -> None:
    from sifu_cli.main import COMMANDS

    words = {line.split()[2] for block in blocks(ROOT / "README.md", "console")
             for line in block.splitlines() if line.startswith("$ sifu ")}  # fmt: skip
    assert words
    assert words <= set(COMMANDS)


def test_the_walk_through_seeing_runs(tmp_path: Path) -> None:
    """Every command and the Python of the page, one after another, on a graph that takes less time."""
    page = ROOT / "docs" / "seeing.md"
    lines = [line[2:] for block in blocks(page, "console") for line in block.splitlines() if line.startswith("$ ")]
    assert len(lines) == 8
    small = [
        line.replace("--vocab 1000", "--vocab 200").replace("--minutes 4", "--steps 1 --batch 64") for line in lines
    ]
    words = [shlex.split(line) for line in small]
    assert {first for first, *_ in words} == {"sifu"}
    code = f"""
import torch
from sifu_cli.main import run
torch.set_num_threads(1)
for words in {[rest for _, *rest in words]!r}:
    print("$", *words)
    assert run(words) == 0, words
"""
    printed = re.split(r"^\$ .*\n", run(code, tmp_path), flags=re.MULTILINE)[1:]
    assert len(printed) == 8
    assert all(printed)
    assert (tmp_path / "spring.html").exists()
    [code] = blocks(page, "python")
    assert "風" in run(code, tmp_path)


def test_every_link_inside_the_project_leads_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
