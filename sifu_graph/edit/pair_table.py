"""The counts of all pairs of a graph whose edges share a base, and its clones, to be changed by edits.

An edit changes the pairs and the clones of the edited nodes. It knows nodes, clones and pairs; it does not know slots
and pages (`working_copy`), nor texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from sifu_store.layout import (
    CLONE_DISCOUNTED,
    CLONE_EDGE,
    CLONE_ENERGY,
    CLONE_GAIN,
    CLONE_PARENT,
    CLONE_TOTAL,
    PAIR_COUNT,
    PAIR_FIRST,
    PAIR_TARGET,
)
from sifu_store.store import Store

from sifu_graph.arrays import Bools, Doubles, Ids, Integers, Ints, blocks, is_first
from sifu_graph.edge_index import EdgeIndex
from sifu_graph.edit.columns import Table
from sifu_graph.model.io import pair_model, read_clones, read_rows_of_pairs, write_clones, write_pairs
from sifu_graph.ops.pair_model import PairModel, discount_at, find_pairs
from sifu_graph.settings import InitialSettings
from sifu_graph.text.clones import MoreClones, Occurrences
from sifu_graph.text.kneser_ney import Discounts, estimate_discounts


@dataclass(frozen=True, slots=True)
class Growth:
    """What sources count more: occurrences, int64 [sources], and the sum of their discounts, float64 [sources]."""

    total: Ints
    discounted: Doubles

    def of_nodes(self, nodes: int) -> Growth:
        """That of the nodes, the first sources."""
        return Growth(self.total[:nodes], self.discounted[:nodes])


class PairTable:
    """The pairs of a working copy, sorted by (source, target). They are read when a change first needs them.

    Attributes
    ----------
    tree
        The clones.
    clones
        Their columns [C], by their names in the store; empty for a graph that never had clones.
    edges, energy
        int64 [k, 2] and float64 [k]: edges of clones that add something to their energy, and what, in nats.
    """

    def __init__(self, store: Store, nodes: int) -> None:
        self._store = store
        self.tree = self._stored_tree = read_clones(store, nodes)
        names = (CLONE_GAIN, CLONE_TOTAL, CLONE_DISCOUNTED) if store.has(CLONE_PARENT) else ()
        self.clones = Table(store.read, lambda: names, names.__contains__)
        self.edges = (store.read(CLONE_EDGE) if names else np.empty((0, 2))).astype(np.int64)
        self.energy: Doubles = (store.read(CLONE_ENERGY) if names else np.empty(0)).astype(np.float64)

    @cached_property
    def source(self) -> Ints:
        """The sources of the pairs, int64 [pairs]: nodes and clones."""
        first = self._store.read(PAIR_FIRST)
        return np.repeat(np.arange(len(first) - 1), np.diff(first))

    @cached_property
    def target(self) -> Ints:
        """The targets of the pairs, int64 [pairs]."""
        return self._store.read(PAIR_TARGET).astype(np.int64)

    @cached_property
    def count(self) -> Ints:
        """The counts of the pairs, int64 [pairs]."""
        return self._store.read(PAIR_COUNT)

    @property
    def _in_memory(self) -> bool:
        """Whether a change has read the pairs, which may differ from those of the store then."""
        return not vars(self).keys().isdisjoint({"source", "target", "count"})

    def write(self, store: Store) -> None:
        """Writes the pairs and the clones, where they may have changed."""
        if self._in_memory:
            write_pairs(store, *self._by_source())
        if self.clones:
            tree = None if self.tree is self._stored_tree and store.has(CLONE_PARENT) else self.tree
            write_clones(store, tree, self.clones.changed(), self.edges, self.energy)

    def model(
        self, nodes: Table, initial: InitialSettings, index: EdgeIndex, energy: Doubles, sources: Ints | None
    ) -> PairModel:
        """The pair model with what edges add to their energies.

        ``nodes`` are the columns [n] of the nodes by their names in the store, ``energy`` what the private edges of the
        index add, float64 [edges], ``sources`` those that are needed (None: all).
        """
        only = None if sources is None else self.tree.with_ancestors(sources)
        pairs = self._by_source() if self._in_memory else read_rows_of_pairs(self._store, only)
        found = pair_model(
            self.tree, pairs, lambda name: (self.clones if name in self.clones else nodes).peek(name), initial
        )
        own = self.edges[:, 0] * self.tree.nodes + self.edges[:, 1]
        return found.with_edges(
            np.concatenate([index.keys(), own]), np.concatenate([energy, self.energy]), index.forbidden
        )

    def count_of(self, source: int, target: int) -> int:
        """How often a pair was counted."""
        if self._in_memory:
            row = slice(*np.searchsorted(self.source, [source, source + 1]))
            return int(self.count[row][self.target[row] == target].sum())
        _, targets, counts = read_rows_of_pairs(self._store, np.array([source]))
        return int(counts[targets == target].sum())

    def nats_of(self, source: int, target: int) -> float:
        """What an edge of a clone adds to its energy."""
        mine = (self.edges == [source, target]).all(axis=1)
        return float(self.energy[mine].sum())

    def set_nats(self, source: int, target: int, nats: float) -> None:
        """Sets what an edge of a clone adds to its energy; 0: nothing, -inf: it is forbidden."""
        others = (self.edges != [source, target]).any(axis=1)
        self._set_edges(
            np.concatenate([self.edges[others], [[source, target]]]), np.concatenate([self.energy[others], [nats]])
        )

    def _set_edges(self, edges: Ints, energy: Doubles) -> None:
        """Edges of clones in any order, [k, 2], with what they add; of the same edge, the mean."""
        self.edges, place = np.unique(edges.reshape(-1, 2), axis=0, return_inverse=True)
        times = np.bincount(place.ravel(), minlength=len(self.edges))
        self.energy = np.bincount(place.ravel(), energy, minlength=len(self.edges)) / np.maximum(times, 1)
        kept = self.energy != 0
        self.edges, self.energy = self.edges[kept], self.energy[kept]

    def _by_source(self) -> tuple[Ints, Ids, Integers]:
        """Where the pairs of each source begin, their targets, their counts: as in the store."""
        return self._first(), self.target.astype(np.int32), self.count

    def of_nodes(self) -> tuple[Ints, Ints, Ints]:
        """The occurrences of all pairs of nodes: source, target and count, int64 [pairs].

        What a clone counts, its parent counts once more.
        """
        n = self.tree.nodes
        once = (self.source >= n) & (self.count > 0)
        keys, place = np.unique(self.tree.node[self.source] * n + self.target, return_inverse=True)
        count = np.zeros(len(keys), np.int64)
        np.add.at(count, place, self.count - once)
        source, target = np.divmod(keys, n)
        return source, target, count

    # ---- changes

    def add(self, source: Ints, target: Ints, count: Ints) -> None:
        """Adds counts of pairs, int64 [k] each; counts of the same pair are summed."""
        n = self.tree.nodes
        keys = np.concatenate([self.source * n + self.target, source * n + target])
        every, place = np.unique(keys, return_inverse=True)
        total = np.zeros(len(every), np.int64)
        np.add.at(total, place, np.concatenate([self.count, count]))
        self.source, self.target = np.divmod(every, n)
        self.count = total

    def add_nodes(self, more: int) -> None:
        """Makes room for nodes at the end of the others. They have no pairs."""
        self.tree, place = self.tree.with_more_nodes(more)
        self.source = place[self.source]
        self.edges[:, 0] = place[self.edges[:, 0]]

    def add_like(self, new: Ints, like: int) -> None:
        """Copies the pairs and the clones of a node to new nodes (int64 [k]).

        A pair (like, like) is copied to all pairs among them.
        """
        for node in new.tolist():
            mine = self.target == like
            self.add(self.source[mine], np.full(int(mine.sum()), node), self.count[mine])
            mine = self.edges[:, 1] == like
            into = np.stack([self.edges[mine, 0], np.full(int(mine.sum()), node)], axis=1)
            self._set_edges(np.concatenate([self.edges, into]), np.concatenate([self.energy, self.energy[mine]]))
        for node in new.tolist():
            self.tree, place, double = self.tree.copied(like, node)
            self._copy(place, double)

    def _copy(self, place: Ints, double: Ints) -> None:
        """Gives all sources their new numbers, and their copies (-1: none) the same pairs and columns."""
        n, clones = self.tree.nodes, len(self.tree)
        for name, column in self.clones.items():
            fresh = np.zeros(clones, column.dtype)
            fresh[place[n:] - n] = column
            copies = double[n:]
            fresh[copies[copies >= 0] - n] = column[copies >= 0]
            self.clones[name] = fresh
        has = double[self.source] >= 0
        source, target, count = double[self.source[has]], self.target[has], self.count[has]
        self.source = place[self.source]
        self.add(source, target, count)
        has = double[self.edges[:, 0]] >= 0
        copies = np.stack([double[self.edges[has, 0]], self.edges[has, 1]], axis=1)
        self.edges[:, 0] = place[self.edges[:, 0]]
        self._set_edges(np.concatenate([self.edges, copies]), np.concatenate([self.energy, self.energy[has]]))

    def remove(self, gone: Bools) -> None:
        """Removes nodes, bool [n], their pairs and their clones; the numbers after them decrease."""
        tree, place = self.tree.without(gone)
        kept = (place[self.source] >= 0) & (place[self.target] >= 0)
        self.source, self.target, self.count = place[self.source[kept]], place[self.target[kept]], self.count[kept]
        edges = place[self.edges]
        stays = (edges >= 0).all(axis=1)
        self.edges, self.energy = edges[stays], self.energy[stays]
        left = place[self.tree.nodes :] >= 0
        for name, column in self.clones.items():
            self.clones[name] = column[left]
        self.tree = tree

    def keep_clones(self, kept: Bools, discounts: tuple[Discounts, ...]) -> Growth:
        """Removes the clones outside a mask, bool [C]; what they counted, their parents count.

        ``discounts`` are those of nodes, of clones of two nodes, ... Returns what the nodes count more.
        """
        tree, grown = self.tree, self._no_growth()
        goes = np.concatenate([np.zeros(tree.nodes, bool), ~kept])
        for level in range(int(tree.depth.max(initial=0)), 0, -1):
            mine = np.flatnonzero((goes & (tree.depth == level))[self.source] & (self.count > 0))
            self._count_more(tree.parents[self.source[mine]], self.target[mine], self.count[mine] - 1, discounts, grown)
        self._note_growth(grown)
        self.tree, place = tree.kept(kept)
        for name, column in self.clones.items():
            self.clones[name] = column[kept]
        stays, edges = place[self.source] >= 0, place[self.edges[:, 0]]
        self.source, self.target, self.count = place[self.source[stays]], self.target[stays], self.count[stays]
        self.edges, self.energy = np.stack([edges, self.edges[:, 1]], axis=1)[edges >= 0], self.energy[edges >= 0]
        return grown.of_nodes(tree.nodes)

    def count_text(self, text: Occurrences, discounts: tuple[Discounts, ...]) -> Growth:
        """Counts all occurrences of another text.

        A target that a clone meets for the first time, its parent counts once. Returns what the nodes count more.
        """
        tree, grown = self.tree, self._no_growth()
        none = np.empty(0, np.int64)
        met = none, none, none
        for level in range(int(tree.depth.max(initial=0)), -1, -1):
            here = tree.depth[text.source] == level
            own = text.source[here], text.target[here], text.count[here]
            u, v, k = (np.concatenate([x, y]) for x, y in zip(own, met, strict=True))
            u, v = self._count_more(u, v, k, discounts, grown)
            met = tree.parents[u].astype(np.int64), v, np.ones(len(u), np.int64)
        self._note_growth(grown)
        return grown.of_nodes(tree.nodes)

    def split(self, more: MoreClones, discounts: tuple[Discounts, ...]) -> tuple[Growth, tuple[Discounts, ...]]:
        """Adds clones, which take their occurrences from their parents: a parent keeps one of each target.

        Returns what the nodes count more, which is at most 0, and the discounts, of new lengths of clones too.
        """
        old = self.tree
        self.tree, place = old.with_clones(more.parent, more.token)
        for name, column in self.clones.items():
            fresh = np.zeros(len(self.tree), column.dtype)
            fresh[place[old.nodes : old.sources] - old.nodes] = column
            if name == CLONE_GAIN:
                fresh[place[old.sources :] - old.nodes] = more.gain
            self.clones[name] = fresh
        self.edges[:, 0] = place[self.edges[:, 0]]
        before = self._with_rows(more, place)
        first, levels = self._first(), self.tree.levels()
        for block in blocks(len(more.new.source)):  # what a clone takes, its parent counts once for each target
            parent = self.tree.parents[place[more.new.source[block]]].astype(np.int64)
            at = find_pairs(first, self.target, parent, more.new.target[block])
            np.subtract.at(self.count, at, more.new.count[block] - 1)
        pairs = [slice(int(first[level.start]), int(first[level.stop])) for level in levels]
        discounts += tuple(estimate_discounts(self.count[some]) for some in pairs[len(discounts) :])
        grown = self._no_growth()
        for block in blocks(len(before)):
            source, old_count = self.source[block], before[block]
            count = self.count[block] = np.maximum(self.count[block], old_count > 0)
            depth = self.tree.depth[source]
            np.add.at(grown.total, source, count - old_count)
            taken = discount_at(count, depth, discounts) - discount_at(old_count, depth, discounts)
            np.add.at(grown.discounted, source, taken)
        self._note_growth(grown)
        return grown.of_nodes(old.nodes), discounts

    def _with_rows(self, more: MoreClones, place: Ints) -> Ints:
        """Adds the pairs of new clones; ``place`` has the new numbers of all sources.

        Returns the counts before, int64 [pairs]: 0 for the pairs of the new clones.
        """
        sources, old = self.tree.sources, self.source
        sizes = np.bincount(old, minlength=len(place)) + np.bincount(more.new.source, minlength=len(place))
        was, size = np.append(0, np.cumsum(sizes)), np.empty(sources, np.int64)
        size[place] = sizes
        first = np.append(0, np.cumsum(size))
        target, count, before = self.target, self.count, np.zeros(int(first[-1]), np.int64)
        self.source, self.target = np.repeat(np.arange(sources), size), np.empty(len(before), np.int64)
        self.count = np.zeros(len(before), np.int64)
        for its_source, its_target, its_count, shift in (
            (old, target, count, 0),
            (more.new.source, more.new.target, more.new.count, len(old)),
        ):
            for block in blocks(len(its_source)):
                at = its_source[block]
                into = first[place[at]] + np.arange(block.start, block.start + len(at)) + shift - was[at]
                self.target[into], self.count[into] = its_target[block], its_count[block]
                if its_source is old:
                    before[into] = its_count[block]
        return before

    def _first(self) -> Ints:
        """Where the pairs of each source begin, int64 [sources + 1]."""
        return np.searchsorted(self.source, np.arange(self.tree.sources + 1)).astype(np.int64)

    def begin_clones(self) -> None:
        """The columns of clones, of a graph that never had any."""
        if not self.clones:
            types = {CLONE_GAIN: np.float32, CLONE_TOTAL: np.int64, CLONE_DISCOUNTED: np.float64}
            for name, dtype in types.items():
                self.clones[name] = np.zeros(0, dtype)

    def _count_more(
        self, source: Integers, target: Ints, more: Ints, discounts: tuple[Discounts, ...], grown: Growth
    ) -> tuple[Ints, Ints]:
        """Adds to the counts of pairs, int64 [k] each, and notes what their sources count more; at least 1 remains.

        Returns source and target of the pairs that had no occurrence, int64.
        """
        n = self.tree.nodes
        wanted = source.astype(np.int64) * n + target
        order = np.argsort(wanted)
        wanted, more = wanted[order], more[order]
        begins = np.flatnonzero(is_first(wanted))
        wanted, change = wanted[begins], np.add.reduceat(more, begins) if len(begins) else more
        u, v = np.divmod(wanted, np.int64(n))
        keys = self.source * n + self.target
        place = np.asarray(np.searchsorted(keys, wanted))
        missing = np.append(keys, -1)[place] != wanted
        self.source = np.insert(self.source, place[missing], u[missing])
        self.target = np.insert(self.target, place[missing], v[missing])
        self.count = np.insert(self.count, place[missing], 0)
        place = place + np.cumsum(missing) - missing
        before, depth = self.count[place], self.tree.depth[u]
        after = np.maximum(before + change, 1)
        self.count[place] = after
        np.add.at(grown.total, u, after - before)
        np.add.at(grown.discounted, u, discount_at(after, depth, discounts) - discount_at(before, depth, discounts))
        new = before == 0
        return u[new], v[new]

    def _no_growth(self) -> Growth:
        return Growth(np.zeros(self.tree.sources, np.int64), np.zeros(self.tree.sources))

    def _note_growth(self, grown: Growth) -> None:
        n = self.tree.nodes
        for name, column in ((CLONE_TOTAL, grown.total), (CLONE_DISCOUNTED, grown.discounted)):
            self.clones[name] = self.clones[name] + column[n:]

    def merge(self, node: int, into: int) -> None:
        """Adds the counts of a node and of its clones to those of another; the node has none then."""
        tree, place = self.tree.merged(node, into)
        n = tree.nodes
        for name, column in self.clones.items():
            summed = np.zeros(len(tree), column.dtype)
            np.add.at(summed, place[n:] - n, column)
            self.clones[name] = summed
        source, target, count = place[self.source], np.where(self.target == node, into, self.target), self.count
        edges = np.stack([place[self.edges[:, 0]], np.where(self.edges[:, 1] == node, into, self.edges[:, 1])], axis=1)
        self._set_edges(edges, self.energy)
        none = np.empty(0, np.int64)
        self.tree, self.source, self.target, self.count = tree, none, none, none
        self.add(source, target, count)
