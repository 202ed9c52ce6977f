"""What the commands share in parsing: the options that every command has, numbers with limits, and command
lines spelled out again. No import here is heavy.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from sifu_cli.screen import warn

if TYPE_CHECKING:
    from sifu_graph.graph import Graph

DEFAULT_STORE = "graph.sifu"
HUGE = 2**63
NOT_LOGGED = ("store", "quiet", "as_json", "yes", "plot", "dry_run", "host_memory", "device_memory", "scratch", "stats")

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _store(ctx: click.Context, param: click.Parameter, value: str | None) -> Path:
    """The command's own, else the one before the command, else $SIFU_STORE, else ./graph.sifu."""
    if value is None and ctx.parent is not None:
        before: Path | None = ctx.parent.params.get("store")
        if before is not None:
            return before
    return Path(value or os.environ.get("SIFU_STORE") or DEFAULT_STORE)


def _quiet(ctx: click.Context, param: click.Parameter, value: Any) -> bool:
    return bool(value) or (ctx.parent is not None and bool(ctx.parent.params.get("quiet")))


def store_option(function: _Function) -> _Function:
    """``--store PATH``."""
    return click.option(
        "--store",
        metavar="PATH",
        callback=_store,
        help="The graph.  [default: $SIFU_STORE, else ./graph.sifu]",
    )(function)


def quiet_option(function: _Function) -> _Function:
    """``-q``, ``--quiet``."""
    return click.option("-q", "--quiet", is_flag=True, callback=_quiet, help="Only results, warnings and errors.")(
        function
    )


