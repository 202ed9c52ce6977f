"""Counters of a pool. It knows numbers only."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(slots=True)
class CacheStats:
    """What a pool did since its memory was laid out.

    A request is one page that one part of a batch, or one row in decoding, needs.

    Attributes
    ----------
    requests, hits
        Requested pages, and those of them that were in a frame.
    from_store, from_scratch, generated
        Pages that were moved, by their source: the store, the spill file, or the values before any training.
    past_frames
        Requested pages that were read in the spill file, without a frame.
    evicted
        Pages that lost their frame.
    streamed_bytes
        Bytes of rows that were read in the spill file, without a frame.
    store_bytes_read, store_bytes_written, scratch_bytes_read, scratch_bytes_written
        Bytes read from and written to the store and the spill file.
    stall_s
        Seconds in which the computation waited for pages.
    """

    requests: int = 0
    hits: int = 0
    from_store: int = 0
    from_scratch: int = 0
    generated: int = 0
    past_frames: int = 0
    evicted: int = 0
    streamed_bytes: int = 0
    store_bytes_read: int = 0
    store_bytes_written: int = 0
    scratch_bytes_read: int = 0
    scratch_bytes_written: int = 0
    stall_s: float = 0.0

    @property
    def hit_rate(self) -> float:
        """Share of the requests that found their page in a frame; 1 without requests."""
        return self.hits / self.requests if self.requests else 1.0

    def request(self, pages: int, *, absent: int) -> None:
        """Counts requests of pages, ``absent`` of which had no frame."""
        self.requests += pages
        self.hits += pages - absent

    def reset(self) -> None:
        """Sets all counters to zero."""
        for field in fields(self):
            setattr(self, field.name, field.default)
