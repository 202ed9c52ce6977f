"""How far an operation is: what a callback is told, and what a person sees."""

from __future__ import annotations

import contextlib
import io
import re
import signal
import sys
import types
from collections.abc import Callable
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pytest

from sifu_graph import Graph, OptionTypeError, ProgressReport, build_graph
from sifu_graph import progress as progress_module
from sifu_graph.progress import SILENT, Stages, duration
from sifu_graph.progress_bar import NotebookBar, StageLines, TerminalBar, _bar, reporting
from sifu_graph.training import edge_trainer
from sifu_graph.training.interrupts import TrainingInterrupted
from sifu_graph.verification import verify

SEEN = list[ProgressReport]


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every report is passed on, however fast the stage."""
    monkeypatch.setattr(progress_module, "EVERY_S", 0.0)


@pytest.fixture
def based(text: Path, tmp_path: Path) -> Path:
    """A graph whose edges share a base."""
    path = tmp_path / "based.sifu"
    build_graph(text, path, vocab=24, sparsify=0.5, length=8, holdout=0.1)
    return path


def check(seen: SEEN) -> list[str]:
    """Each stage begins with nothing done and goes on to its end. Returns their names."""
    stages = [list(some) for _, some in groupby(seen, key=lambda report: report.stage)]
    for some in stages:
        assert some[0].done == 0, some[0]
        assert all(a.done <= b.done and a.seconds <= b.seconds for a, b in pairwise(some))
        assert all(report.share is None or 0 <= report.share <= 1 for report in some)
        if some[-1].total is not None:
            assert some[-1].share == 1.0, some[-1]
            assert some[-1].unit
    return [some[0].stage for some in stages]


# ---- the callback


@pytest.mark.parametrize("level", ["char", "bpe"])
def test_a_build_reports_its_stages(level: str, text: Path, tmp_path: Path) -> None:
    seen: SEEN = []
    vocab = 300 if level == "bpe" else 24
    build_graph(text, tmp_path / "g.sifu", vocab=vocab, level=level, holdout=0.1, progress=seen.append)
    stages = check(seen)
    reading = ["reading the corpus (a document is a line)"]
    if level == "bpe":
        reading = [*reading, "learning the merges of bytes"]
    assert stages[: len(reading)] == reading
    assert [stage.split()[0] for stage in stages[len(reading) :]] == (
        ["encoding", "counting", "counting", "linking", "counting", "linking", "computing", "choosing", "writing"]
    )
    whole = text.stat().st_size
    assert (seen[0].total, seen[0].unit) == (whole, "bytes")


def test_training_reports_the_closed_form_and_its_steps(graph: Graph) -> None:
    seen: SEEN = []
    report = graph.train(steps=3, batch=8, progress=seen.append)
    assert report.contexts is not None
    stages = check(seen)
    edges = graph.parameters.index.edges
    assert stages == [
        *[stage for stage in stages if stage.startswith("evaluating on")][:1],
        "counting which nodes follow others",
        "computing the directions of 23 nodes",
        "counting the contexts of every edge",
        "choosing the strengths of the contexts",
        f"computing {edges:,} edges",
        *[stage for stage in stages if stage.startswith("evaluating on")][:1],
        "training",
        *[stage for stage in stages if stage.startswith("evaluating on")][:1],
        "writing the parameters",
    ]
    steps = [report for report in seen if report.stage == "training"]
    assert [(report.done, report.total, report.unit) for report in steps] == [(k, 3, "steps") for k in range(4)]
    assert "tokens/s" in steps[-1].detail


def test_a_run_by_minutes_reports_seconds(graph: Graph) -> None:
    seen: SEEN = []
    graph.train(minutes=0.02, batch=8, contexts=False, progress=seen.append)
    steps = [report for report in seen if report.stage == "training"]
    assert {report.unit for report in steps} == {"seconds"}
    assert all(report.eta_s is not None and report.eta_s <= 1.2 for report in steps[1:])
    assert (steps[-1].share, steps[-1].eta_s) == (1.0, 0.0)


def test_the_last_report_of_a_stage_is_that_it_is_over(based: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a run that ends before its time, and of one that commits nothing."""
    monkeypatch.setattr(progress_module, "EVERY_S", 1e9)
    with Graph.open(based) as graph:
        for options in ({"minutes": 60.0, "batch": 8}, {"steps": 3, "minutes": 60.0}, {"steps": 3}):
            seen: SEEN = []
            graph.train(**options, progress=seen.append)
            ends = {report.stage: report.share for report in seen}
            assert set(ends.values()) == {1.0}, ends
            assert seen[-1].stage != "training"


