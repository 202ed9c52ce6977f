"""Everything of a new graph except the pages of its edges, into the first commit of a store.

Used by the build and by imports, so that both write the same arrays and settings. It does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sifu_store.layout import (
    BIAS,
    CLONE_DISCOUNTED,
    CLONE_GAIN,
    CLONE_TOTAL,
    COUNT,
    ENERGY,
    KEY,
    LOG_LESS,
    LOG_LOWER,
    ORIGIN,
    PAIR_DISCOUNTED,
    PAIR_TOTAL,
    REPEAT_VERSION,
    SOURCE,
    STORED,
    TARGET,
    WEIGHT,
)
from sifu_store.store import Store

from sifu_graph._version import __version__
from sifu_graph.arrays import Floats, Ids, Ints
from sifu_graph.config import SignalConfig
from sifu_graph.model.io import write_clones, write_pairs
from sifu_graph.ops.pair_model import PairModel
from sifu_graph.settings import BuildSettings, GraphSettings, InitialSettings
from sifu_graph.text.kneser_ney import Counts
from sifu_graph.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class NewGraph:
    """The arrays of a new graph of n nodes, width d and E private edges, sorted by (u, v)."""

    tokenizer: Tokenizer
    counts: Counts
    node_count: Ints  # [n], occurrences in the text
    row_distinct: Ints  # [n], distinct targets of every source
    source: Ids | NDArray[np.integer]  # [E]
    target: Ids | NDArray[np.integer]  # [E]
    count: Ints  # [E], occurrences of the pair
    node_bias: Floats  # [n, d]
    alpha: Floats  # [K], mixing logits
    default_weight: Floats  # [d, d]
    default_bias: Floats  # [d]
    pairs: PairModel | None = None  # counts of all pairs, of a graph with a base
    gain: Floats = field(default_factory=lambda: np.empty(0, np.float32))  # [C], of the clones of `pairs`
    base: Mapping[str, Floats] = field(default_factory=dict)  # the other arrays of that base, by name


def write_new_graph(
    store: Store,
    graph: NewGraph,
    *,
    signal: SignalConfig,
    initial: InitialSettings,
    build: BuildSettings,
    format_version: int,
) -> None:
    """Writes the arrays and settings. No page of an edge is stored: `EdgeInitializer` generates their values.

    Raises
    ------
    DiskFullError
    """
    width = len(graph.default_bias)
    vocabulary = [{"token": token, "kind": "text"} for token in graph.tokenizer.vocabulary]
    store.write_json("nodes/vocabulary", vocabulary)
    store.write_json("nodes/tokenizer", graph.tokenizer.to_json())
    store.write("nodes/count", graph.node_count)
    store.write("nodes/bias", graph.node_bias)
    store.write("nodes/predecessors", graph.counts.predecessors.astype(np.int64))
    store.write("rows/total", graph.counts.total)
    store.write("rows/distinct", graph.row_distinct)
    store.write("rows/discounted", graph.counts.discounted)
    store.write(SOURCE, graph.source)
    store.write(TARGET, graph.target)
    store.write(COUNT, graph.count)
    store.write("signal/alpha", graph.alpha)
    store.write("signal/scale", np.ones(1, np.float32))
    store.write("default/weight", graph.default_weight)
    store.write("default/bias", graph.default_bias)
    store.create_paged(WEIGHT, (width, width), np.float32)
    store.create_paged(BIAS, (width,), np.float32)
    store.write(STORED, np.zeros(store.pages, np.uint8))
    if graph.pairs is not None:
        _write_base(store, graph.pairs, graph)
    settings: GraphSettings = {
        "format_version": format_version,
        "created_by": f"sifu-graph {__version__}",
        "nodes": len(graph.node_count),
        "width": width,
        "signal": signal.to_json(),
        "initial": initial,
        "build": build,
        "training": None,
    }
    store.set_settings({**settings})


def _write_base(store: Store, pairs: PairModel, graph: NewGraph) -> None:
    """The counts of all pairs, what all edges share, and an energy of 0 for every private edge: it adds nothing yet."""
    store.require_version(REPEAT_VERSION)
    write_pairs(store, pairs.first, pairs.target, pairs.count)
    store.write(LOG_LOWER, pairs.log_lower)
    store.write(LOG_LESS, pairs.log_less)
    if len(tree := pairs.tree):
        n = tree.nodes
        columns: dict[str, NDArray[Any]] = {
            CLONE_GAIN: graph.gain,
            CLONE_TOTAL: pairs.total[n:],
            CLONE_DISCOUNTED: pairs.discounted[n:],
        }
        write_clones(store, tree, columns, np.empty((0, 2), np.int64), np.empty(0))
        store.write(PAIR_TOTAL, pairs.total[:n])
        store.write(PAIR_DISCOUNTED, pairs.discounted[:n])
    for name, values in graph.base.items():
        store.write(name, values)
    store.write(KEY, np.arange(len(graph.node_count), dtype=np.int32))
    store.write(ORIGIN, np.stack([graph.source, graph.target], axis=1).astype(np.int32))
    store.write(ENERGY, np.zeros(len(graph.source), np.float32))
