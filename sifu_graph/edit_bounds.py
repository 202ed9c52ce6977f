"""Bounds of edits: their amounts, and the values that they give. The module knows numbers alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sifu_store.errors import OptionError

MOST = 1e6
"""Of the amount of an edit, and of what edits give a parameter or an energy: far above what decides any choice."""


def require_amount(value: float, name: str, unit: str = "") -> None:
    """Raise `OptionError` if the amount of an edit, its parameter ``name``, is beyond `MOST`."""
    if not abs(value) <= MOST:
        raise OptionError(f"`{name}` is {value:g}: it must be -{MOST:,.0f} to {MOST:,.0f}{unit}")


def require_bounded(values: NDArray[Any], name: str) -> None:
    """Raise `OptionError` if an edit would give one of some values [...] beyond `MOST`; NaN: it is generated."""
    if np.abs(np.nan_to_num(values, nan=0.0, posinf=np.inf, neginf=-np.inf)).max(initial=0.0) > MOST:
        raise OptionError(f"the edit would give {name} a value above {MOST:,.0f}: edit by less")
