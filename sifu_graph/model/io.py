"""What of a graph's tables is read in one way everywhere: the index, the origins of untrained edges, their usage.

It knows the names of arrays in the store and what they become; it does not know parameters, and it does not wait for
torch: commands that only look at a graph's tables, or edit them, need no more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sifu_store.layout import BIAS, COUNT, SOURCE, USAGE, WEIGHT

from sifu_graph.config import SignalConfig

if TYPE_CHECKING:
    from sifu_graph.model.parameters import Parameters

import numpy as np
from numpy.typing import NDArray
from sifu_store.layout import ENERGY, FORBIDDEN, ORIGIN, TARGET
from sifu_store.store import Store

from sifu_graph.edge_index import EdgeIndex
from sifu_graph.model.initial import Initial
from sifu_graph.text.kneser_ney import Counts

SMALL = ("default/weight", "default/bias", "nodes/bias", "signal/alpha", "signal/scale")
"""Arrays that are trained and not paged."""


def read_index(store: Store) -> EdgeIndex:
    """The private edges, by (u, v)."""
    return EdgeIndex.from_slots(
        store.settings["nodes"],
        store.read(SOURCE),
        store.read(TARGET),
        store.read(COUNT),
        forbidden=store.read(FORBIDDEN) if store.has(FORBIDDEN) else None,
        node_count=store.read("nodes/count"),
    )


def read_usage(store: Store) -> NDArray[np.int64]:
    """How often training met each edge [slots]; zeros where that is not recorded."""
    found = store.has(USAGE) and store.shape(USAGE) == (store.slots,)
    return store.read(USAGE) if found else np.zeros(store.slots, np.int64)


def read_initial(store: Store, config: SignalConfig, index: EdgeIndex) -> Initial:
    """What the pages that are not stored are generated from: frozen by the first edit, until then the counts."""
    settings = store.settings
    initial = settings["initial"]
    common = {
        "method": initial["method"],
        "seed": initial["seed"],
        "config": config,
        "width": settings["width"],
        "length": settings["build"]["length"],
    }
    if store.has(ENERGY):
        return Initial.frozen(
            **common,
            nodes=initial["nodes"],
            keys=initial["keys"],
            origin=store.read(ORIGIN),
            energy=store.read(ENERGY),
        )
    return Initial.create(
        **common,
        index=index,
        slots=store.slots,
        counts=Counts(
            store.read("rows/total"),
            store.read("rows/discounted"),
            store.read("nodes/predecessors"),
            tuple(initial["discounts"]),
        ),
    )


def write_parameters(store: Store, parameters: Parameters) -> int:
    """Puts the small arrays and the changed pages into the store's next commit. Returns the number of pages.

    The pages count as clean only after `EdgePool.mark_stored`, when the commit is durable.
    """
    pool = parameters.edges
    for name, value in parameters.small.items():
        store.write(name, value.numpy())
    for name, value in parameters.state.items():
        store.write(name, value.numpy())
    if parameters.usage is not None and (parameters.usage.any() or store.has(USAGE)):
        store.write(USAGE, parameters.usage)
    for name, array in pool.arrays.items():
        if name not in (WEIGHT, BIAS):
            store.create_paged(name, tuple(array.shape[1:]), np.float32)
    written = 0
    for first, stop in pool.dirty_runs():
        for name in pool.arrays:
            store.write_pages(name, first, pool.values(name, first, stop))
        store.mark_stored(np.arange(first, stop))
        written += stop - first
    return written
