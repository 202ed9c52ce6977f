"""The edges of a graph in memory, within a budget.

An `EdgePool` *has* a `BufferPool` (frames), its backing (`PageSource`, and `SpilledPages` under a budget) and a
`RowPager`; `EdgePool.configure` exchanges them. Here single edges are copied out and back wherever their page is, and
commits find what changed. It knows slots and pages; it does not know tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sifu_store.durable import format_bytes
from sifu_store.errors import HostMemoryError
from sifu_store.layout import BIAS, PAGE_EDGES, WEIGHT
from torch import Tensor

from sifu_graph.arrays import MAX_RUN, Bools, Doubles, Ints, PageId, distinct, is_first, runs
from sifu_graph.edge_index import EdgeIndex
from sifu_graph.ops.initial import EdgeInitializer
from sifu_graph.paging import budget
from sifu_graph.paging.buffer_pool import BufferPool
from sifu_graph.paging.cache_stats import CacheStats
from sifu_graph.paging.mapped_array import MappedArray
from sifu_graph.paging.page_layout import PageLayout
from sifu_graph.paging.page_source import SHORT_RUN, PageReader, PageSource
from sifu_graph.paging.page_table import PageTable
from sifu_graph.paging.pool import Pool
from sifu_graph.paging.row_pager import RowPager
from sifu_graph.paging.spill_file import SpillFile, enough_space, pieces_of
from sifu_graph.paging.spilled_pages import SpilledPages

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class _Settings:
    """What `EdgePool.configure` sets, besides the arrays that the store holds."""

    layout: PageLayout
    host_bytes: int | None = None  # of the frames; None: every page has a frame
    folder: Path | None = None
    copied_bytes: int = 0
    changed_pages: int | None = None  # most pages that change; None: all


class EdgePool(Pool):
    """Every paged array of the graph, in memory.

    Parameters
    ----------
    initial
        Generates the pages that were never trained.
    slots
        Number of slots in the store.
    stored : bool [pages]
        Pages that the store holds; `read` reads them. None: none.
    rows
        Called once a budget is set: how often a token of the corpus reads each page (float64 [pages]), and the number
        of pages of the largest row; see `row_pages`. None: all equal, and one page.
    dtype
        Type of all arrays.
    page_edges
        Slots of a page.

    Attributes
    ----------
    source
        Where pages come from that are not in memory or in the spill file.
    """

    def __init__(
        self,
        initial: EdgeInitializer,
        *,
        slots: int,
        stored: Bools | None = None,
        read: PageReader | None = None,
        rows: Callable[[], tuple[Doubles, int]] | None = None,
        dtype: torch.dtype = torch.float32,
        page_edges: int = PAGE_EDGES,
    ) -> None:
        self.initial = initial
        d = initial.width
        self._bare = PageLayout({WEIGHT: (d, d), BIAS: (d,)}, slots, page_edges, dtype)  # without an optimizer's state
        self._read_rows = rows
        self._reads: Doubles = np.zeros(self._bare.pages)
        self._largest_row_pages = 1
        self.stored = np.zeros(self._bare.pages, bool) if stored is None else stored
        self._read, self._prefetch = read, True
        self._settings: _Settings | None = None
        self._lay_out(_Settings(self._bare))

    # ---- how much memory, for which arrays

    def configure(
        self,
        *,
        state: Mapping[str, tuple[int, ...]] | None = None,
        kept: Sequence[str] = (),
        host_bytes: int | None = None,
        copied_bytes: int = 0,
        folder: Path | None = None,
        changed_pages: int | None = None,
    ) -> None:
        """Sets the arrays that page together and the memory that they may take. No page may be dirty.

        Parameters
        ----------
        state
            Optimizer state: names, and shapes per edge. It is zero where the store holds none.
        kept
            Those of them that the store holds, for the pages that are stored.
        host_bytes
            Hard bound on the frames and on the copies of single edges; None: every page has a frame.
        copied_bytes
            The part of it that the copies may take.
        folder
            Folder of the spill file; needed with a bound.
        changed_pages
            Pages that change until the next call, at most: the disk must have space for them. None: all.

        Raises
        ------
        HostMemoryError
            The bound is below the least that works.
        OptionError
            The spill file cannot be made or mapped.
        DiskFullError
            There is no space for the spill file.
        """
        layout = self._with_state(state or {})
        if host_bytes is not None:
            self.know_rows()
        if host_bytes is not None and host_bytes >= layout.pages * layout.page_bytes:
            host_bytes = None
        if host_bytes is not None:
            least_bytes = self.least_bytes(state or {}) + copied_bytes
            if host_bytes < least_bytes:
                raise HostMemoryError(
                    f"`host_memory` is {format_bytes(host_bytes)}: the least that works here is "
                    f"{format_bytes(least_bytes)}, of which {format_bytes(copied_bytes)} depend on `batch`"
                )
            host_bytes -= copied_bytes
        settings = _Settings(layout, host_bytes, folder, copied_bytes, changed_pages)
        if settings == self._settings and set(kept) == self.source.kept - {WEIGHT, BIAS}:
            return
        assert not self.table.dirty.any(), "changes would be lost"
        before = None
        if self._settings is not None and self.resident and host_bytes is None and not kept:
            before = self.table, {name: self.arrays[name] for name in (WEIGHT, BIAS)}  # they can stay in memory
        self._prefetch = self.prefetch
        self._settings = None
        self.close()
        self._lay_out(settings, kept=kept, before=before)

    def _lay_out(
        self,
        settings: _Settings,
        *,
        kept: Sequence[str] = (),
        before: tuple[PageTable, dict[str, Tensor]] | None = None,
    ) -> None:
        layout, stats = settings.layout, CacheStats()
        self.source = PageSource(
            layout,
            self.initial,
            stored=self.stored,
            read=self._read,
            kept={WEIGHT, BIAS, *kept},
            resident=settings.host_bytes is None,
            stats=stats,
            prefetch=self._prefetch,
        )
        if settings.host_bytes is None:
            table = PageTable(layout.pages, reads=self._reads)
            arrays = {
                name: MappedArray(layout.slots, shape, layout.dtype).rows for name, shape in layout.shapes.items()
            }
            if before is not None:
                table.frame_of, table.missing = before[0].frame_of, before[0].missing
                arrays |= before[1]
            self.buffer = BufferPool(layout, table, arrays, self.source, stats=stats, device=CPU)
        else:
            table = PageTable(layout.pages, settings.host_bytes // layout.page_bytes, reads=self._reads)
            spilled = self._spill(settings, table, stats)
            arrays = {name: memory.rows for name, memory in spilled.memory.items()}
            self.buffer = BufferPool(layout, table, arrays, spilled, stats=stats, device=CPU, spilled=spilled)
        self.rows = RowPager(self.buffer, largest_row_pages=self._largest_row_pages)
        self._settings = settings

    def _spill(self, settings: _Settings, table: PageTable, stats: CacheStats) -> SpilledPages:
        layout, folder = settings.layout, settings.folder
        assert folder is not None
        edge_bytes = list(layout.edge_bytes.values())
        file = SpillFile(folder, edge_bytes, pages=layout.pages, page_edges=layout.page_edges)
        try:
            if layout.shapes != self._bare.shapes:  # in training the file must have space for what changes
                pages = min(layout.pages, settings.changed_pages or layout.pages)
                enough_space(file, pages * layout.page_bytes + settings.copied_bytes)
            places = table.frames * layout.page_edges
            with file.mapping():
                memory = {
                    name: MappedArray(places, shape, layout.dtype, behind=file.behind(number))
                    for number, (name, shape) in enumerate(layout.shapes.items())
                }
        except BaseException:
            file.close()
            raise
        return SpilledPages(self.source, file, memory, stats=stats)

    def _with_state(self, state: Mapping[str, tuple[int, ...]] | None) -> PageLayout:
        """The arrays with this state of an optimizer; None: the current arrays."""
        if state is None:
            return self.layout
        bare = self._bare
        return PageLayout({**bare.shapes, **state}, bare.slots, bare.page_edges, bare.dtype)

    def know_rows(self) -> tuple[Doubles, int]:
        """How often a token of the corpus reads each page (float64 [pages]), and the pages of the largest row."""
        if self._read_rows is not None:
            self._reads, self._largest_row_pages = self._read_rows()
            self._read_rows = None
        return self._reads, self._largest_row_pages

    def page_bytes(self, state: Mapping[str, tuple[int, ...]] | None = None) -> int:
        """Bytes of one page of all arrays, with this state of an optimizer. None: the current arrays."""
        return self._with_state(state).page_bytes

    def least_bytes(self, state: Mapping[str, tuple[int, ...]] | None = None) -> int:
        """The smallest budget of the frames, in bytes; ``state`` as in `page_bytes`."""
        return budget.least_bytes(self._bare.pages, self.know_rows()[1], self.page_bytes(state))

    def close(self) -> None:
        """Ends the background thread, and frees the memory and the disk space of the spill file."""
        self.rows.close()
        if self.buffer.spilled is not None:
            self.buffer.spilled.close()
        self.buffer.close()

    # ---- single edges

    def stage(self, slots: Ints, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """As `Pool.stage`. A page gets a frame, or is written to the spill file, only if the store alone holds it."""
        names = list(self.arrays) if names is None else list(names)
        if self.resident:
            self.require(slots)
            at = torch.from_numpy(slots)
            return {name: self.arrays[name][at] for name in names}
        spilled, table = self.buffer.spilled, self.table
        assert spilled is not None
        out = {name: torch.zeros(len(slots), *self.arrays[name].shape[1:], dtype=self.layout.dtype) for name in names}
        page = slots // self.page_edges
        away, in_file, stored = table.frame_of[page] < 0, spilled.in_file[page], self.stored[page]
        self._stage_located(np.flatnonzero(~away | in_file), slots, out)
        fresh = np.flatnonzero(away & ~in_file & ~stored)
        for some in np.array_split(fresh, -(-len(fresh) // self.page_edges)) if len(fresh) else []:
            for name in names:
                values = self.source.generated(name, slots[some])
                if values is not None:
                    out[name][some] = torch.from_numpy(values).to(self.layout.dtype)
        unread = np.flatnonzero(away & ~in_file & stored)
        for pages in table.batches(page[unread]):
            self.buffer.admit(table.absent(pages), pages)
            self._stage_located(unread[np.isin(page[unread], pages)], slots, out)
        return out

    def unstage(self, slots: Ints, values: Mapping[str, Tensor]) -> None:
        """As `Pool.unstage`."""
        page = slots // self.page_edges
        if self.resident:
            self.require(slots)
        spilled, table = self.buffer.spilled, self.table
        away = table.frame_of[page] < 0
        in_file = away & spilled.in_file[page] if spilled is not None else np.zeros_like(away)
        absent = np.flatnonzero(away & ~in_file)
        self._put_held(np.flatnonzero(~away), slots, values)
        if spilled is not None and in_file.any():
            spilled.write_edges(np.flatnonzero(in_file), slots, values)
            table.dirty[page[in_file]] = True
            table.moves += 1  # a `KnownRow` must not continue to read the old pages
        for pages in table.batches(page[absent]):
            self.buffer.bring(pages)
            self._put_held(absent[np.isin(page[absent], pages)], slots, values)

    def _stage_located(self, which: Ints, slots: Ints, out: Mapping[str, Tensor]) -> None:
        """Copies rows ``which`` of edges whose pages are in frames or in the spill file."""
        assert self.buffer.spilled is not None
        held = self.table.frame_of[slots[which] // self.page_edges] >= 0
        for some in pieces_of(which[held]):
            at, into = torch.from_numpy(self.buffer.places(slots[some])), torch.from_numpy(some)
            for name, values in out.items():
                values[into] = self.arrays[name][at]
        self.buffer.spilled.read_edges(which[~held], slots, out)

    def _put_held(self, which: Ints, slots: Ints, values: Mapping[str, Tensor]) -> None:
        if len(which):
            at, of = torch.from_numpy(self.buffer.places(slots[which])), torch.from_numpy(which)
            for name, value in values.items():
                self.arrays[name][at] = value[of].to(self.layout.dtype)
            self.touch(distinct(slots[which] // self.page_edges))

    # ---- what a commit writes

    def dirty_runs(self) -> list[tuple[PageId, PageId]]:
        """Runs of dirty pages, as (first, page after the last)."""
        if self.buffer.spilled is not None:
            self.buffer.spilled.settle()
        return runs(np.flatnonzero(self.table.dirty), most=MAX_RUN if self.resident else SHORT_RUN)

    def values(self, name: str, first: PageId, stop: PageId) -> NDArray[np.float32]:
        """An array's values [k, ...] of the k slots of the pages first .. stop - 1, wherever they are.

        Raises
        ------
        StoreDamagedError
            The spill file cannot be read.
        """
        array, some, edges = self.arrays[name], self.layout.slots_of(first, stop), self.page_edges
        if self.resident:
            out: NDArray[np.float32] = array[some].numpy()
            return out
        assert self.buffer.spilled is not None
        out = np.empty(((stop - first) * edges, *array.shape[1:]), array.numpy().dtype)
        for k in range(stop - first):
            page, piece = PageId(first + k), out[k * edges : (k + 1) * edges]
            frame = int(self.table.frame_of[page])
            if frame >= 0:
                piece[:] = array[frame * edges : (frame + 1) * edges].numpy()
            else:
                self.buffer.spilled.read_page(name, page, piece)
        return out[: some.stop - some.start]

    def mark_stored(self) -> None:
        """Notes that the store now holds every dirty page, of every array: after a commit."""
        table = self.table
        self.source.mark_stored(table.dirty)
        table.page_writes += table.dirty
        if self.buffer.spilled is not None:
            self.buffer.spilled.mark_stored(table.changed)
        table.changed[:] = False
        table.dirty[:] = False

    def report(self) -> dict[str, float | int]:
        """As `Pool.report`."""
        stats = self.stats
        if self.buffer.spilled is not None:
            self.buffer.spilled.count_bytes()
        written = stats.scratch_bytes_written + stats.store_bytes_written
        return {
            "hit_rate": stats.hit_rate,
            **{name: getattr(stats, name) for name in stats.__slots__},
            "write_amplification": written / stats.store_bytes_written if stats.store_bytes_written else 0.0,
            "host_pool_bytes": self.buffer.frame_bytes,
            "host_used_bytes": self.buffer.used_bytes,
        }


def row_pages(pages: int, index: EdgeIndex, total: Ints, *, page_edges: int = PAGE_EDGES) -> tuple[Doubles, int]:
    """How often a token of the corpus reads each page (float64 [pages]), and the number of pages of the largest row.

    ``total`` are the transitions out of every node, int64 [n].
    """
    reads, largest = np.zeros(pages), 1
    share = total / max(1, int(total.sum()))
    for rows in index.row_blocks():
        edges = index.places_of(rows)
        page, source = (
            index.slots(edges) // page_edges,
            np.repeat(np.arange(rows.start, rows.stop), index.row_sizes()[rows]),
        )
        turn = np.flatnonzero(is_first(page) | is_first(source))
        page, source = np.divmod(distinct(page[turn] * index.nodes + source[turn]), index.nodes)
        reads += np.bincount(page, weights=share[source], minlength=pages)
        largest = max(largest, int(np.bincount(source).max(initial=0)))
    return reads, largest
