"""Checks of the arguments of public functions, by the annotations of their parameters.

A wrapped function refuses a value of another type, and a name that it does not have, before its work begins. Numbers of
numpy become Python's, which can be stored as JSON. The module knows Python's types; it does not know graphs.

beartype and typeguard would not do: they check but do not convert, so that both refuse numbers of numpy and take one
text for a sequence of letters, and they take 0.11 s or more to import.
"""

from __future__ import annotations

import ast
import collections.abc
import difflib
import functools
import inspect
import operator
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, ParamSpec, TypeVar, get_args, get_origin

import numpy as np
from sifu_store.errors import OptionError, OptionTypeError

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C", bound=type)

ALIASES = MappingProxyType(
    {
        "Corpora": "Corpus | str | Path | Sequence[str | Path]",
        "Say": "Callable",
        "EdgeTable": "Iterable[Mapping[str, Any]]",
        "ProgressOption": "bool | Callable | None",
    }
)
"""Names in annotations that stand for other annotations, and that modules import for the type checker alone."""


class _MismatchError(Exception):
    """A value is not of a type."""


def checked(function: Callable[P, T]) -> Callable[P, T]:
    """Wraps a function: it checks the types of its arguments by its annotations, which are texts.

    A class is looked for by its name among those of the value, so that none is imported. Where a sequence of texts is
    expected, a single text is a sequence of one: it is never taken letter by letter.

    Raises
    ------
    OptionTypeError
        From the wrapped function: a value is of another type, or there is no such parameter.
    OptionError
        From the wrapped function: a value is not one of those that the annotation lists.
    """
    return _wrapped(function, around=None)


def checked_methods(
    *, around: Callable[[Any], AbstractContextManager[None]], without: Iterable[str] = ()
) -> Callable[[C], C]:
    """A decorator of a class: as `checked` for its public methods, within ``around(self)``; not for ``without``."""

    def decorate(cls: C) -> C:
        for name, member in list(vars(cls).items()):
            if name.startswith("_") or name in without:
                continue
            if isinstance(member, classmethod):
                setattr(cls, name, classmethod(checked(member.__func__)))
            elif inspect.isfunction(member):
                setattr(cls, name, _wrapped(member, around=around))
        return cls

    return decorate


def _wrapped(
    function: Callable[P, T], *, around: Callable[[Any], AbstractContextManager[None]] | None
) -> Callable[P, T]:
    @functools.cache
    def parameters() -> tuple[inspect.Signature, dict[str, ast.expr]]:
        """The signature, and the parsed annotation of each parameter: read at the first call."""
        signature = inspect.signature(function)
        names = function.__globals__ if inspect.isfunction(function) else {}
        parsed = {name: _parsed(one.annotation, names) for name, one in signature.parameters.items()}
        return signature, {name: annotation for name, annotation in parsed.items() if annotation is not None}

    @functools.wraps(function)
    def call(*args: P.args, **options: P.kwargs) -> T:
        with nullcontext() if around is None or not args else around(args[0]):
            return checked_call(*args, **options)

    def checked_call(*args: P.args, **options: P.kwargs) -> T:
        signature, annotations = parameters()
        try:
            bound = signature.bind(*args, **options)
        except TypeError:
            _refuse_unknown(function.__name__, signature, options)
            return function(*args, **options)  # which raises Python's own error
        for name, value in bound.arguments.items():
            if (annotation := annotations.get(name)) is None:
                continue
            if signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL:
                found = [_one_of_many(function.__name__, name, one, annotation) for one in value]
                bound.arguments[name] = tuple(found)
            else:
                bound.arguments[name] = convert(name, value, annotation)
        return function(*bound.args, **bound.kwargs)

    return call


def check_fields(value: Any) -> None:
    """Checks the fields of a frozen dataclass, as `checked` does the arguments of a function: for ``__post_init__``."""
    cls: Any = type(value)
    for name, annotation in _fields(cls).items():
        before = getattr(value, name)
        if (after := convert(name, before, annotation)) is not before:
            object.__setattr__(value, name, after)


