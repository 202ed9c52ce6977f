"""The columns of the edges of a working copy. The module knows their names and types; it does not know values."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sifu_store.layout import COUNT, ENERGY, ORIGIN, SOURCE, TARGET, USAGE

Columns = dict[str, NDArray[Any]]


class EdgeValue(IntEnum):
    """Where the parameters and the optimizer state of an edge are (see `working_copy`)."""

    STORED = 0
    GENERATED = 1
    NEW = 2


VALUE, ROW = "value", "row"
"""Columns of the table of edges that the store does not have."""

FREE: dict[str, tuple[Any, int]] = {
    SOURCE: (np.int32, -1),
    TARGET: (np.int32, -1),
    COUNT: (np.int64, 0),
    USAGE: (np.int64, 0),
    ORIGIN: (np.int32, -1),
    ENERGY: (np.float32, 0),
    VALUE: (np.int8, EdgeValue.GENERATED),
    ROW: (np.int64, -1),
}
"""The dtype of each column, and its value in a free slot."""
