"""Which clones a working copy has: those of greatest gain stay, and contexts of a text get some.

It knows clones, counts and the columns of nodes; it does not know edges with parameters (`prune_grow`), nor commits
(`session`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sifu_store.errors import OptionError
from sifu_store.layout import CLONE_GAIN, COUNT, PAIR_DISCOUNTED, PAIR_TOTAL

from sifu_graph.disk_arrays import DiskArrays
from sifu_graph.edit.pair_table import Growth, PairTable
from sifu_graph.edit.working_copy import WorkingCopy
from sifu_graph.model.io import pair_discounts
from sifu_graph.progress import Stages
from sifu_graph.text.clones import MoreClones, choose_more, with_occurrences
from sifu_graph.text.encoded import Split, TokenFile
from sifu_graph.text.pair_counts import PairCounts


def prune(copy: WorkingCopy, most: int) -> int:
    """Removes all clones but the ``most`` of greatest gain; what they counted, their parents count.

    Returns the number of clones that were removed.

    Raises
    ------
    OptionError
        ``most`` is negative, or the graph has no more clones than that.
    """
    pairs = copy.pairs
    if most < 0:
        raise OptionError(f"`clones` is {most}: it must be 0 or more")
    if pairs is None or len(pairs.tree) <= most:
        raise OptionError(f"`clones` is {most:,}, and the graph has {0 if pairs is None else len(pairs.tree):,}")
    kept = pairs.tree.best(pairs.clones[CLONE_GAIN], most)
    _note(copy, pairs.keep_clones(kept, pair_discounts(copy.settings["initial"])))
    return int((~kept).sum())


def choose(
    copy: WorkingCopy,
    text: TokenFile,
    counts: PairCounts,
    *,
    known: bool,
    clones: int | None,
    gain: float | None,
    arrays: DiskArrays,
    stages: Stages,
) -> MoreClones:
    """The contexts of a text that gain most over their parents and have no clone.

    Parameters
    ----------
    text
        The text; its training part is meant.
    counts
        Their pairs.
    known
        The graph has counted the text, as the one that it was built from.
    clones
        As many clones as the graph has at most with them, parents included. None: no limit.
    gain
        Nats over the text; contexts that are expected to gain this or less get no clone. None: 0.
    arrays, stages
        As of `text.clones.choose_more`.

    Raises
    ------
    OptionError
        The graph's edges do not share a base, the graph has as many clones already, or the gain is not a number.
    """
    pairs = copy.pairs
    if pairs is None:
        raise OptionError("only a graph whose edges share a base has clones: build a graph with a base")
    if gain is not None and not np.isfinite(gain):
        raise OptionError(f"`gain` is {gain}: expected a finite number of nats")
    if clones is not None and clones <= len(pairs.tree):
        raise OptionError(f"`clones` is {clones:,}, and the graph has {len(pairs.tree):,}: name more")
    return choose_more(
        text.train,
        counts,
        pairs.tree,
        clones=None if clones is None else clones - len(pairs.tree),
        least_gain=0.0 if gain is None else gain,
        counted=known,
        arrays=arrays,
        stages=stages,
    )


def grow(copy: WorkingCopy, more: MoreClones, counts: PairCounts, *, others: Sequence[Split], known: bool) -> float:
    """Adds the clones that `choose` found; ``counts`` and ``known`` are as there.

    A new clone takes its occurrences in all texts, ``others`` among them, from its parent. From the graph's own text,
    the counts are then those of a build with as many clones. A text that the graph does not know is counted first: its
    occurrences are added to those of the sources that there are. Discounts, and the model below the pairs, stay.

    Returns what the new clones are expected to gain over their parents, in nats over the text.
    """
    pairs = copy.pairs
    assert pairs is not None  # `choose` says so
    if not known or len(more.parent):
        _begin(copy, pairs)
        discounts = pair_discounts(copy.settings["initial"])
        if not known:
            _note(copy, pairs.count_text(more.known, discounts))
            _count_nodes(copy, counts)
        growth, discounts = pairs.split(with_occurrences(more, pairs.tree, others), discounts)
        _note(copy, growth)
        copy.settings["initial"]["pair_discounts"] = [list(level) for level in discounts]
    return float(more.gain.sum(dtype=np.float64))


def _begin(copy: WorkingCopy, pairs: PairTable) -> None:
    """Gives a graph that was built without clones the columns that it needs for them."""
    if PAIR_TOTAL not in copy.nodes:
        copy.nodes[PAIR_TOTAL] = copy.nodes["rows/total"].copy()
        copy.nodes[PAIR_DISCOUNTED] = copy.nodes["rows/discounted"].copy()
        copy.settings["initial"]["pair_discounts"] = [copy.settings["initial"]["discounts"]]
        pairs.begin_clones()


def _note(copy: WorkingCopy, more: Growth) -> None:
    copy.nodes[PAIR_TOTAL] = copy.nodes[PAIR_TOTAL] + more.total
    copy.nodes[PAIR_DISCOUNTED] = copy.nodes[PAIR_DISCOUNTED] + more.discounted
    copy.changed = True


def _count_nodes(copy: WorkingCopy, counts: PairCounts) -> None:
    """Adds the occurrences of another text to those of the nodes and of the private edges."""
    copy.nodes["nodes/count"] = copy.nodes["nodes/count"] + counts.node_count
    copy.nodes["rows/total"] = copy.nodes["rows/total"] + counts.row_total
    place = copy.index.find(counts.source.astype(np.int64), counts.target.astype(np.int64))
    known = place >= 0
    copy.edges[COUNT][copy.index.slots(place[known])] += counts.count[known]
    copy.touched()
