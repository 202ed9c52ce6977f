"""How a command fails: every exception becomes one line of text and an exit code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from sifu_store.durable import reason_of, resource_error
from sifu_store.errors import ResourceError, SifuError

from sifu_cli.library_names import with_options

MOST_SHOWN = 1000
"""Greatest length of an error in characters: a message may contain a whole text that was given by mistake."""


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
        if not error.filename:
            return f"reading or writing failed: {error.strerror}", 1
        return f"{error.filename}: {reason_of(error, Path(str(error.filename)))}", 1
    return f"unexpected {type(error).__name__}: {error} (SIFU_DEBUG=1 shows where)", 1


def explain_usage(error: click.ClickException) -> str:
    """The message for a wrong command line, with what was meant and a reference to the help."""
    message = _with_the_nearest(error, error.format_message().rstrip("."))
    message = message[:1].lower() + message[1:]
    ctx = error.ctx if isinstance(error, click.UsageError) else None
    return f"{message} (see {ctx.command_path} --help)" if ctx is not None else message


def _with_the_nearest(error: click.ClickException, message: str) -> str:
    """The message of a wrong option, choice or argument, with the one that is nearest to it."""
    import difflib  # only these errors need it

    ctx = error.ctx if isinstance(error, click.UsageError) else None
    if isinstance(error, click.NoSuchOption) and ctx is not None:
        known = [name for param in ctx.command.get_params(ctx) for name in (*param.opts, *param.secondary_opts)]
        near = difflib.get_close_matches(error.option_name, [name for name in known if name.startswith("-")], n=1)
        return f"no such option {error.option_name!r}" + (f"; did you mean {near[0]}?" if near else "")
    if isinstance(error, click.BadParameter) and error.param is not None and "did you mean" not in message:
        choices = map(str, getattr(error.param.type, "choices", ()))
        given = re.search(r"'([^']*)' is not one of", message)
        near = difflib.get_close_matches(given[1], list(choices), n=1) if given else []
        return message + (f"; did you mean {near[0]}?" if near else "")
    takes = ctx is not None and any(isinstance(param, click.Argument) for param in ctx.command.params)
    if takes and "unexpected extra argument" in message:
        return f"{message}; put quotes around a text or a name of several words"
    return message


def one_line(message: str) -> str:
    """A message on one line of limited length."""
    text = " ".join(message.split())
    if len(text) > MOST_SHOWN:
        half = MOST_SHOWN // 2
        text = f"{text[:half]} ... {text[-half:]}"
    return text


@contextmanager
def interrupted_as(what: str) -> Iterator[None]:
    """Says what Ctrl-C means for a command that makes something as a whole."""
    try:
        yield
    except KeyboardInterrupt as stop:
        if str(stop):  # another signal, or a message of its own
            raise
        raise KeyboardInterrupt(what) from stop
