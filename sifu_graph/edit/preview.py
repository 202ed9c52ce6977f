"""The parameters of a working copy, so that it can be evaluated or trained before it is written.

It knows tables and pools; it does not know what is evaluated or trained. It loads torch, which other edits do not need.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from sifu_store.layout import BIAS, WEIGHT

from sifu_graph.config import initial_signal
from sifu_graph.edit.working_copy import WorkingCopy
from sifu_graph.model.base import Base
from sifu_graph.model.parameters import Parameters
from sifu_graph.paging.edge_pool import EdgePool


def parameters_of(copy: WorkingCopy, state: Mapping[str, tuple[int, ...]] | None = None) -> Parameters:
    """The parameters after the changes.

    Pages are read from the working copy on first use. ``state`` names arrays of an optimizer with their shapes per
    edge; arrays that the graph does not have are zero.
    """
    pool = EdgePool(copy.initial, slots=copy.slots, stored=copy.edges.page_values(), read=copy.read_pages)
    kept = [name for name in copy.paged if name not in (WEIGHT, BIAS)]
    pool.configure(state={**{name: copy.trailing(name) for name in kept}, **(state or {})}, kept=kept)
    small = {
        name: torch.from_numpy((copy.nodes if name in copy.nodes else copy.small).peek(name).copy())
        for name in copy.small
    }
    r_0 = initial_signal(copy.config, copy.width, copy.settings["initial"]["seed"])
    base = None if copy.pairs is None else Base.of(small, copy.pair_model())
    return Parameters(copy.index, pool, torch.from_numpy(r_0), small, base=base)
