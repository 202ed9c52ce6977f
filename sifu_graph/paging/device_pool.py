"""The tier above the pages in memory: pages in frames of a device, where batches are computed.

A page on the device is a copy of one in the host's pool, which may be older: what changed here is written back when the
page has to go, and before a commit (`DevicePool.write_back`). Order of eviction, parts and sweeps are those of
`buffer_pool` and `edge_pool`; this module decides only where pages come from and go to, and how they are copied. If
the whole graph fits, a place is a slot and nothing is looked up.

Copies pass through two pinned buffers on a stream of their own, in the background thread of the sweep: the parts that
come next are copied while the device works on one. A page is overwritten or read back only after the work that
was launched before its part was handed out. On the device ``cpu`` the same code runs without streams.

It does not know rows, text or formulas.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sifu_graph import device as devices
from sifu_graph.arrays import Ints
from sifu_graph.device import send
from sifu_graph.ops.contest_tiled import TiledContest
from sifu_graph.paging import device_budget
from sifu_graph.paging.buffer_pool import CacheStats
from sifu_graph.paging.edge_pool import EdgePool, Part

STAGED_PAGES = 8  # in one of the two buffers


class Copies:
    """Pages on their way between memory and the device.

    Parameters
    ----------
    shapes
        Of one page of every array.
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
        """Says that pages may be moved for which nothing is launched from now on until they are asked for again."""
        if self._launched is not None:
            self._launched.record(torch.cuda.current_stream(self.device))

    def _begin(self) -> Any:
        if self._stream is None or self._launched is None:
            return nullcontext()
        self._stream.wait_event(self._launched)
        return torch.cuda.stream(self._stream)

    def move(self, pages: list[tuple[Mapping[str, Tensor], Mapping[str, Tensor]]]) -> None:
        """Copies at most `STAGED_PAGES` pages to the device, from (the first) to (the second). Does not wait."""
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
        """Until what was moved is there."""
        if self._stream is not None:
            self._stream.synchronize()

    def fetch(self, pages: list[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
        """At most `STAGED_PAGES` pages of the device, in memory until the next call."""
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


class DevicePool(EdgePool):
    """Frames on a device, over the pool of the host.

    Parameters
    ----------
    host
        The pool of the host, whose layout is final: this pool has the same arrays.
    device_bytes
        Hard bound on the frames and on the copies of single edges.
    copied_bytes
        What the copies may take of it.

    Raises
    ------
    DeviceMemoryError
        The bound is below the least that works.
    """

    def __init__(
        self, host: EdgePool, grouped: TiledContest, *, device_bytes: int, copied_bytes: int = 0, prefetch: bool = True
    ) -> None:
        self.host, self.grouped, self._bytes, self._copied = host, grouped, device_bytes, copied_bytes
        self._host_arrays = host.arrays
        self.in_memory = 0  # pages that were asked for, not here, but in memory
        super().__init__(host.initial, slots=host.slots, dtype=host.dtype, page_edges=host.page_edges)
        self.prefetch = prefetch

    def _allocate(self) -> None:
        self._state = self.host.state
        self.device = self.grouped.device
        page_bytes = self.page_bytes()
        frames = max(0, self._bytes - self._copied) // page_bytes
        self.resident = frames >= self.pages
        if not self.resident:
            self.reads, self.largest_row_pages = self.host.know_rows()
            least_bytes = self.least_bytes() + self._copied
            if self._bytes < least_bytes:
                raise device_budget.least_error(self._bytes, least_bytes, self._copied)
        self.frames = min(frames, self.pages)
        shapes = self._shapes(self._state)
        self.arrays = {
            name: torch.zeros(self.frames * self.page_edges, *shape, dtype=self.dtype, device=self.device)
            for name, shape in shapes.items()
        }
        self.copies = Copies(
            self.device, {name: (self.page_edges, *shape) for name, shape in shapes.items()}, self.dtype
        )
        self._empty_tables()
        self._edge_bytes = page_bytes // self.page_edges

    def fits(self, host: EdgePool, grouped: TiledContest, *, device_bytes: int, copied_bytes: int) -> bool:
        """Whether this tier is what these would make."""
        return (
            (self.host, self._bytes, self._copied) == (host, device_bytes, copied_bytes)
            and self._host_arrays is host.arrays
            and (self.grouped.device, self.grouped.precision) == (grouped.device, grouped.precision)
        )

    def close(self) -> None:
        """Gives the device's memory back. What was not written back is gone."""
        super().close()
        self.copies.buffers = []

    # ---- where pages come from and go to

    def _page(self, arrays: Mapping[str, Tensor], frame: int, page: int) -> dict[str, Tensor]:
        """A page's slots in a frame."""
        begin, edges = frame * self.page_edges, min(self.page_edges, self.slots - page * self.page_edges)
        return {name: array[begin : begin + edges] for name, array in arrays.items()}

    def _handful(self) -> int:
        """Pages that are brought into memory at a time on their way here."""
        return STAGED_PAGES if self.host.resident else max(1, min(STAGED_PAGES, self.host.frames // 2))

    def _fill(self, pages: Ints, frames: Ints) -> None:
        self.in_memory += int((self.host.frame_of[pages] >= 0).sum())
        for begin in range(0, len(pages), self._handful()):
            some, into = (x[begin : begin + self._handful()] for x in (pages, frames))
            self.host.bring(some)
            self.copies.move(
                [
                    (self._page(self.host.arrays, self.host.frame_of[page], page), self._page(self.arrays, frame, page))
                    for page, frame in zip(some.tolist(), into.tolist(), strict=True)
                ]
            )
        self.copies.wait()

    def _evict(self, victims: Ints) -> None:
        self._return(victims[self.changed[victims]])
        self.page_of[self.frame_of[victims]] = -1
        self.frame_of[victims] = -1
        self.changed[victims] = False
        self.missing += len(victims)
        self.stats.evicted += len(victims)

    def _return(self, pages: Ints) -> None:
        """Writes pages (ascending) back to memory."""
        for begin in range(0, len(pages), self._handful()):
            some = pages[begin : begin + self._handful()]
            found = self.copies.fetch([self._page(self.arrays, self.frame_of[page], page) for page in some.tolist()])
            self.host.bring(some, fill=False)
            for page, values in zip(some.tolist(), found, strict=True):
                for name, array in self._page(self.host.arrays, self.host.frame_of[page], page).items():
                    array.copy_(values[name])
            self.host.touch(some)

    def write_back(self) -> None:
        """Brings the host's pages up to date. They stay here too."""
        self.copies.mark()
        self._return(np.flatnonzero(self.changed))
        self.changed[:] = False
        self.dirty[:] = False

    def forget(self) -> None:
        """Drops every page, since the host's were changed. Nothing may be dirty here."""
        assert not self.dirty.any(), "changes would be lost"
        self._empty_tables()

    # ---- what `EdgePool` does

    def require(self, slots: Ints) -> None:
        """As `BufferPool.require`."""
        if self.missing:
            self.copies.mark()
            super().require(slots)

    def sweep(
        self, parts: Sequence[Part], *, upcoming: Ints | None = None, in_file: Sequence[str] = ()
    ) -> Iterator[Part]:
        """As `EdgePool.sweep`, but every page comes into a frame."""
        inner = super().sweep(parts, upcoming=upcoming)
        try:
            for _ in parts:
                self.copies.mark()  # the part before is launched
                yield next(inner)
        finally:
            inner.close()  # type: ignore[attr-defined]

    def stage(self, slots: Ints, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """As `EdgePool.stage`: copies on the device [k, ...]."""
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
        """As `EdgePool.unstage`, from values on the device."""
        here, away, place = self._whereabouts(slots)
        if len(here):
            of = send(here, self.device)
            for name, value in values.items():
                self.arrays[name][place] = value[of].to(self.dtype)
            self.touch(np.unique(slots[here] // self.page_edges))
        if len(away):
            of = send(away, self.device)
            self.host.unstage(slots[away], {name: value[of].cpu() for name, value in values.items()})

    def _whereabouts(self, slots: Ints) -> tuple[Ints, Ints, Tensor]:
        """Which slots are here, which are not, and the places of the former."""
        page, at = np.divmod(slots, self.page_edges)
        frame = self.frame_of[page]
        here = np.flatnonzero(frame >= 0)
        place = slots[here] if self.resident else frame[here] * self.page_edges + at[here]
        return here, np.flatnonzero(frame < 0), send(place, self.device)

    def _bring_uncounted(self, pages: Ints, *, pinned: Ints) -> None:
        self.copies.mark()
        super()._bring_uncounted(pages, pinned=pinned)

    def report(self) -> dict[str, float | int]:
        """The host's figures, and with ``device_`` before them those of this tier."""
        stats: CacheStats = self.stats
        overall = (stats.hits + self.in_memory) / stats.requests if stats.requests else 1.0
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
            "device_pool_bytes": self.frame_bytes,
            "device_used_bytes": (self.pages - self.missing) * self.page_bytes(),
            "device_peak_bytes": devices.peak_bytes(self.device),
        }
