"""The probability of every node after each token of a text, one vector at a time.

The module knows node ids and probabilities; it does not know names, and not what is asked of a vector.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from sifu_graph.arrays import Doubles, Ids, Integers
from sifu_graph.edge_index import EdgeIndex
from sifu_graph.generation.base_walk import AnyWalk
from sifu_graph.generation.sampler import Reals
from sifu_graph.generation.walk import nth_missing
from sifu_graph.inspection.contests import Contest, as_evaluation
from sifu_graph.model import base_forward
from sifu_graph.model.parameters import Parameters
from sifu_graph.text.encoded import Split

if TYPE_CHECKING:
    from sifu_graph.session import GraphSession

CHUNKS = 64  # of a text that are computed at a time, where edges stand alone


def logits_after(walk: AnyWalk, without: Integers) -> Doubles:
    """Energy times scale of every node in the last contest of a walk, float64 [n]; -inf: it cannot follow.

    Parameters
    ----------
    walk
        Its `energies` or `choose` was called at the current node.
    without
        Nodes that cannot follow, integers [k].
    """
    energies, default = walk.last_energies()
    return _logits(walk.parameters.index.nodes, walk.targets, energies, default, scale=walk.scale, without=without)


def log_p_after(walk: AnyWalk) -> Doubles:
    """log p of every node in the last contest of a walk, as in evaluation, float64 [n]; -inf: a forbidden pair."""
    return _normalised(logits_after(walk, walk.parameters.index.forbidden_after(walk.node)))


def log_p_of_tokens(graph: GraphSession, ids: Ids) -> Doubles:
    """log p of every token of a document but the first, float64 [tokens - 1]: the bits of evaluation."""
    log_p = np.full(max(0, len(ids) - 1), -np.inf)  # of a forbidden edge
    parameters = graph.parameters
    if parameters.base is not None:
        for found, places in base_forward.examine(parameters.base, parameters.index, Split.from_arrays([ids])):
            log_p[places - 1] = -found.loss.double().numpy()
        return log_p
    for place, contest in enumerate(_contests(graph, parameters, ids.tolist())):
        if contest is not None and contest.loss is not None:
            log_p[place] = -contest.loss
    return log_p


def _contests(graph: GraphSession, parameters: Parameters, ids: Sequence[int]) -> Iterator[Contest | None]:
    """The contest after each token but the last, as evaluation computes it; None: no node can follow.

    A contest has no ``loss`` where the next token of the text is forbidden.
    """
    parameters, length = dataclasses.replace(parameters, tier=None), graph.settings["build"]["length"]  # CPU
    index, stride = parameters.index, CHUNKS * (length - 1)
    for begin in range(0, len(ids) - 1, stride):
        piece = ids[begin : begin + stride + 1]
        never = [one in index.forbidden_after(node) for node, one in itertools.pairwise(piece)]
        found = {}
        if not all(never):
            found = {one.position: one for one in as_evaluation(parameters, graph.signal, piece, length, None)[1]}
        for place in range(len(piece) - 1):
            if not never[place]:
                yield found[place]
                continue
            node, begun = a_successor(graph, index, piece[place]), place - place % (length - 1)
            if node is None:
                yield None
                continue
            chunk = [*piece[begun : place + 1], node]
            yield dataclasses.replace(as_evaluation(parameters, graph.signal, chunk, length, 1)[1][0], loss=None)


def a_successor(graph: GraphSession, index: EdgeIndex, node: int) -> int | None:
    """A node that can follow a node by the edges of ``index``, the separator if it can; None: no node can."""
    never, separator = index.forbidden_after(node), graph.tokenizer.separator
    if separator is not None and separator not in never:
        return separator
    found = nth_missing(never, 0)
    return found if found < index.nodes else None


def of_text(graph: GraphSession, ids: Sequence[int], walk: AnyWalk) -> Iterator[Doubles]:
    """log p of every node after each of ``ids`` but the last one, float64 [n], as `evaluation.evaluate` sees them.

    Parameters
    ----------
    graph
        The open graph.
    ids
        A document, with its separator at the beginning if there is one.
    walk
        Of the graph, or of the graph with changes; it is moved. In a graph whose edges stand alone evaluation cuts a
        text into chunks, and only its parameters are used.
    """
    parameters = walk.parameters
    if parameters.base is not None:
        separator = graph.tokenizer.separator
        # the kernel of evaluation and the walk of generation differ by rounding: the token of the text has its bits
        alone = separator not in ids[1:-1] and parameters is graph.parameters
        exact = log_p_of_tokens(graph, np.array(ids, dtype=np.int32)) if alone else None
        for place, node in enumerate(ids[:-1]):
            (walk.start if place == 0 or node == separator else walk.carry)(node)
            walk.energies()
            found = log_p_after(walk)
            if exact is not None:
                found[ids[place + 1]] = exact[place]
            yield found
        return
    index, scale = parameters.index, float(parameters.scale)
    for one in _contests(graph, parameters, ids):
        if one is None:
            yield np.full(index.nodes, -np.inf)
            continue
        targets, never = index.target[index.row(one.node)], index.forbidden_after(one.node)
        yield _normalised(_logits(index.nodes, targets, one.energies, one.default, scale=scale, without=never))


def _logits(
    nodes: int, targets: Integers, energies: Reals, default: float, *, scale: float, without: Integers
) -> Doubles:
    """Energy times scale of all nodes, float64 [nodes], from the energies [k] of some targets [k] and of the others."""
    logits: Doubles = np.full(nodes, scale * default)
    logits[targets] = scale * energies.astype(np.float64)
    logits[without] = -np.inf
    return logits


def _normalised(logits: Doubles) -> Doubles:
    peak = float(logits.max(initial=-np.inf))
    if peak == -np.inf:
        return logits
    found: Doubles = logits - (peak + np.log(np.exp(logits - peak).sum()))
    return found