def test_evaluations_and_other_operations_report(based: Path, text: Path, tmp_path: Path) -> None:
    with Graph.open(based) as graph:
        seen: SEEN = []
        found = graph.evaluate(with_baselines=True, progress=seen.append)
        stages = check(seen)
        assert stages == ["counting the baselines", f"evaluating on {found.tokens:,} tokens"]
        seen.clear()
        graph.evaluate(text, limit=300, progress=seen.append)
        assert check(seen) == ["encoding the text with 23 nodes", "evaluating on 300 tokens"]
        seen.clear()
        graph.grow(min_count=1, clones=10_000, evaluate=True, progress=seen.append)
        assert {"computing what each context gains", "adding edges and clones"} <= set(check(seen))
        seen.clear()
        graph.prune(clones=2, evaluate=True, dry_run=True, progress=seen.append)
        evaluating = check(seen)[0]
        assert check(seen) == [evaluating, "removing edges and clones", evaluating]
        seen.clear()
        (tmp_path / "dragons.txt").write_text("春龍風。\n月龍花。\n" * 20, encoding="utf-8")
        graph.add_node("龍", corpus=tmp_path / "dragons.txt", train_steps=1, progress=seen.append)
        assert [stage.split()[0] for stage in check(seen)] == ["encoding", "counting", "training", "committing"]
        seen.clear()
        graph.map(tmp_path / "map.html", progress=seen.append)
        assert [stage.split()[0] for stage in check(seen)] == ["choosing", "placing", "drawing"]
        seen.clear()
        graph.diff(progress=seen.append)
        assert check(seen) == ["comparing edges"]
        seen.clear()
        graph.export("slim", tmp_path / "g.safetensors", progress=seen.append)
        assert [stage.split()[0] for stage in check(seen)] == (
            ["writing", "encoding", "evaluating", "reading", "evaluating"]
        )
        seen.clear()
        verify(graph.store, progress=seen.append)
        assert check(seen) == ["checking chunks"]


def test_an_error_of_the_callback_ends_the_operation(text: Path, tmp_path: Path) -> None:
    def tired(report: ProgressReport) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        build_graph(text, tmp_path / "g.sifu", vocab=24, progress=tired)
    assert not (tmp_path / "g.sifu").exists()


def test_reports_have_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now, seen = [100.0], []
    monkeypatch.setattr("sifu_graph.progress.time.monotonic", lambda: now[0])
    monkeypatch.setattr(progress_module, "EVERY_S", 0.1)
    stage = Stages(seen.append).stage("counting", 80, "tokens")
    now[0] = 110.0
    stage.advance(20)
    now[0] = 110.05
    stage.advance(20)  # too soon after the last one
    now[0] = 112.0
    stage.at(90)
    figures = [(report.done, report.share, report.seconds, report.eta_s) for report in seen]
    assert figures == [(0, 0.0, 0.0, None), (20, 0.25, 10.0, 30.0), (80, 1.0, 12.0, 0.0)]


def test_nobody_is_told_of_silent_stages() -> None:
    stage = SILENT.stage("counting", 2, "tokens")
    assert list(stage.track("ab")) == ["a", "b"]
    assert stage.done == 2


# ---- what a person sees


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """80 columns wide."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    return Screen()


def train(graph: Graph, progress: Any = None) -> None:
    graph.train(steps=1, batch=8, progress=progress)


def test_a_bar_is_shown_where_a_person_looks(graph: Graph, screen: Screen) -> None:
    with contextlib.redirect_stderr(screen):
        train(graph)
    assert "\x1b[" in screen.getvalue()


@pytest.mark.parametrize("progress", [False, lambda report: None])
def test_no_bar_where_it_is_not_wanted(progress: Any, graph: Graph, screen: Screen) -> None:
    with contextlib.redirect_stderr(screen):
        train(graph, progress)
    assert screen.getvalue() == ""


def test_nothing_off_a_terminal_unless_it_is_asked_for(graph: Graph, capfd: pytest.CaptureFixture[str]) -> None:
    train(graph)
    assert capfd.readouterr() == ("", "")
    train(graph, True)
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines()[0].startswith("evaluating on")
    assert "training" in err.splitlines()


def test_a_dumb_terminal_has_no_bar(graph: Graph, screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with contextlib.redirect_stderr(screen):
        train(graph)
    assert screen.getvalue() == ""


def test_another_type_is_refused(graph: Graph) -> None:
    with pytest.raises(OptionTypeError, match="`progress` is 'yes', a str: expected a bool, a Callable or None"):
        train(graph, "yes")


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the output of the cell has shown, one after the other."""
    shown: list[str] = []

    class Handle:
        def update(self, found: dict[str, str], *, raw: bool) -> None:
            assert raw
            shown.append(found["text/plain"])

    def display(found: dict[str, str], *, raw: bool, display_id: bool) -> Handle:
        assert raw and display_id
        shown.append(found["text/plain"])
        return Handle()

    library, inner = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    library.get_ipython = lambda: types.SimpleNamespace(kernel=object())  # type: ignore[attr-defined]
    inner.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", library)
    monkeypatch.setitem(sys.modules, "IPython.display", inner)
    return shown


