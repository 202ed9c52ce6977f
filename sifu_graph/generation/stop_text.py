"""Ends a text before the first of some stop texts, while the text comes in pieces.

What may be the beginning of a stop text is held back until it is known. The module knows text alone.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopText:
    """What of a text that comes in pieces can be shown.

    Parameters
    ----------
    stops
        The text ends before the first of these that occurs; none of them is empty.

    Attributes
    ----------
    found
        Whether a stop text occurred.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self.found = False
        self._stops, self._held = tuple(stops), ""

    def push(self, text: str, *, last: bool = False) -> str:
        """Adds a piece. Returns what can be shown; ``last``: no piece follows."""
        if not self._stops:
            return text
        self._held += text
        places = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if places:
            self.found = True
            out, self._held = self._held[: min(places)], ""
            return out
        keep = 0 if last else max(_overlap(self._held, stop) for stop in self._stops)
        out, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return out


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of a text that is a beginning of the stop text, and not all of it."""
    return next((k for k in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:k])), 0)
