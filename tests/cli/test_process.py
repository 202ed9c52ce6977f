"""What only a process of its own shows: imports, pipes, Ctrl-C."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from calls import call, process
from sifu_store.store import Store

UNWRITABLE = (
    "stdout cannot be written (No space left on device); what was committed before remains: `sifu log` lists it\n"
)
CLOSED = "sifu: error: stdout is closed: redirect it to a file, or to /dev/null\n"


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
    assert err == "sifu: error: " + UNWRITABLE


def test_what_was_committed_before_the_output_failed_is_said(graph: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    before = call("log", "--json", "--store", graph).out.count('"snapshot"')
    edit = ("edit-edge", "春", "風", "--boost", "1", "--store", graph)
    with Path("/dev/full").open("wb") as full, process(*edit, stdout=full) as running:
        _, err = running.communicate(timeout=60)
    assert (running.returncode, err.splitlines()[-1]) == (1, "sifu: error: " + UNWRITABLE.rstrip())
    assert call("log", "--json", "--store", graph).out.count('"snapshot"') == before + 1


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
def test_without_stdout_nothing_is_done(graph: Path) -> None:
    before = call("log", "--store", graph).out
    for words in (["info"], ["edit-edge", "春", "風", "--boost", "1"], ["train", "--steps", "1"]):
        line = shlex.join([sys.executable, "-m", "sifu_cli", *words, "--store", str(graph)])
        done = subprocess.run(["sh", "-c", f"{line} >&-"], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (1, CLOSED)
    assert call("log", "--store", graph).out == before


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


INTERRUPTING = """
import os, signal, sys
wanted = sys.argv.pop(1)
class Interrupting:
    @staticmethod
    def find_spec(name, *_):
        if name == wanted:
            sys.meta_path.remove(Interrupting)
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting)
from sifu_cli.__main__ import main
main()
"""


@pytest.mark.parametrize("module", ["click", "sifu_graph", "sifu_cli.opening", "numpy", "zarr", "icechunk", "torch"])
def test_ctrl_c_while_a_module_is_imported_ends_without_a_traceback(module: str, built: Path) -> None:
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTING, module, "eval", "--store", str(built), "-q"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr, done.stdout) == (130, "sifu: error: interrupted\n", "")


@pytest.fixture
def training(graph: Path) -> Iterator[subprocess.Popen[str]]:
    """A training of `graph` that has begun."""
    words = ["--steps", "100000", "--batch", "16", "--eval-every", "1", "--json"]
    with process("--store", graph, "train", *words) as running:
        assert running.stdout is not None
        assert '"step": 1' in running.stdout.readline()
        yield running


def test_a_second_ctrl_c_says_which_steps_are_kept(graph: Path, training: subprocess.Popen[str]) -> None:
    training.send_signal(signal.SIGINT)
    time.sleep(0.005)
    training.send_signal(signal.SIGINT)
    _, err = training.communicate(timeout=120)
    assert training.returncode == 130
    assert "Traceback" not in err
    with Store.open(graph) as store:
        saved = store.settings["training"]
        kept = f"the graph is at its last commit ({store.snapshot[:8]}, step {saved['step'] if saved else 0})"
    assert kept in err.splitlines()[-1] or "interrupted; all steps are committed" in err


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
@pytest.mark.parametrize("name", ["SIGHUP", "SIGTERM"])
def test_other_signals_stop_commands_as_ctrl_c_does(
    name: str, graph: Path, training: subprocess.Popen[str], built: Path
) -> None:
    number = getattr(signal, name)
    if signal.getsignal(number) is signal.SIG_IGN:  # nohup: so do the processes started here
        training.kill()
        pytest.skip(f"{name} is ignored")
    assert training.stderr is not None
    training.stderr.close()  # as if the terminal were gone
    training.send_signal(number)
    assert training.stdout is not None
    training.stdout.read()
    assert training.wait(timeout=120) == 130
    with Store.open(graph) as store:
        assert store.settings["training"]["step"] >= 1
        assert store.verify().ok
    running = process("generate", "春風", "--store", built, "--tokens", "100000000")
    assert running.stdout is not None
    assert running.stdout.read(10)
    running.send_signal(number)
    _, err = running.communicate(timeout=60)
    assert (running.returncode, err) == (128 + number, f"sifu: error: interrupted by {name}\n")


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="this system has no SIGSTOP")
def test_a_stopped_writer_still_writes(graph: Path, training: subprocess.Popen[str]) -> None:
    training.send_signal(signal.SIGSTOP)
    try:
        refused = call("add-node", "龘", "--store", graph)
        assert refused.code == 1
        assert f"is being written by process {training.pid}" in refused.error
        assert call("log", "--store", graph).code == 0
    finally:
        training.send_signal(signal.SIGCONT)
    training.send_signal(signal.SIGINT)
    _, err = training.communicate(timeout=120)
    assert training.returncode == 130, err
    assert call("add-node", "龘", "--store", graph).code == 0
    assert call("verify", "--store", graph).code == 0


@pytest.mark.parametrize("files", [10, 12, 64])
@pytest.mark.parametrize("words", [["log"], ["eval"], ["edit-edge", "春", "風", "--boost", "1"], ["gc", "--yes"]])
def test_few_open_files_are_no_damage(files: int, words: list[str], graph: Path) -> None:
    resource = pytest.importorskip("resource")
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-m", "sifu_cli", *words, "--store", str(graph), "-q"],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files)),
        capture_output=True,
        text=True,
        timeout=120,
    )
    last = done.stderr.splitlines()[-1:]
    assert done.returncode == 0 or (done.returncode == 1 and f"may have {files} open files" in last[0]), done
    assert "backup" not in done.stderr
    assert done.returncode == 0 or files < 64
    with Store.open(graph) as store:
        assert store.recovered_from is None
        assert len(store.history()) == 1 + (words[0] == "edit-edge" and done.returncode == 0)