@functools.cache
def _fields(cls: Any) -> dict[str, ast.expr]:
    """The parsed annotations of the fields of a dataclass."""
    names = vars(sys.modules[cls.__module__])
    parsed = {name: _parsed(annotation, names) for name, annotation in cls.__annotations__.items()}
    return {name: annotation for name, annotation in parsed.items() if annotation is not None}


def convert(name: str, value: Any, annotation: ast.expr) -> Any:
    """The value of a parameter as one of the types of its annotation.

    Raises
    ------
    OptionError, OptionTypeError
        It is none of them.
    """
    choices = list(_choices(annotation))
    for choice in choices:
        try:
            return _as(choice, value, name)
        except _MismatchError:
            continue
    listed = [constant for choice in choices for constant in _literals(choice)]
    if isinstance(value, str) and listed:
        near = difflib.get_close_matches(value, map(str, listed), n=1)
        meant = f"did you mean {near[0]}?" if near else f"expected {_joined([str(one) for one in listed])}"
        raise OptionError(f"`{name}` is {value!r}: {meant}")
    raise OptionTypeError(f"`{name}` is {_shown(value)}: expected {_joined([_named(choice) for choice in choices])}")


def _one_of_many(function: str, name: str, value: Any, annotation: ast.expr) -> Any:
    """One of the arguments of a parameter ``*name``."""
    try:
        return convert(name, value, annotation)
    except OptionTypeError as error:
        if isinstance(value, (list, tuple)):
            raise OptionTypeError(f"{error}; pass the items of a list as {function}(*{name})") from None
        raise


def _refuse_unknown(function: str, signature: inspect.Signature, options: Mapping[str, Any]) -> None:
    """Raises `OptionTypeError` for a keyword that the function does not have."""
    known = [name for name in signature.parameters if name != "self"]
    if any(one.kind is one.VAR_KEYWORD for one in signature.parameters.values()):
        return
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            meant = f"did you mean `{near[0]}`?" if near else f"it has {', '.join(known)}"
            raise OptionTypeError(f"{function}() has no parameter {name!r}: {meant}")


def _parsed(annotation: Any, names: Mapping[str, Any]) -> ast.expr | None:
    """An annotation as an expression, in a module with these names; None: nothing is checked."""
    if not isinstance(annotation, str):
        return None
    tree = _Aliases(names).visit(ast.parse(annotation, mode="eval").body)
    return None if any(_name(choice) in ("Any", "Self") for choice in _choices(tree)) else tree


class _Aliases(ast.NodeTransformer):
    """Replaces names that stand for other annotations: those of `ALIASES`, and of a ``Literal``."""

    def __init__(self, names: Mapping[str, Any]) -> None:
        self._names = names

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """A name."""
        if node.id in ALIASES:
            return ast.parse(ALIASES[node.id], mode="eval").body
        return self._literal(self._names.get(node.id), node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        """A name in a module, such as ``prune_grow.By``."""
        module = self._names.get(getattr(node.value, "id", ""))
        return self._literal(getattr(module, node.attr, None), node)

    @staticmethod
    def _literal(found: Any, node: ast.expr) -> ast.expr:
        if get_origin(found) is not Literal:
            return node
        return ast.parse(f"Literal[{', '.join(map(repr, get_args(found)))}]", mode="eval").body


def _choices(tree: ast.expr) -> Iterable[ast.expr]:
    """The types of a union."""
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.BitOr):
        yield from _choices(tree.left)
        yield from _choices(tree.right)
    else:
        yield tree


def _name(tree: ast.expr) -> str:
    """The name of a type: ``Sequence`` of ``Sequence[str]``, ``ndarray`` of ``np.ndarray``."""
    if isinstance(tree, ast.Subscript):
        return _name(tree.value)
    return tree.attr if isinstance(tree, ast.Attribute) else getattr(tree, "id", "None")


