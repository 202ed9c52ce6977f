"""Every page in memory with W in bfloat16, two bytes a number: for decoding and evaluation, which change no page.

b stays float32: it holds what was counted, and takes 1/d of the space of W. The module knows pages; it does not know
contests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from sifu_store.durable import format_bytes
from sifu_store.errors import HostMemoryError, OptionError
from sifu_store.layout import BIAS, WEIGHT
from torch import Tensor

from sifu_graph.arrays import Ints
from sifu_graph.ops.contest import ContestBackend
from sifu_graph.paging import budget
from sifu_graph.paging.buffer_pool import BufferPool
from sifu_graph.paging.cache_stats import CacheStats
from sifu_graph.paging.edge_pool import CPU, EdgePool
from sifu_graph.paging.mapped_array import MappedArray
from sifu_graph.paging.page_source import PageSource
from sifu_graph.paging.page_table import PageTable
from sifu_graph.paging.pool import Pool
from sifu_graph.paging.row_pager import RowPager


class RoundedSource(PageSource):
    """Pages from the store or the initializer, rounded to the types of the arrays that take them."""

    def load(self, pages: Ints, frames: Ints, arrays: Mapping[str, Tensor]) -> Ints:
        """As `Backing.load`. A frame of a resident pool is zero before its first use."""
        edges = self.layout.page_edges
        frame_at = dict(zip(pages.tolist(), frames.tolist(), strict=True))
        for name, page, values in self.incoming(pages):
            if values is not None:
                first = frame_at[page] * edges
                arrays[name][first : first + len(values)] = torch.from_numpy(values)
        return pages[:0]


class Bfloat16Pool(Pool):
    """The edges of a pool, read once more, with W in bfloat16.

    Parameters
    ----------
    host
        The pool: its pages that were changed since the last commit are not seen.
    grouped
        Computes contests of such rows.
    host_bytes
        Memory that the pages may take. None: what is free.

    Raises
    ------
    HostMemoryError
        They take more: they are not paged.
    """

    def __init__(self, host: EdgePool, grouped: ContestBackend, *, host_bytes: int | None = None) -> None:
        self.grouped = grouped
        self.host_buffer = host.buffer
        layout, source = host.layout, host.source
        dtypes = {WEIGHT: torch.bfloat16, BIAS: layout.dtype}
        arrays = {name: MappedArray(layout.slots, layout.shapes[name], dtype).rows for name, dtype in dtypes.items()}
        self._bytes = sum(array.nbytes for array in arrays.values())  # taken when they are filled
        left, _ = budget.budget(host_bytes, whole_bytes=self._bytes, held_bytes=0)
        if left is not None and left < self._bytes:
            raise HostMemoryError(
                f"the edges take {format_bytes(self._bytes)} with `precision` bfloat16, and may take "
                f"{format_bytes(left)}: only edges of float32 are paged, so leave `precision` out"
            )
        stats = CacheStats()
        rounded = RoundedSource(
            layout,
            host.initial,
            stored=source.stored,
            read=source.read,
            kept=source.kept,
            resident=True,
            stats=stats,
            prefetch=source.prefetch,
        )
        self.buffer = BufferPool(layout, PageTable(layout.pages), arrays, rounded, stats=stats, device=CPU)
        self.rows = RowPager(self.buffer)

    def stage(self, slots: Ints, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """As `Pool.stage`, in the type of the signal."""
        self.require(slots)
        at = torch.from_numpy(slots)
        names = list(self.arrays) if names is None else names
        return {name: self.arrays[name][at].to(self.layout.dtype) for name in names}

    def unstage(self, slots: Ints, values: Mapping[str, Tensor]) -> None:
        """As `Pool.unstage`: refused.

        Raises
        ------
        OptionError
            Always.
        """
        raise OptionError("`precision` is bfloat16: edges are only read; leave `precision` out to change them")

    def report(self) -> dict[str, float | int]:
        """As `Pool.report`."""
        stats = self.stats
        return {
            "hit_rate": stats.hit_rate,
            **{name: getattr(stats, name) for name in stats.__slots__},
            "write_amplification": 0.0,
            "host_pool_bytes": self._bytes,
            "host_used_bytes": self._bytes * (self.pages - self.missing) // max(1, self.pages),
        }

    def close(self) -> None:
        """Frees the memory."""
        self.rows.close()
        self.buffer.close()
