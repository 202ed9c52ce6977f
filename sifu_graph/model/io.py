"""Reading the tables of a graph from its store: the index, the origins of untrained edges, their usage.

It knows the names of arrays in the store; it does not know parameters, and does not import torch: commands that only
read or edit the tables of a graph start without it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sifu_store.layout import (
    CLONE_DISCOUNTED,
    CLONE_EDGE,
    CLONE_ENERGY,
    CLONE_PARENT,
    CLONE_TOKEN,
    CLONE_TOTAL,
    CLONE_VERSION,
    COUNT,
    ENERGY,
    FORBIDDEN,
    GAIN,
    LOG_LESS,
    LOG_LOWER,
    ORIGIN,
    PAIR_COUNT,
    PAIR_DISCOUNTED,
    PAIR_FIRST,
    PAIR_TARGET,
    PAIR_TOTAL,
    REPEAT,
    REPEAT_AFTER,
    REPEAT_SHARED,
    SOURCE,
    START,
    TARGET,
    TARGET_BIAS,
    TARGET_VECTOR,
    USAGE,
)
from sifu_store.reading import StoreReader
from sifu_store.store import Store

from sifu_graph.arrays import Doubles, Ids, Integers, Ints, ranges
from sifu_graph.config import SignalConfig
from sifu_graph.disk_arrays import DiskArrays
from sifu_graph.edge_index import EdgeIndex, by_frequency, forbidden_keys
from sifu_graph.model.counts import read_counts
from sifu_graph.model.index_file import IndexFile, index_file
from sifu_graph.ops.initial import EdgeInitializer
from sifu_graph.ops.origins import Origins, StoredOrigins, origins_of_build
from sifu_graph.ops.pair_model import PairModel
from sifu_graph.settings import GraphSettings, InitialSettings
from sifu_graph.text.clone_tree import CloneTree
from sifu_graph.text.kneser_ney import Discounts

SMALL = ("default/weight", "default/bias", "nodes/bias", "signal/alpha", "signal/scale")
"""Names of the arrays that are trained and not paged."""
BASE_SMALL = (GAIN, START, TARGET_VECTOR, TARGET_BIAS, REPEAT, REPEAT_SHARED, REPEAT_AFTER)
"""Those of a graph whose edges share a base, besides `SMALL`."""
INDEX = (SOURCE, TARGET, COUNT, FORBIDDEN, "nodes/count")
"""What the index is read from."""
SOURCES = (
    *(CLONE_PARENT, CLONE_TOKEN, CLONE_TOTAL, CLONE_DISCOUNTED, PAIR_TOTAL, PAIR_DISCOUNTED),
    *("rows/total", "rows/discounted", LOG_LOWER, LOG_LESS),
)
"""What the nodes and clones of the pair model are read from, besides the settings."""
PAIRS = (PAIR_FIRST, PAIR_TARGET, PAIR_COUNT)
"""The counts of pairs."""


def small_names(config: SignalConfig) -> tuple[str, ...]:
    """The names of the arrays of a graph that are trained and not paged."""
    return (*SMALL, *(BASE_SMALL if config.base else ()))


def small_array(store: Store, name: str) -> NDArray[Any]:
    """One of `SMALL` and `BASE_SMALL`. Graphs of versions 3 and 4 have no weights of repetition: they are 0."""
    new = {REPEAT: (store.settings["nodes"], 2), REPEAT_SHARED: (2, 3), REPEAT_AFTER: (2,)}
    return np.zeros(new[name], np.float32) if name in new and not store.has(name) else store.read(name)


def read_index(store: Store, settings: GraphSettings) -> tuple[EdgeIndex, IndexFile | None]:
    """The private edges, by (u, v), and the files of the index if it is mapped, as that of a large graph is."""
    forbidden = store.read(FORBIDDEN) if store.has(FORBIDDEN) else None
    n, counted = settings["nodes"], store.read("nodes/count")
    found = index_file(store, settings)
    if found is None:
        source, target, count = store.read(SOURCE), store.read(TARGET), store.read(COUNT)
        index = EdgeIndex.from_slots(n, source, target, count, forbidden=forbidden, node_count=counted)
        return index, None
    never, order = forbidden_keys(n, forbidden), by_frequency(counted)
    return EdgeIndex(n, found.row_start, found.target, found.count, found.moved, never, order), found


def pair_discounts(initial: InitialSettings) -> tuple[Discounts, ...]:
    """The discounts of the pair model, for nodes, for clones of two nodes, ..."""
    every = initial.get("pair_discounts", [initial["discounts"]])
    return tuple((first, second, third) for first, second, third in every)


def read_usage(store: Store, arrays: DiskArrays | None = None) -> Ints:
    """How often training met each edge, int64 [slots], to be changed; zeros if that is not recorded.

    ``arrays`` says where the result is. None: in memory.
    """
    arrays = DiskArrays() if arrays is None else arrays
    found = store.has(USAGE) and store.shape(USAGE) == (store.slots,)
    return read_column(store, USAGE, arrays) if found else arrays.zeros(store.slots, np.int64)


def read_column(store: Store, name: str, arrays: DiskArrays) -> NDArray[Any]:
    """An array [slots, ...] of the store, to be changed. ``arrays`` says where it is."""
    if arrays.folder is None:
        return store.read(name)
    like = store.read_rows(name, slice(0, 0))
    return arrays.filled(store.shape(name)[0], like, lambda block: store.read_rows(name, block))


def read_initial(
    store: Store, config: SignalConfig, index: EdgeIndex, files: IndexFile | None, settings: GraphSettings
) -> EdgeInitializer:
    """The initializer of pages that are not stored: from the counts, or, after the first edit, from stored energies.

    ``index`` and ``files`` are what `read_index` returned.
    """
    initial, nodes = settings["initial"], settings["nodes"]
    if store.has(ENERGY):
        nodes, keys = initial["nodes"], initial["keys"]
        origin, energy = (store.read(ORIGIN), store.read(ENERGY)) if files is None else (files.origin, files.energy)
        assert origin is not None
        assert energy is not None
        origins: Origins = StoredOrigins(origin, energy)
    else:
        keys, energy = nodes + 1, None if files is None else files.energy
        counts = read_counts(store, settings)
        origins = origins_of_build(initial["method"], index, counts, slots=store.slots, energy=energy)
    return EdgeInitializer.create(
        method=initial["method"],
        seed=initial["seed"],
        config=config,
        width=settings["width"],
        length=settings["build"]["length"],
        nodes=nodes,
        keys=keys,
        origins=origins,
    )


def read_clones(store: StoreReader, nodes: int) -> CloneTree:
    """The clones of a graph."""
    if not store.has(CLONE_PARENT):
        return CloneTree.empty(nodes)
    return CloneTree(nodes=nodes, parent=store.read(CLONE_PARENT), token=store.read(CLONE_TOKEN))


def pair_model(
    tree: CloneTree, pairs: tuple[Ints, Ids, Integers], column: Callable[[str], NDArray[Any]], initial: InitialSettings
) -> PairModel:
    """The pair model of first, target and count of pairs, and of the columns of nodes [n] and clones [C], by name."""
    first, target, count = pairs
    total, discounted = column("rows/total"), column("rows/discounted")
    if "pair_discounts" in initial:  # built with clones, of which there may be none left
        total = np.concatenate([column(PAIR_TOTAL), column(CLONE_TOTAL)])
        discounted = np.concatenate([column(PAIR_DISCOUNTED), column(CLONE_DISCOUNTED)])
    return PairModel(
        tree=tree,
        first=first,
        target=target,
        count=_small(count),
        total=total,
        discounted=discounted,
        discounts=pair_discounts(initial),
        log_lower=column(LOG_LOWER),
        log_less=column(LOG_LESS),
    )


def _small(count: Integers) -> Integers:
    """Counts as int32 if they fit."""
    return count.astype(np.int32) if count.max(initial=0) < 2**31 else count


def read_sources(store: Store, settings: GraphSettings) -> PairModel:
    """The sources of a graph whose edges share a base, without pairs: `with_pairs` adds them."""
    tree = read_clones(store, settings["nodes"])
    none = np.zeros(tree.sources + 1, np.int64), np.empty(0, np.int32), np.empty(0, np.int32)
    return pair_model(tree, none, store.read, settings["initial"])


def read_rows_of_pairs(store: Store, only: Ints | None = None) -> tuple[Ints, Ids, Integers]:
    """Where the pairs of each source begin, their targets and their counts.

    ``only``: the sources whose pairs are read, int64 [k], ascending; the others have none then. None: all.
    """
    first = store.read(PAIR_FIRST)
    if only is None:
        return first, store.read(PAIR_TARGET), store.read(PAIR_COUNT)
    size = np.diff(first)[only]
    pair = ranges(first[only], size)
    target, count = store.read_rows(PAIR_TARGET, pair), store.read_rows(PAIR_COUNT, pair)
    first = np.zeros(len(first), np.int64)
    first[only + 1] = size
    return np.cumsum(first), target, count


def with_pairs(sources: PairModel, store: Store, index: EdgeIndex, only: Ints | None = None) -> PairModel:
    """`read_sources` with pairs, and with what private edges and forbidden pairs add.

    ``only``: the sources whose pairs are read, int64 [k], ascending; those that they descend from must be among them.
    None: all.
    """
    first, target, count = read_rows_of_pairs(store, only)
    model = dataclasses.replace(sources, first=first, target=target, count=_small(count))
    return model.with_edges(*_added(sources, store, index, only))


def _added(sources: PairModel, store: Store, index: EdgeIndex, only: Ints | None = None) -> tuple[Ints, Doubles, Ints]:
    """What edges add and which are forbidden, as `PairModel.with_edges` takes it; ``only`` as for `with_pairs`."""
    keys, place, forbidden = index.keys(), index.slots(), index.forbidden
    if only is not None:
        nodes = only[: np.searchsorted(only, index.nodes)]
        edges = ranges(index.row_start[nodes], index.row_sizes()[nodes])
        keys, place = keys[edges], place[edges]
        forbidden = forbidden[np.isin(forbidden // index.nodes, nodes)]
    energy = store.read(ENERGY)[place]
    if len(sources.tree):
        source, goal = store.read(CLONE_EDGE).astype(np.int64).T
        own = np.ones(len(source), bool) if only is None else np.isin(source, only)
        keys = np.concatenate([keys, source[own] * index.nodes + goal[own]])
        energy = np.concatenate([energy, store.read(CLONE_ENERGY)[own]])
    return keys, energy.astype(np.float64), forbidden


def read_pairs(store: Store, index: EdgeIndex, settings: GraphSettings, counts: PairModel | None = None) -> PairModel:
    """The pair model of a graph whose edges share a base, with what its private edges and forbidden pairs add.

    ``counts``: one with the same counts, whatever its edges add; None: they are read.
    """
    if counts is not None:
        return counts.with_edges(*_added(counts, store, index))
    return with_pairs(read_sources(store, settings), store, index)


def write_clones(
    store: Store, tree: CloneTree | None, columns: Mapping[str, NDArray[Any]], edges: Ints, energy: Doubles
) -> None:
    """Writes the clones (None: those of the store stay), columns [C] of them, and what their edges add.

    ``edges`` is int64 [k, 2], ``energy`` float64 [k].
    """
    store.require_version(CLONE_VERSION)
    if tree is not None:
        store.write(CLONE_PARENT, tree.parent)
        store.write(CLONE_TOKEN, tree.token)
    for name, column in columns.items():
        store.write(name, column)
    store.write(CLONE_EDGE, edges.astype(np.int32))
    store.write(CLONE_ENERGY, energy.astype(np.float32))


def write_pairs(store: Store, first: Ints, target: Ids, count: Integers) -> None:
    """Writes the counts of all pairs: int64 [n + C + 1], int32 [pairs] and int64 [pairs]."""
    store.write(PAIR_FIRST, first)
    store.write(PAIR_TARGET, target)
    store.write(PAIR_COUNT, count)
