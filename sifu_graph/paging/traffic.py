"""What the last training did page by page, for pictures: a small file beside the metrics.

It knows pages and one file; it does not know what a page holds. The file is a note, not a part of the graph: it is
neither committed nor synced, and whoever finds none draws none.
"""

from __future__ import annotations

import contextlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sifu_graph.paging.page_table import PageTable

TRAFFIC = "traffic.npz"


@dataclass(frozen=True, slots=True)
class Traffic:
    """Of every page: how often it was brought into memory and written, and whether it was there at the end [pages]."""

    reads: NDArray[np.int64]
    writes: NDArray[np.int64]
    resident: NDArray[np.bool_]


def write_traffic(table: PageTable, *, graph_folder: Path) -> None:
    """Notes what a pool did. A folder that cannot be written to costs the picture, not the training."""
    path = graph_folder / TRAFFIC
    partial = path.with_name(f".{TRAFFIC}")
    with contextlib.suppress(OSError):
        with partial.open("wb") as file:
            np.savez_compressed(file, reads=table.page_reads, writes=table.page_writes, resident=table.frame_of >= 0)
        partial.replace(path)


def read_traffic(graph_folder: Path, *, pages: int) -> Traffic | None:
    """What the last training did; None where none is noted, or of a graph that had another number of pages."""
    try:
        with np.load(graph_folder / TRAFFIC, allow_pickle=False) as found:
            noted = Traffic(found["reads"], found["writes"], found["resident"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return noted if noted.reads.shape == noted.writes.shape == noted.resident.shape == (pages,) else None
