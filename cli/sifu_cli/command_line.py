"""The command line of a run as text that can be typed again, for the history of the store and for resuming."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import click
from click.core import ParameterSource

from sifu_graph.command_text import quoted

NOT_LOGGED = ("store", "quiet", "as_json", "yes", "plot", "dry_run", "host_memory", "device_memory", "scratch", "stats")
"""Parameters that do not change the result, so the history of the store omits them."""
GIVEN = (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP)
"""Where the values come from that a command line names: what was typed, and what a file of options has."""


def command_line(ctx: click.Context, *, without: Collection[str] = (), more: Mapping[str, str] | None = None) -> str:
    """The command line: ``train --steps 5 poems.txt``.

    Parameters
    ----------
    without
        Names of parameters that are omitted.
    more
        Values of options to add, by option (with its dashes).
    """
    options: list[str] = []
    arguments: list[str] = []
    for param in ctx.command.params:
        name = param.name or ""
        if name in without or name == "config" or ctx.get_parameter_source(name) not in GIVEN:
            continue  # the values of a file of options stand for it: the file may change
        value = ctx.params[name]
        if isinstance(param, click.Argument):
            arguments += [str(each) for each in (value if isinstance(value, tuple) else (value,))]
        elif isinstance(param, click.Option) and param.is_flag:
            options.append(max(param.opts if value else param.secondary_opts, key=len))
        else:
            several = isinstance(param, click.Option) and param.multiple
            for each in value if several else (value,):
                options += [max(param.opts, key=len), *map(str, each if isinstance(each, tuple) else (each,))]
    for option, text in (more or {}).items():
        options += [option, text]
    if any(argument.startswith("-") and argument != "-" for argument in arguments):
        arguments.insert(0, "--")
    return " ".join(quoted(word) for word in [ctx.info_name or "", *options, *arguments])


def logged(ctx: click.Context) -> str:
    """The command line as the history of the store records it."""
    return command_line(ctx, without=NOT_LOGGED)
