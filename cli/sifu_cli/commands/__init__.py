"""The commands, by group: the table that the help, the reference and the entry point read.

One module per command, each with an object `command`. A module is imported only when its command runs (or its help is
shown), because many of them import torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click


@dataclass(frozen=True, slots=True)
class Group:
    """Commands that belong together.

    Parameters
    ----------
    title
        Heading in the help.
    folder
        Package below this one that holds their modules.
    modules
        Module by command name, in the order of the help.
    """

    title: str
    folder: str
    modules: dict[str, str]


GROUPS = (
    Group(
        "Model",
        "model",
        {
            "build-graph": "build_graph",
            "train": "train",
            "generate": "generate",
            "next": "next",
            "score": "score",
            "serve": "serve",
            "eval": "evaluate",
            "estimate": "estimate",
        },
    ),
    Group(
        "Inspection",
        "inspection",
        {"info": "info", "inspect": "inspect", "trace": "trace", "map": "map", "plot": "plot"},
    ),
    Group(
        "Editing",
        "edit",
        {
            "add-node": "add_node",
            "remove-node": "remove_node",
            "edit-node": "edit_node",
            "edit-edge": "edit_edge",
            "prune": "prune",
            "grow": "grow",
        },
    ),
    Group(
        "History",
        "history",
        {
            "log": "log",
            "undo": "undo",
            "diff": "diff",
            "branch": "branch",
            "switch": "switch",
            "tag": "tag",
            "push": "push",
            "pull": "pull",
            "clone": "clone",
        },
    ),
    Group(
        "Import and export",
        "interop",
        {"import-brillm": "import_brillm", "import": "import_safetensors", "export": "export"},
    ),
    Group("Maintenance", "maintenance", {"compact": "compact", "verify": "verify", "gc": "gc", "env": "env"}),
)
COMMANDS = {name: f"{__name__}.{group.folder}.{module}" for group in GROUPS for name, module in group.modules.items()}
"""Import path of the module by command name."""


def load(name: str | None) -> click.Command | None:
    """Import a command by its name. Returns None if there is no such command."""
    if name not in COMMANDS:
        return None
    command: click.Command = import_module(COMMANDS[name]).command
    return command
