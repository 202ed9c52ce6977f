"""Options that several commands have, one decorator each. No import here is heavy."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import click

from sifu_cli.number_types import Integer
from sifu_cli.opening import Resources

DEFAULT_STORE = "graph.sifu"

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Decorator(Protocol):
    """Adds an option to the function of a command."""

    def __call__(self, function: _Function, /) -> _Function:
        """The function with the option."""


def _store(ctx: click.Context, param: click.Parameter, value: str | None) -> Path:
    """The option of the command, else the one before the command, else $SIFU_STORE, else ./graph.sifu."""
    if value is None and ctx.parent is not None:
        before: Path | None = ctx.parent.params.get("store")
        if before is not None:
            return before
    named = value or os.environ.get("SIFU_STORE") or DEFAULT_STORE
    if ":/" not in named:
        return Path(named)
    from sifu_store.places import locate  # only a URL needs it

    return locate(named)


def _quiet(ctx: click.Context, param: click.Parameter, value: Any) -> bool:
    return bool(value) or (ctx.parent is not None and bool(ctx.parent.params.get("quiet")))


store_option = click.option(
    "--store",
    metavar="PATH",
    callback=_store,
    help="Directory of the graph, or URL in a bucket: s3://BUCKET/PATH.  [default: $SIFU_STORE, else ./graph.sifu]",
)
"""``--store PATH``."""

quiet_option = click.option(
    "-q", "--quiet", is_flag=True, callback=_quiet, help="Print only results, warnings and errors."
)
"""``-q``, ``--quiet``."""

_json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout, nothing else.")


def common_options(function: _Function) -> _Function:
    """``--store``, ``--quiet`` and ``--json``: the options of every command."""
    return store_option(quiet_option(_json_option(function)))


dry_run_option = click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
"""``--dry-run``."""

yes_option = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
"""``--yes``."""

at_option = click.option(
    "--at",
    metavar="SNAPSHOT",
    help="Read this snapshot: HEAD, a branch, a tag or the first characters of an id, optionally with ~N for the N-th "
    "commit before it.  [default: HEAD]",
)
"""``--at SNAPSHOT``."""


branch_option = click.option("--branch", metavar="NAME", help="The branch to copy.  [default: the current one]")
"""``--branch NAME``, of commands that copy one."""


def force_option(help: str) -> Decorator:
    """``--force``; the help says what it replaces."""
    return click.option("--force", is_flag=True, help=help)


def seed_option(help: str, *, default: int | None = None) -> Decorator:
    """``--seed N``; the help says what it determines."""
    return click.option(
        "--seed", type=Integer(min=0), metavar="N", default=default, show_default=default is not None, help=help
    )


def host_memory_option(default: str) -> Decorator:
    """``--host-memory SIZE``; `default` says in words what is used without it."""
    return click.option(
        "--host-memory",
        metavar="SIZE",
        help="Memory of the process, without Python and its libraries: 512MiB, 2GB, 50%. It does not change the result."
        f"  [default: {default}]",
    )


def text_options(function: _Function) -> _Function:
    """Options of commands that follow one text through the graph: ``--at``, ``--host-memory``, the common ones."""
    memory = host_memory_option("256MiB for edges, or the least possible")
    return at_option(memory(common_options(function)))


def resource_options(function: _Function) -> _Function:
    """``--host-memory``, ``--device``, ``--device-memory``, ``--precision``, ``--scratch``, ``--stats``.

    The function gets all but ``--stats`` as one argument, `resources`.
    """

    @functools.wraps(function)
    def gathered(*args: Any, **options: Any) -> Any:
        resources = Resources(**{field.name: options.pop(field.name) for field in dataclasses.fields(Resources)})
        return function(*args, resources=resources, **options)

    options: tuple[Decorator, ...] = (
        click.option("--stats", is_flag=True, help="Print statistics of the page cache on stderr."),
        click.option(
            "--scratch",
            type=click.Path(path_type=Path),
            metavar="DIR",
            help="Folder for the scratch file, which holds the pages that are evicted from memory before a commit.  "
            "[default: the folder of the store]",
        ),
        click.option(
            "--precision",
            metavar="NAME",
            default="float32",
            help="On a GPU, precision of matrix products: float32, tf32 or bf16. On the CPU, bfloat16 holds the "
            "matrices of the edges in two bytes a number, to decode and evaluate.  [default: float32]",
        ),
        click.option(
            "--device-memory",
            metavar="SIZE",
            help="Memory of the device for the edges. It does not change the result.  "
            "[default: the size of all edges, or most of the free memory]",
        ),
        click.option(
            "--device", metavar="NAME", default="cpu", help="Compute device: cpu, cuda or cuda:N.  [default: cpu]"
        ),
        host_memory_option("enough for all edges, or most of the free memory for them"),
    )
    for option in options:
        option(gathered)
    return cast(_Function, gathered)
