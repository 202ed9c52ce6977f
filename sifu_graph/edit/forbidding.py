"""Forbidding an edge of a working copy, and allowing it again: it is then what it was before.

The parameters of a forbidden edge are in no table of the store; earlier snapshots have them. The module knows an edge,
its past in the working copy and the commits before it; it does not know how a commit is made (`session`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sifu_store.errors import OptionError
from sifu_store.history import Commit
from sifu_store.layout import CLONE_EDGE, CLONE_ENERGY, FORBIDDEN, KEY, SOURCE, TARGET
from sifu_store.provenance import commits_before
from sifu_store.reading import StoreReader

from sifu_graph.arrays import Ints
from sifu_graph.edit import clone_edges
from sifu_graph.edit.columns import ROW, VALUE, Columns, EdgeValue
from sifu_graph.edit.working_copy import WorkingCopy
from sifu_graph.model.io import read_clones
from sifu_graph.session import GraphSession

Ends = tuple[int, int]


def followers(copy: WorkingCopy, sources: Ints, without: Sequence[int]) -> Ints:
    """How many nodes may be generated after each of k sources, except some of them: int64 [k]."""
    index = copy.index
    found = (index.defaults() + index.row_sizes())[sources]
    for node in {*copy.tokenizer.never_generated, *without}:
        found -= ~index.is_forbidden(sources, np.full(len(sources), node))
    return found


def forbid(copy: WorkingCopy, u: int, v: int) -> None:
    """Sets the probability of the edge to 0 in training, evaluation and generation, and takes its parameters away.

    Raises
    ------
    OptionError
        The edge is forbidden already, or is the last edge out of u that can be chosen.
    """
    if u >= copy.n:
        copy.shelf[_keys(copy, u, v)] = clone_edges.forbid(copy, u, v)
        return
    if copy.is_forbidden(u, v):
        raise OptionError(f"{clone_edges.shown(copy, u, v)} is forbidden already")
    slot = copy.slot_of(u, v)
    if not followers(copy, np.array([u]), without=[v])[0]:
        raise OptionError(
            f"{clone_edges.shown(copy, u, v)} is the last edge that may be chosen there: it cannot be forbidden"
        )
    slots = np.array([] if slot is None else [slot], dtype=np.int64)
    copy.shelf[_keys(copy, u, v)] = copy.rows_of(slots)
    copy.drop(slots)
    copy.set_forbidden(np.concatenate([copy.forbidden, [[u, v]]]))


def allow(copy: WorkingCopy, u: int, v: int) -> str | None:
    """Makes a forbidden edge what it was before it was forbidden: its count, its parameters, private or default.

    They come from this working copy if it forbade the edge, else from the last snapshot in which the edge was allowed.

    Returns
    -------
    str or None
        What is to be said if no snapshot has them, or only one that is older; None: nothing.

    Raises
    ------
    OptionError
        The edge is not forbidden, or, of a clone, only because that of its parent is.
    """
    of_clone, shown = u >= copy.n, clone_edges.shown(copy, u, v)
    if of_clone:
        clone_edges.allow(copy, u, v)
    elif copy.is_forbidden(u, v):
        copy.set_forbidden(copy.forbidden[(copy.forbidden != [u, v]).any(axis=1)])
    else:
        raise OptionError(f"{shown} is not forbidden")
    keys = _keys(copy, u, v)
    if keys in copy.shelf:
        found = copy.shelf.pop(keys)
        if isinstance(found, dict):
            copy.add({**found, SOURCE: np.full(len(found[SOURCE]), u), TARGET: np.full(len(found[SOURCE]), v)})
        else:
            clone_edges.set_nats(copy, u, v, found)
        return None
    past = _allowed_before(copy, keys)
    if past is None:
        kind = "that of the clone's parent" if of_clone else "a default edge"
        return f"{shown} is {kind} now: no snapshot has what it was before it was forbidden"
    with GraphSession.open(copy.old.path, at=past.commit.snapshot) as graph:
        old = WorkingCopy(graph)
        if not of_clone:
            _copy_edge(copy, u, v, old, past.ends)
        elif old.pairs is not None:
            clone_edges.set_nats(copy, u, v, old.pairs.nats_of(*past.ends))
    if past.direct:
        return None
    where = f"{past.commit.snapshot[:8]} ({past.commit.message})"
    return f"{shown} is as in {where}: the commits between that one and the one that forbade it are gone"


def _copy_edge(copy: WorkingCopy, u: int, v: int, old: WorkingCopy, ends: Ends) -> None:
    """Gives the edge (u, v) the row and the values of an edge of another snapshot; a default edge has none."""
    slot = old.slot_of(*ends)
    if slot is None:
        return
    slots = np.array([slot])
    rows: Columns = {**old.rows_of(slots), SOURCE: np.array([u]), TARGET: np.array([v])}
    values = None if old.is_generated(slots).all() else {name: old.values(name, slots) for name in old.paged}
    added = copy.add({**rows, VALUE: np.array([EdgeValue.GENERATED], np.int8), ROW: np.array([-1])})
    if values is not None:
        copy.put(added, values)


@dataclass(frozen=True, slots=True)
class _Past:
    """The last commit in which an edge was allowed, the ends of the edge there, and whether it is the one directly
    before the edge was forbidden: no commit between them was deleted.
    """

    commit: Commit
    ends: Ends
    direct: bool


def _allowed_before(copy: WorkingCopy, keys: tuple[int, ...]) -> _Past | None:
    """The last commit in which an edge was allowed; None: there is none that had all its nodes."""
    for commit, direct in commits_before(copy.old, {FORBIDDEN, CLONE_EDGE, CLONE_ENERGY}):
        reader = copy.old.view(commit.snapshot)
        ends = _ends_in(reader, keys)
        if ends is None:
            return None
        if not _is_forbidden(reader, ends):
            return _Past(commit, ends, direct)
    return None


def _ends_in(reader: StoreReader, keys: tuple[int, ...]) -> Ends | None:
    """The ends of an edge in another snapshot; None: it has not all of its nodes, or not the clone."""
    n = len(reader.read("nodes/count"))
    every = (reader.read(KEY) if reader.has(KEY) else np.arange(n)).tolist()
    if not set(keys) <= set(every):
        return None
    *name, v = map(every.index, keys)
    tree = read_clones(reader, n)
    u = tree.source_of(name)
    return (u, v) if tree.name(u) == name else None


def _is_forbidden(reader: StoreReader, ends: Ends) -> bool:
    pairs = reader.read(FORBIDDEN) if reader.has(FORBIDDEN) else np.empty((0, 2), np.int32)
    if reader.has(CLONE_EDGE):
        pairs = np.concatenate([pairs, reader.read(CLONE_EDGE)[np.isneginf(reader.read(CLONE_ENERGY))]])
    return bool((pairs == ends).all(axis=1).any())


def _keys(copy: WorkingCopy, u: int, v: int) -> tuple[int, ...]:
    """What identifies an edge in every snapshot: the keys of the nodes of the name of its source, and of its target."""
    source = [u] if copy.pairs is None else copy.pairs.tree.name(u)
    return tuple(copy.nodes[KEY][[*source, v]].tolist())
