"""How much of a text is in another one: a perplexity on text that the graph was trained on says little.

The module knows encoded texts; it does not know graphs or perplexities.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from sifu_graph.text.encoded import Split

NOTED_OVERLAP = 0.1
"""Share of the evaluated tokens that are in documents of the training text, above which a note says so."""
BLOCK = 1 << 20  # tokens whose documents are hashed at a time; more, if a document is longer

Hashes = NDArray[np.uint64]


def shared_share(text: Split, others: Iterable[Split]) -> float:
    """The share (0 to 1) of the tokens of a text that are in documents which one of the others has, too.

    Documents are equal where their nodes are: by a hash of 64 bits.
    """
    if not text.tokens:
        return 0.0
    found, lengths = document_hashes(text), np.diff(text.offsets)
    same = np.zeros(len(found), bool)
    for other in others:
        same |= np.isin(found, document_hashes(other))
    return float(lengths[same].sum() / text.tokens)


def trained_note(share: float) -> str | None:
    """What is to be said of a text, a share (0 to 1) of which the graph was trained on; None: it is small."""
    if share <= NOTED_OVERLAP:
        return None
    return (
        f"{share:.0%} of the tokens are in documents that the graph was trained on: it predicts them better than other "
        "text; without a text, `evaluate()` uses what was held out"
    )


def document_hashes(split: Split) -> Hashes:
    """A hash of the nodes of each document, uint64 [documents]."""
    return np.concatenate([np.empty(0, np.uint64), *_blocks(split)])


def _blocks(split: Split) -> Iterator[Hashes]:
    offsets, first = split.offsets, 0
    while first < split.documents:
        stop = max(first + 1, int(np.searchsorted(offsets, offsets[first] + BLOCK, side="right")) - 1)
        starts = offsets[first:stop] - offsets[first]
        lengths = np.diff(offsets[first : stop + 1])
        ids = np.asarray(split.ids[offsets[first] : offsets[stop]]).astype(np.uint64)
        place = np.arange(len(ids), dtype=np.int64) - np.repeat(starts, lengths)
        sums = np.concatenate(
            [[np.uint64(0)], np.cumsum(_mixed(_mixed(place.astype(np.uint64)) + ids), dtype=np.uint64)]
        )
        ends = starts + lengths
        yield _mixed(sums[ends] - sums[starts] + lengths.astype(np.uint64))
        first = stop


def _mixed(x: Hashes) -> Hashes:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014), modulo 2**64."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
