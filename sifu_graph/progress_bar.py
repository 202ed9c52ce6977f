"""Shows a person how far an operation is: a bar on stderr, or in the output of a notebook's cell.

The command line uses the same bar. No other module of the library writes to a terminal or a notebook. rich is imported
when a bar is shown.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from sifu_graph.progress import SILENT, ProgressOption, ProgressReport, Stages, duration

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

LEAST_BAR, MOST_BAR = 10, 40
"""Width of the bar in characters: it is left out where there is less room."""
GAP = 2
"""Characters between two columns."""
REFRESHES_PER_S = 4
NOTEBOOK_WIDTH = 80
LINE_EVERY_S = 10.0
"""Seconds between two lines about one stage, where no line is rewritten in place."""

STARTING = ProgressReport(stage="starting", done=0, total=None, unit="", seconds=0.0, eta_s=None)
"""What is shown where no stage has begun after `STARTING_S` seconds: libraries take some time to load."""
STARTING_S = 0.5

_SHOWN = threading.Lock()
"""Held while a bar is shown: an operation inside another one, such as in its callback, shows none."""


class Shows(Protocol):
    """What shows reports while it is entered."""

    def __enter__(self) -> Any: ...

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...

    def __call__(self, report: ProgressReport) -> None:
        """Shows one report."""


@contextmanager
def reporting(progress: ProgressOption) -> Iterator[Stages]:
    """The stages of an operation, for the parameter ``progress`` of a public function.

    Parameters
    ----------
    progress
        A callback: it is called with a `ProgressReport` ten times a second at most. None: a bar, where a person looks:
        in a terminal (stderr is one) or a notebook. True: a bar there, and elsewhere lines on stderr. False: nothing.
    """
    if callable(progress):
        yield Stages(progress)
        return
    shows = _chosen(progress)
    if shows is None or not _SHOWN.acquire(blocking=False):
        yield SILENT
        return
    try:
        with shows:
            yield Stages(shows)
    finally:
        _SHOWN.release()


def _chosen(progress: ProgressOption) -> Shows | None:
    if progress is False:
        return None
    if in_notebook():
        return NotebookBar()
    if on_terminal():
        return TerminalBar()
    return StageLines(_write_line) if progress else None


def on_terminal() -> bool:
    """Whether stderr is a terminal on which a line can be rewritten."""
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def in_notebook() -> bool:
    """Whether the process is the kernel of a notebook."""
    found = sys.modules.get("IPython")
    return found is not None and hasattr(found.get_ipython(), "kernel")


def _write_line(line: str) -> None:
    with contextlib.suppress(OSError):
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


class TerminalBar(AbstractContextManager["TerminalBar"]):
    """A bar on the last line of a terminal, on stderr. It disappears in the end.

    Parameters
    ----------
    stages
        A stage that is over leaves a line with the time that it took.
    """

    def __init__(self, *, stages: bool = False) -> None:
        self._stages = stages
        self._report: ProgressReport | None = STARTING
        self._at = 0.0  # when the report came, or the operation began
        self._live: Live | None = None

    def __enter__(self) -> Self:
        from rich.console import Console
        from rich.live import Live

        # By default rich would redirect stdout, and the results with it, to stderr.
        self._live = Live(
            console=Console(stderr=True, highlight=False),
            get_renderable=self._rendered,
            refresh_per_second=REFRESHES_PER_S,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._at = time.monotonic()
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            if kind is None:
                self._end_stage()
            self._report = None
            with contextlib.suppress(OSError):  # the terminal is gone
                self._live.stop()

    def __call__(self, report: ProgressReport) -> None:
        """Shows a report; it is drawn when the line is next refreshed."""
        if self._report is None or report.stage != self._report.stage:
            self._end_stage()
        self._report, self._at = report, time.monotonic()

    def write(self, line: str) -> None:
        """Prints a line that stays, above the bar. No character is escaped."""
        assert self._live is not None
        if self._report is not None and self._report.share == 1.0:
            self._end_stage()
        with contextlib.suppress(OSError):  # the terminal is gone: what is done must still be committed
            self._live.console.print(line, markup=False, soft_wrap=True)

    def _end_stage(self) -> None:
        report, self._report = self._report, None
        if self._stages and report is not None and report is not STARTING:
            self.write(f"{report.stage}: {duration(report.seconds + time.monotonic() - self._at)}")

    def _rendered(self) -> Table | str:
        since, report = time.monotonic() - self._at, self._report
        if self._live is None or report is None or (report is STARTING and since < STARTING_S):
            return ""
        return _bar(report, width=self._live.console.width, since=since)


class NotebookBar(AbstractContextManager["NotebookBar"]):
    """A bar in the output of the cell that runs. It stays when the operation ends."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._last: ProgressReport | None = None  # that was shown
        self._at = 0.0

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None

    def __call__(self, report: ProgressReport) -> None:
        """Shows a report, unless another of its stage was just shown."""
        now = time.monotonic()
        new = self._last is None or report.stage != self._last.stage or report.share == 1.0
        if not new and now - self._at < 1 / REFRESHES_PER_S:
            return
        self._last, self._at = report, now
        from IPython.display import display
        from rich.console import Console

        console = Console(width=NOTEBOOK_WIDTH, file=io.StringIO(), color_system=None)
        with console.capture() as text:
            console.print(_bar(report, width=NOTEBOOK_WIDTH))
        shown = {"text/plain": text.get().rstrip("\n")}
        if self._handle is None:
            self._handle = display(shown, raw=True, display_id=True)
        else:
            self._handle.update(shown, raw=True)


