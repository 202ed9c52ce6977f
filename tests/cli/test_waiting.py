"""What a person sees while a command works, and what Ctrl-C leaves: in processes of their own, on a terminal."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from calls import Result, call, process
from sifu_store.store import Store

INTERRUPTING = """
import os, signal, sys
times, wanted = int(sys.argv.pop(1)), sys.argv.pop(1)
import sifu_graph.progress as progress
progress.EVERY_S = 0.0
from sifu_cli.output.progress import Progress
shows = Progress.__call__
def show(self, report):
    global times
    shows(self, report)
    if report.stage.startswith(wanted) and report.done >= (report.total is not None and report.stage == "training"):
        for _ in range(min(times, 2)):
            times -= 1
            os.kill(os.getpid(), signal.SIGINT)
Progress.__call__ = show
from sifu_cli.__main__ import main
main()
"""
"""Presses Ctrl-C so many times when a stage begins (at the first step, of training)."""


def interrupted(stage: str, *args: str | Path, times: int = 1) -> Result:
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTING, str(times), stage, *map(str, args)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def state(graph: Path) -> tuple[str, int | None]:
    """The snapshot, and the step of the last training."""
    with Store.open(graph) as store:
        assert store.verify().ok
        training = store.settings["training"]
        return store.snapshot, training["step"] if training else None


STAGES = [
    "evaluating on",
    "counting which nodes",
    "computing the directions",
    "counting the contexts",
    "choosing the strengths",
]


@pytest.mark.parametrize("stage", STAGES)
def test_ctrl_c_before_the_first_step_says_what_is_kept_and_how_to_go_on(stage: str, graph: Path) -> None:
    before = state(graph)
    done = interrupted(stage, "train", "--steps", "3", "--batch", "16", "--store", graph)
    assert done.code == 130
    assert f"the graph is at its last commit ({before[0][:8]}, step 0)" in done.error
    assert ("nothing of the closed form is kept" in done.error) == (STAGES.index(stage) > 0)
    assert state(graph) == before
    go_on = shlex.split(done.error.rpartition("To resume: ")[2])
    assert go_on == ["sifu", "train", "--batch", "16", "--store", str(graph), "--steps", "3"]
    assert call(*go_on[1:], "-q").code == 0
    assert state(graph)[1] == 3


def test_ctrl_c_while_the_closed_form_is_written_commits_it(graph: Path, built: Path) -> None:
    with Store.open(built) as store:
        edges = store.settings["build"]["distinct_pairs"]
    done = interrupted(
        f"computing {edges:,} edges", "train", "--steps", "3", "--batch", "16", "--contexts", "--store", graph
    )
    assert done.code == 130, done
    assert "(Ctrl-C again drops it)" in done.err
    what, go_on = done.err.splitlines()[-2:]
    assert what == "interrupted; the closed-form fit is committed. To resume:"
    assert state(graph)[1] == 0
    words = shlex.split(go_on)
    assert words == ["sifu", "train", "--batch", "16", "--store", str(graph), "--steps", "3"]  # not --contexts
    assert call(*words[1:], "-q").code == 0
    assert state(graph)[1] == 3


@pytest.mark.parametrize("stage", ["computing", "training", "writing the parameters"])
def test_a_second_ctrl_c_says_what_is_lost(stage: str, graph: Path, built: Path) -> None:
    if stage == "computing":
        with Store.open(built) as store:
            stage = f"computing {store.settings['build']['distinct_pairs']:,} edges"
    before = state(graph)
    done = interrupted(stage, "train", "--steps", "3", "--batch", "16", "--store", graph, times=2)
    assert done.code == 130, done
    lost = "nothing of the closed form is kept" if stage.startswith("computing") else "after it "
    assert lost in done.error
    assert state(graph) == before
    assert done.error.endswith(f"To resume: sifu train --batch 16 --store {graph} --steps 3")


def test_ctrl_c_while_a_graph_is_built_leaves_nothing(poems: Path, tmp_path: Path) -> None:
    for stage in ("reading", "encoding", "counting", "computing", "writing"):
        done = interrupted(stage, "build-graph", poems, "--store", tmp_path / "g.sifu")
        assert done.code == 130, done
        assert done.error == "interrupted: nothing is left of the new graph"
        assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_a_graph_is_replaced_leaves_the_old_one(graph: Path, poems: Path) -> None:
    before = state(graph)
    done = interrupted("writing", "build-graph", poems, "--store", graph, "--force")
    assert (done.code, done.error) == (130, "interrupted: nothing is left of the new graph")
    assert state(graph) == before


def test_ctrl_c_while_a_graph_is_exported_leaves_nothing(graph: Path, tmp_path: Path) -> None:
    files = set(tmp_path.iterdir())
    done = interrupted("writing", "export", "safetensors", "--store", graph)
    assert (done.code, done.error) == (130, "interrupted: nothing was written")
    assert set(tmp_path.iterdir()) == files


def test_no_animation_in_a_pipe(graph: Path, poems: Path) -> None:
    with process("build-graph", poems, "--store", graph, "--force") as running:
        out, err = running.communicate(timeout=120)
    assert running.returncode == 0
    assert "\x1b" not in out + err
    assert "\r" not in out + err
    assert err.splitlines()[0] == "reading the corpus (a document is a line)"
    assert len(err.splitlines()) == len(set(err.splitlines()))
    assert call("build-graph", poems, "--store", graph, "--force", "-q").err == ""


def on_a_terminal(columns: int, *args: str | Path) -> tuple[int, str]:
    """The exit code of a process on a terminal of this width, and what it writes there."""
    pty, fcntl, termios = (pytest.importorskip(name) for name in ("pty", "fcntl", "termios"))
    import struct

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    path = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TERM": "xterm"}
    for name in ("COLUMNS", "LINES"):
        environment.pop(name, None)
    with subprocess.Popen(
        [sys.executable, "-m", "sifu_cli", *map(str, args)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment,
    ) as running:
        os.close(slave)
        came = b""
        with contextlib.suppress(OSError):  # the other end is closed
            while piece := os.read(master, 1 << 16):
                came += piece
    os.close(master)
    return running.returncode, came.decode("utf-8")


@pytest.mark.parametrize("columns", [60, 80])
def test_on_a_terminal_every_stage_has_a_bar_and_leaves_a_line(columns: int, graph: Path) -> None:
    code, shown = on_a_terminal(columns, "train", "--steps", "3", "--batch", "16", "--store", graph)
    assert code == 0, shown
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
    lines = [line for line in re.split(r"[\r\n]+", text) if line]
    ends = [line.partition(":")[0] for line in lines if re.fullmatch(r"[^━]+: [0-9.]+ s", line)]
    for stage in STAGES[1:]:
        assert any(end.startswith(stage) for end in ends), (stage, lines)
    assert max(len(line) for line in lines if "━" in line) <= columns
    assert any("%" in line for line in lines if "━" in line)
    assert "training" in ends


@pytest.mark.parametrize("words", [["train", "--steps", "1"], ["eval"], ["grow", "--min-count", "1"], ["verify"]])
def test_quiet_commands_show_no_bar(words: list[str], graph: Path) -> None:
    code, shown = on_a_terminal(80, *words, "-q", "--store", graph)
    assert code == 0, shown
    assert "\x1b[?25l" not in shown  # rich hides the cursor for a bar
    assert "━" not in shown
