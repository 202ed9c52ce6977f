"""The probability of every node after each token of a text, one vector at a time.

The module knows node ids and probabilities; it does not know names, and not what is asked of a vector.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from sifu_graph.arrays import Doubles, Ids, Ints
from sifu_graph.generation.base_walk import AnyWalk
from sifu_graph.inspection.contests import as_evaluation
from sifu_graph.model import base_forward
from sifu_graph.text.encoded import Split

if TYPE_CHECKING:
    from sifu_graph.session import GraphSession

CHUNKS = 64  # of a text that are computed at a time, where edges stand alone


def log_p_after(walk: AnyWalk, *, without: Ints | None = None) -> Doubles:
    """log p of every node in the last contest of a walk, float64 [n]; -inf: it cannot follow.

    Parameters
    ----------
    walk
        Its `energies` or `choose` was called at the current node.
    without
        Nodes that cannot follow, int64. None: those of the forbidden pairs, as in evaluation.
    """
    index = walk.parameters.index
    energies, default = walk.last_energies()
    logits: Doubles = np.full(index.nodes, walk.scale * default)
    logits[walk.targets] = walk.scale * energies.astype(np.float64)
    logits[index.forbidden_after(walk.node) if without is None else without] = -np.inf
    return _normalised(logits)


def log_p_of_tokens(graph: GraphSession, ids: Ids) -> Doubles:
    """log p of every token of a document but the first, float64 [tokens - 1]: the bits of evaluation."""
    log_p = np.full(max(0, len(ids) - 1), -np.inf)  # of a forbidden edge
    parameters, length = dataclasses.replace(graph.parameters, tier=None), graph.settings["build"]["length"]  # CPU
    if parameters.base is not None:
        for found, places in base_forward.examine(parameters.base, parameters.index, Split.from_arrays([ids])):
            log_p[places - 1] = -found.loss.double().numpy()
        return log_p
    stride = CHUNKS * (length - 1)
    for begin in range(0, len(log_p), stride):
        piece = ids[begin : begin + stride + 1].tolist()
        for one in as_evaluation(parameters, graph.signal, piece, length, None)[1]:
            if one.loss is not None:
                log_p[begin + one.position] = -one.loss
    return log_p


def of_text(graph: GraphSession, ids: Sequence[int], walk: AnyWalk) -> Iterator[Doubles]:
    """log p of every node after each of ``ids`` but the last one, float64 [n], as `evaluation.evaluate` sees them.

    Parameters
    ----------
    graph
        The open graph.
    ids
        A document, with its separator at the beginning if there is one.
    walk
        Of the graph; it is moved. In a graph whose edges stand alone evaluation cuts a text into chunks, and no walk
        is needed.
    """
    if graph.parameters.base is not None:
        separator = graph.tokenizer.separator
        # the kernel of evaluation and the walk of generation differ by rounding: the token of the text has its bits
        one = separator not in ids[1:-1]
        exact = log_p_of_tokens(graph, np.array(ids, dtype=np.int32)) if one else None
        for place, node in enumerate(ids[:-1]):
            (walk.start if place == 0 or node == separator else walk.carry)(node)
            walk.energies()
            found = log_p_after(walk)
            if exact is not None:
                found[ids[place + 1]] = exact[place]
            yield found
        return
    parameters = dataclasses.replace(graph.parameters, tier=None)  # on the CPU
    index, length = parameters.index, graph.settings["build"]["length"]
    stride = CHUNKS * (length - 1)
    for begin in range(0, len(ids) - 1, stride):
        contests = as_evaluation(parameters, graph.signal, ids[begin : begin + stride + 1], length, None)[1]
        by_place = {contest.position: contest for contest in contests}
        for place in range(min(stride, len(ids) - 1 - begin)):
            logits = np.full(index.nodes, -np.inf)
            if (contest := by_place.get(place)) is not None:
                scale = float(parameters.scale)
                logits[:] = scale * contest.default
                logits[index.target[index.row(contest.node)]] = scale * contest.energies.astype(np.float64)
                logits[index.forbidden_after(contest.node)] = -np.inf
                logits = _normalised(logits)
            yield logits  # a position whose next node is forbidden has no contest: all are -inf


def _normalised(logits: Doubles) -> Doubles:
    peak = float(logits.max(initial=-np.inf))
    if peak == -np.inf:
        return logits
    found: Doubles = logits - (peak + np.log(np.exp(logits - peak).sum()))
    return found
