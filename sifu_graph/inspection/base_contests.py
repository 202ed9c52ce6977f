"""The contests of one text in a graph whose edges share a base, as generation or evaluation computes them.

It calls what generation (`base_walk.BaseWalk`) calls, so the energies have the same bits; those of evaluation, which
the kernel computes (`base_forward.examine`), differ by rounding.

It knows nodes and energies; it does not know names or how an energy is decomposed (`attribution`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sifu_graph.config import SignalConfig
from sifu_graph.generation.base_walk import BaseWalk
from sifu_graph.inspection.contests import Contest, Like
from sifu_graph.model.parameters import Parameters
from sifu_graph.text.tokenizer import UNKNOWN


def on_base(
    parameters: Parameters,
    config: SignalConfig,
    ids: Sequence[int],
    *,
    like: Like,
    last: int | None,
    silent: frozenset[int],
) -> tuple[dict[int, Tensor], list[Contest]]:
    """The contest after every node of a text. For parameters and result, see `contests.as_generation`.

    ``silent``: positions that the signal passes without a change.
    """
    base = parameters.base
    assert base is not None
    positions = len(ids) - (like == "eval")
    window = 0 if last is None else max(0, positions - last)
    walk = BaseWalk(parameters, config, forbidden=[UNKNOWN])
    walk.silent = silent
    without = base.model.start.new_empty(0, len(base.model.start))  # the signal, had one position been silent
    signals: dict[int, Tensor] = {}
    contests: list[Contest] = []
    for position in range(positions):
        node, r_before = ids[position], walk.r.clone() if position else base.model.start
        (walk.carry if position else walk.start)(node)
        if position not in silent and position:
            token = torch.full((position, 1), node, dtype=torch.int32)
            base.backend.carry(base.model, token, torch.zeros_like(token, dtype=torch.bool), without)
        without = torch.cat([without, r_before[None]])
        r = signals[position] = walk.r.clone()
        if position < window:
            continue
        came = ids[position + 1] if position + 1 < len(ids) else None
        energies, loss = walk.energies()[0].copy(), None
        if like == "eval":
            loss = float(torch.logsumexp(torch.from_numpy(energies), 0)) - float(energies[came])
        contests.append(
            Contest(
                position=position,
                begin=0,
                node=node,
                came=came,
                mix=r,
                offset=0,
                energies=energies,
                default=-np.inf,
                loss=loss,
                without=without.clone(),
                source=walk.source,
                repeated=walk.repetition(),
            )
        )
    return signals, contests
