"""The colours of pictures, on a light and on a dark background. It knows axes of matplotlib, not what they show."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

SEEN = (0.2, 0.9)
"""Between them, of 0 to 1, a colour map of matplotlib is dark enough to be seen on white, and light enough on dark."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """Colours by what they mean. Those of the dark one are the colours of the pages (``templates/common.css``).

    Attributes
    ----------
    private, default, second
        Private edges and training; the default edge and held-out text; a third quantity.
    soft
        What is beside the point, and small text.
    absent
        What is not there, in a map of cells.
    paper, ink
        Background and text; None: those of matplotlib.
    """

    private: str
    default: str
    second: str
    soft: str
    absent: str
    paper: str | None = None
    ink: str | None = None

    def colour_map(self, name: str) -> Any:
        """A colour map of matplotlib that begins near the background, and is seen on it from the least value on."""
        from matplotlib import colormaps
        from matplotlib.colors import ListedColormap

        least, most = SEEN if self.paper is None else SEEN[::-1]
        return ListedColormap(colormaps[name](np.linspace(least, most, 256)))


LIGHT = Scheme(private="#2f6f9f", default="#c8553d", second="#c98a1b", soft="#6d675b", absent="#e4dfd3")
DARK = Scheme(
    private="#82b7ec",
    default="#ff8a76",
    second="#e0b04f",
    soft="#b2ac9e",
    absent="#343944",
    paper="#15171b",
    ink="#ebe6da",
)


def paint(figure: Any, scheme: Scheme) -> None:
    """Gives a filled figure the background of a scheme, and its text and axes the colour of text.

    Text that has a colour of its own, other than matplotlib's black, keeps it.
    """
    paper, ink = scheme.paper, scheme.ink
    if paper is None or ink is None:
        return
    from matplotlib import rcParams
    from matplotlib.text import Text

    usual = {rcParams["text.color"], rcParams["axes.labelcolor"], rcParams["axes.titlecolor"]}
    figure.set_facecolor(paper)
    for axes in _all_axes(figure.axes):
        axes.set_facecolor(paper)
        axes.tick_params(which="both", colors=ink)
        for spine in axes.spines.values():
            spine.set_edgecolor(ink)
    for text in figure.findobj(Text):
        if text.get_color() in usual:
            text.set_color(ink)


def _all_axes(axes: Iterable[Any]) -> Iterable[Any]:
    """The axes, and those inside them, such as a second scale."""
    for each in axes:
        yield each
        yield from _all_axes(each.child_axes)
