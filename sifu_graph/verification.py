"""Verification of a graph: of the snapshot that its store reads, and of the encoded text beside it.

This module knows which parts a graph has; each part checks itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sifu_store.reading import StoreReader
from sifu_store.verify import VerifyReport

from sifu_graph.text.encoded import damaged_token_files


def verify(store: StoreReader, *, progress: Callable[[int, int], None] | None = None) -> VerifyReport:
    """Read and check every array and every stored page of a snapshot, and all encoded texts.

    Parameters
    ----------
    store
        The open store of the graph.
    progress
        Called with the number of chunks read so far and in all.

    Returns
    -------
    VerifyReport
        All damage; that of encoded texts has the array "encoded text".
    """
    report = store.verify(progress=progress)
    return replace(report, damage=(*report.damage, *damaged_token_files(store.path / "cache")))