def json_option(function: _Function) -> _Function:
    """``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="The result as JSON on stdout, nothing else there.")(
        function
    )


def memory_options(function: _Function) -> _Function:
    """``--host-memory SIZE``, ``--scratch DIR``, ``--device NAME``, ``--device-memory SIZE`` and ``--stats``."""
    for option in (
        click.option("--stats", is_flag=True, help="Say on stderr what the cache did."),
        click.option(
            "--scratch",
            type=click.Path(path_type=Path),
            metavar="DIR",
            help="Where pages go that leave memory before a commit.  [default: in the store's folder]",
        ),
        click.option(
            "--precision",
            metavar="NAME",
            default="float32",
            help="Of matrix products on a GPU: float32, tf32 or bf16.  [default: float32]",
        ),
        click.option(
            "--device-memory",
            metavar="SIZE",
            help="Memory of the device for the edges. It changes no result.  "
            "[default: what they need, or most of what is free]",
        ),
        click.option(
            "--device", metavar="NAME", default="cpu", help="Where it computes: cpu, cuda or cuda:N.  [default: cpu]"
        ),
        click.option(
            "--host-memory",
            metavar="SIZE",
            help="Memory for the edges: 512MiB, 2GB, 50%. It changes no result.  "
            "[default: what they need, or most of what is free]",
        ),
    ):
        function = option(function)
    return function


def looking_option(function: _Function) -> _Function:
    """``--host-memory SIZE``, of commands that look at a few rows."""
    return click.option(
        "--host-memory",
        metavar="SIZE",
        help="Memory for the edges. It changes no result.  [default: 256MiB, or the least that works]",
    )(function)


def dry_run_option(function: _Function) -> _Function:
    """``--dry-run``."""
    return click.option("--dry-run", is_flag=True, help="Say what it would do, and change nothing.")(function)


def at_option(function: _Function) -> _Function:
    """``--at SNAPSHOT``."""
    return click.option(
        "--at",
        metavar="SNAPSHOT",
        help="The graph as it was then: HEAD, a branch, a tag or the beginning of an id, each with ~N for the N-th "
        "commit before it.  [default: HEAD]",
    )(function)


class Number(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.5
    """A whole or a decimal number within limits; neither NaN nor infinity.

    Parameters
    ----------
    kind
        `int` or `float`.
    least, most
        The limits, both allowed.
    above, below
        The limits, neither allowed.
    """

    def __init__(
        self,
        kind: type[int] | type[float],
        *,
        least: float | None = None,
        most: float | None = None,
        above: float | None = None,
        below: float | None = None,
    ) -> None:
        self.kind, self.least, self.most, self.above, self.below = kind, least, most, above, below
        self.name = "N" if kind is int else "X"

    @property
    def expected(self) -> str:
        """The limits in words."""
        kind = "a whole number" if self.kind is int else "a number"
        words = {"from": self.least, "above": self.above, "to": self.most, "and below": self.below}
        return " ".join([kind, *(f"{word} {limit:g}" for word, limit in words.items() if limit is not None)]) + (
            " on" if self.least is not None and self.most is None and self.below is None else ""
        )

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | float:
        try:
            number = self.kind(str(value).replace(",", ""))
        except ValueError:
            number = None
        if (
            number is None
            or not -HUGE < number < HUGE  # neither is NaN
            or (self.least is not None and number < self.least)
            or (self.most is not None and number > self.most)
            or (self.above is not None and number <= self.above)
            or (self.below is not None and number >= self.below)
        ):
            self.fail(f"{value} is not {self.expected}", param, ctx)
        return number


class NumberOr(click.ParamType):  # type: ignore[type-arg]
    """A number, or a word that stands for None."""

    def __init__(self, word: str, number: Number) -> None:
        self.word, self.number = word, number
        self.name = f"{word}|{number.name}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | float | str:
        if value == self.word:
            return self.word
        try:
            return self.number.convert(value, None, ctx)
        except click.BadParameter:
            self.fail(f"{value} is neither {self.word} nor {self.number.expected}", param, ctx)


def spelled(ctx: click.Context, *, without: Collection[str] = (), more: Mapping[str, str] | None = None) -> str:
    """The command line, as it can be typed again: ``train --steps 5 poems.txt``.

    Parameters
    ----------
    without
        Names of parameters that are left out.
    more
        Options (with their dashes) that are added, and their values.
    """
    options: list[str] = []
    arguments: list[str] = []
    for param in ctx.command.params:
        name = param.name or ""
        if name in without or ctx.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        value = ctx.params[name]
        if isinstance(param, click.Argument):
            arguments += [str(each) for each in (value if isinstance(value, tuple) else (value,))]
        elif isinstance(param, click.Option) and param.is_flag:
            options.append(max(param.opts, key=len))
        else:
            several = isinstance(param, click.Option) and param.multiple
            for each in value if several else (value,):
                options += [max(param.opts, key=len), *map(str, each if isinstance(each, tuple) else (each,))]
    for option, text in (more or {}).items():
        options += [option, text]
    if any(argument.startswith("-") and argument != "-" for argument in arguments):
        arguments.insert(0, "--")
    return " ".join(_quoted(word) for word in [ctx.info_name or "", *options, *arguments])


def _quoted(word: str) -> str:
    """A word as a shell takes it. `shlex.quote` would put every letter that is not English in quotes."""
    return word if re.fullmatch(r"[\w@%+=:,./-]+", word) else shlex.quote(word)


def logged(ctx: click.Context) -> str:
    """The command line, as the history of the store keeps it."""
    return spelled(ctx, without=NOT_LOGGED)


@contextmanager
def opened(
    store: Path,
    *,
    at: str | None = None,
    host_memory: str | None = None,
    modest: bool = False,
    scratch: Path | None = None,
    device: str = "cpu",
    device_memory: str | None = None,
    precision: str = "float32",
) -> Iterator[Graph]:
    """The graph at a path, or an older snapshot of it. A fallback to an older snapshot is said."""
    from sifu_graph.graph import Graph

    with Graph.open(
        store, at=at, host_memory=host_memory, modest=modest, scratch=scratch, device=device,
        device_memory=device_memory, precision=precision,
    ) as graph:  # fmt: skip
        if graph.warning:
            warn(graph.warning)
        yield graph
