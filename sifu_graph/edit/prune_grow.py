"""Prune and grow: which private edges of a working copy become default edges, and which default edges private ones.

It knows edges, counts and budgets; it does not know slots and pages (`working_copy`), nor commits (`session`).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sifu_store.errors import OptionError
from sifu_store.layout import USAGE

from sifu_graph.arrays import Ints
from sifu_graph.edge_index import private_edge_budget
from sifu_graph.edit.edges import make_private
from sifu_graph.edit.nodes import note_pairs
from sifu_graph.edit.pairs import counted_rows
from sifu_graph.edit.rest_energy import Rest
from sifu_graph.edit.working_copy import WorkingCopy
from sifu_graph.text.pair_counts import PairCounts

By = Literal["count", "energy", "usage"]
CRITERIA: tuple[By, ...] = ("count", "energy", "usage")


def to_prune(copy: WorkingCopy, *, to_ratio: float | None, min_count: int | None, by: By) -> Ints:
    """The slots of the private edges that become default edges.

    First those that occurred less than ``min_count`` times; then the least useful until ``to_ratio`` of all n * n
    pairs is private. ``by`` says what is useful: the ``count`` in the text, the ``energy`` at rest over the default
    edge's, or the ``usage`` in training. Of equals the one with the greater count stays,
    then the one with the smaller (u, v).

    Raises
    ------
    OptionError
        Neither limit is given, the ratio is above the present one, or usage was never recorded.
    """
    if to_ratio is None and min_count is None:
        raise OptionError("say how far to prune: give `to_ratio` or `min_count`")
    if by not in CRITERIA:
        raise OptionError(f"`by` is {by!r}: expected one of {', '.join(CRITERIA)}")
    if min_count is not None and min_count < 1:
        raise OptionError(f"`min_count` is {min_count}: it must be at least 1")
    index = copy.index
    useful = usefulness(copy, by)
    order = np.lexsort((np.arange(index.edges), -index.count, -useful))  # the most useful first
    keep = np.ones(index.edges, bool)
    if min_count is not None:
        keep &= index.count >= min_count
    if to_ratio is not None:
        if not 0 <= to_ratio <= 1:
            raise OptionError(f"`to_ratio` is {to_ratio}: expected a number from 0 to 1")
        allowed = private_edge_budget(to_ratio, copy.n)
        if allowed > index.edges:
            raise OptionError(
                f"`to_ratio` is {to_ratio:g}, but only {index.edges / copy.n**2:.4g} of all pairs are private: "
                "name a smaller ratio (`grow()` adds edges)"
            )
        ranked = order[keep[order]]
        keep[ranked[allowed:]] = False
    slots: Ints = index.slot[~keep]
    return slots


def usefulness(copy: WorkingCopy, by: By) -> NDArray[np.float64]:
    """What each private edge is worth, in index order [edges]."""
    index = copy.index
    if by == "count":
        return index.count.astype(np.float64)
    if by == "usage":
        if not copy.edges[USAGE].any():
            raise OptionError("no usage was recorded: train the graph first, or prune by count or energy")
        return copy.edges[USAGE][index.slot].astype(np.float64)
    rest = Rest.of(copy)
    by_page = np.argsort(index.slot, kind="stable")
    out = np.empty(index.edges)
    out[by_page] = rest.of_edges(copy, index.slot[by_page])
    return out - rest.default


def grow(
    copy: WorkingCopy,
    text: PairCounts,
    *,
    own_text: bool,
    to_ratio: float | None,
    min_count: int,
    init: Literal["counts", "default"],
) -> tuple[Ints, int]:
    """Makes the default edges that a text uses most private. Returns their slots, and how many edges gave way to them.

    With ``to_ratio``, that share of all n * n pairs is the budget for old and new edges together: those that occur
    most (in the text that the graph knows, and in this one) have it, an edge that is private before one that is not.
    Without, every pair that occurs ``min_count`` times becomes private, and none gives way.

    Parameters
    ----------
    own_text
        The text is the one that the graph was built from: its counts are not added to those that the graph has.
    init
        ``counts``: an edge gets the energy that its probability asks for. ``default``: the default edge's own values,
        so that no energy changes at all.
    """
    index = copy.index
    if min_count < 1:
        raise OptionError(f"`min_count` is {min_count}: it must be at least 1")
    place = index.find(text.source.astype(np.int64), text.target.astype(np.int64))
    candidate = (place < 0) & (text.count >= min_count) & ~index.is_forbidden(text.source, text.target)
    found = np.flatnonzero(candidate)
    demoted = np.empty(0, np.int64)
    if to_ratio is not None:
        if not 0 <= to_ratio <= 1:
            raise OptionError(f"`to_ratio` is {to_ratio}: expected a number from 0 to 1")
        worth = index.count.copy()
        seen = place >= 0
        if own_text:
            worth[place[seen]] = np.maximum(worth[place[seen]], text.count[seen])
        else:
            worth[place[seen]] += text.count[seen]
        every = np.concatenate([worth, text.count[found]])
        is_new = np.arange(len(every)) >= index.edges
        order = np.lexsort((np.arange(len(every)), is_new, -every))
        kept = np.zeros(len(every), bool)
        kept[order[: private_edge_budget(to_ratio, copy.n)]] = True
        demoted = index.slot[~kept[: index.edges]]
        found = found[kept[index.edges :]]
    chosen = np.zeros(len(text), bool)
    chosen[found] = True
    if init == "counts":  # before anything is dropped: the rows tell what an edge of theirs weighs
        rows = counted_rows(copy, text, chosen, new=np.empty(0, np.int64))
        copy.drop(demoted)
        slots = copy.add(rows)
    else:
        copy.drop(demoted)
        source, target = (side[chosen].astype(np.int64) for side in (text.source, text.target))
        slots = make_private(copy, source, target, text.count[chosen])
    if not own_text:
        note_pairs(copy, slots)
    return slots, len(demoted)
