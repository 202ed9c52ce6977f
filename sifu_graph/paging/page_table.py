"""Which page is in which frame, which pages changed, and which page is evicted next.

It knows page and frame numbers; it does not know what a page contains or where it comes from.

**Order of eviction**: first the page whose sources are rarest in the corpus; of equal ones, the least recently used.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sifu_graph.arrays import Bools, Doubles, Ints, distinct


class PageTable:
    """The page table of a pool.

    Parameters
    ----------
    pages
        Number of pages.
    frames
        Number of frames. None: the pool is *resident*: every page has its own frame, the one with its number.
    reads : float64 [pages]
        How often a token of the corpus reads each page. None: all equal.

    Attributes
    ----------
    frame_of : int64 [pages]
        Frame of each page, or -1.
    page_of : int64 [frames]
        Page in each frame, or -1; empty if the pool is resident.
    dirty : bool [pages]
        Pages that differ from the store, wherever their newest values are.
    changed : bool [pages]
        Pages in a frame that differ from the place where they were loaded from.
    last_use : int64 [pages]
        Value of the clock when the page was last used.
    moves
        Grows when a page gets or loses a frame.
    missing
        Number of pages without a frame.
    page_reads, page_writes : int64 [pages]
        How often each page was loaded into a frame, and written to the spill file or by a commit.
    """

    def __init__(self, pages: int, frames: int | None = None, *, reads: Doubles | None = None) -> None:
        self.pages = pages
        self.resident = frames is None
        self.frames = pages if frames is None else frames
        self.reads: Doubles = np.zeros(pages) if reads is None else reads
        self.frame_of: Ints = np.full(pages, -1)
        self.page_of: Ints = np.full(0 if self.resident else self.frames, -1)
        self.dirty: Bools = np.zeros(pages, bool)
        self.changed: Bools = np.zeros(pages, bool)
        self.last_use: Ints = np.zeros(pages, np.int64)
        self.clock = 0
        self.moves = 0
        self.missing = pages
        self.page_reads: Ints = np.zeros(pages, np.int64)
        self.page_writes: Ints = np.zeros(pages, np.int64)
        self._least: tuple[int, float] = -1, 0.0  # see `_least_read`

    # ---- looking up

    def use(self, pages: Ints) -> Ints:
        """Marks pages [k] as used now. Returns those of them without a frame, in the same order."""
        self.clock += 1
        self.last_use[pages] = self.clock
        return self.absent(pages)

    def absent(self, pages: Ints) -> Ints:
        """Those of the pages [k] that have no frame, in the same order."""
        return pages[self.frame_of[pages] < 0]

    def places(self, slots: Ints, page_edges: int, beyond: int) -> Ints:
        """Places of slots [k] in the arrays: in the frames, or from ``beyond`` on for pages without a frame."""
        away = self.frame_of < 0
        ahead = np.where(away, beyond, (self.frame_of - np.arange(self.pages)) * page_edges)
        return slots + ahead[slots // page_edges]

    # ---- changes

    def assign(self, pages: Ints, frames: Ints) -> None:
        """Gives absent pages [k] these empty frames [k]."""
        self.frame_of[pages] = frames
        self.moves += 1
        if not self.resident:
            self.page_of[frames] = pages
        self.missing -= len(pages)

    def release(self, pages: Ints) -> None:
        """Takes the frames of pages [k] away. Their changes must be saved."""
        self.page_of[self.frame_of[pages]] = -1
        self.frame_of[pages] = -1
        self.changed[pages] = False
        self.moves += 1
        self.missing += len(pages)

    def touch(self, pages: Ints) -> None:
        """Marks pages [k] as about to change, where they are: in a frame or in the spill file."""
        self.dirty[pages] = True
        self.changed[pages] = self.frame_of[pages] >= 0

    # ---- policy

    def free_frames(self, most: int) -> Ints:
        """At most this many empty frames, ascending."""
        return np.flatnonzero(self.page_of < 0)[:most]

    def victims(self, needed: int, *, used: Ints, pinned: Ints | None) -> Ints:
        """The pages [needed] to evict, ascending; none of the used and the pinned ones."""
        evictable = np.zeros(self.pages, bool)
        evictable[self.page_of[self.page_of >= 0]] = True
        evictable[used] = False
        if pinned is not None:
            evictable[pinned] = False
        held = np.flatnonzero(evictable)
        assert len(held) >= needed, "more pages are pinned than there are frames"
        order = np.lexsort((self.last_use[held], self.reads[held]))
        return np.sort(held[order[:needed]])

    def worth_a_frame(self, absent: Ints, *, pinned: Ints) -> Ints:
        """Those of the absent pages [k], ascending, that a frame is empty for or that the corpus reads more often than
        the page that they replace; a pinned page is not replaced."""
        if not len(absent) or self.reads[absent].max() <= self._least_read():
            return absent[:0]
        welcome = absent[np.argsort(-self.reads[absent], kind="stable")]
        held = self.page_of[self.page_of >= 0]
        rivals = np.full(self.frames - len(held), -1.0)  # of an empty frame
        rivals = np.append(rivals, np.sort(self.reads[np.setdiff1d(held, pinned)]))[: len(welcome)]
        worth = self.reads[welcome[: len(rivals)]] > rivals  # falling against rising: the first ones are
        return np.sort(welcome[: int(worth.sum())])

    def _least_read(self) -> float:
        """The smallest ``reads`` of a page in a frame; -1 while frames are empty."""
        if self._least[0] != self.moves:
            full = bool((self.page_of >= 0).all())
            self._least = self.moves, float(self.reads[self.page_of].min()) if full else -1.0
        return self._least[1]

    def batches(self, pages: Ints) -> Iterator[Ints]:
        """The distinct pages, in batches (each ascending) of at most half of the frames; the most read pages first."""
        pages = distinct(pages)
        pages = pages[np.argsort(-self.reads[pages], kind="stable")]
        most = max(1, self.frames // 2)
        for begin in range(0, len(pages), most):
            yield np.sort(pages[begin : begin + most])
