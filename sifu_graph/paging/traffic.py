"""How often the last training read and wrote each page, for plots: a small file beside the metrics.

It knows pages and one file; it does not know what a page contains. The file is not a part of the graph: it is neither
committed nor synced, and plots omit it if it is missing.
"""

from __future__ import annotations

import contextlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from sifu_store.links import create_beside

if TYPE_CHECKING:
    from sifu_graph.paging.page_table import PageTable

TRAFFIC = "traffic.npz"


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a training did with each page."""

    reads: NDArray[np.int64]  # [pages], how often it was loaded into a frame
    writes: NDArray[np.int64]  # [pages], how often it was written, to the spill file or by a commit
    resident: NDArray[np.bool_]  # [pages], it had a frame at the end


def write_traffic(table: PageTable, *, graph_folder: Path) -> None:
    """Writes the counters of a page table. An error of the file system is ignored: the file is for plots only."""
    path = graph_folder / TRAFFIC
    with contextlib.suppress(OSError):
        partial, file = create_beside(path)
        try:
            with file:
                resident = table.frame_of >= 0
                np.savez_compressed(file, reads=table.page_reads, writes=table.page_writes, resident=resident)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def read_traffic(graph_folder: Path, *, pages: int) -> Traffic | None:
    """The counters of the last training. None: there is no readable file, or it is not of this number of pages."""
    try:
        with np.load(graph_folder / TRAFFIC, allow_pickle=False) as found:
            traffic = Traffic(found["reads"], found["writes"], found["resident"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    shapes = {values.shape for values in (traffic.reads, traffic.writes, traffic.resident)}
    return traffic if shapes == {(pages,)} else None