class StageLines(AbstractContextManager["StageLines"]):
    """A line for each stage, and one every `LINE_EVERY_S` seconds: where no line can be rewritten in place.

    Parameters
    ----------
    write
        Prints a line.
    stages
        False: only the lines about stages that take long.
    """

    def __init__(self, write: Callable[[str], None], *, stages: bool = True) -> None:
        self._write, self._stages = write, stages
        self._stage: str | None = None
        self._at = time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None

    def __call__(self, report: ProgressReport) -> None:
        """Prints a line about a report, if one is due."""
        new = report.stage != self._stage
        self._stage = report.stage
        if new and self._stages:
            self.write(report.stage)
        elif time.monotonic() - self._at >= LINE_EVERY_S:
            share, left = _share_and_time(report)
            self.write(f"{report.stage}: {', '.join(filter(None, (share, left, report.detail)))}")

    def write(self, line: str) -> None:
        """Prints a line; the next one about the same stage comes later."""
        self._at = time.monotonic()
        self._write(line)


def _share_and_time(report: ProgressReport, since: float = 0.0) -> tuple[str, str]:
    """The share that is done, and the time that is left or, if that is not known, has passed."""
    share = "" if report.share is None else f"{100 * report.share:.0f} %"
    if report.eta_s is None or report.share == 1.0:
        return share, duration(report.seconds + since)
    return share, f"{duration(max(report.eta_s - since, report.eta_s / 2))} left"  # not 0 while it waits


def _bar(report: ProgressReport, *, width: int, since: float = 0.0) -> Table:
    """One line of this width, ``since`` seconds after a report. What there is no room for is left out."""
    from rich.cells import cell_len
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    share, left = _share_and_time(report, since)
    room, shown = width, [share, left]
    for detail in (report.detail, ""):
        shown = [text for text in (share, left, detail) if text]
        room = width - sum(cell_len(text) + GAP for text in shown)
        if room - cell_len(report.stage) - GAP >= LEAST_BAR:
            break
    bar_width = min(MOST_BAR, room - cell_len(report.stage) - GAP)
    line = Table.grid(padding=(0, GAP, 0, 0), pad_edge=False)
    line.add_column(no_wrap=True, overflow="ellipsis", max_width=max(1, room))
    cells: list[Any] = [Text(report.stage)]
    if bar_width >= LEAST_BAR:
        line.add_column(width=bar_width)
        total = None if report.total is None else max(1, report.total)
        cells.append(ProgressBar(total, report.done if report.total else 1, width=bar_width, pulse=total is None))
    for text in shown:
        line.add_column(no_wrap=True)
        cells.append(Text(text))
    line.add_row(*cells)
    return line
