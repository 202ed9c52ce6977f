"""Progress of a long operation on stderr. rich is imported only if a line is rewritten in place."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

from sifu_cli.output.messages import WARNING, in_options, warning_line
from sifu_cli.output.terminal import echo, visible

if TYPE_CHECKING:
    from sifu_graph.progress import ProgressReport
    from sifu_graph.progress_bar import StageLines, TerminalBar


class Progress:
    """A bar on the last line of the terminal; where that cannot be rewritten, lines. A callback for the library.

    Parameters
    ----------
    quiet
        Print nothing.
    streams
        Results are printed on stdout at the same time. If stdout is a terminal, the line is not rewritten in place.
    stages
        Each stage leaves a line. False: for operations of one stage, which the command has announced.
    """

    def __init__(self, *, quiet: bool, streams: bool = False, stages: bool = True) -> None:
        self._quiet, self._streams, self._stages = quiet, streams, stages
        self._shows: TerminalBar | StageLines | None = None

    def __enter__(self) -> Self:
        from sifu_graph.progress_bar import StageLines, TerminalBar, on_terminal

        shared = self._streams and sys.stdout is not None and sys.stdout.isatty()
        if not self._quiet:
            if on_terminal() and not shared:
                self._shows = TerminalBar(stages=self._stages)
            else:
                self._shows = StageLines(lambda line: echo(line, err=True), stages=self._stages)
            self._shows.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._shows is not None:
            self._shows.__exit__(kind, value, traceback)

    def __call__(self, report: ProgressReport) -> None:
        """Show how far the operation is."""
        if self._shows is not None:
            self._shows(report)

    def keep(self, line: str) -> None:
        """Print a line of the library that stays; a warning also with `quiet`."""
        is_warning = line.startswith(WARNING)
        shown = visible(warning_line(line.removeprefix(WARNING)) if is_warning else in_options(line))
        if self._shows is not None:
            self._shows.write(shown)
        elif is_warning:
            echo(shown, err=True)
