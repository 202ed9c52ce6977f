"""Sorting the edges of a graph by (u, v), block by block, into arrays that may be larger than memory.

It knows columns of slots; it does not know where they are, in a store or in a working copy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sifu_store.layout import COUNT, SOURCE, TARGET

from sifu_graph.arrays import blocks, is_first
from sifu_graph.edge_index import EdgeIndex

Read = Callable[[str, slice], NDArray[Any]]
"""Returns some slots of a column, by its name in the store."""
Create = Callable[[str, str, int], NDArray[Any]]
"""Makes an array of zeros, of a name, a type and a length."""


def sorted_edges(nodes: int, slots: int, read: Read, create: Create) -> EdgeIndex:
    """The index of the edges: first by u, block by block, then the targets of each row.

    It is that of `EdgeIndex.from_slots`, without forbidden pairs and the order of nodes.
    """
    size, most = np.zeros(nodes, np.int64), 0
    for block in blocks(slots):
        source = read(SOURCE, block)
        size += np.bincount(source[source >= 0], minlength=nodes)
        most = max(most, int(read(COUNT, block).max()))
    row_start = create("row_start", "<i8", nodes + 1)
    row_start[1:] = np.cumsum(size)
    edges = int(row_start[-1])
    target = create("target", "<i4", edges)
    count = create("count", "<i4" if most < 1 << 31 else "<i8", edges)
    moved = create("moved", "<i4" if slots < 1 << 31 else "<i8", edges)
    filled, in_order = row_start[:-1].copy(), edges == slots
    for block in blocks(slots):
        source = read(SOURCE, block).astype(np.int64)
        slot = np.flatnonzero(source >= 0)
        slot = slot[np.argsort(source[slot], kind="stable")]
        source = source[slot]
        first = np.flatnonzero(is_first(source))
        rank = np.arange(len(source)) - np.repeat(first, np.diff(first, append=len(source)))
        place = filled[source] + rank
        filled += np.bincount(source, minlength=nodes)
        target[place], count[place] = read(TARGET, block)[slot], read(COUNT, block)[slot]
        moved[place] = block.start + slot
        in_order &= bool((place == block.start + slot).all())
    index = EdgeIndex(nodes, row_start, target, count, moved)
    for rows in index.row_blocks():
        edges_of = index.places_of(rows)
        keys = index.keys(edges_of)
        if (keys[1:] < keys[:-1]).any():
            order, in_order = np.argsort(keys, kind="stable"), False
            for values in (target, count, moved):
                values[edges_of] = values[edges_of][order]
    return dataclasses.replace(index, moved=None) if in_order else index
