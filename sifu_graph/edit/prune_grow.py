"""Prune and grow: which private edges of a working copy become default edges, and which default edges private ones.

It knows edges, counts and budgets; it does not know slots and pages (`working_copy`), nor commits (`session`).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sifu_store.errors import OptionError
from sifu_store.layout import ENERGY, USAGE

from sifu_graph.arrays import Ints
from sifu_graph.edge_index import private_edge_budget
from sifu_graph.edit.edges import make_private
from sifu_graph.edit.nodes import note_pairs
from sifu_graph.edit.pairs import counted_rows
from sifu_graph.edit.rest_energy import Rest
from sifu_graph.edit.working_copy import WorkingCopy
from sifu_graph.text.pair_counts import PairCounts, most_frequent

By = Literal["count", "energy", "usage"]
NO_EFFECT = "no probability changes: all edges share a base, and no edit gave these an energy of their own"
CRITERIA: tuple[By, ...] = ("count", "energy", "usage")


def to_prune(
    copy: WorkingCopy, *, to_ratio: float | None, min_count: int | None, by: By, node: int | None = None
) -> Ints:
    """The slots of the private edges that become default edges, int64 [k].

    Edges with a count below ``min_count`` are pruned first. Then the edges with the lowest usefulness are pruned until
    the share ``to_ratio`` of all n * n pairs is private. Among equal edges, the one with the greater count is kept,
    then the one with the smaller (u, v).

    Parameters
    ----------
    to_ratio
        Share of all n * n pairs, 0 to 1. None: no limit.
    min_count
        Occurrences in the text. None: no limit.
    by
        The measure of usefulness: ``count`` in the text, ``energy`` at rest above that of the default edge (with a
        base: how much the edge adds to it), or ``usage`` in training.
    node
        Only edges out of this node and into it are pruned. None: all.

    Raises
    ------
    OptionError
        Both ``node`` and ``to_ratio`` are given, neither limit is given, a value has no meaning, the ratio is above the
        current one, or no usage was recorded.
    """
    if to_ratio is None and min_count is None:
        raise OptionError("say how far to prune: give `to_ratio`, `min_count` or `clones`")
    if by not in CRITERIA:
        raise OptionError(f"`by` is {by!r}: expected one of {', '.join(CRITERIA)}")
    if min_count is not None and min_count < 1:
        raise OptionError(f"`min_count` is {min_count}: it must be at least 1")
    if node is not None and to_ratio is not None:
        raise OptionError("`to_ratio` is a share of all pairs: prune around one node by `min_count`")
    index = copy.index
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
        if by == "count":
            keep &= most_frequent(index.count, allowed)
        else:
            useful, count = usefulness(copy, by), index.count.astype(np.int64)
            order = np.lexsort((np.arange(index.edges), -count, -useful))  # the most useful first
            keep[order[keep[order]][allowed:]] = False
    elif by == "usage":
        _recorded_usage(copy)
    if node is not None:
        around = index.target == node
        around[index.row(node)] = True
        keep |= ~around
    slots: Ints = index.slots(np.flatnonzero(~keep))
    return slots


def _recorded_usage(copy: WorkingCopy) -> Ints:
    """How often training met each edge, int64 [slots]. Raises `OptionError` if that was not recorded."""
    usage: Ints = copy.edges.peek(USAGE)
    if not usage.any():
        raise OptionError("no usage was recorded: train the graph first, or prune by count or energy")
    return usage


def usefulness(copy: WorkingCopy, by: Literal["energy", "usage"]) -> NDArray[np.float64]:
    """The usefulness of each private edge in the order of the index, float64 [edges]. See `to_prune` for ``by``."""
    index = copy.index
    if by == "usage":
        return _recorded_usage(copy)[index.slots()].astype(np.float64)
    if copy.pairs is not None:
        added: NDArray[np.float64] = np.abs(copy.edges.peek(ENERGY)[index.slots()]).astype(np.float64)
        return added
    rest = Rest.of(copy)
    slot = index.slots()
    by_page = np.argsort(slot, kind="stable")
    out = np.empty(index.edges)
    out[by_page] = rest.of_edges(copy, slot[by_page])
    return out - rest.default


def grow(
    copy: WorkingCopy,
    text: PairCounts,
    *,
    own_text: bool,
    to_ratio: float | None,
    min_count: int,
    init: Literal["counts", "default"],
) -> tuple[Ints, int, int]:
    """Makes the default edges that a text uses most often private.

    With ``to_ratio``, that share of all n * n pairs is the budget of old and new edges together: the pairs with the
    greatest counts (in the graph's own text and this one together) are private; among equal counts, private edges come
    first. Private edges outside the budget become default edges. Without ``to_ratio``, every pair with at least
    ``min_count`` occurrences becomes private, and no edge becomes default.

    Parameters
    ----------
    text
        The counts of the text.
    own_text
        The text is the one that the graph was built from: its counts are not added to those of the graph.
    to_ratio
        Share of all n * n pairs, 0 to 1; or None.
    min_count
        At least 1.
    init
        ``counts``: the energy of an edge is computed from its probability (`pairs.counted_rows`). ``default``: the edge
        gets the parameters of the default edge, so that no energy changes.

    Returns
    -------
    slots : int64 [k]
        The slots of the new private edges.
    demoted, freed : int
        The number of private edges that became default, and the bytes of their stored matrices.

    Raises
    ------
    OptionError
        ``to_ratio`` or ``min_count`` is out of range.
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
        worth = index.count.astype(np.int64)
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
        demoted = index.slots(np.flatnonzero(~kept[: index.edges]))
        found = found[kept[index.edges :]]
    chosen = np.zeros(len(text), bool)
    chosen[found] = True
    freed = stored_bytes(copy, demoted)
    if init == "counts":  # before edges are dropped: the shares are estimated from all edges of the rows
        rows = counted_rows(copy, text, chosen, new=np.empty(0, np.int64))
        copy.drop(demoted)
        slots = copy.add(rows)
    else:
        copy.drop(demoted)
        source, target = (side[chosen].astype(np.int64) for side in (text.source, text.target))
        slots = make_private(copy, source, target, text.count[chosen])
    if not own_text:
        note_pairs(copy, slots)
    return slots, len(demoted), freed


def stored_bytes(copy: WorkingCopy, slots: Ints) -> int:
    """Bytes of the stored matrices and biases of the edges at these slots, int64 [k]."""
    return 4 * int((~copy.is_generated(slots)).sum()) * (copy.width**2 + copy.width)


def has_no_effect(copy: WorkingCopy, slots: Ints) -> bool:
    """Whether there are private edges at these slots (int64 [k]), and none of them adds anything to the base."""
    return copy.pairs is not None and len(slots) > 0 and not copy.edges.peek(ENERGY)[slots].any()


def runs(copy: WorkingCopy) -> int:
    """Runs of consecutive slots with edges of one row, in order."""
    index = copy.index
    starts = np.zeros(index.edges + 1, bool)
    starts[index.row_start] = True
    starts[1:-1] |= np.diff(index.slots()) != 1
    return int(starts[:-1].sum())
