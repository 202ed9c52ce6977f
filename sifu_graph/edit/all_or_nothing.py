"""What comes before and after every change of an edit: its arguments are checked, and an error fails the whole edit."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from sifu_store.errors import OptionError

from sifu_graph.arguments import checked

C = TypeVar("C", bound=type)
REPORTS = ("node_state", "all_changes")
"""Public methods of an edit that change nothing."""


def all_or_nothing(edit: C) -> C:
    """Wraps the public methods of `edit.session.Edit`, but `REPORTS`.

    If a method raises an error, the whole edit has failed, even if the caller catches the error. After the end of the
    edit, each method raises `OptionError`.
    """
    for name, method in list(vars(edit).items()):
        if callable(method) and not name.startswith("_") and name not in REPORTS:
            setattr(edit, name, _guarded(method))
    return edit


def _guarded(method: Callable[..., Any]) -> Callable[..., Any]:
    inner = checked(method)

    @functools.wraps(method)
    def call(self: Any, *args: Any, **options: Any) -> Any:
        if self.over:
            raise OptionError(f"{method.__name__}(): this edit is over; nothing was changed: begin another one")
        try:
            return inner(self, *args, **options)
        except BaseException as error:
            self.failed = str(error)
            raise

    return call
