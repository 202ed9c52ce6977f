"""The entry point: finds the command, and turns every end into an exit code and at most one line on stderr.

Exit codes: 0 done, 1 failed, 2 usage, 130 interrupted. It knows no command: `COMMANDS` names the modules,
and only the one that is asked for is imported (and only that one imports torch, if it needs it).
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import click

import sifu_graph
from sifu_cli.options import quiet_option, store_option
from sifu_cli.screen import warn

COMMANDS = {
    "build-graph": "build_graph",
    "train": "train",
    "generate": "generate",
    "eval": "evaluate",
    "info": "info",
    "trace": "trace",
    "inspect": "inspect",
    "map": "map",
    "plot": "plot",
    "add-node": "add_node",
    "remove-node": "remove_node",
    "edit-node": "edit_node",
    "edit-edge": "edit_edge",
    "prune": "prune",
    "grow": "grow",
    "compact": "compact",
    "log": "log",
    "undo": "undo",
    "diff": "diff",
    "branch": "branch",
    "switch": "switch",
    "tag": "tag",
    "import-brillm": "import_brillm",
    "import": "import_file",
    "export": "export",
    "estimate": "estimate",
    "verify": "verify",
    "gc": "gc",
    "env": "env",
}
INTERRUPTED = 130
MOST_SHOWN = 1000  # characters of an error: a whole text may have been given where a name belongs


class Commands(click.Group):
    """The commands, in the order in which a newcomer meets them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        found = import_module(f"sifu_cli.commands.{COMMANDS[name]}").command
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            meant = f"did you mean {close[0]}?" if close else f"there are {', '.join(COMMANDS)}"
            raise click.UsageError(f"no command {args[0]!r}; {meant}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # whoever read us has had enough: nothing is wrong
            raise click.exceptions.Exit(0) from None
        except KeyboardInterrupt:
            raise click.Abort from None


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Begin with:  sifu build-graph && sifu train --minutes 1 && sifu generate 春風",
)
@click.version_option(sifu_graph.__version__, message="sifu %(version)s")
@store_option
@quiet_option
@click.pass_context
def cli(ctx: click.Context, /, *, store: Path, quiet: bool) -> None:
    """Build, train, run and look into SiFu language models: graphs whose every parameter has an address."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(2)


def run(args: Sequence[str]) -> int:
    """Runs one command line and returns its exit code."""
    try:
        code = cli.main(list(args), prog_name="sifu", standalone_mode=False, color=_color())
        if sys.stdout is not None:
            sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        return 0
    except (click.Abort, KeyboardInterrupt):
        if sys.stderr is not None and sys.stderr.isatty():
            click.echo(err=True)  # after the ^C
        _report("interrupted")
        return INTERRUPTED
    except click.ClickException as error:
        _report(_usage(error))
        return error.exit_code
    except Exception as error:
        if os.environ.get("SIFU_DEBUG") == "1":
            import traceback

            traceback.print_exc()
        text, code = _explained(error)
        _report(text)
        return code


def main() -> None:
    """The command ``sifu``."""
    if not sys.warnoptions and os.environ.get("SIFU_DEBUG") != "1":
        warnings.simplefilter("ignore")
        warnings.filterwarnings("once", message="sifu: ")  # ours
        warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that lacks a character shows another one
            stream.reconfigure(errors="replace")
    code = run(sys.argv[1:])
    if sys.stdout is not None:
        try:
            sys.stdout.flush()
        except OSError:  # said already; at its end the interpreter would flush and complain again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    _leave(code)


def _leave(code: int) -> NoReturn:
    """Ends the process without taking the interpreter apart.

    Threads of native libraries are still there then, and now and then one of them aborts the process: exit code 134
    after an edit that was committed (2 of 40 on a busy machine).
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


def _show_warning(message: Warning | str, *where: object, **more: object) -> None:
    """One line, without the place in the code."""
    warn(str(message).removeprefix("sifu: "))


def _color() -> bool | None:
    """False: never; None: where stdout is a terminal (https://no-color.org)."""
    return False if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else None


def _report(message: str) -> None:
    click.echo("sifu: error: " + _shown(message), err=True)


def _shown(message: str) -> str:
    """One line of bounded length, in which a name with control characters cannot move the terminal's cursor."""
    text = " ".join(message.split())
    if len(text) > MOST_SHOWN:
        half = MOST_SHOWN // 2
        text = f"{text[:half]} ... {text[-half:]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _usage(error: click.ClickException) -> str:
    message = error.format_message().rstrip(".")
    message = message[:1].lower() + message[1:]
    ctx = error.ctx if isinstance(error, click.UsageError) else None
    return f"{message} (see {ctx.command_path} --help)" if ctx is not None else message


def _explained(error: Exception) -> tuple[str, int]:
    """What an error says to a user, and its exit code."""
    errors = sys.modules.get("sifu_store.errors")  # if nobody imported it, nobody raised one of them
    if errors is not None and isinstance(error, errors.SifuError):
        return str(error), error.exit_code
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'reading or writing failed'}: {error.strerror}", 1
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error)):
        return "the machine has too little free memory for this: free some, or build a smaller graph", 1
    return f"unexpected {type(error).__name__}: {error} (SIFU_DEBUG=1 shows where)", 1
