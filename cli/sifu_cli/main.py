"""The entry point: finds the command, runs it, and turns every outcome into an exit code and at most one line of error.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted. This module knows no command; `commands` lists them.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click
from sifu_store.durable import few_addresses

import sifu_graph
from sifu_cli.commands import COMMANDS, GROUPS, load
from sifu_cli.failures import CommandError, explain, explain_usage, one_line
from sifu_cli.options import quiet_option, store_option
from sifu_cli.output.messages import warn
from sifu_cli.output.terminal import echo, echo_text, unwritable

INTERRUPTED = 130
REDELIVERED_S = 0.05
"""Time after which a Ctrl-C that Python lost comes again."""


class Stopped(KeyboardInterrupt):
    """Raised by a signal other than Ctrl-C, SIGTERM or SIGHUP. Commands end as after Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__(f"by {signal.Signals(number).name}")
        self.exit_code = 128 + number


class Commands(click.Group):
    """The group of all commands. It imports the module of a command when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """A command by its name."""
        return load(name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section of the help per group."""
        width = formatter.width - 6 - max(map(len, COMMANDS))
        for group in GROUPS:
            commands = {name: load(name) for name in group.modules}
            with formatter.section(group.title):
                rows = [(name, found.get_short_help_str(width)) for name, found in commands.items() if found]
                formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command in the arguments; an unknown name is an error with a suggestion."""
        if args[0] == "help":  # as in other programs: `sifu help train` is `sifu train --help`
            named = [arg for arg in args[1:] if not arg.startswith("-")][:1]
            if not named:
                click.echo(ctx.get_help())  # noqa: TID251  (no text of others)
                ctx.exit()
            args = [*named, "--help"]
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib  # only this error needs it

            close = difflib.get_close_matches(args[0], COMMANDS, n=1) or [
                name for name in COMMANDS if args[0].startswith(f"{name}-") or name.startswith(args[0])
            ]
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(COMMANDS)}"
            raise click.UsageError(f"no command {args[0]!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # the reader of stdout closed the pipe: not an error
            raise click.exceptions.Exit(0) from None
        except KeyboardInterrupt as stop:
            raise click.Abort(stop) from stop
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except SystemExit:
            raise
        except BaseException as error:  # a panic in Icechunk is not an Exception
            raise CommandError(load(ctx.invoked_subcommand)) from error


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with:  sifu build-graph && sifu train --minutes 1 && sifu generate 春風",
)
@click.version_option(sifu_graph.__version__, message="sifu %(version)s")
@store_option
@quiet_option
@click.pass_context
def cli(ctx: click.Context, /, *, store: Path, quiet: bool) -> None:
    """Build, train, run, inspect and edit SiFu language models: sparse graphs in which every parameter has an
    address."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)  # noqa: TID251  (no text of others)
        ctx.exit(2)


def run(args: Sequence[str]) -> int:
    """Run one command line, without the program name, and return its exit code."""
    try:
        code = cli.main(list(args), prog_name="sifu", standalone_mode=False, color=_color())
        _flush()
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        return 0
    except (click.Abort, KeyboardInterrupt) as error:
        return _interrupted(error)
    except click.ClickException as error:
        _report(explain_usage(error))
        return error.exit_code
    except CommandError as failed:
        return _failed(failed.__cause__, failed.command)
    except Exception as error:
        return _failed(error, None)


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise unwritable(error) from error


def main() -> None:
    """The command ``sifu``."""
    if sys.stdout is None:  # a file that is opened later would be in its place
        os.open(os.devnull, os.O_WRONLY)
        _report("stdout is closed: redirect it to a file, or to /dev/null")
        _leave(1)
    if not sys.warnoptions and os.environ.get("SIFU_DEBUG") != "1":
        warnings.simplefilter("ignore")
        warnings.filterwarnings("once", message="sifu: ")  # warnings of sifu itself
        warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # replace characters that the terminal cannot show
            stream.reconfigure(errors="replace")
    _handle_signals()
    if (lacking := few_addresses()) is not None:
        warn(f"{lacking}, or they may end the command without a message (exit code 134)")
    try:
        code = run(sys.argv[1:])
    except KeyboardInterrupt as again:  # while the first one was reported
        code = _interrupted(again)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        sys.stdout.flush()
    except OSError:  # `run` has reported it; the interpreter would flush and report again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    _leave(code)


def _handle_signals() -> None:
    """SIGTERM and SIGHUP stop a command as Ctrl-C does, and no Ctrl-C is lost."""

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Stopped(number)

    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP
            signal.signal(number, stop)
    usual = sys.unraisablehook

    def unraisable(found: sys.UnraisableHookArgs) -> None:
        if not isinstance(found.exc_value, KeyboardInterrupt):
            usual(found)
            return
        # Ctrl-C came while Python cleaned up an object, where no exception can be raised.
        again = threading.Timer(REDELIVERED_S, os.kill, (os.getpid(), signal.SIGINT))
        again.daemon = True
        again.start()

    sys.unraisablehook = unraisable


def _leave(code: int) -> NoReturn:
    """End the process without the interpreter's teardown.

    Threads of native libraries still run during the teardown, and sometimes abort the process: exit code 134 after a
    successful commit (2 of 40 runs on a busy machine).
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


def _show_warning(message: Warning | str, *where: object, **more: object) -> None:
    """Show a warning on one line, without its place in the code."""
    warn(str(message).removeprefix("sifu: "))


def _color() -> bool | None:
    """False: no colour; None: colour if stdout is a terminal (https://no-color.org)."""
    return False if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else None


def _failed(error: BaseException | None, command: click.Command | None) -> int:
    if os.environ.get("SIFU_DEBUG") == "1":
        echo_text("".join(traceback.format_exception(error)), nl=False, err=True)
    message, code = explain(error, command)
    _report(message)
    return code


def _interrupted(error: BaseException) -> int:
    """Report that a command was interrupted, and what that means, and return the exit code."""
    stop = error.args[0] if error.args and isinstance(error.args[0], KeyboardInterrupt) else error
    if sys.stderr is not None and sys.stderr.isatty():
        echo(err=True)  # end the line with ^C
    _report(f"interrupted{' ' if isinstance(stop, Stopped) else ': ' if str(stop) else ''}{stop}")
    return stop.exit_code if isinstance(stop, Stopped) else INTERRUPTED


def _report(message: str) -> None:
    echo("sifu: error: " + one_line(message), err=True)
