"""Which arrays and chunks differ between two snapshots, by what the commits between them wrote."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import icechunk
import numpy as np

from sifu_store.errors import StoreDamagedError
from sifu_store.history import Lineage, Writes, writes_between
from sifu_store.layout import BIAS, WEIGHT


def writes_apart(
    repository: icechunk.Repository, lineage: Lineage, first: str, second: str
) -> tuple[Writes, ...] | None:
    """What was written to each of two snapshots since the last one that both descend from.

    Returns None if this cannot be determined, because a commit between them was deleted.
    """
    behind = {commit.snapshot for commit in lineage.ancestry(first)}
    common = next((commit.snapshot for commit in lineage.ancestry(second) if commit.snapshot in behind), None)
    if common is None:
        return None
    found = [writes_between(repository, common, snapshot) for snapshot in {first, second} - {common}]
    known = tuple(writes for writes in found if writes is not None)
    return known if len(known) == len(found) else None


def changed_arrays(repository: icechunk.Repository, lineage: Lineage, first: str, second: str) -> frozenset[str] | None:
    """The names of the arrays that may differ between two snapshots.

    Returns None if this cannot be determined: one of them, or a commit between them, was deleted.
    """
    try:
        apart = writes_apart(repository, lineage, first, second)
    except StoreDamagedError:  # the file of a snapshot is not there
        return None
    return None if apart is None else frozenset[str]().union(*(each.arrays for each in apart))


def changed_chunks(
    repository: icechunk.Repository, lineage: Lineage, first: str, second: str
) -> dict[str, set[int]] | None:
    """The chunks (indices along the first axis, by array) that may differ between two snapshots.

    Returns None if this cannot be determined: a commit between them was deleted, or a paged array was replaced.
    """
    apart = writes_apart(repository, lineage, first, second)
    if apart is None or any(writes.replaced & {WEIGHT, BIAS} for writes in apart):
        return None
    changed: dict[str, set[int]] = {}
    for writes in apart:
        for name, chunks in writes.chunks.items():
            changed.setdefault(name, set()).update(chunks)
    return changed


def pages_of(chunks: Mapping[str, Iterable[int]], paged: Iterable[str], *, pages: int) -> np.ndarray:
    """bool [pages]: the pages whose chunks of paged arrays (by name) are among ``chunks``."""
    found = np.zeros(pages, bool)
    for name in paged:
        found[[chunk for chunk in chunks.get(name, ()) if chunk < pages]] = True
    return found
