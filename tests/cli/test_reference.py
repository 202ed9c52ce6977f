"""The help, its page, and the defaults that it names agree with the commands and with the library."""

from __future__ import annotations

import dataclasses
import inspect
import re
import shlex
from pathlib import Path

import click
import pytest
from sifu_cli.main import COMMANDS, cli
from sifu_cli.reference import reference
from sifu_cli.texts import Reading

from sifu_graph.build import BASE_WIDTH, WIDTH, build_graph
from sifu_graph.config import ADAMW, BASE, KINDS, PRESETS, OptimizerConfig
from sifu_graph.generation.stream import GenerateOptions
from sifu_graph.text.tokenizer import LEVELS
from sifu_graph.training.base_trainer import STREAMS
from sifu_graph.training.loop import COMMIT_EVERY_S, EVAL_EVERY_S
from sifu_graph.training.options import DEFAULT_BATCH, TrainOptions

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cli.md"
ALL = [pytest.param(name, id=name) for name in COMMANDS]


def command(name: str) -> click.Command:
    """A command by its name."""
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


def options(name: str) -> dict[str, click.Option]:
    """Its options by the name of their parameter."""
    return {param.name or "": param for param in command(name).params if isinstance(param, click.Option)}


def choices(option: click.Option) -> list[str]:
    """What an option can be."""
    assert isinstance(option.type, click.Choice)
    return list(option.type.choices)


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "python -m sifu_cli.reference > docs/cli.md"


@pytest.mark.parametrize("name", ALL)
def test_every_command_and_option_is_explained_with_an_example(name: str) -> None:
    found = command(name)
    assert found.name == name
    assert found.help
    assert found.short_help
    assert f"sifu {name}" in (found.epilog or "")
    assert {"store", "quiet", "as_json"} <= set(options(name))
    for option in options(name).values():
        assert option.help, option.name
        assert option.is_flag or option.metavar, option.name


@pytest.mark.parametrize("name", ALL)
def test_no_range_is_printed_for_a_number_without_limits(name: str) -> None:
    assert "None" not in command(name).get_help(click.Context(command(name), info_name=name))


@pytest.mark.parametrize("name", ALL)
def test_examples_can_be_parsed(name: str) -> None:
    for line in (command(name).epilog or "").splitlines():
        if f"sifu {name}" in line:
            words = shlex.split(line.split(f"sifu {name}", 1)[1].split("|")[0].split("&&")[0])
            command(name).make_context(name, words)


READING = {field.name for field in dataclasses.fields(Reading)}
"""Options that say how the texts are read: parameters of `Corpus`."""


def test_defaults_of_build_graph_are_the_librarys() -> None:
    parameters = inspect.signature(build_graph).parameters
    for name, option in options("build-graph").items():
        if option.show_default:
            assert option.default == parameters[name].default, name
    given = set(options("build-graph")) - {"store", "quiet", "as_json"} - READING
    assert given == set(parameters) - {"corpus", "texts", "path", "command", "progress"}
    assert choices(options("build-graph")["level"]) == list(LEVELS)
    assert choices(options("build-graph")["signal"]) == list(PRESETS)


def test_defaults_of_generate_are_the_librarys() -> None:
    for field in dataclasses.fields(GenerateOptions):
        option = options("generate")[field.name]
        if option.show_default:
            assert option.default == field.default, field.name
        else:
            assert not field.default, field.name


def test_defaults_that_train_names_are_the_librarys() -> None:
    found = options("train")
    named = {name: re.search(r"else (?:the )?([\w.-]+)", option.help or "") for name, option in found.items()}
    shown = {name: match.group(1).rstrip("].") for name, match in named.items() if match}
    optimizer = OptimizerConfig()
    assert shown["batch"].rstrip(";") == str(DEFAULT_BATCH)
    assert shown["optimizer"].rstrip(";") == optimizer.kind
    rates = f"else {optimizer.lr:g}; AdamW: {ADAMW['lr']:g}; with --signal recurrent: {BASE['lr']:g}]"
    assert rates in (found["lr"].help or "")
    assert f"with --signal recurrent: {STREAMS}]" in (found["batch"].help or "")
    assert choices(found["optimizer"]) == list(KINDS)
    assert f"every {COMMIT_EVERY_S / 60:g} minutes" in (found["commit_every"].help or "")
    assert f"every {EVAL_EVERY_S / 60:g} minutes" in (found["eval_every"].help or "")
    fields = {field.name for field in dataclasses.fields(TrainOptions)} - {"on_step", "progress", "say", "command"}
    assert fields <= set(found)


def test_the_widths_that_build_names_are_the_librarys() -> None:
    text = options("build-graph")["width"].help or ""
    assert text.endswith(f"[default: {BASE_WIDTH}; with another --signal than recurrent: {WIDTH}]")
