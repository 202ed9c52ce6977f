"""Edits of one edge of a clone: an edge of a node after given nodes before it.

What an edge of a clone adds to its energy comes on top of what the edges of its parent add, so that an edit of a node
holds for its clones, and an edit of a clone holds for it alone. It knows the tables of a working copy; it does not know
pages.
"""

from __future__ import annotations

import math

import numpy as np
from sifu_store.errors import OptionError

from sifu_graph.edit.base_edits import energies_at_rest
from sifu_graph.edit.pair_table import PairTable
from sifu_graph.edit.reports import EdgeState
from sifu_graph.edit.working_copy import WorkingCopy
from sifu_graph.edit_bounds import require_amount, require_bounded
from sifu_graph.ops.pair_model import PairModel
from sifu_graph.text.clone_tree import CloneTree
from sifu_graph.text.node_lookup import shown_name, source_name, source_named


def source_of(copy: WorkingCopy, name: str) -> int:
    """The node or the clone of a name. Raises `OptionError` with the nearest names for any other."""
    tree = CloneTree.empty(copy.n) if copy.pairs is None else copy.pairs.tree
    return source_named(copy.tokenizer, tree, name)


def state(copy: WorkingCopy, source: int, v: int, model: PairModel | None) -> EdgeState:
    """The current values of the edge from a clone to v, where `WorkingCopy.pair_model` is ``model``."""
    pairs, row = _pairs(copy), energies_at_rest(copy, source, model)
    nats = pairs.nats_of(source, v)
    forbidden = bool(np.isneginf(row[v]))
    return EdgeState(
        source=source_name(copy.tokenizer, pairs.tree, source),
        target=copy.tokenizer.vocabulary[v],
        kind="forbidden" if forbidden else "own" if nats else "inherited",
        count=pairs.count_of(source, v),
        energy=float(row[v]),
        probability=math.exp(float(row[v]) - float(np.logaddexp.reduce(row))),
    )


def is_forbidden(copy: WorkingCopy, source: int, v: int) -> bool:
    """Whether the edge from a node or a clone is forbidden, for itself or for a parent."""
    pairs = _pairs(copy)
    while source >= copy.n:
        if np.isneginf(pairs.nats_of(source, v)):
            return True
        source = int(pairs.tree.parents[source])
    return copy.is_forbidden(source, v)


def boost(copy: WorkingCopy, source: int, v: int, nats: float) -> None:
    """Adds ``nats`` to the log-odds of the edge.

    Raises
    ------
    OptionError
        ``nats`` is above `edit_bounds.MOST`, or the edge is forbidden.
    """
    require_amount(nats, "boost", " nats")
    if is_forbidden(copy, source, v):
        raise OptionError(f"{shown(copy, source, v)} is forbidden: allow it first")
    set_nats(copy, source, v, _pairs(copy).nats_of(source, v) + nats)


def to_default(copy: WorkingCopy, source: int, v: int) -> None:
    """Makes the edge that of the clone's parent again.

    Raises
    ------
    OptionError
        It is.
    """
    if not _pairs(copy).nats_of(source, v):
        raise OptionError(f"{shown(copy, source, v)} adds nothing to that of its parent already")
    set_nats(copy, source, v, 0.0)


def forbid(copy: WorkingCopy, source: int, v: int) -> float:
    """Sets the probability of the edge to 0. Returns what it added to its energy, in nats.

    Raises
    ------
    OptionError
        The edge is forbidden already, or is the last edge out of the clone that can be chosen.
    """
    row = energies_at_rest(copy, source)
    if np.isneginf(row[v]):
        raise OptionError(f"{shown(copy, source, v)} is forbidden already")
    if np.isfinite(row).sum() == 1:
        raise OptionError(f"{shown(copy, source, v)} is the last edge that may be chosen there: it cannot be forbidden")
    before = _pairs(copy).nats_of(source, v)
    set_nats(copy, source, v, -math.inf)
    return before


def allow(copy: WorkingCopy, source: int, v: int) -> None:
    """Makes the forbidden edge that of the clone's parent again.

    Raises
    ------
    OptionError
        The edge of the clone is not forbidden, or only because that of its parent is.
    """
    if not np.isneginf(_pairs(copy).nats_of(source, v)):
        inherited = is_forbidden(copy, source, v)
        why = "forbidden for the clone's parent: allow it there" if inherited else "not forbidden"
        raise OptionError(f"{shown(copy, source, v)} is {why}")
    set_nats(copy, source, v, 0.0)


def set_nats(copy: WorkingCopy, source: int, v: int, nats: float) -> None:
    """Sets what the edge of a clone adds to its energy."""
    if math.isfinite(nats):
        require_bounded(np.array([nats]), "the energy of the edge")
    if nats != _pairs(copy).nats_of(source, v):
        _pairs(copy).set_nats(source, v, nats)
        copy.changed = True


def _pairs(copy: WorkingCopy) -> PairTable:
    assert copy.pairs is not None  # only a graph with a base has clones
    return copy.pairs


def shown(copy: WorkingCopy, source: int, v: int) -> str:
    """An edge of a node or a clone, for messages."""
    name = shown_name(copy.tokenizer.vocabulary[source]) if source < copy.n else ""
    name = name or source_name(copy.tokenizer, _pairs(copy).tree, source)
    return f"the edge {name} {shown_name(copy.tokenizer.vocabulary[v])}"
