"""Verification of a graph: of the snapshot that its store reads, and of what makes it a graph.

This module knows which parts a graph has; each part checks itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sifu_store.arrays import Damage
from sifu_store.errors import StoreError
from sifu_store.reading import StoreReader
from sifu_store.verify import VerifyReport

from sifu_graph.settings import checked
from sifu_graph.soundness import faults, not_finite


def verify(store: StoreReader, *, progress: Callable[[int, int], None] | None = None) -> VerifyReport:
    """Read and check every array and every stored page of a snapshot: readable, consistent, finite, and a graph.

    Parameters
    ----------
    store
        The open store of the graph.
    progress
        Called with the number of chunks read so far and in all.

    Returns
    -------
    VerifyReport
        All damage; that of settings has the array "settings".
    """
    report = store.verify(progress=progress, check=not_finite)
    return replace(report, damage=(*report.damage, *_graph_damage(store)))


def _graph_damage(store: StoreReader) -> list[Damage]:
    """Faults of settings, tokenizer and tables, where those can be read."""
    try:
        settings = checked(store.settings)
        contents = {name: store.read(name) for name in store.names() if not store.is_paged(name)}
    except ValueError as error:
        return [Damage("settings", None, None, str(store.path), str(error))]
    except StoreError:  # unreadable arrays are in the report already
        return []
    return [Damage(name, None, None, str(store.path), reason) for name, reason in faults(contents, settings)]
