"""Verification of a graph: of the snapshot that its store reads, of what makes it a graph, and of its encoded texts.

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
from sifu_graph.text.encoded import damaged_token_files


def verify(store: StoreReader, *, progress: Callable[[int, int], None] | None = None) -> VerifyReport:
    """Read and check every array and every stored page of a snapshot, that they are a graph, and all encoded texts.

    Parameters
    ----------
    store
        The open store of the graph.
    progress
        Called with the number of chunks read so far and in all.

    Returns
    -------
    VerifyReport
        All damage; that of settings has the array "settings", that of encoded texts "encoded text".
    """
    report = store.verify(progress=progress, check=not_finite)
    return replace(report, damage=(*report.damage, *_graph_damage(store), *damaged_token_files(store.path / "cache")))


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
