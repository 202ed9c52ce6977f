"""A text that is typed as an argument or comes from standard input."""

from __future__ import annotations

import os
import sys

import click


def read_text(ctx: click.Context, given: str | None, *, what: str) -> str:
    """A text: text in UTF-8, as the files of a corpus are.

    Parameters
    ----------
    given
        The argument; None or ``-``: standard input, without the line end at its end.
    what
        What messages call it.
    """
    from sifu_store.errors import CorpusError

    from sifu_graph.text.text_blocks import decode_text

    if given is None or given == "-":
        if sys.stdin is None or (given is None and sys.stdin.isatty()):  # only stdout is redirected
            raise click.UsageError(f"no {what}: give one as an argument, or pipe a text to stdin", ctx)
        content = sys.stdin.buffer.read()
        content = content.removesuffix(b"\n").removesuffix(b"\r")
    else:
        content = os.fsencode(given)  # the bytes that were typed, whatever the locale makes of them
    try:
        return decode_text(content, name=f"the {what}")
    except CorpusError as error:
        raise click.UsageError(str(error), ctx) from None
