"""A result that a notebook shows as a page, in a frame. It knows frames; it does not know what is on the page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape

from sifu_store.errors import SifuError
from sifu_store.short_repr import fields_html

FRAME_HEIGHT = 720  # pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class WithPage:
    """Base of a result with a page."""

    page: Callable[[], str | None] | None = field(default=None, repr=False, compare=False)
    """Makes the page; it returns None where the graph is not what it was."""

    def _repr_html_(self) -> str:
        """The page in a frame of its own, which notebooks show; or the fields, where there is no page."""
        try:
            page = None if self.page is None else self.page()
        except SifuError:  # such as of a graph that is closed
            page = None
        if page is None:
            return fields_html(self)
        style = f"width: 100%; height: {FRAME_HEIGHT}px; border: 0"
        title = type(self).__name__
        return f'<iframe title="{title}" sandbox="allow-scripts" style="{style}" srcdoc="{escape(page)}"></iframe>'
