"""Progress of a long operation, on one line of stderr. rich is imported only if the line is rewritten in place."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from sifu_cli.output.messages import in_options
from sifu_cli.output.terminal import echo, visible

if TYPE_CHECKING:
    from rich.live import Live


class Progress:
    """A progress line on stderr: rewritten in place on a terminal, else a new line every `every_s` seconds.

    Parameters
    ----------
    quiet
        Print nothing.
    streams
        Results are printed on stdout at the same time. If stdout is a terminal, the line is not rewritten in place.
    every_s
        Seconds between lines where the line is not rewritten in place.
    """

    def __init__(self, *, quiet: bool, streams: bool = False, every_s: float = 10.0) -> None:
        self._quiet, self._streams, self._every_s = quiet, streams, every_s
        self._last = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        moves = sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        shared = self._streams and sys.stdout is not None and sys.stdout.isatty()
        if moves and not shared and not self._quiet:
            from rich.console import Console
            from rich.live import Live

            # By default rich would redirect stdout, and the results with it, to stderr.
            self._live = Live(
                console=Console(stderr=True, highlight=False),
                refresh_per_second=4,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            with contextlib.suppress(OSError):  # the terminal is gone
                self._live.stop()

    def show(self, line: str) -> None:
        """Show the current state, in place of the last one."""
        if self._quiet:
            return
        if self._live is not None:
            from rich.text import Text

            self._live.update(Text(visible(line), no_wrap=True, overflow="ellipsis"))
        elif time.monotonic() - self._last >= self._every_s:
            self._last = time.monotonic()
            echo(line, err=True)

    def keep(self, line: str) -> None:
        """Print a line that stays."""
        if self._quiet:
            return
        line = in_options(line)
        if self._live is not None:
            with contextlib.suppress(OSError):  # the terminal is gone: what is done must still be committed
                self._live.console.print(visible(line), markup=False, soft_wrap=True)
        else:
            self._last = time.monotonic()
            echo(line, err=True)
