"""The values of private edges, block by block: from the store where they were trained, else generated.

It knows slots and pages; it does not know what the values are read for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from sifu_store.layout import PAGE_EDGES, WEIGHT

from sifu_graph.arrays import runs

if TYPE_CHECKING:
    from sifu_graph.session import GraphSession


BLOCK_PAGES = 32


BLOCK_EDGES = BLOCK_PAGES * PAGE_EDGES
"""Edges that are in memory at a time: 64 MiB of weights for d = 32, and as much again while they are read."""


def blocks(edges: int) -> Iterator[slice]:
    """Runs of places in the sorted index."""
    return (slice(begin, min(begin + BLOCK_EDGES, edges)) for begin in range(0, edges, BLOCK_EDGES))


def read_edges(graph: GraphSession, name: str, slots: NDArray[np.int64]) -> NDArray[np.float32]:
    """``edges/weight`` [k, d, d] or ``edges/bias`` [k, d] of these slots, from the store; nothing stays in memory."""
    store, initial, width = graph.store, graph.parameters.edges.initial, graph.parameters.width
    out = np.zeros((len(slots), width, width) if name == WEIGHT else (len(slots), width), np.float32)
    page = slots // PAGE_EDGES
    wanted = np.unique(page)
    stored = store.page_stored()[wanted]
    for first, stop in runs(wanted[stored]):
        values = store.read_pages(name, first, stop)
        mine = (page >= first) & (page < stop)
        out[mine] = values[slots[mine] - first * PAGE_EDGES]
    fresh = np.isin(page, wanted[~stored])
    if fresh.any():
        made = initial.weight(slots[fresh]) if name == WEIGHT else initial.bias(slots[fresh])
        if made is not None:
            out[fresh] = made
    return out


def edge_blocks(graph: GraphSession, name: str) -> Iterator[NDArray[np.float32]]:
    """The values of all private edges, sorted by (u, v), block by block."""
    index = graph.parameters.index
    return (read_edges(graph, name, index.slot[block]) for block in blocks(index.edges))


def sources(graph: GraphSession) -> NDArray[np.int64]:
    """u of every private edge, in the order of the index."""
    index = graph.parameters.index
    return np.repeat(np.arange(index.nodes), index.row_sizes())
