"""How an explained text reads on a screen: one line a token, and the text in colours. It knows choices and streams."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from sifu_cli.names import readable

if TYPE_CHECKING:
    from sifu_graph.generation.choices import Choice
    from sifu_graph.generation.stream import Stream

WIDEST = 12


def print_explained(prompt: str, answer: Iterator[str], pieces: Stream) -> None:
    """Prints a line for each token of ``answer`` as it comes, then the text and what its colours mean.

    ``answer`` is the stream ``pieces``, or what goes through it.
    """
    head = f"{'token':<{WIDEST}} {'energy':>8} {'margin':>8} {'p':>7} {'rank':>6}  {'edge':<8} best"
    click.secho(head, dim=True)
    text = []
    shown = 0
    for piece in answer:
        text.append(piece)
        for choice in pieces.choices[shown:]:
            click.echo(_line(choice))
        shown = len(pieces.choices)
    for choice in pieces.choices[shown:]:
        click.echo(_line(choice))
    click.echo()
    click.secho(prompt, dim=True, nl=False)
    for part, style in _coloured("".join(text), pieces.choices):
        click.secho(part, nl=False, **style)
    click.echo()
    if pieces.choices:
        _legend(pieces.choices)


def _line(choice: Choice) -> str:
    token = _padded(readable(choice.token))
    edge = "private" if choice.private else "default"
    best = "" if choice.rank == 1 else readable(choice.best)
    p = f"{100 * choice.probability:.1f} %" if choice.probability >= 0.001 else f"{100 * choice.probability:.1g} %"
    return (
        click.style(token, **_style(choice))
        + f" {choice.energy:8.2f} {choice.margin:+8.2f} {p:>7} {choice.rank:>6,}  {edge:<8} {best}".rstrip()
    )


def _padded(token: str) -> str:
    """A token cut or filled to its column; wide characters take two cells."""
    out, cells = "", 0
    for character in token:
        wide = 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if cells + wide > WIDEST:
            break
        out, cells = out + character, cells + wide
    return out + " " * (WIDEST - cells)


def _style(choice: Choice) -> dict[str, Any]:
    if not choice.private:
        return {"fg": "red"}
    return {"fg": "green"} if choice.rank == 1 else {"fg": "yellow"}


def _coloured(text: str, choices: Iterable[Choice]) -> Iterable[tuple[str, dict[str, Any]]]:
    """The text in parts, each with the style of the choice that it came from."""
    for choice in choices:
        part, text = text[: len(choice.text)], text[len(choice.text) :]
        if part:
            yield part, _style(choice)
    if text:  # bytes that were no text when generation ended
        yield text, {}


def _legend(choices: list[Choice]) -> None:
    from statistics import median

    best = sum(choice.private and choice.rank == 1 for choice in choices)
    default = sum(not choice.private for choice in choices)
    margin = median(choice.margin for choice in choices)
    other = len(choices) - best - default
    click.echo(
        f"{len(choices):,} tokens, median margin {margin:+.2f}: "
        + click.style(f"{best:,} the best candidate", fg="green")
        + ", "
        + click.style(f"{other:,} another private edge", fg="yellow")
        + ", "
        + click.style(f"{default:,} over the default edge", fg="red")
    )
