"""Clones: nodes split by what came before them, their names, and the source of each place of a text.

A *context* is a run of nodes; a *clone* of u is u after a context, so that its name is a run of two or more nodes that
ends in u. The set of clones is closed under dropping the oldest node: what remains is the parent, a clone or u itself.
The *source* of a place in a text is the longest name in the set that the text up to there ends with, within the
document. Sources are numbered: n nodes, then the clones, parents before children.

The module knows node ids and documents; it does not know counts.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sifu_graph.arrays import Bools, Floats, Ids, Integers, Ints, distinct


@dataclass(frozen=True, kw_only=True)
class CloneTree:
    """Which clones there are.

    Attributes
    ----------
    nodes
        n.
    parent
        int32 [C]: the source of each clone's parent.
    token
        int32 [C]: the oldest node of its name. The clones are sorted by (parent, token).
    """

    nodes: int
    parent: Ids
    token: Ids

    @classmethod
    def empty(cls, nodes: int) -> CloneTree:
        """No clones."""
        none = np.empty(0, np.int32)
        return cls(nodes=nodes, parent=none, token=none)

    def __len__(self) -> int:
        return len(self.parent)

    @property
    def sources(self) -> int:
        """Nodes and clones together."""
        return self.nodes + len(self)

    @cached_property
    def parents(self) -> Ids:
        """The parent of each source, int32 [sources]; -1 for a node."""
        return np.concatenate([np.full(self.nodes, -1, np.int32), self.parent])

    @cached_property
    def depth(self) -> Ints:
        """How many nodes come before the last one in the name of each source, int64 [sources]."""
        found, at = np.zeros(self.sources, np.int64), self.parents
        while (inside := at >= 0).any():
            found += inside
            at = np.where(inside, self.parents[at], -1)
        return found

    def levels(self) -> list[slice]:
        """The nodes among the sources, then the clones of two nodes, of three nodes, ..."""
        bounds = np.searchsorted(self.depth, np.arange(2 + int(self.depth.max(initial=0)))).tolist()
        return list(itertools.starmap(slice, itertools.pairwise(bounds)))

    @cached_property
    def node(self) -> Ints:
        """The node of each source, the last one of its name, int64 [sources]."""
        found, parents = np.arange(self.sources), self.parents
        while (inside := found >= self.nodes).any():
            found = np.where(inside, parents[found], found)
        return found

    @cached_property
    def keys(self) -> Ints:
        """Parent * n + token of each clone, int64 [C], ascending."""
        return self.parent.astype(np.int64) * self.nodes + self.token

    def with_ancestors(self, sources: Ints) -> Ints:
        """Sources, int64 [k], and all that they descend from, each once, ascending."""
        found, above = distinct(sources), sources
        while len(above := self.parents[above][self.parents[above] >= 0].astype(np.int64)):
            found = distinct(np.concatenate([found, above]))
        return found

    def without(self, gone: Bools) -> tuple[CloneTree, Ints]:
        """Without some nodes, bool [n], and without the clones that have one of them in their names.

        Also the new number of each source, int64 [sources]; -1 for those that are gone.
        """
        out = np.concatenate([gone, gone[self.token]])
        for depth in range(1, 1 + int(self.depth.max(initial=0))):
            here = np.flatnonzero(self.depth == depth)
            out[here] |= out[self.parents[here]]
        return self._those(~out)

    def best(self, worth: Floats, most: int) -> Bools:
        """Which clones are among the ``most`` of greatest worth [C], with the parents that they need: bool [C]."""
        rank = np.empty(self.sources, np.int64)
        rank[: self.nodes] = -1
        rank[self.nodes + np.argsort(-worth, kind="stable")] = np.arange(len(self))
        for depth in range(int(self.depth.max(initial=0)), 1, -1):
            here = np.flatnonzero(self.depth == depth)
            np.minimum.at(rank, self.parents[here], rank[here])
        own = rank[self.nodes :]
        found: Bools = own < np.sort(np.append(own, len(self)))[min(most, len(self))]
        return found

    def kept(self, kept: Bools) -> tuple[CloneTree, Ints]:
        """With some clones alone, bool [C], and the new number of each source, int64 [sources]; -1: it is gone."""
        return self._those(np.concatenate([np.ones(self.nodes, bool), kept]))

    def _those(self, stay: Bools) -> tuple[CloneTree, Ints]:
        """The sources in a mask, bool [sources], with the nodes of their names; and the new numbers, -1 for others."""
        place = np.where(stay, np.cumsum(stay) - 1, -1)
        kept = stay[self.nodes :]
        nodes = int(stay[: self.nodes].sum())
        return self._of(nodes, place[self.parent[kept]], place[self.token[kept]]), place

    def with_more_nodes(self, more: int) -> tuple[CloneTree, Ints]:
        """With nodes at the end of the others, and the new number of each source, int64 [sources]."""
        place = np.arange(self.sources)
        place[self.nodes :] += more
        return self._of(self.nodes + more, place[self.parent], self.token), place

    def with_clones(self, parent: Integers, token: Integers) -> tuple[CloneTree, Ints]:
        """With further clones [C'], numbered from the number of sources on; and the new numbers of all, int64."""
        return self.numbered(self.nodes, np.concatenate([self.parent, parent]), np.concatenate([self.token, token]))

    def merged(self, node: int, into: int) -> tuple[CloneTree, Ints]:
        """With ``into`` in place of a node, which remains; and the new number of each source, int64 [sources]."""
        every = np.arange(self.sources)
        every[node] = into
        return self.numbered(self.nodes, every[self.parent], every[self.token], first=every[: self.nodes])

    def copied(self, node: int, other: int) -> tuple[CloneTree, Ints, Ints]:
        """With a copy of each clone that has a node in its name, with ``other``, which has no clone, in its place.

        Also the new numbers of all sources, int64 [sources], and of their copies; -1: it has none.
        """
        double = np.full(self.sources, -1)
        double[node] = other
        parents, tokens, total = [self.parent], [self.token], self.sources
        for depth in range(1, 1 + int(self.depth.max(initial=0))):
            here = np.flatnonzero(self.depth == depth)
            parent, token = self.parents[here], self.token[here - self.nodes]
            here, parent, token = (x[(double[parent] >= 0) | (token == node)] for x in (here, parent, token))
            double[here] = total + np.arange(len(here))
            parents.append(np.where(double[parent] >= 0, double[parent], parent))
            tokens.append(np.where(token == node, other, token))
            total += len(here)
        tree, place = self.numbered(self.nodes, np.concatenate(parents), np.concatenate(tokens))
        return tree, place[: self.sources], np.where(double >= 0, place[double], -1)

    @classmethod
    def numbered(
        cls, nodes: int, parent: Integers, token: Integers, *, first: Ints | None = None
    ) -> tuple[CloneTree, Ints]:
        """Clones in any order, [C]; those of one name become one.

        Also the number of each source, int64 [nodes + C]; ``first``: those of the nodes.
        """
        listed = cls._of(nodes, parent, token)
        place = np.arange(listed.sources)
        if first is not None:
            place[:nodes] = first
        parents, tokens, total = [], [], nodes
        for depth in range(1, 1 + int(listed.depth.max(initial=0))):
            here = np.flatnonzero(listed.depth == depth)
            keys, found = np.unique(place[listed.parents[here]] * nodes + token[here - nodes], return_inverse=True)
            place[here] = total + found
            parents.append(keys // nodes)
            tokens.append(keys % nodes)
            total += len(keys)
        none = np.empty(0, np.int64)
        return cls._of(nodes, np.concatenate([none, *parents]), np.concatenate([none, *tokens])), place

    @classmethod
    def _of(cls, nodes: int, parent: Integers, token: Integers) -> CloneTree:
        return cls(nodes=nodes, parent=parent.astype(np.int32), token=token.astype(np.int32))

    def name(self, source: int) -> list[int]:
        """The nodes of the name of a source, the oldest first."""
        found = []
        while source >= self.nodes:
            found.append(int(self.token[source - self.nodes]))
            source = int(self.parent[source - self.nodes])
        return [*found, source]

    def child(self, source: Ints, token: Integers) -> Ints:
        """The clones of sources after one more node, int64 [k]; -1 where there is none."""
        if not len(self):
            return np.full(len(source), -1)
        wanted = source * self.nodes + token
        at = np.minimum(np.searchsorted(self.keys, wanted), len(self) - 1)
        return np.where(self.keys[at] == wanted, self.nodes + at, -1)

    def source_of(self, nodes: Sequence[int]) -> int:
        """The source at the end of a document so far, at least one node."""
        source = int(nodes[-1])
        for token in reversed(nodes[:-1]):
            wanted = source * self.nodes + int(token)
            at = int(self.keys.searchsorted(wanted))
            if at == len(self) or self.keys[at] != wanted:
                break
            source = self.nodes + at
        return source

    def sources_at(self, ids: Integers, begins: Bools, at: Ints) -> Ints:
        """The sources of places of a text, int64 of the shape of ``at``.

        Parameters
        ----------
        ids
            The nodes, [tokens].
        begins
            bool [tokens]: the place begins a document.
        at
            The places.
        """
        place = at.flatten()  # a copy: it moves
        source = ids[place].astype(np.int64)
        going = np.arange(len(place)) if len(self) else np.empty(0, np.int64)
        while len(going):
            going = going[~begins[place[going]]]
            place[going] -= 1
            found = self.child(source[going], ids[place[going]].astype(np.int64))
            going = going[found >= 0]
            source[going] = found[found >= 0]
        return source.reshape(at.shape)
