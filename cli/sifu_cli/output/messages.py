"""Messages for the user, on stderr.

Parameters of the library that a message names between backticks are shown as options of the command that runs.
"""

from __future__ import annotations

import sys

import click

from sifu_cli.library_names import with_options
from sifu_cli.output.terminal import Part, echo


def say(*parts: Part, quiet: bool = False) -> None:
    """Print a message of one line, in parts, unless `quiet`."""
    if not quiet:
        echo(*(in_options(part) if isinstance(part, str) else part for part in parts), err=True)


def say_left_out(p: float, where: str, *, quiet: bool) -> None:
    """Print that <unk>, of probability `p` (0 to 1) `where`, is left out of the result, if it matters."""
    from sifu_graph.text.unknown import left_out_note

    if (note := left_out_note(p, where)) is not None:
        say(f"note: {note}", quiet=quiet)


WARNING = "warning: "
"""How a line of the library begins that is a warning."""


def warn(message: str) -> None:
    """Print a warning on one line, also with --quiet."""
    echo(warning_line(message), err=True)


def warning_line(message: str) -> str:
    """A warning as every command prints it: one line, which begins as errors do."""
    return f"sifu: {WARNING}{' '.join(in_options(message).split())}"


def interactive() -> bool:
    """Whether stdin and stdout are terminals."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))


def in_options(message: str) -> str:
    """A message of the library with the options of the command that runs."""
    ctx = click.get_current_context(silent=True)
    return with_options(message, None if ctx is None else ctx.command)
