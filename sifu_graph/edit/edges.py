"""Scaling, boosting and copying one edge of a working copy, or making it a default edge.

It knows one edge (u, v) and its row; it does not know slots and pages (`working_copy`), nor commits (`session`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from sifu_store.errors import OptionError
from sifu_store.layout import BIAS, COUNT, ENERGY, WEIGHT

from sifu_graph.edit import clone_edges
from sifu_graph.edit.base_edits import energies_at_rest
from sifu_graph.edit.edge_table import EdgeRow, located
from sifu_graph.edit.forbidding import allow, forbid
from sifu_graph.edit.nodes import note_pairs
from sifu_graph.edit.reports import EdgeState
from sifu_graph.edit.rest_energy import Rest
from sifu_graph.edit.working_copy import WorkingCopy
from sifu_graph.edit_bounds import require_amount
from sifu_graph.ops.pair_model import PairModel
from sifu_graph.text.node_lookup import shown_name


def states(copy: WorkingCopy, edges: Sequence[tuple[int, int]]) -> list[EdgeState]:
    """The current values of edges (u, v); u is a node or a clone."""
    model = None if copy.pairs is None else copy.pair_model(np.array([u for u, _ in edges], dtype=np.int64))
    return [(clone_edges.state if u >= copy.n else _state)(copy, u, v, model) for u, v in edges]


def _state(copy: WorkingCopy, u: int, v: int, model: PairModel | None) -> EdgeState:
    slot, forbidden = copy.slot_of(u, v), copy.is_forbidden(u, v)
    if model is not None:
        row = energies_at_rest(copy, u, model)
        energy = float(row[v])
        log_p = energy - float(np.logaddexp.reduce(row))
    else:
        rest = Rest.of(copy)
        energy = rest.default if slot is None else float(rest.of_edges(copy, np.array([slot]))[0])
        log_p = -math.inf if forbidden else rest.scale * energy - rest.log_partition(copy, u)
    return EdgeState(
        source=copy.tokenizer.vocabulary[u],
        target=copy.tokenizer.vocabulary[v],
        kind="forbidden" if forbidden else "default" if slot is None else "private",
        count=0 if slot is None else int(copy.edges[COUNT][slot]),
        energy=energy,
        probability=math.exp(log_p),
    )


def edit_rows(copy: WorkingCopy, edges: Sequence[tuple[int, int]], rows: Sequence[EdgeRow]) -> list[str]:
    """Edits edges (u, v) as the rows of a table say, whose names in ``values`` are ids. Returns what is to be said.

    Those that must be private become so first, all at once.

    Raises
    ------
    OptionError
        A row cannot be carried out; the message begins with its place.
    """
    wanted = [
        (u, v)
        for (u, v), row in zip(edges, rows, strict=True)
        if row.way in ("scale", "boost", "copy_from") and u < copy.n and not copy.is_forbidden(u, v)
        if row.values[0] != NEUTRAL.get(row.way)
    ]
    new = np.array([edge for edge in wanted if copy.slot_of(*edge) is None], dtype=np.int64).reshape(-1, 2)
    if len(new):
        note_pairs(copy, make_private(copy, new[:, 0], new[:, 1], np.zeros(len(new), np.int64)))
    notes = []
    for (u, v), row in zip(edges, rows, strict=True):
        with located(row.where):
            notes.append(CHANGES[row.way](copy, u, v, *row.values))
    return [note for note in notes if note is not None]


def scale(copy: WorkingCopy, u: int, v: int, factor: float) -> None:
    """Multiplies W and b of the edge by a finite factor; with a base, what the edge adds to it.

    Without a base, a default edge becomes private first. A factor of 1 changes nothing.

    Raises
    ------
    OptionError
        The factor is above `edit_bounds.MOST`, the edge is forbidden, or, with a base, it adds nothing.
    """
    _require_node(copy, u, "scaled")
    require_amount(factor, "scale")
    _require_allowed(copy, u, v)
    if copy.pairs is not None:
        slots = np.array([_slot_with_energy(copy, u, v, "scale")])
        copy.add_energy(slots, (factor - 1.0) * copy.edges[ENERGY][slots])
        return
    if factor == NEUTRAL["scale"]:
        return
    slots = np.array([_private(copy, u, v)])
    values = {name: copy.values(name, slots) for name in copy.paged}
    values[WEIGHT], values[BIAS] = values[WEIGHT] * np.float32(factor), values[BIAS] * np.float32(factor)
    copy.put(slots, values)


def boost(copy: WorkingCopy, u: int, v: int, nats: float) -> None:
    """Adds ``nats`` to the log-odds that the edge has at rest against all other candidates of its row.

    A default edge becomes private first. Only the bias changes (`Rest.boosted`); by 0 nats, nothing.

    Raises
    ------
    OptionError
        ``nats`` is above `edit_bounds.MOST`, the edge is forbidden, or its energy cannot become so low.
    """
    if u >= copy.n:
        clone_edges.boost(copy, u, v, nats)
        return
    require_amount(nats, "boost", " nats")
    _require_allowed(copy, u, v)
    if nats == NEUTRAL["boost"]:
        return
    slots = np.array([_private(copy, u, v)])
    if copy.pairs is not None:
        copy.add_energy(slots, np.array([nats]))
        return
    rest = Rest.of(copy)
    values = {name: copy.values(name, slots) for name in copy.paged}
    bias = values[BIAS][0].astype(np.float64)
    values[BIAS] = rest.boosted(bias, float(rest.energy(bias)) + nats / rest.scale)[None].astype(np.float32)
    copy.put(slots, values)


def copy_parameters(copy: WorkingCopy, u: int, v: int, a: int, b: int) -> None:
    """Copies the parameters and the optimizer's state of the private edge (a, b) to (u, v); the count is not copied.

    Raises
    ------
    OptionError
        (a, b) is not private, adds nothing to the base, or is (u, v) itself; or (u, v) is forbidden.
    """
    _require_node(copy, u, "copied to")
    source = copy.slot_of(a, b) if copy.pairs is None else _slot_with_energy(copy, a, b, "copy")
    names = copy.tokenizer.vocabulary
    if source is None:
        raise OptionError(
            f"{shown_name(names[a])} {shown_name(names[b])} is a default edge and has nothing to copy: make the "
            "other a default edge instead"
        )
    if (a, b) == (u, v):
        raise OptionError("an edge cannot be copied from itself: name another")
    slots = np.array([_private(copy, u, v)])
    if copy.pairs is not None:
        copy.add_energy(slots, copy.edges[ENERGY][[source]] - copy.edges[ENERGY][slots])
        return
    values = {name: copy.values(name, np.array([source])) for name in copy.paged}
    if any((copy.values(name, slots) != found).any() for name, found in values.items()):
        copy.put(slots, values)


def to_default(copy: WorkingCopy, u: int, v: int) -> None:
    """Makes a private edge a default edge.

    Raises
    ------
    OptionError
        The edge is not private.
    """
    if u >= copy.n:
        clone_edges.to_default(copy, u, v)
        return
    slot = copy.slot_of(u, v)
    if slot is None:
        kind = "forbidden: allow it instead" if copy.is_forbidden(u, v) else "a default edge already"
        raise OptionError(f"{clone_edges.shown(copy, u, v)} is {kind}")
    copy.drop(np.array([slot]))


NEUTRAL = {"scale": 1.0, "boost": 0.0}
"""The values that change no edge."""

CHANGES: dict[str, Callable[..., str | None]] = {
    "scale": scale,
    "boost": boost,
    "copy_from": copy_parameters,
    "to_default": to_default,
    "forbid": forbid,
    "allow": allow,
}
"""The function of each way to edit an edge (`edge_table.WAYS`). It returns what is to be said of the edge."""


def _require_allowed(copy: WorkingCopy, u: int, v: int) -> None:
    if copy.is_forbidden(u, v):
        raise OptionError(f"{clone_edges.shown(copy, u, v)} is forbidden: allow it first")


def _slot_with_energy(copy: WorkingCopy, u: int, v: int, what: str) -> int:
    """The slot of an edge that adds something to the base, of which ``what`` is to be done."""
    slot = copy.slot_of(u, v)
    if slot is None or not copy.edges[ENERGY][slot]:
        raise OptionError(
            f"{clone_edges.shown(copy, u, v)} has no matrix of its own, and no edit gave it an energy: there is "
            f"nothing to {what}; `boost_edge()` gives an edge an energy of its own"
        )
    return slot


def _private(copy: WorkingCopy, u: int, v: int) -> int:
    """The slot of the edge. A default edge becomes private, with the parameters of the default edge."""
    _require_allowed(copy, u, v)
    slot = copy.slot_of(u, v)
    if slot is None:
        slot = int(make_private(copy, np.array([u]), np.array([v]), np.zeros(1, np.int64))[0])
        note_pairs(copy, np.array([slot]))
    return slot


def make_private(copy: WorkingCopy, source: np.ndarray, target: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Makes default edges private, with the parameters of the default edge: no energy changes.

    Parameters
    ----------
    source, target, count
        int64 [k]: the edges, none of which is private, and their counts.

    Returns
    -------
    slots : int64 [k]
        The slots of the edges.
    """
    k = len(source)
    if copy.pairs is not None:  # a new edge adds nothing to the base
        return copy.add(copy.generated(source, target, count, np.zeros(k)))
    slots = copy.add(copy.generated(source, target, count, np.full(k, Rest.of(copy).default)))
    W, b = (copy.small[name] for name in ("default/weight", "default/bias"))
    values = {WEIGHT: np.broadcast_to(W, (k, *W.shape)), BIAS: np.broadcast_to(b, (k, *b.shape))}
    if "optimizer/last_step" in copy.paged:
        values["optimizer/last_step"] = copy.values("optimizer/last_step", slots)
    copy.put(slots, values)
    return slots


def _require_node(copy: WorkingCopy, u: int, done: str) -> None:
    if u >= copy.n:
        raise OptionError(f"an edge of a clone cannot be {done}: boost, forbid or allow it, or make it default")
