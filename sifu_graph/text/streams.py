"""Documents as parallel streams: windows that follow one another, for models that carry a state along the text.

It knows node ids and documents; it does not know models.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sifu_graph.arrays import Bools, Ids, Ints
from sifu_graph.text.clone_tree import CloneTree
from sifu_graph.text.encoded import Split

MOST_PAST = 1024
"""Tokens before a position that a model may look back to."""


@dataclass(frozen=True, slots=True)
class Window:
    """A piece of every stream: B streams of T tokens.

    Attributes
    ----------
    token
        int32 [B, T].
    source
        int32 [B, T]: the token, or its clone after the tokens before.
    target
        int32 [B, T]: the next token of the document; -1 at its last token and in padding.
    restart
        bool [B, T]: the token begins a document or its stream, so that no state comes in.
    place
        int64 [B, T]: where the token is in the text.
    past
        int32 [B, `MOST_PAST` + T]: the tokens of the text before the window, and those of the window.
    reach
        int32 [B, T]: how many of the tokens before it are in its document, at most `MOST_PAST`.
    """

    token: Ids
    source: Ids
    target: Ids
    restart: Bools
    place: Ints
    past: Ids
    reach: Ids


def windows(
    split: Split, *, streams: int, steps: int, first: int = 0, clones: CloneTree | None = None
) -> Iterator[Window]:
    """Cuts a text into streams of equal length and yields their windows, from the beginning to the end.

    Every token but the last one of each document is a target once, whatever the number of streams: a stream that
    begins within a document begins with the last token of the stream before it. The last window is padded.

    Parameters
    ----------
    split
        The documents, at least two tokens.
    streams, steps
        B and T, each at least 1. Fewer streams are used for a text with fewer pairs of neighbours.
    first
        Number of the first window that is yielded.
    clones
        The clones that may be sources. None: none.
    """
    begins = split.begins()
    places, streams, length = _sizes(split, streams)
    begin = np.arange(streams) * length
    for step in range(first * steps, length, steps):
        within = step + np.arange(steps)
        at = np.minimum(begin[:, None] + within, places - 1)
        real = (within < length) & (begin[:, None] + within < places)
        token = split.ids[at].astype(np.int32)
        source = token if clones is None or not len(clones) else clones.sources_at(split.ids, begins, at)
        target = np.where(real & ~begins[at + 1], split.ids[at + 1].astype(np.int32), np.int32(-1))
        past = split.ids[np.clip(at[:, :1] + np.arange(-MOST_PAST, steps), 0, split.tokens - 1)]
        document = split.offsets[np.searchsorted(split.offsets, at, side="right") - 1]
        yield Window(
            token=token,
            source=source.astype(np.int32),
            target=target,
            restart=begins[at] | (within == 0),
            place=at,
            past=past.astype(np.int32),
            reach=np.minimum(at - document, MOST_PAST).astype(np.int32),
        )


def window_count(split: Split, *, streams: int, steps: int) -> int:
    """Number of windows of one pass."""
    return -(-_sizes(split, streams)[2] // steps)


def _sizes(split: Split, streams: int) -> tuple[int, int, int]:
    """Places of a text (a place is a token with the one after it), streams, and places of a stream."""
    places = split.tokens - 1
    streams = max(1, min(streams, places))
    return places, streams, -(-places // streams)
