"""Verification of a graph: of the snapshot that its store reads, of what makes it a graph, and of its encoded texts.

This module knows which parts a graph has; each part checks itself.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sifu_store.arrays import Damage
from sifu_store.consistency import Contents, Faults
from sifu_store.reading import StoreReader
from sifu_store.verify import VerifyReport

from sifu_graph.model.index_file import FOLDER as INDEX
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
        texts "copy of the text", that of the files of an index "index". ``unchecked``: what this user may not read of
        the files beside the snapshot, such as the folder of the encoded text.
    """
    with reporting(progress) as stages:
        stage = stages.stage("checking chunks", unit="chunks")
        report = store.verify(progress=stage.at, check=not_finite, further=partial(_graph_faults, store.settings))
        unchecked = _unreadable(store.path / CACHE) + _unreadable(store.path / INDEX)
        files: list[Damage] = []
        if store.path / CACHE not in unchecked:
            files += [*damaged_token_files(store.path / CACHE), *damaged_copies(store.path / CACHE)]
        if store.path / INDEX not in unchecked:
            files += damaged_indices(store)
        known = [each for each in files if not any(path.is_relative_to(each.path) for path in unchecked)]
        return replace(report, damage=(*report.damage, *known), unchecked=tuple(map(str, unchecked)))


def _unreadable(path: Path) -> list[Path]:
    """What this process may not read: a file or a folder itself, or what is in the folder."""
    folder = path.is_dir()
    if path.exists() and not os.access(path, os.R_OK | os.X_OK if folder else os.R_OK):
        return [path]
    return [found for each in sorted(path.iterdir()) for found in _unreadable(each)] if folder else []


def _graph_faults(found: dict[str, Any], contents: Contents) -> Faults:
    """Faults of settings, tokenizer and tables, where all can be read; what cannot is in the report already."""
    try:
        settings = checked(found)
    except ValueError as error:
        yield "settings", str(error)
        return
    if all(values is not None for values in contents.values()):
        yield from faults(contents, settings)