def _literals(tree: ast.expr) -> list[Any]:
    """The values of a ``Literal[...]``."""
    if not isinstance(tree, ast.Subscript) or _name(tree) != "Literal":
        return []
    found = ast.literal_eval(tree.slice)
    return list(found) if isinstance(found, tuple) else [found]


def _as(tree: ast.expr, value: Any, name: str) -> Any:
    """The value as one type. Raises `_MismatchError`."""
    kind = _name(tree)
    if isinstance(tree, ast.Subscript) and kind in _ITEMS:
        return _sequence(tree, value, name)
    if kind == "Literal":
        for choice in _literals(tree):
            if type(choice) is type(value) and choice == value:
                return value
        raise _MismatchError
    if kind in _PLAIN:
        return _PLAIN[kind](value)
    abstract = getattr(collections.abc, kind, None)  # Mapping: dict is one, but not by inheritance
    if any(base.__name__ == kind for base in type(value).__mro__) or (abstract and isinstance(value, abstract)):
        return value
    raise _MismatchError


def _sequence(tree: ast.Subscript, value: Any, name: str) -> Any:
    """A sequence or an iterable, each item of which is checked."""
    if _name(tree) == "Iterable":  # it is checked where it is read
        return value
    if isinstance(value, (str, os.PathLike)):
        if _name(tree) == "tuple":
            raise _MismatchError
        value = [value]  # one, not its letters
    if isinstance(value, (bytes, Mapping)) or not isinstance(value, Iterable):
        raise _MismatchError
    items, kinds = list(value), tree.slice
    each = kinds.elts if isinstance(kinds, ast.Tuple) else [kinds] * len(items)
    if len(each) != len(items):
        raise _MismatchError
    found = [convert(f"{name}[{i}]", item, kind) for i, (item, kind) in enumerate(zip(items, each, strict=True))]
    return tuple(found) if isinstance(value, tuple) or _name(tree) == "tuple" else found


def _int(value: Any) -> int:
    if isinstance(value, (bool, np.bool_)):
        raise _MismatchError
    try:
        return operator.index(value)
    except TypeError:
        raise _MismatchError from None


def _float(value: Any) -> float:
    if isinstance(value, (float, np.floating)):
        return float(value)
    return _int(value)


def _bool(value: Any) -> bool:
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise _MismatchError


def _str(value: Any) -> str:
    if isinstance(value, str):
        return str(value)
    raise _MismatchError


def _path(value: Any) -> Path:
    if isinstance(value, Path):
        return value
    if isinstance(value, os.PathLike):
        return Path(value)
    raise _MismatchError


def _none(value: Any) -> None:
    if value is not None:
        raise _MismatchError


def _callable(value: Any) -> Any:
    if callable(value):
        return value
    raise _MismatchError


_PLAIN: dict[str, Callable[[Any], Any]] = {
    "int": _int,
    "float": _float,
    "bool": _bool,
    "str": _str,
    "Path": _path,
    "None": _none,
    "Callable": _callable,
}
_ITEMS = ("Sequence", "Iterable", "tuple")


def _shown(value: Any) -> str:
    """A value and its type, on one line."""
    text = " ".join(repr(value).split())
    kind = type(value).__name__
    return f"{text if len(text) <= 60 else text[:57] + '...'}, {'an' if kind[0] in 'aeio' else 'a'} {kind}"


def _named(tree: ast.expr) -> str:
    """A type as a message names it."""
    if listed := _literals(tree):
        return _joined([repr(one) for one in listed])
    kind = _name(tree)
    if kind == "None":
        return kind
    return f"{'an' if kind[0] in 'aeioAEIO' else 'a'} {ast.unparse(tree) if kind in _ITEMS else kind}"


def _joined(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else names[0]
