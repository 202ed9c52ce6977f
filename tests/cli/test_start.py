"""Commands that need no torch do not wait for it: which modules they import, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import needs
import pytest
import sifu_store
from warm import WarmProcess

import sifu_graph
from sifu_graph import Graph, build_graph
from sifu_graph.kernels import native

HEAVY = ("torch", "matplotlib", "networkx", "scipy.optimize", "scipy.sparse", "scipy.stats")
WITHOUT = [
    "--help",
    "add-node --help",
    "info",
    "info --json",
    "log",
    "inspect 春",
    "inspect 春 風 --json",
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
    "inspect 春 風",
]
LIGHT = ("numpy", "zarr", "icechunk", "rich.table", *HEAVY)
"""What a wrong name must not wait for."""
WRONG = [
    *("info", "log", "inspect 春", "trace 春", "next 春", "score 春", "diff", "map m.html", "plot energy", "tag v"),
    *("train --minutes 1", "eval", "generate 春", "export graphml g.graphml", "verify", "compact", "gc --yes", "undo"),
    *("branch b", "switch b", "edit-edge 春 風 --forbid", "edit-node 春 --rename 龘", "add-node 龘"),
    *("remove-node 春 --yes", "prune --to-ratio 0.1 --yes", "grow --to-ratio 0.1"),
]
WATCH = """
import json, sys
from sifu_cli.main import run
heavy, commands = json.loads(sys.argv[1])
for command in commands:
    code = run(command.split())
    print(json.dumps([command, code, [name for name in heavy if name in sys.modules]]), file=sys.stderr)
"""


def imported(*commands: str, store: Path, heavy: tuple[str, ...] = HEAVY) -> list[tuple[str, int, list[str]]]:
    """Runs commands in one process: each with its exit code, and the heavy modules that are imported after it."""
    asked = json.dumps([heavy, [words if words.startswith("--") else f"{words} --store {store}" for words in commands]])
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


def test_a_wrong_name_is_said_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    found = imported(*WRONG, store=tmp_path / "nowhere", heavy=LIGHT)
    assert found == [(command, 1, []) for command in WRONG]


def test_inspect_needs_no_torch_for_edges_with_matrices(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("春風吹綠江南岸。\n" * 30, encoding="utf-8")
    path = tmp_path / "graph.sifu"
    build_graph(tmp_path / "a.txt", path, signal="tuned", holdout=0)
    with Graph.open(path) as graph:
        graph.train(steps=1, eval_every=0)
    assert imported("inspect 春", "inspect 春 風", store=path) == [("inspect 春", 0, []), ("inspect 春 風", 0, [])]


def test_the_watch_sees_torch(graph: Path) -> None:
    ((_, code, found),) = imported("generate 春 --tokens 1", store=graph)
    assert code == 0
    assert "torch" in found


def test_a_compiler_that_is_too_old_is_said_once(graph: Path, tmp_path: Path) -> None:
    old = {"CXX": "false", "SIFU_CACHE": str(tmp_path / "cache")}
    text, said = generated(graph, old)
    assert said.count("cannot compile the kernel") == 1
    assert next(line for line in said.splitlines() if "cannot compile" in line).startswith("sifu: warning: ")
    assert "cannot compile the kernel (exit code 1)" in said
    meant, said = generated(graph, {**old, "SIFU_KERNEL": "torch"})
    assert "kernel" not in said
    assert meant == text


def test_a_folder_that_cannot_hold_the_kernel_is_named(graph: Path, tmp_path: Path) -> None:
    compiler, temporary = tmp_path / "compiler", tmp_path / "temporary"
    compiler.write_text("#!/bin/sh\necho 'fatal error: error writing to x.s: No space left on device' >&2\nexit 1\n")
    compiler.chmod(0o700)
    temporary.mkdir()
    full = {"CXX": str(compiler), "SIFU_CACHE": "/dev/null/cache", "TMPDIR": str(temporary)}
    _, said = generated(graph, full)
    assert said.count("no folder can hold the compiled kernel") == 1 and "cannot compile" not in said
    assert "(/dev/null/cache: Not a directory; " in said and f"{temporary}: No space left on device)" in said
    assert list(temporary.iterdir()) == []


@pytest.mark.skipif(native.compiler() is None, reason=needs.COMPILER)
def test_a_damaged_kernel_is_named(graph: Path, tmp_path: Path) -> None:
    folder = {"SIFU_CACHE": str(tmp_path / "cache")}
    assert "kernel" not in generated(graph, folder)[1]
    for library in (tmp_path / "cache").glob("*.so"):
        library.write_bytes(b"")
    said = generated(graph, folder)[1]
    assert said.count(f"a compiled kernel in {tmp_path / 'cache'} cannot be loaded (") == 1


def test_the_packages_are_light() -> None:
    code = (
        "import sys, sifu_graph, sifu_store, sifu_cli.main\n"
        "print([name for name in ('torch', 'numpy', 'zarr', 'rich') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
    for package in (sifu_graph, sifu_store):
        assert all(getattr(package, name) is not None for name in package.__all__)
