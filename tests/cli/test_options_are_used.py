"""Every option that a command parses reaches the code: none is read and dropped."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from pathlib import Path
from typing import Any

import click
import pytest
from calls import call
from sifu_cli.commands import COMMANDS, load
from sifu_cli.opening import Resources
from sifu_cli.texts import Reading
from sifu_store.errors import OptionError

from sifu_graph.graph import Graph

RESOURCES = {field.name for field in dataclasses.fields(Resources)}
READING = {field.name for field in dataclasses.fields(Reading)}
UNUSED = {
    "train": {"config"},  # its callback reads the file
}
NOTHING_TO_SAY = {"quiet"}  # every command has it, and some print no messages
GIVEN = {
    "host_memory": "1MiB",
    "scratch": "elsewhere",
    "device": "cuda:7",
    "device_memory": "2MiB",
    "precision": "tf32",
}
"""Values other than the defaults, by field of `Resources`."""


def body(command: click.Command) -> ast.FunctionDef:
    """The syntax tree of the function behind a command."""
    assert command.callback is not None
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(command.callback)))
    found = ast.parse(source).body[0]
    assert isinstance(found, ast.FunctionDef)
    return found


def used_names(function: ast.FunctionDef) -> set[str]:
    """Parameters that the body reads; with ``**name`` in a call, the name of the dictionary."""
    return {
        node.id
        for statement in function.body
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }


def passes_whole(function: ast.FunctionDef, name: str) -> bool:
    """Whether a dictionary of options is passed on, iterated or copied as a whole."""
    subscripts = {
        id(node.value)
        for node in ast.walk(function)
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name)
    }
    return any(
        isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load) and id(node) not in subscripts
        for node in ast.walk(function)
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_parsed_option_is_used(name: str) -> None:
    command = load(name)
    assert command is not None
    function = body(command)
    parameters = {argument.arg for argument in function.args.kwonlyargs}
    parsed = {param.name or "" for param in command.params}
    if "resources" in parameters:
        assert parsed >= RESOURCES
        parsed = parsed - RESOURCES | {"resources"}
    if "reading" in parameters:
        assert parsed >= READING
        parsed = parsed - READING | {"reading"}
    assert parameters <= parsed
    rest = parsed - parameters
    if rest:
        assert function.args.kwarg is not None, rest
        assert passes_whole(function, function.args.kwarg.arg), rest
    unused = parsed - rest - used_names(function)
    assert unused - NOTHING_TO_SAY == UNUSED.get(name, set())


def test_the_check_sees_a_dropped_option() -> None:
    source = "def command(*, a, b, **options):\n    print(a, options['c'])\n"
    function = ast.parse(source).body[0]
    assert isinstance(function, ast.FunctionDef)
    assert used_names(function) == {"print", "a", "options"}
    assert not passes_whole(function, "options")


@pytest.mark.parametrize("args", [["train", "--steps", "1"], ["generate", "春"], ["eval"]], ids=lambda args: args[0])
def test_device_and_memory_reach_the_library(args: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    opened: dict[str, Any] = {}

    def record(path: Path, **options: Any) -> Graph:
        opened.update(options)
        raise OptionError("recorded")

    monkeypatch.setattr(Graph, "open", record)
    monkeypatch.setattr("sifu_store.places.require_store", Path)
    assert set(GIVEN) == RESOURCES
    options = [word for name, value in GIVEN.items() for word in (f"--{name.replace('_', '-')}", value)]
    assert call(*args, *options).error == "recorded"
    assert {name: str(opened[name]) for name in GIVEN} == GIVEN


def test_other_graphs_of_eval_use_the_same_memory(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, original = [], Graph.open

    def record(path: Path, **options: Any) -> Graph:
        opened.append((str(path), options["host_memory"], str(options["scratch"])))
        return original(path, **options)

    monkeypatch.setattr(Graph, "open", record)
    Path("elsewhere").mkdir()
    memory = ("--host-memory", "64MiB", "--scratch", "elsewhere")
    assert call("eval", "--store", built, "--against", "@HEAD", *memory).code == 0
    assert opened == [(str(built), "64MiB", "elsewhere")] * 2
