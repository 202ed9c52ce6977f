"""``python tools/wheel_check.py``: what a user gets from the wheel, outside this folder.

Builds the wheel, installs it with mypy into an empty virtual environment in a temporary folder, runs ``mypy --strict``
on a copy of ``examples/`` there, and runs ``sifu`` through build, train, evaluation and generation on a small text in
an empty folder. The environment has the Python that runs this file.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEFT_OUT = ("PYTHONPATH", "PYTHONHOME", "SIFU_STORE")
"""Variables of the environment that would lead a command to this folder."""
LINES = ("春風花月夜。", "江水山雲人。", "春花江月夜。", "山雲不有人。")
COMMANDS = (
    "env",
    "build-graph poems.txt --vocab 20 --sparsify 0.2 --holdout 0.1",
    "train --steps 2",
    "eval poems.txt",
    "generate 春 --tokens 8 --seed 1",
    "verify",
)


def run(*command: str | Path, folder: Path) -> None:
    sys.stdout.write(f"$ {shlex.join(map(str, command))}\n")
    sys.stdout.flush()
    clean = {name: value for name, value in os.environ.items() if name not in LEFT_OUT}
    subprocess.run([str(word) for word in command], cwd=folder, env=clean, check=True)


def check(folder: Path, torch_arguments: list[str]) -> None:
    environment = folder / "environment"
    venv.create(environment, with_pip=True)
    python, sifu = environment / "bin" / "python", environment / "bin" / "sifu"
    install = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", ROOT / "constraints.txt")
    run(python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder / "dist", ROOT, folder=folder)
    [wheel] = (folder / "dist").glob("*.whl")
    run(*install, *torch_arguments, "torch", folder=folder)
    run(*install, wheel, "mypy", folder=folder)

    examples = shutil.copytree(ROOT / "examples", folder / "examples")
    run(python, "-m", "mypy", "--strict", *sorted(examples.glob("*.py")), folder=examples)

    empty = folder / "empty"
    empty.mkdir()
    (empty / "poems.txt").write_text("\n".join(LINES * 50) + "\n", encoding="utf-8")
    for command in COMMANDS:
        run(sifu, *command.split(), folder=empty)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--torch-args", default="", help="options of pip for PyTorch, as TORCH_ARGS of the Makefile")
    with tempfile.TemporaryDirectory() as folder:
        check(Path(folder), shlex.split(parser.parse_args().torch_args))


if __name__ == "__main__":
    main()
