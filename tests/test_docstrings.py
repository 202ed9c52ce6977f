"""Every public name has a docstring, and the mathematics gives the shape or the type of its arrays."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import sifu_cli
import sifu_store

import sifu_graph

PACKAGES = (sifu_store, sifu_graph, sifu_cli)
RUN = {"sifu_cli.__main__"}  # imported, it runs the program
SHAPE = re.compile(r"\[|shape|float32|float64|int64|int32|bool", re.IGNORECASE)


def modules(package: ModuleType) -> Iterator[ModuleType]:
    yield package
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if found.name not in RUN:
            yield importlib.import_module(found.name)


def public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Functions, classes, methods and properties that the module defines; a command of click is its own page."""
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(value):
            yield name, value
            for method, member in vars(value).items():
                plain = getattr(member, "__func__", member)
                if not method.startswith("_") and (inspect.isfunction(plain) or isinstance(member, property)):
                    yield f"{name}.{method}", getattr(value, method)
        elif inspect.isfunction(value):
            yield name, value


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_every_public_name_has_a_docstring(package: ModuleType) -> None:
    """A method that overrides one with a docstring inherits it (`inspect.getdoc`)."""
    missing = []
    for module in modules(package):
        if not module.__doc__:
            missing.append(module.__name__)
        missing += [f"{module.__name__}.{name}" for name, value in public(module) if not inspect.getdoc(value)]
    assert missing == []


def test_the_mathematics_gives_shapes() -> None:
    """Public functions of `sifu_graph.ops` with arrays among their parameters or as their result."""
    silent = []
    for module in modules(importlib.import_module("sifu_graph.ops")):
        for name, value in public(module):
            if not inspect.isfunction(value) or "." in name:
                continue
            annotations = " ".join(map(str, value.__annotations__.values()))
            if re.search(r"Tensor|NDArray|Ints|Floats|Doubles", annotations) and not SHAPE.search(
                inspect.getdoc(value)
            ):
                silent.append(f"{module.__name__}.{name}")
    assert silent == []