def test_a_notebook_has_one_line_that_changes(
    graph: Graph, notebook: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    train(graph)
    assert capfd.readouterr() == ("", "")
    assert notebook[0].startswith("evaluating on")
    assert any(line.startswith("counting the contexts of every edge") for line in notebook)
    assert any("100 %" in line for line in notebook)
    assert all("\n" not in line and "\x1b" not in line for line in notebook)
    before = len(notebook)
    train(graph, progress=False)
    assert len(notebook) == before


def test_an_operation_inside_another_one_shows_no_second_bar(graph: Graph, notebook: list[str]) -> None:
    with reporting(None) as stages:
        stages.stage("outer")
        graph.evaluate()
    assert [line.split()[0] for line in notebook] == ["outer"]
    graph.evaluate()
    assert notebook[-1].startswith("evaluating")


def report(**values: Any) -> ProgressReport:
    usual = {"stage": "counting the pairs", "done": 25, "total": 100, "unit": "tokens", "seconds": 10.0, "eta_s": 30.0}
    return ProgressReport(**{**usual, **values})


@pytest.mark.parametrize("width", [40, 60, 80, 200])
@pytest.mark.parametrize("stage", ["counting the pairs of 3,471,575 tokens", "数" * 30, "x"])
@pytest.mark.parametrize("detail", ["", "perplexity 1,234.5, 12,345 tokens/s"])
def test_numbers_are_never_cut(width: int, stage: str, detail: str) -> None:
    from rich.cells import cell_len
    from rich.console import Console

    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(_bar(report(stage=stage, detail=detail), width=width))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 1
    assert cell_len(lines[0]) <= width
    assert "25 %" in lines[0]
    assert "30.0 s left" in lines[0]
    if width == 200:
        assert detail in lines[0]
        assert stage in lines[0]


def test_stages_leave_lines_with_their_times(screen: Screen) -> None:
    with contextlib.redirect_stderr(screen), TerminalBar(stages=True) as bar:
        bar(report(done=0))
        bar(report(done=100, seconds=12.0))
        bar.write("a note")
        bar(report(stage="writing"))
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    lines = [line for line in re.split(r"[\r\n]+", shown) if line]
    assert [line for line in lines if "━" not in line] == ["counting the pairs: 12.0 s", "a note", "writing: 10.0 s"]


def test_without_a_terminal_a_stage_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    now, lines = [0.0], []
    monkeypatch.setattr("sifu_graph.progress_bar.time.monotonic", lambda: now[0])
    show = StageLines(lines.append)
    for second, found in enumerate((report(), report(done=30), report(done=40, detail="loss 3"), report(stage="b"))):
        now[0] = 6.0 * second
        show(found)
    assert lines == ["counting the pairs", "counting the pairs: 40 %, 30.0 s left, loss 3", "b"]


def test_a_stage_without_a_total_shows_the_time_that_has_passed() -> None:
    bar, shown = NotebookBar(), []
    assert bar.__enter__() is bar
    lines = StageLines(shown.append, stages=False)
    lines._at -= 11.0
    lines(report(total=None, eta_s=None, seconds=61.0))
    assert shown == ["counting the pairs: 1:01 min"]


def test_durations() -> None:
    assert [duration(s) for s in (3.44, 125, 3723)] == ["3.4 s", "2:05 min", "1:02:03 h"]


# ---- Ctrl-C, and time


def at(stage: str, act: Callable[[], None]) -> Callable[[ProgressReport], None]:
    """A callback that acts at the first report of a stage."""
    left = [stage]

    def told(report: ProgressReport) -> None:
        if left and report.stage.startswith(stage):
            left.clear()
            act()

    return told


def press() -> None:
    signal.raise_signal(signal.SIGINT)


BEFORE_IT = ["evaluating", "counting which", "computing the dir", "counting the", "choosing"]


@pytest.mark.parametrize("stage", BEFORE_IT)
def test_ctrl_c_before_the_closed_form_is_written_keeps_nothing(stage: str, graph: Graph) -> None:
    before = graph.store.snapshot
    with pytest.raises(TrainingInterrupted) as stopped:
        graph.train(steps=5, batch=8, progress=at(stage, press))
    text = f"the graph is at its last commit ({before[:8]}, step 0)"
    counting = BEFORE_IT.index(stage) > 0
    assert str(stopped.value) == text + "; nothing of the closed form is kept" * counting
    assert stopped.value.left.steps == 5
    assert (graph.store.snapshot, graph.settings["training"]) == (before, None)
    again = graph.train(steps=5, batch=8)
    assert (again.contexts is not None, again.step) == (True, 5)


def test_ctrl_c_while_the_closed_form_is_written_commits_it(graph: Graph) -> None:
    said: list[str] = []
    found = graph.train(
        steps=5, batch=8, progress=at(f"computing {graph.parameters.index.edges:,}", press), say=said.append
    )
    assert found.interrupted
    assert (found.steps_done, found.steps_left) == (0, 5)
    assert found.contexts is not None
    assert found.notes == []
    assert sum("Ctrl-C again drops it" in line for line in said) == 1
    assert verify(graph.store).ok
    kept = graph.evaluate().perplexity
    again = graph.train(steps=5, batch=8)
    assert (again.contexts, again.step) == (None, 5)
    assert again.heldout_before == pytest.approx(kept, rel=1e-5)


def test_a_second_ctrl_c_drops_the_closed_form(graph: Graph) -> None:
    before = graph.store.snapshot
    edges = f"computing {graph.parameters.index.edges:,}"

    def twice() -> None:
        press()
        press()

    with pytest.raises(TrainingInterrupted, match="nothing of the closed form is kept"):
        graph.train(minutes=5, batch=8, progress=at(edges, twice))
    assert graph.store.snapshot == before
    assert graph.evaluate(limit=100).tokens == 100
    assert graph.train(steps=1, batch=8).contexts is not None


def test_what_is_left_is_counted_from_the_last_commit(graph: Graph) -> None:
    steps: list[int] = []

    def on_step(report: Any) -> None:
        steps.append(report.step)
        if report.step == 5:
            press()
            press()

    with pytest.raises(TrainingInterrupted, match=r"step 4\); 1 step after it is lost") as stopped:
        graph.train(steps=10, epochs=100, batch=8, commit_every=2, on_step=on_step)
    assert stopped.value.left.steps == 6
    assert stopped.value.left.epochs is not None
    assert stopped.value.left.epochs < 100


def test_a_note_says_that_the_closed_form_left_no_time_for_steps(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a run of three minutes, the closed form takes 2 minutes and 6 seconds of the clock."""
    from sifu_graph.training import loop

    late, count = [0.0], edge_trainer.count_contexts
    real = loop.time.monotonic

    def slow(*args: Any, **options: Any) -> Any:
        late[0] = 126.0
        return count(*args, **options)

    monkeypatch.setattr(edge_trainer, "count_contexts", slow)
    monkeypatch.setattr(loop, "time", types.SimpleNamespace(monotonic=lambda: real() + late[0]))
    found = graph.train(minutes=3, steps=2, batch=8)
    assert found.steps_done == 2
    (note,) = found.notes
    assert note.startswith(
        "the closed form, with its evaluations, took 2:06 min of `minutes=3`, which left time for 2 steps"
    )
    assert "`minutes=6.4` leaves two thirds" in note


def test_there_is_no_such_note_otherwise(graph: Graph) -> None:
    assert graph.train(minutes=5, steps=1, batch=8).notes == []
    assert graph.train(steps=1, batch=8).notes == []


def test_conversions_report_their_stages(based: Path) -> None:
    """Of the private edges; networkx has the default edges too."""
    with Graph.open(based) as graph:
        for convert in (graph.to_scipy, graph.to_networkx):
            seen: SEEN = []
            convert(progress=seen.append)
            wanted = ["computing the energies of the edges", "computing the energies of the default edges"]
            assert check(seen) == wanted[: 1 + (convert == graph.to_networkx)]
