"""Messages of the library name its parameters; the command line shows the options that stand for them."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from calls import call
from sifu_cli.commands import GROUPS, load
from sifu_cli.library_names import FUNCTIONS, with_options
from sifu_store.errors import OptionError
from sifu_store.store import Store

import sifu_graph
from sifu_graph import OptimizerConfig, SignalConfig
from sifu_graph.edit.session import Edit
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
        ("info", "`log()` lists them; `evaluate()`", "sifu log lists them; sifu eval"),
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
        ("info", "`Store.verify()` and `Store.repair()`", "sifu verify and sifu verify --repair"),
        ("info", "`train(texts=...)`, `evaluate(texts=...)`", "sifu train CORPUS, sifu eval FILE"),
        ("train", "pass the text as `texts`", "pass the text as CORPUS"),
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
    monkeypatch.setattr("sifu_store.places.require_store", Path)
    result = call("train", "--steps", "1")
    expected = "--host-memory is 1 MiB: raise it, or lower --batch; or create one with sifu build-graph --vocab 9"
    assert (result.code, result.error) == (2, expected)


def test_every_warning_begins_as_errors_do(tmp_path: Path) -> None:
    written = [
        (path.relative_to(ROOT).as_posix(), found.value)
        for folder in ("cli", "sifu_graph", "store")
        for path in (ROOT / folder).rglob("*.py")
        for found in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(found, ast.Constant) and isinstance(found.value, str) and "warning: " in found.value
    ]
    assert [path for path, _ in written if path.startswith("cli/")] == ["cli/sifu_cli/output/messages.py"]
    assert all(text.startswith("warning: ") for _, text in written)
    text, store = tmp_path / "text.txt", tmp_path / "g.sifu"
    text.write_text("".join(f"春{chr(0x4E00 + i)}風\n" for i in range(400)), encoding="utf-8")
    assert call("build-graph", text, "--vocab", "9", "--store", store, "-q").code == 0
    warning = re.compile(r"sifu: warning: [\d.]+% of the tokens of the training text are unknown: ")
    for quiet in ([], ["-q"]):
        lines = call("train", "--steps", "1", "--store", store, *quiet).err.splitlines()
        assert len([line for line in lines if warning.match(line)]) == 1
        assert len([line for line in lines if "warning" in line]) == 1


def test_a_warning_names_the_options_of_the_command(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Store.open

    def fallen_back(*args: object, **options: object) -> Store:
        store = opened(*args, **options)  # type: ignore[arg-type]
        store.recovered_from = "reading main (`switch()` changes to side); `at` selects another"
        return store

    monkeypatch.setattr(Store, "open", fallen_back)
    warning = "sifu: warning: reading main (sifu switch changes to side); --at selects another\n"
    assert call("info", "--store", built, "-q").err == warning


CALL = re.compile(r"`((?:Store\.)?)([a-z_]\w*)\(([^`]*)\)`")


def messages(package: str) -> Iterator[tuple[str, str]]:
    """The texts of the library that are no docstrings, with their places; what they fill in is `{}`."""
    for path in sorted((ROOT / package).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            where = f"{path.name}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.JoinedStr):
                yield where, "".join(x.value if isinstance(x, ast.Constant) else "{}" for x in node.values)  # type: ignore[misc]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone | parts:
                yield where, node.value


@pytest.mark.parametrize("package", ["store/sifu_store", "sifu_graph"])
def test_a_call_in_a_message_is_one_that_the_reader_can_make(package: str) -> None:
    """In Python a method of a graph or a function of the package; in a terminal a command."""
    found = [(where, *call) for where, text in messages(package) for call in CALL.findall(text)]
    assert found
    for where, of_store, name, arguments in found:
        owners = [Store] if of_store else [Graph, Edit, sifu_graph]
        function = next((getattr(owner, name) for owner in owners if hasattr(owner, name)), None)
        assert callable(function), (where, name)
        for parameter in re.findall(r"(\w+)=", arguments):
            assert parameter in inspect.signature(function).parameters, (where, name, parameter)
        said = with_options(f"`{name}({arguments})`", None)
        assert said.startswith("sifu ") and "`" not in said, (where, said)


RECORDS = {"explorer.py", "lock.py"}
"""Modules that record command lines, for the history and for the holder of the lock: no messages."""


@pytest.mark.parametrize("package", ["store/sifu_store", "sifu_graph"])
def test_the_library_speaks_of_no_command(package: str) -> None:
    names = "|".join(re.escape(name) for group in GROUPS for name in group.modules)
    found = [(where, text) for where, text in messages(package) if re.search(rf"\bsifu ({names})\b", text)]
    assert [each for each in found if each[0].split(":")[0] not in RECORDS] == []


@pytest.mark.parametrize("package", ["store/sifu_store", "sifu_graph"])
def test_the_value_of_a_parameter_is_refused_by_its_name(package: str) -> None:
    """`` `steps` is 0``, not ``steps is 0``: else the command line cannot show its option."""
    functions = [SignalConfig, OptimizerConfig, sifu_graph.build_graph, Graph.open, *vars(Graph).values()]
    functions += [method for _, method in inspect.getmembers(Graph, inspect.isfunction)]
    parameters = {name for each in functions if callable(each) for name in inspect.signature(each).parameters}
    spelled = "|".join(sorted({name.replace("_", "[-_ ]") for name in parameters if len(name) > 1}))
    found = [(where, text) for where, text in messages(package) if re.match(rf"({spelled}) is {{}}[:;]", text)]
    assert found == []


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
    assert [each for each in found if each[0] not in RECORDS] == []


def test_notes_in_json_name_options(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("春風花月夜江水山雲人\n" * 20, encoding="utf-8")
    built = call("build-graph", tmp_path / "text.txt", "--vocab", "5", "--json", "-q")
    notes = json.loads(built.out)["notes"]
    assert any("--vocab" in note for note in notes) and not any("`" in note for note in notes)
