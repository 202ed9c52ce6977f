"""Adding, removing, renaming and merging nodes of a working copy.

It knows how such an edit changes edges, biases and counts; it does not know slots and pages (`working_copy`),
commits (`session`), nor how the text of a corpus is counted (`pairs`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sifu_store.errors import OptionError
from sifu_store.layout import BIAS, COUNT, ENERGY, PAIR_DISCOUNTED, PAIR_TOTAL, SOURCE, TARGET, USAGE

from sifu_graph.arrays import Ints
from sifu_graph.edit import base_edits
from sifu_graph.edit.columns import Columns
from sifu_graph.edit.forbidding import followers
from sifu_graph.edit.rest_energy import Rest
from sifu_graph.edit.working_copy import WorkingCopy
from sifu_graph.text.encoded import TokenFile
from sifu_graph.text.kneser_ney import discount_of
from sifu_graph.text.node_lookup import node_named, shown_name
from sifu_graph.text.tokenizer import SPECIAL


def add_like(copy: WorkingCopy, new: Ints, like: int) -> Ints:
    """Copies the edges of a node, out of it and into it, to new nodes.

    A self edge (like, like) is copied to every pair of nodes among ``like`` and the new ones; forbidden pairs are
    copied in the same way. So in every context a new node has the energy of ``like``, and after a new node every node
    has the energy that it has after ``like``.

    Parameters
    ----------
    new
        int64 [k]: nodes without edges.
    like
        The node whose edges are copied.

    Returns
    -------
    slots : int64 [edges]
        The slots of the new edges.
    """
    out, into = copy.row_slots(like), copy.column_slots(like)
    into = into[copy.edges[SOURCE][into] != like]
    itself = copy.slot_of(like, like)
    out = out[copy.edges[TARGET][out] != like]
    parts = []
    for node in new.tolist():
        parts.append({**copy.rows_of(out), SOURCE: np.full(len(out), node)})
        parts.append({**copy.rows_of(into), TARGET: np.full(len(into), node)})
    if itself is not None:
        every = np.array([like, *new.tolist()])
        u, v = (grid.ravel()[1:] for grid in np.meshgrid(every, every, indexing="ij"))  # all but (like, like)
        parts.append({**copy.rows_of(np.full(len(u), itself)), SOURCE: u, TARGET: v})
    pairs = copy.forbidden
    copies = [pairs]
    for node in new.tolist():
        for side in (0, 1):
            copied = pairs[pairs[:, side] == like].copy()
            copied[:, side] = node
            copies.append(copied)
    if ((pairs == like).all(axis=1)).any():
        every = np.array([like, *new.tolist()])
        copies.append(np.stack([grid.ravel() for grid in np.meshgrid(every, every, indexing="ij")], axis=1))
    slots = copy.add(joined(parts))
    if len(pairs):
        copy.set_forbidden(np.concatenate(copies))
    note_pairs(copy, slots, rows=~np.isin(copy.edges[SOURCE][slots], new))
    return slots


def model_of(copy: WorkingCopy, token: str) -> int:
    """The node of the parameter ``like`` of `Edit.add_node`, by its name.

    Raises
    ------
    OptionError
        No node has that name, or it is a special node.
    """
    node = node_named(copy.tokenizer, token)
    if node in range(len(SPECIAL)):
        raise OptionError(f"{token} is a special node: a new node cannot be like it")
    return node


def note_pairs(copy: WorkingCopy, slots: Ints, *, rows: NDArray[np.bool_] | None = None) -> None:
    """Adds the counts of new edges to the statistics of their sources.

    With a base they do not change: the energies of all edges of a source are computed from them.

    Parameters
    ----------
    slots
        int64 [k]: the slots of the edges.
    rows
        bool [k]: which of them are added. None: all.
    """
    if copy.pairs is not None:
        return
    chosen = slots if rows is None else slots[rows]
    source, count = copy.edges[SOURCE][chosen], copy.edges[COUNT][chosen]
    np.add.at(copy.nodes["rows/total"], source, count)
    np.add.at(copy.nodes["rows/distinct"], source, (count > 0).astype(np.int64))
    np.add.at(copy.nodes["rows/discounted"], source, discount_of(count, copy.counts.discounts))


def remove(copy: WorkingCopy, nodes: Sequence[int]) -> int:
    """Removes nodes and all their edges. Returns the number of private edges that were removed.

    Raises
    ------
    OptionError
        One of them is a special node, or after a node that remains nothing could follow.
    """
    before = copy.private
    others = np.setdiff1d(np.arange(copy.n), nodes)
    stuck = others[followers(copy, others, without=nodes) == 0]
    if len(stuck):
        name = shown_name(copy.tokenizer.vocabulary[stuck[0]])
        raise OptionError(f"after {name} nothing else may follow: allow another edge out of it first")
    copy.remove_nodes(np.array(nodes, dtype=np.int64), tokenizer=copy.tokenizer.without(nodes))
    return before - copy.private


def bias_from(copy: WorkingCopy, node: int, other: int) -> None:
    """Copies the bias of ``other``: a text that begins with ``node`` starts with the signal of ``other``."""
    bias = copy.nodes["nodes/bias"]
    if (bias[node] != bias[other]).any():
        bias[node] = bias[other]
        copy.changed = True


def merge(copy: WorkingCopy, node: int, into: int) -> None:
    """Merges ``node`` into ``into``: the text of both is read as ``into``.

    Counts are added. The parameters of a merged edge are the mean of its private parts, weighted by count; then its
    bias is moved so that at rest the merged node has the probability of its parts together: as a target ``p(a) +
    p(b)``, as a source the mean of both rows, weighted by their transitions. An edge whose parts are all default edges
    is a default edge; an edge whose parts are all forbidden is forbidden.

    Raises
    ------
    OptionError
        One of the nodes is a special node, or both are the same.
    """
    from scipy.special import logsumexp  # imported here: it loads slowly, and only merging needs it

    tokenizer = copy.tokenizer.merged(node, into)  # raises OptionError for nodes that cannot be merged
    if copy.pairs is not None:
        _merge_on_base(copy, node, into, tokenizer)
        return
    rest, parts = Rest.of(copy), (node, into)
    ends = np.isin(copy.edges[SOURCE], parts) | np.isin(copy.edges[TARGET], parts)
    slots = np.flatnonzero(ends)
    logits = _Logits(copy, rest, slots)
    weight = np.maximum(copy.nodes["rows/total"][list(parts)], 1).astype(np.float64)
    shares = np.log(weight / weight.sum()) - [rest.log_partition(copy, part) for part in parts]
    groups: dict[tuple[int, int], list[int]] = {}
    for slot, u, v in zip(
        slots.tolist(), *(copy.edges[name][slots].tolist() for name in (SOURCE, TARGET)), strict=True
    ):
        groups.setdefault((into if u == node else u, into if v == node else v), []).append(slot)
    energy = np.empty(len(groups))
    for i, (u, v) in enumerate(groups):
        targets = parts if v == into else (v,)
        if u != into:
            logit = logsumexp([logits.of(u, y) for y in targets])
        else:  # the mean of both rows, relative to one default edge of it
            both = [share + logits.of(x, y) for x, share in zip(parts, shares, strict=True) for y in targets]
            logit = logsumexp(both) - logsumexp(shares)
        energy[i] = max(float(logit) / rest.scale, 0.05)
    rows, values = _merged_rows(copy, rest, groups, energy)
    forbidden = _merged_forbidden(copy, node, into)
    copy.drop(slots)
    fresh = copy.add(rows)
    if values is not None:
        which, arrays = values
        copy.put(fresh[which], arrays)
    _add_counts(copy, node, into)
    copy.set_forbidden(forbidden)
    copy.remove_nodes(np.array([node]), tokenizer=tokenizer)


def _merge_on_base(copy: WorkingCopy, node: int, into: int, tokenizer: Any) -> None:
    """A merged edge adds the mean of what its private parts added to the base, weighted by count."""
    base_edits.merge(copy, node, into)
    parts = (node, into)
    slots = np.flatnonzero(np.isin(copy.edges[SOURCE], parts) | np.isin(copy.edges[TARGET], parts))
    ends = np.stack([copy.edges[name][slots] for name in (SOURCE, TARGET)])
    ends[ends == node] = into
    (source, target), group = np.unique(ends, axis=1, return_inverse=True)
    count = np.bincount(group, copy.edges[COUNT][slots], minlength=len(source)).astype(np.int64)
    weight = np.maximum(copy.edges[COUNT][slots], 1e-9)
    sums = np.bincount(group, weight * copy.edges[ENERGY][slots], minlength=len(source))
    energy = sums / np.maximum(np.bincount(group, weight, minlength=len(source)), 1e-30)
    forbidden = _merged_forbidden(copy, node, into)
    copy.drop(slots)
    copy.add(copy.generated(source.astype(np.int64), target.astype(np.int64), count, energy))
    _add_counts(copy, node, into)
    copy.set_forbidden(forbidden)
    copy.remove_nodes(np.array([node]), tokenizer=tokenizer)


def _add_counts(copy: WorkingCopy, node: int, into: int) -> None:
    """Adds the counts of a node to those of another."""
    for name in {"nodes/count", "rows/total", "rows/discounted", PAIR_TOTAL, PAIR_DISCOUNTED} & copy.nodes.keys():
        copy.nodes[name][into] += copy.nodes[name][node]
    for name in ("nodes/predecessors", "rows/distinct"):
        copy.nodes[name][into] = max(copy.nodes[name][into], copy.nodes[name][node])


def tune(copy: WorkingCopy, new: Ints, text: TokenFile, count: int) -> None:
    """Trains the edges of new nodes, int64 [k], alone: ``count`` steps on a text."""
    if copy.pairs is not None:
        base_edits.tune(copy, text.train, new, count)
        return
    from sifu_graph.config import OptimizerConfig
    from sifu_graph.edit.preview import parameters_of
    from sifu_graph.training import step as steps
    from sifu_graph.training.tune_edges import tune as tune_edges

    training = copy.settings["training"]
    optimizer = OptimizerConfig(**training["optimizer"]) if training else OptimizerConfig()
    if optimizer.kind == "adamw-dense":
        optimizer = dataclasses.replace(optimizer, kind="adamw")
    parameters = parameters_of(copy, steps.edge_state_arrays(optimizer, copy.width))
    with closing(parameters.edges) as edges:
        slots = tune_edges(
            parameters,
            copy.config,
            optimizer,
            text.train,
            nodes=new,
            steps=count,
            length=copy.settings["build"]["length"],
            seed=copy.settings["initial"]["seed"],
        )
        copy.put(slots, {name: edges.get(name, slots).numpy() for name in copy.paged})


class _Logits:
    """scale * energy at rest: of the private edges at some slots, of default edges, and -inf for forbidden edges."""

    def __init__(self, copy: WorkingCopy, rest: Rest, slots: Ints) -> None:
        self._copy, self._default = copy, float(rest.scale * rest.default)
        pairs = zip(*(copy.edges[name][slots].tolist() for name in (SOURCE, TARGET)), strict=True)
        self._found: dict[tuple[int, int], float] = dict(
            zip(pairs, (rest.scale * rest.of_edges(copy, slots)).tolist(), strict=True)
        )

    def of(self, u: int, v: int) -> float:
        if (u, v) in self._found:
            return self._found[u, v]
        return -np.inf if self._copy.is_forbidden(u, v) else self._default


def _merged_rows(
    copy: WorkingCopy, rest: Rest, groups: dict[tuple[int, int], list[int]], energy: NDArray[np.float64]
) -> tuple[Columns, tuple[Ints, dict[str, NDArray[np.float32]]] | None]:
    """Rows for the merged edges; and which of them have stored parameters, with these."""
    source, target = np.array(list(groups), dtype=np.int64).reshape(-1, 2).T
    members = [np.array(slots) for slots in groups.values()]
    count = np.array([copy.edges[COUNT][slots].sum() for slots in members], dtype=np.int64)
    rows = copy.generated(source, target, count, energy)
    rows[USAGE] = np.array([copy.edges[USAGE][slots].sum() for slots in members], dtype=np.int64)
    known = ~np.isnan(copy.edges[ENERGY])
    valued = [not (copy.is_generated(slots) & known[slots]).all() for slots in members]
    which = np.flatnonzero(np.array(valued, dtype=bool))
    if not len(which):
        return rows, None
    arrays: dict[str, list[NDArray[np.float32]]] = {name: [] for name in copy.paged}
    for i in which.tolist():
        slots = members[i]
        weights = np.maximum(copy.edges[COUNT][slots], 0).astype(np.float64)
        weights = weights / weights.sum() if weights.sum() else np.full(len(slots), 1 / len(slots))
        for name in copy.paged:
            arrays[name].append(np.average(copy.values(name, slots), axis=0, weights=weights).astype(np.float32))
        bias = arrays[BIAS][-1].astype(np.float64)
        arrays[BIAS][-1] = rest.boosted(bias, max(energy[i], rest.least(bias) + 1e-3)).astype(np.float32)
    return rows, (which, {name: np.stack(found) for name, found in arrays.items()})


def _merged_forbidden(copy: WorkingCopy, node: int, into: int) -> Ints:
    """The forbidden pairs after the merge: a pair is forbidden if all of its parts were."""
    pairs = {tuple(pair) for pair in copy.forbidden.tolist()}
    kept = []
    for u, v in {tuple(into if end == node else end for end in pair) for pair in pairs}:
        sources, targets = ((node, into) if end == into else (end,) for end in (u, v))
        if all((x, y) in pairs for x in sources for y in targets):
            kept.append((u, v))
    return np.array(kept, dtype=np.int64).reshape(-1, 2)


def joined(parts: Sequence[Columns]) -> Columns:
    """The rows of several tables as one table."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
