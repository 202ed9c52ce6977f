"""Commands that need no torch do not wait for it: which modules they import, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import sifu_store
from warm import WarmProcess

import sifu_graph

HEAVY = ("torch", "matplotlib", "networkx", "scipy.optimize", "scipy.sparse", "scipy.stats")
WITHOUT = [
    "--help",
    "add-node --help",
    "info",
    "info --json",
    "log",
    "tag v1",
    "branch trial",
    "switch trial",
    "gc --dry-run",
    "add-node 龘",
    "add-node 鱻 --like 春",
    "add-node 麤 --like 春 --dry-run",
    "edit-node 龘 --rename 靐",
    "edit-edge 春 風 --forbid",
    "edit-edge 春 風 --allow",
    "edit-edge 春 眠 --to-default",
    "remove-node 靐 --yes",
    "prune --to-ratio 0.01 --yes",
    "compact",
    "undo",
    "verify",
]
WATCH = """
import json, sys
from sifu_cli.main import run
heavy, commands = json.loads(sys.argv[1])
for command in commands:
    code = run(command.split())
    print(json.dumps([command, code, [name for name in heavy if name in sys.modules]]), file=sys.stderr)
"""


def imported(*commands: str, store: Path) -> list[tuple[str, int, list[str]]]:
    """Runs commands in one process: each with its exit code, and the heavy modules that are imported after it."""
    asked = json.dumps([HEAVY, [words if words.startswith("--") else f"{words} --store {store}" for words in commands]])
    ended = subprocess.run([sys.executable, "-c", WATCH, asked], capture_output=True, text=True, check=True)
    said = [json.loads(line) for line in ended.stderr.splitlines() if line.startswith("[")]
    assert len(said) == len(commands), ended.stderr
    return [(words, code, found) for words, (_, code, found) in zip(commands, said, strict=True)]


def generated(store: Path, environment: dict[str, str]) -> tuple[str, str]:
    """What a command that takes the kernel prints, on stdout and on stderr."""
    words = ["generate", "春", "--tokens", "3", "--seed", "1", "--store", store]
    with WarmProcess("from sifu_cli.main import main; main()", *words, env=environment) as command:
        printed = command.stdout.read(), command.stderr.read()
        assert command.wait() == 0
        return printed


def test_commands_that_need_no_torch_do_not_import_it(graph: Path) -> None:
    assert imported(*WITHOUT, store=graph) == [(command, 0, []) for command in WITHOUT]


def test_the_watch_sees_torch(graph: Path) -> None:
    ((_, code, found),) = imported("generate 春 --tokens 1", store=graph)
    assert code == 0
    assert "torch" in found


def test_a_compiler_that_is_too_old_is_said_once(graph: Path, tmp_path: Path) -> None:
    old = {"CXX": "false", "SIFU_CACHE": str(tmp_path / "cache")}
    text, said = generated(graph, old)
    assert said.count("cannot compile the kernel") == 1
    assert next(line for line in said.splitlines() if "cannot compile" in line).startswith("sifu: warning: ")
    meant, said = generated(graph, {**old, "SIFU_KERNEL": "torch"})
    assert "kernel" not in said
    assert meant == text


def test_the_packages_are_light() -> None:
    code = (
        "import sys, sifu_graph, sifu_store, sifu_cli.main\n"
        "print([name for name in ('torch', 'numpy', 'zarr', 'rich') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
    for package in (sifu_graph, sifu_store):
        assert all(getattr(package, name) is not None for name in package.__all__)
