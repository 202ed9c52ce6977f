"""Messages of the library with the spelling of the command line.

A message of the library names parameters and functions in Python, between backticks (`sifu_store.errors`). This module
replaces them by the options, arguments and commands that stand for them.
"""

from __future__ import annotations

import click
from sifu_store.errors import Argument, replace_code

from sifu_cli import commands

PARAMETERS = {"path": ("store",), "kind": ("optimizer",), "texts": ("corpus", "files"), "corpus": ("files",)}
"""Names of the option's parameter by name of the library's parameter, where they differ."""

FUNCTIONS = {
    "evaluate": "eval",
    "import_safetensors": "import",
    "history": "log",
    "collect_garbage": "gc",
    "repair": "verify --repair",
    "rename_node": "edit-node --rename",
    "merge_node": "edit-node --merge-into",
    "set_bias": "edit-node --bias-from",
    "scale_edge": "edit-edge --scale",
    "boost_edge": "edit-edge --boost",
    "copy_edge": "edit-edge --copy-from",
    "default_edge": "edit-edge --to-default",
    "forbid_edge": "edit-edge --forbid",
    "allow_edge": "edit-edge --allow",
    "edit_edges": "edit-edge --from",
}
"""Command, with an option if necessary, by function of the library, where more than `_` and `-` differs."""


def with_options(message: str, command: click.Command | None) -> str:
    """A message of the library as a user of the command line needs it.

    Parameters
    ----------
    message
        A message in the form that `sifu_store.errors` describes: `` lower `host_memory` ``.
    command
        The command that runs; None: only names of other commands are replaced.

    Returns
    -------
    str
        The message with options and commands: `lower --host-memory`. Names without an option keep their backticks.
    """

    def spell(function: str | None, arguments: tuple[Argument, ...]) -> str | None:
        if function is None:
            return None if command is None else _option(command, *arguments[0])
        words = FUNCTIONS.get(function, function.replace("_", "-"))
        found = commands.load(words.split()[0])
        if found is None:
            return None
        options = [_option(found, *argument) for argument in arguments]
        return None if None in options else " ".join([f"sifu {words}", *filter(None, options)])

    return replace_code(message, spell) if "`" in message else message


def _option(command: click.Command, name: str, value: str | None) -> str | None:
    """The option or argument for a parameter of the library, with its value; None: the command has none."""
    params = {param.name: param for param in command.params}
    param = next((params[each] for each in (name, *PARAMETERS.get(name, ())) if each in params), None)
    if isinstance(param, click.Argument):
        return value if value not in (None, "...") else (param.metavar or name.upper()).strip("[]. ")
    if not isinstance(param, click.Option):
        return None
    if param.is_flag and value == "False":
        return max(param.secondary_opts, key=len, default=None)
    option = max(param.opts, key=len)
    return option if value is None or param.is_flag else f"{option} {value}"
