"""What reaches the screen: results on stdout; messages, and one line that moves on a terminal, on stderr.

It knows streams and how numbers read; it does not know what they mean. rich is imported only where
something moves.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live
    from sifu_store.history import Commit

OFF_TERMINAL = 160  # columns
Row = tuple[str, str, str]
"""Label, value, remark."""


def say(message: str, *, quiet: bool = False) -> None:
    """A message for the person who waits."""
    if not quiet:
        click.echo(message, err=True)


def warn(message: str) -> None:
    """Something that must be known even with --quiet."""
    click.echo("sifu: warning: " + " ".join(message.split()), err=True)


def on_a_terminal() -> bool:
    """Whether a person sits at both ends."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))


def print_json(fields: Mapping[str, Any]) -> None:
    """One JSON object on one line of stdout. A number that is none (NaN, infinity) is null."""
    click.echo(json.dumps(_plain(fields), ensure_ascii=False, default=str))


def print_table(rows: Iterable[Row]) -> None:
    """Aligned rows on stdout: labels to the left, values to the right, remarks after them."""
    rows = list(rows)
    label_width = max(len(label) for label, _, _ in rows)
    value_width = max(len(value) for _, value, _ in rows)
    for label, value, remark in rows:
        shown = click.style(f"{label:<{label_width}}", dim=True)
        click.echo(f"{shown}  {value:>{value_width}}  {remark}".rstrip())


def commit_line(commit: Commit) -> str:
    """`ZNTDTQ0Q  train: step 16 (2026-11-22 00:15)`."""
    time = commit.time.astimezone().strftime("%Y-%m-%d %H:%M")
    return f"{click.style(commit.snapshot[:8], fg='yellow')}  {commit.message} ({time})"


def print_rich(what: RenderableType) -> None:
    """A table or a tree of rich on stdout, as wide as the terminal; elsewhere as wide as it needs to be."""
    from rich.console import Console

    wide = None if sys.stdout.isatty() else OFF_TERMINAL
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    console = Console(width=wide, highlight=False, markup=False, emoji=False, no_color=plain)
    with console.capture() as captured:
        console.print(what)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()).strip("\n"))


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def print_cache(report: Mapping[str, Any]) -> None:
    """What the cache did, on stderr."""
    disk = report["scratch_bytes_read"] + report["store_bytes_read"]
    say(
        f"cache: {percent(report['hit_rate'])} of {report['requests']:,} pages were in memory "
        f"({size(report['host_used_bytes'])} of {size(report['host_pool_bytes'])} used); "
        f"{report['from_store']:,} came from the store, {report['from_scratch']:,} from the scratch file, "
        f"{report['generated']:,} were made from counts"
    )
    say(
        f"       {size(disk)} read, {size(report['streamed_bytes'])} of rows read in the scratch file, "
        f"{size(report['scratch_bytes_written'])} written to the scratch file, "
        f"{size(report['store_bytes_written'])} to the store; {report['evicted']:,} evictions; "
        f"{duration(report['stall_s'])} waited"
    )
    if "device_pool_bytes" in report:
        say(
            f"device: {percent(report['device_hit_rate'])} of {report['device_requests']:,} pages were on the device "
            f"({size(report['device_used_bytes'])} of {size(report['device_pool_bytes'])} used), "
            f"{percent(report['overall_hit_rate'])} there or in memory; {size(report['device_bytes_in'])} in, "
            f"{size(report['device_bytes_out'])} out; {report['device_evicted']:,} evictions; "
            f"{duration(report['device_stall_s'])} waited"
        )


# ---- how numbers read


def number(value: float | None, digits: int = 0) -> str:
    """1,234.5, or a dash where there is none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def percent(share: float) -> str:
    """12.3 %, with more digits where it is small."""
    return f"{100 * share:.1f} %" if share == 0 or share >= 0.001 else f"{100 * share:.2g} %"


def size(n_bytes: float) -> str:
    """34.2 MiB."""
    power = min(4, int(math.log2(n_bytes) // 10)) if n_bytes >= 1 else 0
    unit = ("bytes", "KiB", "MiB", "GiB", "TiB")[power]
    return f"{n_bytes / 1024**power:,.{1 if power else 0}f} {unit}"


def duration(seconds: float) -> str:
    """3.4 s, 2:05 min, 1:02:03 h."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"


# ---- something that moves


class Progress:
    """One line on stderr: rewritten in place on a terminal, else printed anew every ``every_s`` seconds.

    ``streams``: results come on stdout meanwhile, so that nothing may move where that is the same terminal.
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

            # rich would send stdout to stderr, results and all.
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
            self._live.stop()

    def show(self, line: str) -> None:
        """How far it is."""
        if self._quiet:
            return
        if self._live is not None:
            from rich.text import Text

            self._live.update(Text(line, no_wrap=True, overflow="ellipsis"))
        elif time.monotonic() - self._last >= self._every_s:
            self._last = time.monotonic()
            click.echo(line, err=True)

    def keep(self, line: str) -> None:
        """A line that stays."""
        if self._quiet:
            return
        if self._live is not None:
            self._live.console.print(line, markup=False, soft_wrap=True)
        else:
            self._last = time.monotonic()
            click.echo(line, err=True)
