"""Verification of a graph: of the snapshot that its store reads, of what makes it a graph, and of its encoded texts.

This module knows which parts a graph has; each part checks itself.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from sifu_store.consistency import Contents, Faults
from sifu_store.reading import StoreReader
from sifu_store.verify import VerifyReport

from sifu_graph.model.index_file import damaged_indices
from sifu_graph.progress import ProgressOption
from sifu_graph.progress_bar import reporting
from sifu_graph.settings import checked
from sifu_graph.soundness import faults, not_finite
from sifu_graph.text.encoded import CACHE, damaged_token_files
from sifu_graph.text.kept_texts import damaged_copies


def verify(store: StoreReader, *, progress: ProgressOption = None) -> VerifyReport:
    """Read and check every array and every stored page of a snapshot, that they are a graph, and all encoded texts.

    Parameters
    ----------
    store
        The open store of the graph.
    progress
        See `progress_bar.reporting`.

    Returns
    -------
    VerifyReport
        All damage; that of settings has the array "settings", that of encoded texts "encoded text", that of copies of
        texts "copy of the text", that of the files of an index "index".
    """
    with reporting(progress) as stages:
        stage = stages.stage("checking chunks", unit="chunks")
        report = store.verify(progress=stage.at, check=not_finite, further=partial(_graph_faults, store.settings))
        cache = store.path / CACHE
        files = (*damaged_token_files(cache), *damaged_copies(cache), *damaged_indices(store.path))
        return replace(report, damage=(*report.damage, *files))


def _graph_faults(found: dict[str, Any], contents: Contents) -> Faults:
    """Faults of settings, tokenizer and tables, where all can be read; what cannot is in the report already."""
    try:
        settings = checked(found)
    except ValueError as error:
        yield "settings", str(error)
        return
    if all(values is not None for values in contents.values()):
        yield from faults(contents, settings)
