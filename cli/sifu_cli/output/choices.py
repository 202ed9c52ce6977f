"""Generated text with explanations (``--explain``): one line per token, then the text in colours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from sifu_cli.output.formats import printable
from sifu_cli.output.terminal import Part, echo, echo_text, styled

if TYPE_CHECKING:
    from sifu_graph.generation.choices import Choice
    from sifu_graph.generation.stream import Stream

TOKEN_WIDTH = 12
"""Width of the column of tokens in terminal cells."""


def print_explained(prompt: str, answer: Iterator[str], pieces: Stream, *, raw: bool = False) -> None:
    """Print a line for each token while it is generated, then the text and a legend of its colours.

    Parameters
    ----------
    prompt
        The text before the generated text.
    answer
        The generated text in pieces: `pieces`, or an iterator over it.
    pieces
        The stream, which holds the choices so far.
    raw
        Print the control characters of the text unescaped; those of the tokens are always escaped.
    """
    head = f"{'token':<{TOKEN_WIDTH}} {'energy':>8} {'margin':>8} {'p':>7} {'rank':>6}  {'edge':<8} best"
    echo(styled(head, dim=True))
    text = []
    shown = 0
    for piece in answer:
        text.append(piece)
        for choice in pieces.choices[shown:]:
            echo(*_line(choice))
        shown = len(pieces.choices)
    for choice in pieces.choices[shown:]:
        echo(*_line(choice))
    echo()
    coloured = _coloured("".join(text), pieces.choices)
    echo_text(styled(prompt, dim=True), *(styled(part, **style) for part, style in coloured), raw=raw)
    if pieces.choices:
        _legend(pieces.choices)


def _line(choice: Choice) -> tuple[Part, ...]:
    token = _padded(printable(choice.token))
    edge = "private" if choice.private else "default"
    best = "" if choice.rank == 1 else printable(choice.best)
    p = f"{100 * choice.probability:.1f} %" if choice.probability >= 0.001 else f"{100 * choice.probability:.1g} %"
    return (
        styled(token, **_style(choice)),
        f" {choice.energy:8.2f} {choice.margin:+8.2f} {p:>7} {choice.rank:>6,}  {edge:<8} {best}".rstrip(),
    )


def _padded(token: str) -> str:
    """A token, filled to the width of its column if it is shorter; wide characters take two cells."""
    from rich.cells import cell_len

    return token + " " * (TOKEN_WIDTH - cell_len(token))


def _style(choice: Choice) -> dict[str, Any]:
    if not choice.private:
        return {"fg": "red"}
    return {"fg": "green"} if choice.rank == 1 else {"fg": "yellow"}


def _coloured(text: str, choices: Iterable[Choice]) -> Iterable[tuple[str, dict[str, Any]]]:
    """The text in parts, each with the style of the choice that produced it."""
    for choice in choices:
        part, text = text[: len(choice.text)], text[len(choice.text) :]
        if part:
            yield part, _style(choice)
    if text:  # from bytes that were no complete character when generation ended
        yield text, {}


def _legend(choices: list[Choice]) -> None:
    from statistics import median

    best = sum(choice.private and choice.rank == 1 for choice in choices)
    default = sum(not choice.private for choice in choices)
    margin = median(choice.margin for choice in choices)
    other = len(choices) - best - default
    echo(
        f"{len(choices):,} tokens, median margin {margin:+.2f}: ",
        styled(f"{best:,} the most probable candidate", fg="green"),
        ", ",
        styled(f"{other:,} by another private edge", fg="yellow"),
        ", ",
        styled(f"{default:,} by the default edge", fg="red"),
    )
