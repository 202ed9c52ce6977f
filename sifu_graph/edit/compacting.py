"""Rows as one run of slots each, and how all pages are stored.

The module knows slots and pages; it does not know commits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sifu_store.errors import OptionError
from sifu_store.page_codecs import PageCodec, require_library

from sifu_graph.edit import prune_grow
from sifu_graph.edit.working_copy import WorkingCopy


def compact(
    copy: WorkingCopy, *, precision: str | None, codec: str | None, note: Callable[[str], None]
) -> tuple[dict[str, Any], PageCodec | None]:
    """Stores every row as one run of slots. Returns fields of `CompactReport`, and how all pages are to be stored.

    The latter is None if that does not change. ``note`` gets what was done, in words. Raises as `Edit.compact`.
    """
    before = copy.old.page_codec
    after = before.with_changes(precision, codec)
    require_library(after.codec)
    if after != before and copy.pairs is not None:
        raise OptionError("`precision`, `codec`: the edges of this graph share a base, so no page is stored")
    slots, runs, pages = copy.slots, prune_grow.runs(copy), int(copy.edges.page_values().sum())
    if slots != copy.private or runs != int((copy.index.row_sizes() > 0).sum()):
        copy.compact()
        note(f"compact: {slots - copy.slots:,} slots freed, {prune_grow.runs(copy):,} runs instead of {runs:,}")
    if after != before:
        copy.touched()
        note(f"compact: pages stored as {after}, before as {before}")
    found: dict[str, Any] = {
        "slots_before": slots,
        "slots_after": copy.slots,
        "runs_before": runs,
        "runs_after": prune_grow.runs(copy),
        "bytes_freed": (pages - int(copy.edges.page_values().sum())) * copy.page_bytes(),
        "precision": after.precision,
        "codec": after.codec,
    }
    if after == before:
        return found, None
    return found | {"pages_written": int(copy.edges.page_values().sum())}, after
