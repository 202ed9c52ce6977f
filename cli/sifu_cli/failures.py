"""How a command fails: every exception becomes one line of text and an exit code."""

from __future__ import annotations

import click
from sifu_store.durable import resource_error
from sifu_store.errors import ResourceError, SifuError

from sifu_cli.library_names import with_options

MOST_SHOWN = 1000
"""Greatest length of an error in characters: a message may contain a whole text that was given by mistake."""

_NO_MEMORY = ("can't allocate memory", "failed to map segment", "cannot allocate memory", "Cannot allocate memory")
"""What PyTorch and the loader of libraries say where the machine, or a limit of the process, has too little."""


class CommandError(Exception):
    """Raised from the exception of a command, to name the command. None: it was not found."""

    def __init__(self, command: click.Command | None) -> None:
        super().__init__()
        self.command = command


def explain(error: BaseException | None, command: click.Command | None) -> tuple[str, int]:
    """The message and the exit code for an exception.

    Parameters
    ----------
    error
        Any exception but those of click.
    command
        The command that raised it: parameters that the message names become its options.
    """
    lacking = None if error is None or isinstance(error, ResourceError) else resource_error(error)
    error = lacking or error
    if isinstance(error, SifuError):
        return with_options(str(error), command), error.exit_code
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'reading or writing failed'}: {error.strerror}", 1
    if isinstance(error, MemoryError) or any(each in str(error) for each in _NO_MEMORY):
        return "the machine has too little free memory: free some, or build a smaller graph", 1
    return f"unexpected {type(error).__name__}: {error} (SIFU_DEBUG=1 shows where)", 1


def explain_usage(error: click.ClickException) -> str:
    """The message for a wrong command line, with a reference to the help."""
    message = error.format_message().rstrip(".")
    message = message[:1].lower() + message[1:]
    ctx = error.ctx if isinstance(error, click.UsageError) else None
    return f"{message} (see {ctx.command_path} --help)" if ctx is not None else message


def one_line(message: str) -> str:
    """A message on one line of limited length."""
    text = " ".join(message.split())
    if len(text) > MOST_SHOWN:
        half = MOST_SHOWN // 2
        text = f"{text[:half]} ... {text[-half:]}"
    return text
