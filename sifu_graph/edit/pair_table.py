"""The counts of all pairs of a graph whose edges share a base, to be changed by edits.

An edit changes the pairs of the edited nodes. It knows nodes and pairs; it does not know slots and pages
(`working_copy`), nor texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sifu_store.layout import PAIR_COUNT, PAIR_FIRST, PAIR_TARGET
from sifu_store.store import Store

from sifu_graph.arrays import Bools, Ids, Ints
from sifu_graph.model.io import pair_model, write_pairs
from sifu_graph.ops.pair_model import PairModel
from sifu_graph.settings import InitialSettings


class PairTable:
    """The pairs of a working copy, sorted by (u, v).

    Attributes
    ----------
    source, target, count
        int64 [pairs].
    """

    def __init__(self, store: Store) -> None:
        first = store.read(PAIR_FIRST)
        self.source = np.repeat(np.arange(len(first) - 1), np.diff(first))
        self.target = store.read(PAIR_TARGET).astype(np.int64)
        self.count = store.read(PAIR_COUNT)

    def write(self, store: Store, nodes: int) -> None:
        """Writes the pairs; ``nodes`` is n."""
        write_pairs(store, *self._by_source(nodes))

    def model(self, nodes: Mapping[str, NDArray[Any]], initial: InitialSettings) -> PairModel:
        """The pair model; ``nodes`` are the columns [n] of the nodes, by their names in the store."""
        return pair_model(self._by_source(len(nodes["rows/total"])), nodes.__getitem__, initial)

    def _by_source(self, nodes: int) -> tuple[Ints, Ids, Ints]:
        """Where the pairs of each of n sources begin, their targets, their counts: as in the store."""
        first = np.searchsorted(self.source, np.arange(nodes + 1)).astype(np.int64)
        return first, self.target.astype(np.int32), self.count

    # ---- changes

    def add(self, source: Ints, target: Ints, count: Ints) -> None:
        """Adds counts of pairs, int64 [k] each; counts of the same pair are summed."""
        n = 1 + int(
            max(self.source.max(initial=0), self.target.max(initial=0), source.max(initial=0), target.max(initial=0))
        )
        keys = np.concatenate([self.source * n + self.target, source * n + target])
        every, place = np.unique(keys, return_inverse=True)
        total = np.zeros(len(every), np.int64)
        np.add.at(total, place, np.concatenate([self.count, count]))
        self.source, self.target = np.divmod(every, n)
        self.count = total

    def add_like(self, new: Ints, like: int) -> None:
        """Copies the pairs of a node to new nodes (int64 [k]); a pair (like, like) to all pairs among them."""
        mine = (self.source == like) | (self.target == like)
        source, target, count = self.source[mine], self.target[mine], self.count[mine]
        itself = (source == like) & (target == like)
        sources = [np.where(source == like, node, source)[~itself] for node in new.tolist()]
        targets = [np.where(target == like, node, target)[~itself] for node in new.tolist()]
        counts = [count[~itself]] * len(new)
        if itself.any():
            every = np.array([like, *new.tolist()])
            u, v = (grid.ravel()[1:] for grid in np.meshgrid(every, every, indexing="ij"))  # all but (like, like)
            sources.append(u)
            targets.append(v)
            counts.append(np.repeat(count[itself], len(u)))
        self.add(np.concatenate(sources), np.concatenate(targets), np.concatenate(counts))

    def remove(self, gone: Bools, place: Ints) -> None:
        """Removes the pairs of removed nodes, bool [n]; ``place`` are the new ids of the others, int64 [n]."""
        kept = ~(gone[self.source] | gone[self.target])
        self.source, self.target, self.count = place[self.source[kept]], place[self.target[kept]], self.count[kept]

    def merge(self, node: int, into: int) -> None:
        """Adds the counts of a node to those of another; its own pairs remain until it is removed."""
        mine = (self.source == node) | (self.target == node)
        source, target = (np.where(side[mine] == node, into, side[mine]) for side in (self.source, self.target))
        self.add(source, target, self.count[mine])
