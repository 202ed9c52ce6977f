"""Every public name has a docstring, and the mathematics gives the shape or the type of its arrays."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import pytest
import sifu_cli
import sifu_store

import sifu_graph
from sifu_graph import Graph
from sifu_graph.session import GraphSession

PACKAGES = (sifu_store, sifu_graph, sifu_cli)
RUN = {"sifu_cli.__main__"}  # imported, it runs the program
ARRAY = re.compile(r"Tensor|NDArray|ndarray|\b(Ints|Integers|Ids|Floats|Doubles|Reals|Bools)\b")
SHAPE = re.compile(r"\[|shape|float32|float64|int64|int32|bool", re.IGNORECASE)
REFERENCE = re.compile(r"\b[Ss]ee `")
WITH_SHAPES = ("text", "edit", "generation", "inspection", "interop", "plot")
"""Packages of `sifu_graph` in which methods are checked too."""


ADAPTED = {
    f"sifu_graph.adapters.{module}": package
    for module, package in (("lm_eval", "lm_eval"), ("llm_plugin", "llm"), ("transformers", "transformers"))
}
"""Modules for packages that may be missing."""


def modules(package: ModuleType) -> Iterator[ModuleType]:
    yield package
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if found.name not in RUN and not (ADAPTED.get(found.name) and find_spec(ADAPTED[found.name]) is None):
            yield importlib.import_module(found.name)


def function_of(member: Any) -> Any:
    """The function behind a method, a class method or a property."""
    if isinstance(member, property):
        return member.fget
    if isinstance(member, functools.cached_property):
        return member.func
    return getattr(member, "__func__", member)


def described(value: Any) -> bool:
    """Whether there is a docstring; that of a class has to be its own, not one that `dataclass` made."""
    if inspect.isclass(value):
        own = vars(value).get("__doc__") or ""
        return bool(own) and not own.startswith(f"{value.__name__}(")
    return bool(inspect.getdoc(value))


def without_shapes(module: ModuleType, *, methods: bool) -> list[str]:
    """Functions with arrays among their parameters or as their result, but no shape or type in the docstring."""
    silent = []
    for name, value in public(module):
        plain = function_of(value)
        if not inspect.isfunction(plain) or ("." in name and not methods):
            continue
        annotations = " ".join(map(str, plain.__annotations__.values()))
        text = inspect.getdoc(value) or ""
        if ARRAY.search(annotations) and not SHAPE.search(text) and not (methods and REFERENCE.search(text)):
            silent.append(f"{module.__name__}.{name}")
    return silent


def public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Functions, classes, methods and properties that the module defines; a command of click is its own page."""
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(value):
            yield name, value
            for method, member in vars(value).items():
                plain = function_of(member)
                if not method.startswith("_") and inspect.isfunction(plain):
                    yield f"{name}.{method}", getattr(value, method)
        elif inspect.isfunction(value):
            yield name, value


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_every_public_name_has_a_docstring(package: ModuleType) -> None:
    """A method that overrides one with a docstring may inherit it (`inspect.getdoc`)."""
    missing = []
    for module in modules(package):
        if not module.__doc__:
            missing.append(module.__name__)
        missing += [f"{module.__name__}.{name}" for name, value in public(module) if not described(value)]
    assert missing == []


def test_the_mathematics_gives_shapes() -> None:
    """Public functions of `sifu_graph.ops`; its classes refer to the abstract ones."""
    package = importlib.import_module("sifu_graph.ops")
    assert [name for module in modules(package) for name in without_shapes(module, methods=False)] == []


@pytest.mark.parametrize("name", [f"sifu_graph.{name}" for name in WITH_SHAPES] + ["sifu_store"])
def test_functions_and_methods_give_shapes(name: str) -> None:
    """A docstring gives the shape or the type of its arrays, or refers to one that does ("see `name`")."""
    package = importlib.import_module(name)
    assert [found for module in modules(package) for found in without_shapes(module, methods=True)] == []


FRONT = sorted(
    name
    for name in {*dir(Graph)} - {*dir(GraphSession)} | {"open"}
    if not name.startswith("_") and callable(getattr(Graph, name))
)
"""Methods of `Graph` that users call; those of `GraphSession` are for the packages."""
EXPORTED = sorted(name for name in sifu_graph.__all__ if inspect.isfunction(getattr(sifu_graph, name)))


@pytest.mark.parametrize("name", [*(f"Graph.{name}" for name in FRONT), *EXPORTED])
def test_the_help_of_what_users_call_stands_alone(name: str) -> None:
    """Every parameter is described, what comes back and what is raised too, and there is an example."""
    found = getattr(Graph, name.removeprefix("Graph.")) if name.startswith("Graph.") else getattr(sifu_graph, name)
    text = inspect.getdoc(found) or ""
    parameters = [each for each in inspect.signature(found).parameters if each not in ("self", "cls")]
    described = {each for line in re.findall(r"^\w+(?:, \w+)*$", text, re.MULTILINE) for each in line.split(", ")}
    assert [each for each in parameters if each not in described] == []
    assert re.search(r"\b[Ss]ee `[^`]", text) is None, "it refers to another page"
    sections = ["Examples", "Yields" if name == "Graph.edit" else "Returns"]
    sections += ["Parameters"] if parameters else []
    sections += ["Raises"] if name not in ("Graph.log", "Graph.to_scipy") else []
    assert [each for each in sections if f"\n{each}\n{'-' * len(each)}\n" not in text] == []
