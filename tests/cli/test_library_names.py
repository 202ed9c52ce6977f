"""Messages of the library name its parameters; the command line shows the options that stand for them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from calls import call
from sifu_cli.commands import load
from sifu_cli.library_names import FUNCTIONS, with_options
from sifu_store.errors import OptionError
from sifu_store.store import Store

from sifu_graph.graph import Graph

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("command", "message", "expected"),
    [
        ("train", "lower `batch` or `host_memory`", "lower --batch or --host-memory"),
        ("train", "pass `contexts=False`", "pass --no-contexts"),
        ("train", "`warmup_steps` is -1; `kind` is 'sgd'", "--warmup is -1; --optimizer is 'sgd'"),
        ("train", "`corpus` is empty", "CORPUS is empty"),
        ("export", "replace it with `force=True`", "replace it with --force"),
        (
            "export",
            'build one with `build_graph(signal="brillm05")`',
            "build one with sifu build-graph --signal brillm05",
        ),
        ("add-node", "`kind` is missing", "--kind is missing"),
        ("info", "give another `path`", "give another --store"),
        ("info", "`tree()` lists them; `evaluate()`", "sifu log lists them; sifu eval"),
        ("edit-edge", "forbidden: call `allow_edge()` first", "forbidden: call sifu edit-edge --allow first"),
        ("eval", "leave `with_baselines` out", "leave --baselines out"),
        (
            "eval",
            "build with a larger `build_graph(holdout=...)`",
            "build with a larger sifu build-graph --holdout ...",
        ),
        (
            "info",
            "`batch` and `no_command()` and `info(no_option=1)`",
            "`batch` and `no_command()` and `info(no_option=1)`",
        ),
        ("info", "the file `a b.txt`", "the file `a b.txt`"),
    ],
)
def test_names_become_options(command: str, message: str, expected: str) -> None:
    assert with_options(message, load(command)) == expected


def test_without_a_command_only_calls_are_replaced() -> None:
    assert with_options("`force` or `info()`", None) == "`force` or sifu info"


def test_every_function_has_a_command() -> None:
    for words in FUNCTIONS.values():
        name, *options = words.split()
        command = load(name)
        assert command is not None, words
        assert set(options) <= {option for param in command.params for option in param.opts}, words


def test_an_error_names_the_options_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object, **options: object) -> Graph:
        raise OptionError(
            "`host_memory` is 1 MiB: raise it, or lower `batch`; or create one with `build_graph(vocab=9)`"
        )

    monkeypatch.setattr(Graph, "open", fails)
    monkeypatch.setattr("sifu_store.staging.require_store", Path)
    result = call("train", "--steps", "1")
    expected = "--host-memory is 1 MiB: raise it, or lower --batch; or create one with sifu build-graph --vocab 9"
    assert (result.code, result.error) == (2, expected)


def test_a_warning_names_the_options_of_the_command(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Store.open

    def fallen_back(*args: object, **options: object) -> Store:
        store = opened(*args, **options)  # type: ignore[arg-type]
        store.recovered_from = "reading main (`switch()` changes to side); `at` selects another"
        return store

    monkeypatch.setattr(Store, "open", fallen_back)
    warning = "sifu: warning: reading main (sifu switch changes to side); --at selects another\n"
    assert call("info", "--store", built, "-q").err == warning


@pytest.mark.parametrize("package", ["store/sifu_store", "sifu_graph"])
def test_the_library_names_no_option(package: str) -> None:
    found = []
    for path in sorted((ROOT / package).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and "pip install" not in node.value:
                found += [
                    (path.name, node.lineno, option) for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", node.value)
                ]
    assert found == []
