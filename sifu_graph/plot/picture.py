"""A figure of matplotlib that a notebook shows by itself. It is imported only to draw."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.figure import Figure

from sifu_graph.plot.scheme import Scheme

DPI = 150


class Picture(Figure):
    """A `matplotlib.figure.Figure` with the numbers that it shows.

    It belongs to no window and to no global state of matplotlib. A notebook shows it where a cell ends with it.

    Attributes
    ----------
    figures
        Numbers of the picture by name; None: there is none to give.
    scheme
        Its colours.
    """

    def __init__(self, scheme: Scheme, **options: Any) -> None:
        super().__init__(dpi=DPI, layout="constrained", **options)
        self.scheme = scheme
        self.figures: dict[str, Any] = {}

    def _repr_png_(self) -> bytes:
        return self.content("png")

    def content(self, kind: str) -> bytes:
        """The picture as the content of a file: ``png``, ``svg`` or ``pdf``."""
        buffer = io.BytesIO()
        self.savefig(buffer, format=kind)
        return buffer.getvalue()
