"""The tier above the pages in memory: pages in frames of a device, where batches are computed.

A page on the device is a copy of a page of the pool in memory, which may be older: a page that changed here is written
back when it is evicted, and before a commit (`DevicePool.write_back`). A `DevicePool` *has* the pool in memory
(`EdgePool`), a `BufferPool` and a `RowPager` of its own, with the same order of eviction and the same parts; its
backing (`HostPages`) is the pool in memory. If the whole graph fits, a place is a slot and nothing is looked up.

Copies pass through two pinned buffers on a separate stream, in the background thread of the sweep: the next parts are
copied while the device works on one. A page is overwritten or read back only after the work that was launched before
its part was handed out. On the device ``cpu`` the same code runs without streams.

It does not know rows, text or formulas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sifu_graph import device as devices
from sifu_graph.arrays import Bools, Doubles, Ints, PageId, distinct
from sifu_graph.device import send
from sifu_graph.ops.contest_tiled import TiledContest
from sifu_graph.paging import device_budget
from sifu_graph.paging.buffer_pool import BufferPool
from sifu_graph.paging.cache_stats import CacheStats
from sifu_graph.paging.edge_pool import EdgePool
from sifu_graph.paging.page_table import PageTable
from sifu_graph.paging.pool import Pool
from sifu_graph.paging.row_pager import RowPager

STAGED_PAGES = 8  # pages of one of the two buffers


class Copies:
    """Copies pages between memory and a device.

    Parameters
    ----------
    device
        The device.
    shapes
        Shape [page_edges, ...] of one page, by array name.
    dtype
        Type of all arrays.

    Attributes
    ----------
    bytes_in, bytes_out
        Bytes copied to the device, and from it.
    """

    def __init__(self, device: torch.device, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> None:
        self.device, self.bytes_in, self.bytes_out = device, 0, 0
        pin = device.type == "cuda"
        self.buffers = [
            {name: torch.empty(STAGED_PAGES, *shape, dtype=dtype, pin_memory=pin) for name, shape in shapes.items()}
            for _ in range(2)
        ]
        self._stream: torch.cuda.Stream | None = None
        self._launched: torch.cuda.Event | None = None
        self._free: list[torch.cuda.Event] = []
        if pin:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._launched, *self._free = (torch.cuda.Event() for _ in range(3))  # type: ignore[no-untyped-call]
        self._turn = 0

    def mark(self) -> None:
        """Records what was launched so far: pages that later work does not use may be moved once it is done."""
        if self._launched is not None:
            self._launched.record(torch.cuda.current_stream(self.device))

    def _begin(self) -> Any:
        if self._stream is None or self._launched is None:
            return nullcontext()
        self._stream.wait_event(self._launched)
        return torch.cuda.stream(self._stream)

    def move(self, pages: list[tuple[Mapping[str, Tensor], Mapping[str, Tensor]]]) -> None:
        """Copies at most `STAGED_PAGES` pages, each from the first to the second of a pair. Does not wait."""
        turn, self._turn = self._turn, 1 - self._turn
        buffer = self.buffers[turn]
        if self._free:
            self._free[turn].synchronize()
        with self._begin():
            for k, (source, into) in enumerate(pages):
                for name, values in source.items():
                    some = buffer[name][k, : len(values)]
                    some.copy_(values)
                    into[name][: len(values)].copy_(some, non_blocking=True)
                    self.bytes_in += values.nbytes
            if self._stream is not None:
                self._free[turn].record(self._stream)

    def wait(self) -> None:
        """Waits until all copies are done."""
        if self._stream is not None:
            self._stream.synchronize()

    def fetch(self, pages: list[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
        """Copies at most `STAGED_PAGES` pages of the device to memory. The result is valid until the next call."""
        self.wait()
        with self._begin():
            out = []
            for k, page in enumerate(pages):
                found = {name: self.buffers[0][name][k, : len(values)] for name, values in page.items()}
                for name, values in page.items():
                    found[name].copy_(values, non_blocking=True)
                    self.bytes_out += values.nbytes
                out.append(found)
        self.wait()
        return out


class HostPages:
    """The backing of frames on a device: the pages of the pool in memory, through `Copies`.

    Parameters
    ----------
    host
        The pool in memory.
    copies
        Copies the pages.
    prefetch
        Whether pages are copied in the background.

    Attributes
    ----------
    in_memory
        Pages that were requested on the device and were in a frame of the memory.
    """

    def __init__(self, host: EdgePool, copies: Copies, *, prefetch: bool) -> None:
        self.host, self.copies, self.prefetch = host, copies, prefetch
        self.in_memory = 0
        self._most = STAGED_PAGES if host.resident else max(1, min(STAGED_PAGES, host.frames // 2))

    def mark(self) -> None:
        """As `Backing.mark`."""
        self.copies.mark()

    def load(self, pages: Ints, frames: Ints, arrays: Mapping[str, Tensor]) -> Ints:
        """As `Backing.load`."""
        host = self.host
        self.in_memory += int((host.table.frame_of[pages] >= 0).sum())
        for begin in range(0, len(pages), self._most):
            some, into = (x[begin : begin + self._most] for x in (pages, frames))
            host.buffer.bring(some)
            self.copies.move(
                [
                    (self._page(host.arrays, host_frame, page), self._page(arrays, frame, page))
                    for page, host_frame, frame in zip(
                        some.tolist(), host.table.frame_of[some].tolist(), into.tolist(), strict=True
                    )
                ]
            )
        self.copies.wait()
        return pages[:0]

    def save(self, pages: Ints, frames: Ints, arrays: Mapping[str, Tensor], *, changed: Bools) -> Ints:
        """As `Backing.save`."""
        self.write_back(pages[changed], frames[changed], arrays)
        return pages[:0]

    def write_back(self, pages: Ints, frames: Ints, arrays: Mapping[str, Tensor]) -> None:
        """Copies pages [k] (ascending) from their frames [k] to the memory."""
        host = self.host
        for begin in range(0, len(pages), self._most):
            some, of = pages[begin : begin + self._most], frames[begin : begin + self._most]
            found = self.copies.fetch(
                [self._page(arrays, frame, page) for page, frame in zip(some.tolist(), of.tolist(), strict=True)]
            )
            host.buffer.bring(some, fill=False)
            for page, frame, values in zip(some.tolist(), host.table.frame_of[some].tolist(), found, strict=True):
                for name, array in self._page(host.arrays, frame, page).items():
                    array.copy_(values[name])
            host.touch(some)

    def _page(self, arrays: Mapping[str, Tensor], frame: int, page: PageId) -> dict[str, Tensor]:
        """The slots of a page in a frame; the last page may have fewer than the others."""
        some = self.host.layout.slots_of(page, PageId(page + 1))
        begin = frame * self.host.page_edges
        return {name: array[begin : begin + some.stop - some.start] for name, array in arrays.items()}


class DevicePool(Pool):
    """Frames on a device, over the pool in memory.

    Parameters
    ----------
    host
        The pool in memory, with its final arrays (`EdgePool.configure`): the arrays here are the same.
    grouped
        What computes on the device.
    device_bytes
        Hard bound on the frames and on the copies of single edges.
    copied_bytes
        The part of it that the copies may take.
    prefetch
        Whether pages are copied in the background.

    Raises
    ------
    DeviceMemoryError
        The bound is below the least that works.
    """

    def __init__(
        self, host: EdgePool, grouped: TiledContest, *, device_bytes: int, copied_bytes: int = 0, prefetch: bool = True
    ) -> None:
        self.host, self.grouped, self._bytes, self._copied = host, grouped, device_bytes, copied_bytes
        self._host_buffer, layout, device = host.buffer, host.layout, grouped.device
        frames = max(0, device_bytes - copied_bytes) // layout.page_bytes
        self._frames = None if frames >= layout.pages else frames
        self._reads: Doubles | None = None
        largest_row_pages = 1
        if self._frames is not None:
            self._reads, largest_row_pages = host.know_rows()
            least_bytes = host.least_bytes() + copied_bytes
            if device_bytes < least_bytes:
                raise device_budget.least_error(device_bytes, least_bytes, copied_bytes)
        table = self._empty_table()
        arrays = {
            name: torch.zeros(table.frames * layout.page_edges, *shape, dtype=layout.dtype, device=device)
            for name, shape in layout.shapes.items()
        }
        page_shapes = {name: (layout.page_edges, *shape) for name, shape in layout.shapes.items()}
        self.copies = Copies(device, page_shapes, layout.dtype)
        self.host_pages = HostPages(host, self.copies, prefetch=prefetch)
        self.buffer = BufferPool(layout, table, arrays, self.host_pages, stats=CacheStats(), device=device)
        self.rows = RowPager(self.buffer, largest_row_pages=largest_row_pages)

    def _empty_table(self) -> PageTable:
        return PageTable(self.host.pages, self._frames, reads=self._reads)

    def fits(self, host: EdgePool, grouped: TiledContest, *, device_bytes: int, copied_bytes: int) -> bool:
        """Whether a new pool with these parameters would be equal to this one."""
        return (
            (self.host, self._bytes, self._copied) == (host, device_bytes, copied_bytes)
            and self._host_buffer is host.buffer
            and (self.grouped.device, self.grouped.precision) == (grouped.device, grouped.precision)
        )

    def close(self) -> None:
        """Frees the device's memory. What was not written back is lost."""
        self.rows.close()
        self.buffer.close()
        self.copies.buffers = []

    def write_back(self) -> None:
        """Copies what changed to the pool in memory. The pages keep their frames here."""
        table = self.table
        self.copies.mark()
        changed = np.flatnonzero(table.changed)
        self.host_pages.write_back(changed, table.frame_of[changed], self.arrays)
        table.changed[:] = False
        table.dirty[:] = False

    def forget(self) -> None:
        """Drops every page, since those in memory were changed. No page may be dirty here."""
        assert not self.table.dirty.any(), "changes would be lost"
        self.buffer.table = self._empty_table()
        self.stats.reset()

    # ---- single edges

    def stage(self, slots: Ints, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """As `Pool.stage`."""
        names = list(self.arrays) if names is None else list(names)
        here, away, place = self._whereabouts(slots)
        out = {name: self.arrays[name].new_zeros(len(slots), *self.arrays[name].shape[1:]) for name in names}
        if len(away):
            into = send(away, self.device)
            for name, values in self.host.stage(slots[away], names).items():
                out[name][into] = send(values, self.device)
        if len(here):
            into = send(here, self.device)
            for name, values in out.items():
                values[into] = self.arrays[name][place]
        return out

    def unstage(self, slots: Ints, values: Mapping[str, Tensor]) -> None:
        """As `Pool.unstage`."""
        here, away, place = self._whereabouts(slots)
        if len(here):
            of = send(here, self.device)
            for name, value in values.items():
                self.arrays[name][place] = value[of].to(self.layout.dtype)
            self.touch(distinct(slots[here] // self.page_edges))
        if len(away):
            of = send(away, self.device)
            self.host.unstage(slots[away], {name: value[of].cpu() for name, value in values.items()})

    def _whereabouts(self, slots: Ints) -> tuple[Ints, Ints, Tensor]:
        """Which slots have a frame here, which have none, and the places of the former on the device."""
        held = self.table.frame_of[slots // self.page_edges] >= 0
        here = np.flatnonzero(held)
        place = slots[here] if self.resident else self.buffer.places(slots[here])
        return here, np.flatnonzero(~held), send(place, self.device)

    def report(self) -> dict[str, float | int]:
        """As `Pool.report`: the figures of the pool in memory, and those of this one with the prefix ``device_``."""
        stats = self.stats
        overall = (stats.hits + self.host_pages.in_memory) / stats.requests if stats.requests else 1.0
        return {
            **self.host.report(),
            "device_hit_rate": stats.hit_rate,
            "overall_hit_rate": overall,
            "device_requests": stats.requests,
            "device_hits": stats.hits,
            "device_evicted": stats.evicted,
            "device_stall_s": stats.stall_s,
            "device_bytes_in": self.copies.bytes_in,
            "device_bytes_out": self.copies.bytes_out,
            "device_pool_bytes": self.buffer.frame_bytes,
            "device_used_bytes": self.buffer.used_bytes,
            "device_peak_bytes": devices.peak_bytes(self.device),
        }
