"""Edits of a graph whose edges share a base: energies at rest, new nodes in closed form, merged nodes.

The totals of a source and the model below the pairs are columns of the table of nodes. They keep the values of the
build, so that an edit changes no other energy. It knows the tables of a working copy; it does not know pages.
"""

from __future__ import annotations

from contextlib import closing

import numpy as np
from sifu_store.layout import LOG_LESS, LOG_LOWER, REPEAT, TARGET_BIAS, TARGET_VECTOR

from sifu_graph.arrays import Doubles, Ints
from sifu_graph.edit.working_copy import WorkingCopy
from sifu_graph.model.base_at_rest import BaseAtRest
from sifu_graph.ops.pair_model import PairModel
from sifu_graph.text.encoded import Split
from sifu_graph.text.pair_counts import PairCounts

RIDGE = 30.0
"""Strength of the ridge of `vectors_from_neighbours`, and the occurrences at which a node weighs one half there."""


def energies_at_rest(copy: WorkingCopy, u: int, model: PairModel | None = None) -> Doubles:
    """The energies of all nodes after u where the signal is 0, float64 [n]; -inf: forbidden.

    ``model`` is the `WorkingCopy.pair_model` of the copy; None: it is computed.
    """
    model = copy.pair_model(np.array([u])) if model is None else model
    return BaseAtRest(model, copy.nodes.peek(TARGET_BIAS), float(copy.small.peek("signal/scale")[0])).energies(u)


def add_counted(copy: WorkingCopy, text: PairCounts, new: Ints) -> None:
    """The pairs of new nodes (int64 [k]) in a text, the model below them, and vectors in closed form.

    The columns of the new nodes that `pairs.note_text` sets must be set. log q is that of the nodes with as many
    different predecessors.
    """
    assert copy.pairs is not None
    touches = np.isin(text.source, new) | np.isin(text.target, new)
    copy.pairs.add(text.source[touches].astype(np.int64), text.target[touches].astype(np.int64), text.count[touches])
    old = np.setdiff1d(np.arange(copy.n), new)
    before = copy.nodes["nodes/predecessors"]
    order = np.argsort(before[old], kind="stable")
    for name, less in ((LOG_LOWER, 0), (LOG_LESS, 1)):
        wanted = np.maximum(before[new] - less, 0)
        copy.nodes[name][new] = np.interp(wanted, before[old][order], copy.nodes[LOG_LOWER][old][order])
    vectors_from_neighbours(copy, new)


def vectors_from_neighbours(copy: WorkingCopy, new: Ints) -> None:
    """Sets e, n, c and g of new nodes (int64 [k]) from those of the nodes before and after them, in closed form.

    The features of a node v are the means of e and n over its predecessors and over its successors, weighted by the
    counts of the pairs, and divided by their deviations over the other nodes. With the features F [m, 4 d] and the
    vectors Y [m, 2 d + 3] of the other nodes, both without their weighted means, and w = N / (N + `RIDGE`), where N
    are the occurrences of the nodes,

        M = (F' w F + `RIDGE` mean(w) I)^-1 F' w Y,      Y_new = mean of the vectors + F_new M.
    """
    assert copy.pairs is not None
    nodes, n = copy.nodes, copy.n
    source, target, count = copy.pairs.of_nodes()
    vectors = np.concatenate([nodes["nodes/bias"], nodes[TARGET_VECTOR]], axis=1, dtype=np.float64)
    wanted = np.concatenate([vectors, nodes[TARGET_BIAS][:, None], nodes[REPEAT]], axis=1)
    inner = ~(np.isin(source, new) & np.isin(target, new))

    def means(of: Ints, other: Ints) -> Doubles:
        known = inner & ~np.isin(other, new)
        sums = np.zeros((n, vectors.shape[1]))
        total = np.bincount(of[known], count[known], minlength=n)
        for column in range(vectors.shape[1]):
            sums[:, column] = np.bincount(of[known], count[known] * vectors[other[known], column], minlength=n)
        mean: Doubles = sums / np.maximum(total, 1)[:, None]
        return mean

    features = np.concatenate([means(target, source), means(source, target)], axis=1)
    old = np.setdiff1d(np.arange(n), new)
    occurs = nodes["nodes/count"][old].astype(np.float64)
    weight = occurs / (occurs + RIDGE)
    scale = features[old].std(0) + 1e-6
    F, middle = features / scale, np.average(wanted[old], axis=0, weights=weight + 1e-12)
    F = F - np.average(F[old], axis=0, weights=weight + 1e-12)
    gram = (F[old] * weight[:, None]).T @ F[old] + max(float(weight.mean()), 1e-6) * RIDGE * np.eye(F.shape[1])
    fit = np.linalg.solve(gram, (F[old] * weight[:, None]).T @ (wanted[old] - middle))
    found = middle + F[new] @ fit
    d = nodes["nodes/bias"].shape[1]
    nodes["nodes/bias"][new] = found[:, :d]
    nodes[TARGET_VECTOR][new] = found[:, d : 2 * d]
    nodes[TARGET_BIAS][new], nodes[REPEAT][new] = found[:, -3], found[:, -2:]


def merge(copy: WorkingCopy, node: int, into: int) -> None:
    """Merges a node into another: counts are added, vectors averaged by count, and edges follow the counts.

    A private edge of the merged node adds the mean of what its private parts added, weighted by count.
    """
    assert copy.pairs is not None
    nodes = copy.nodes
    weight = np.maximum(nodes["nodes/count"][[node, into]], 1).astype(np.float64)
    for name in ("nodes/bias", TARGET_VECTOR, TARGET_BIAS, REPEAT):
        mean = np.average(nodes[name][[node, into]].astype(np.float64), axis=0, weights=weight)
        nodes[name][into] = mean.astype(np.float32)
    for name in (LOG_LOWER, LOG_LESS):  # as a target it has the probability of both
        nodes[name][into] = np.logaddexp(nodes[name][node], nodes[name][into])
    copy.pairs.merge(node, into)


def tune(copy: WorkingCopy, text: Split, new: Ints, steps: int) -> None:
    """Trains the vectors of new nodes (int64 [k]) on a text; all else keeps its bits."""
    from sifu_graph.edit.preview import parameters_of
    from sifu_graph.model.base import NAMES
    from sifu_graph.training import tune_base

    parameters = parameters_of(copy)
    assert parameters.base is not None
    with closing(parameters.edges):
        tune_base.tune(parameters.base, parameters.index, text, nodes=new, steps=steps)
        for field in tune_base.ROWS:
            name = NAMES[field]
            copy.nodes[name][new] = parameters.small[name].numpy()[new]
    copy.changed = True
