"""Edges from counts: which pairs of a text become private edges, and with which energies.

It knows the counts of a text and the rows of a working copy; it does not know how a text is counted
(`pair_counts`), nor which edit needs the edges (`prune_grow`, `session`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sifu_store.layout import COUNT, PAIR_DISCOUNTED, PAIR_TOTAL

from sifu_graph.arrays import Ints
from sifu_graph.edge_index import private_edge_budget
from sifu_graph.edit.columns import Columns
from sifu_graph.edit.rest_energy import Rest, log_shares
from sifu_graph.edit.working_copy import WorkingCopy
from sifu_graph.model.io import pair_discounts
from sifu_graph.text.kneser_ney import discount_of
from sifu_graph.text.pair_counts import PairCounts

Mask = NDArray[np.bool_]


def log_probabilities(copy: WorkingCopy, text: PairCounts, chosen: Mask) -> NDArray[np.float64]:
    """log p(v | u) of the pairs in the mask, float64: interpolated Kneser-Ney of the text.

    The discounts are those of the graph. ``chosen`` is bool [pairs].
    """
    taken = discount_of(text.count, copy.counts.discounts)
    source, target, count = text.source[chosen], text.target[chosen], text.count[chosen]
    discounted = np.bincount(text.source, weights=taken, minlength=text.n)
    follows = np.bincount(text.target, minlength=text.n) / max(1, len(text))
    total = np.maximum(text.row_total, 1)
    p = (count - taken[chosen] + discounted[source] * follows[target]) / total[source]
    out: NDArray[np.float64] = np.log(np.maximum(p, 1e-9))
    return out


def counted_rows(copy: WorkingCopy, text: PairCounts, chosen: Mask, *, new: Ints) -> Columns:
    """Rows (see `WorkingCopy.add`) for some pairs of a text, with energies computed from their probabilities.

    In a graph whose edges share a base, which has the counts of all pairs, a new edge adds nothing to it.

    The energy of an edge is ``default + (log p - log share) / scale``, where ``share`` is the probability of one
    default edge of its row. For a new node, ``share`` is the probability that its counts leave to default edges,
    divided by their number; for any other node it is estimated from the edges of the row (`log_shares`).

    Parameters
    ----------
    text
        The counts of the text.
    chosen
        bool [pairs]: the pairs of the text that become edges.
    new
        int64: the new nodes.
    """
    source, target, count = text.source[chosen].astype(np.int64), text.target[chosen], text.count[chosen]
    if copy.pairs is not None:
        return copy.generated(source, target.astype(np.int64), count, np.zeros(len(source)))
    rest, log_p = Rest.of(copy), log_probabilities(copy, text, chosen)
    rows, place = np.unique(source, return_inverse=True)
    shares = np.empty(len(rows))
    fresh = np.isin(rows, new)
    sizes = np.bincount(place, minlength=len(rows))
    left = np.maximum(1.0 - np.bincount(place, weights=np.exp(log_p), minlength=len(rows)), 1e-9)
    shares[fresh] = np.log(left / np.maximum(copy.n - sizes, 1))[fresh]
    shares[~fresh] = log_shares(copy, rest, rows[~fresh])
    energy = np.maximum(rest.default + (log_p - shares[place]) / rest.scale, 0.05)
    return copy.generated(source, target.astype(np.int64), count, energy)


def note_text(copy: WorkingCopy, text: PairCounts, new: Ints) -> None:
    """Sets the statistics of new nodes (int64 [k]) to those of the text."""
    taken = discount_of(text.count, copy.counts.discounts)
    copy.nodes["nodes/count"][new] = text.node_count[new]
    copy.nodes["nodes/predecessors"][new] = np.bincount(text.target, minlength=text.n)[new]
    copy.nodes["rows/total"][new] = text.row_total[new]
    copy.nodes["rows/distinct"][new] = text.row_distinct[new]
    copy.nodes["rows/discounted"][new] = np.bincount(text.source, weights=taken, minlength=text.n)[new]
    if PAIR_TOTAL in copy.nodes:  # with clones; a new node has none
        taken = discount_of(text.count, pair_discounts(copy.settings["initial"])[0])
        copy.nodes[PAIR_TOTAL][new] = text.row_total[new]
        copy.nodes[PAIR_DISCOUNTED][new] = np.bincount(text.source, weights=taken, minlength=text.n)[new]


def of_new_nodes(copy: WorkingCopy, text: PairCounts, new: Ints, *, sparsify: float, min_count: int) -> Mask:
    """Which pairs of new nodes become private, bool [pairs]: by the rule of the build, without changing other edges.

    Candidates are pairs with at least ``min_count`` occurrences; if the build used its whole budget, also at least as
    many as the rarest private edge. The most frequent candidates are taken until the share ``sparsify`` of all n * n
    pairs is private.
    """
    touches = np.isin(text.source, new) | np.isin(text.target, new)
    old = copy.n - len(new)
    counts = copy.index.count
    counted = counts[counts > 0]
    if copy.private >= private_edge_budget(sparsify, old) and len(counted):
        min_count = max(min_count, int(counted.min()))
    return most_frequent(
        text, touches & (text.count >= min_count), private_edge_budget(sparsify, copy.n) - copy.private
    )


def most_frequent(text: PairCounts, mask: Mask, limit: int) -> Mask:
    """The ``limit`` most frequent of the pairs in the mask, bool [pairs]; ties by source, then target."""
    found = np.flatnonzero(mask)
    best = found[np.argsort(-text.count[found], kind="stable")][: max(0, limit)]
    out = np.zeros(len(text), bool)
    out[best] = True
    return out


def share_of_text(copy: WorkingCopy, slots: Ints) -> float:
    """The share (0 to 1) of the transitions of the text that take the edges at these slots, int64 [k]."""
    total = int(copy.nodes["rows/total"].sum())
    return min(1.0, float(copy.edges[COUNT][slots].sum()) / total) if total else 0.0
