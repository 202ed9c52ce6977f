"""What only a process of its own shows: imports, pipes, Ctrl-C."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from calls import call, process
from sifu_store.store import Store


def test_help_and_usage_errors_import_nothing_heavy() -> None:
    code = """
import sys
from sifu_cli.main import run
for line, expected in ("--help", 0), ("--version", 0), ("", 2), ("train --help", 0), ("train --no", 2):
    assert run(line.split()) == expected, line
heavy = {"torch", "zarr", "icechunk", "numpy", "scipy", "rich", "matplotlib", "tokenizers", "psutil"}
sys.exit(", ".join(heavy & set(sys.modules)) or 0)
"""
    path = [part for part in sys.path if part]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}\n{code}"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Usage: sifu" in done.stdout


def test_a_reader_that_has_had_enough_is_no_error(built: Path) -> None:
    with process("generate", "春風", "--store", built, "--tokens", "1000000", "--seed", "1") as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.read(10)
        running.stdout.close()
        assert running.stderr.read() == ""
        assert running.wait(timeout=60) == 0


def test_output_that_cannot_be_written_is_an_error(built: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with Path("/dev/full").open("wb") as full, process("log", "--store", built, stdout=full) as running:
        _, err = running.communicate(timeout=60)
    assert running.returncode == 1
    assert len(err.splitlines()) == 1
    assert "No space left" in err


def test_ctrl_c_ends_generation_without_a_traceback(built: Path) -> None:
    running = process("generate", "春風", "--store", built, "--tokens", "100000000")
    assert running.stdout is not None
    assert running.stdout.read(10)
    running.send_signal(signal.SIGINT)
    try:
        _, err = running.communicate(timeout=60)
    except subprocess.TimeoutExpired:  # Python may lose one that comes while it cleans up an object: press it again
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert err == "sifu: error: interrupted\n"


def test_ctrl_c_ends_training_in_good_order_and_says_how_to_go_on(graph: Path) -> None:
    running = process("--store", graph, "train", "--steps", "100000", "--batch", "16", "--eval-every", "1", "--json")
    assert running.stdout is not None
    assert '"step": 1' in running.stdout.readline()
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=120)
    assert running.returncode == 130, err
    go_on = err.splitlines()[-1].strip()
    with Store.open(graph) as store:
        step = store.settings["training"]["step"]
    assert step >= 1
    expected = ["sifu", "train", "--batch", "16", "--eval-every", "1", "--json", "--store", str(graph)]
    assert shlex.split(go_on) == [*expected, "--steps", str(100000 - step)]
    assert '"final": true' in out.splitlines()[-1]
    # The command that was printed works (for a shorter while).
    again = call(*shlex.split(go_on)[1:-1], "1", "-q")
    assert again.code == 0
    with Store.open(graph) as store:
        assert store.settings["training"]["step"] == step + 1
