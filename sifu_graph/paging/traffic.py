"""How often the last training read and wrote each page, for plots: a small file beside the metrics.

It knows pages and one file; it does not know what a page contains. The file is not a part of the graph: it is neither
committed nor synced, and plots omit it if it is missing.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from sifu_store.links import replacing

from sifu_graph.input_file import HEAD_BYTES, open_regular

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
    with contextlib.suppress(OSError), replacing(path) as file:
        resident = table.frame_of >= 0
        np.savez_compressed(file, reads=table.page_reads, writes=table.page_writes, resident=resident)


def read_traffic(graph_folder: Path, *, pages: int) -> Traffic | None:
    """The counters of the last training. None: there is no readable file, or it is not of this number of pages."""
    try:
        with open_regular(graph_folder / TRAFFIC) as file, np.load(file, allow_pickle=False) as found:
            members = found.zip.infolist()
            if any(member.file_size > 8 * pages + HEAD_BYTES for member in members):
                return None
            traffic = Traffic(found["reads"], found["writes"], found["resident"])
    except Exception:  # a damaged archive raises errors of many classes, and the file is for plots only
        return None
    found_kinds = [(values.shape, values.dtype.kind) for values in (traffic.reads, traffic.writes, traffic.resident)]
    return traffic if found_kinds == [((pages,), "i"), ((pages,), "i"), ((pages,), "b")] else None
