"""The options that say how texts are read, and the corpus that a command reads. No import here is heavy."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from sifu_cli.options import Decorator
from sifu_cli.output.messages import say

if TYPE_CHECKING:
    from sifu_graph.text.corpus import Corpus

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Reading:
    """How texts are read: the parameters of the library's `Corpus`."""

    document: str | None = None
    field: str | None = None
    glob: tuple[str, ...] = ()
    skip_bad: bool = False
    everywhere: bool = False


def reading_options(
    *, default: str, field_default: str = "as in the text of the build"
) -> Callable[[_Function], _Function]:
    """``--document``, ``--field``, ``--glob``, ``--skip-bad``, ``--yes``.

    The function gets them as one argument, `reading`. ``default`` says what a document is without ``--document``, and
    ``field_default`` what ``--field`` is.
    """
    options: tuple[Decorator, ...] = (
        click.option(
            "--yes",
            "everywhere",
            is_flag=True,
            help="Read the root of a file system, or a folder below which another device is mounted.",
        ),
        click.option(
            "--skip-bad", is_flag=True, help="Leave out lines, rows and files that cannot be read, and say how many."
        ),
        click.option(
            "--glob",
            multiple=True,
            metavar="PATTERN",
            help="Of a folder, read only files that match: '*.md', 'src/*.py'. Can be repeated.  "
            "[default: every text below it]",
        ),
        click.option(
            "--field",
            metavar="NAME",
            help="The member of JSON lines, or the column of CSV, that has the text; a row of them is a document.  "
            f"[default: {field_default}]",
        ),
        click.option(
            "--document",
            metavar="UNIT",
            help="What one document is: line, paragraph (between blank lines), file or separator:STR.  "
            f"[default: {default}]",
        ),
    )

    def decorate(function: _Function) -> _Function:
        @functools.wraps(function)
        def gathered(*args: Any, **given: Any) -> Any:
            reading = Reading(**{field.name: given.pop(field.name) for field in dataclasses.fields(Reading)})
            return function(*args, reading=reading, **given)

        for option in options:
            option(gathered)
        return cast(_Function, gathered)

    return decorate


def corpus_of(files: Sequence[str], reading: Reading) -> Corpus | None:
    """The corpus of some files, checked before anything else is opened; None if none was named.

    Raises
    ------
    CorpusError, OptionError
    """
    if not files:
        if reading != Reading():
            raise click.UsageError(
                "--document, --field, --glob, --skip-bad and --yes say how a text is read: name the text",
                click.get_current_context(),
            )
        return None
    from sifu_store.errors import CorpusError

    from sifu_graph.text.corpus import Corpus

    try:
        return Corpus(files, **dataclasses.asdict(reading))
    except CorpusError as error:
        if (path := _path_in_pieces(files)) is None:
            raise
        raise CorpusError(f"{error}; put quotes around {path!r}") from None


def _path_in_pieces(files: Sequence[str]) -> str | None:
    """A path with spaces that the shell split into several arguments; None: there is none."""
    for first in range(len(files)):
        for stop in range(first + 2, len(files) + 1):
            if Path(joined := " ".join(files[first:stop])).exists():
                return joined
    return None


def say_notes(corpus: Corpus | None, *, quiet: bool) -> None:
    """Print what a folder left out, and what was skipped."""
    for note in corpus.notes if corpus is not None else ():
        say(f"note: {note}", quiet=quiet)
