"""Scaling, boosting, copying and forbidding one edge of a working copy, or making it a default edge.

It knows one edge (u, v) and its row; it does not know slots and pages (`working_copy`), nor commits (`session`).
"""

from __future__ import annotations

import math

import numpy as np
from sifu_store.errors import OptionError
from sifu_store.layout import BIAS, COUNT, WEIGHT

from sifu_graph.edit.nodes import note_pairs
from sifu_graph.edit.reports import EdgeState
from sifu_graph.edit.rest_energy import Rest
from sifu_graph.edit.working_copy import WorkingCopy


def state(draft: WorkingCopy, u: int, v: int) -> EdgeState:
    """The edge (u, v) as it is now."""
    rest, slot = Rest.of(draft), draft.slot_of(u, v)
    forbidden = draft.is_forbidden(u, v)
    energy = rest.default if slot is None else float(rest.of_edges(draft, np.array([slot]))[0])
    logit = -math.inf if forbidden else rest.scale * energy
    return EdgeState(
        source=draft.tokenizer.vocabulary[u],
        target=draft.tokenizer.vocabulary[v],
        kind="forbidden" if forbidden else "default" if slot is None else "private",
        count=0 if slot is None else int(draft.edges[COUNT][slot]),
        energy=energy,
        probability=math.exp(logit - rest.log_partition(draft, u)),
    )


def scale(draft: WorkingCopy, u: int, v: int, factor: float) -> None:
    """Multiplies W and b of the edge. A default edge becomes private first."""
    if not math.isfinite(factor):
        raise OptionError(f"scale is {factor}: it must be a finite number")
    slots = np.array([_private(draft, u, v)])
    values = {name: draft.values(name, slots) for name in draft.paged}
    values[WEIGHT], values[BIAS] = values[WEIGHT] * np.float32(factor), values[BIAS] * np.float32(factor)
    draft.put(slots, values)


def boost(draft: WorkingCopy, u: int, v: int, nats: float) -> None:
    """Raises the edge by so many nats against every other candidate, at rest. A default edge becomes private first."""
    if not math.isfinite(nats):
        raise OptionError(f"boost is {nats}: it must be a finite number of nats")
    slots = np.array([_private(draft, u, v)])
    rest = Rest.of(draft)
    values = {name: draft.values(name, slots) for name in draft.paged}
    bias = values[BIAS][0].astype(np.float64)
    values[BIAS] = rest.boosted(bias, float(rest.energy(bias)) + nats / rest.scale)[None].astype(np.float32)
    draft.put(slots, values)


def copy(draft: WorkingCopy, u: int, v: int, a: int, b: int) -> None:
    """Gives (u, v) the parameters and the optimizer's state of the private edge (a, b). Its count stays its own."""
    source = draft.slot_of(a, b)
    names = draft.tokenizer.vocabulary
    if source is None:
        raise OptionError(f"{names[a]} {names[b]} is a default edge and has nothing to copy: say --to-default instead")
    if (a, b) == (u, v):
        raise OptionError("an edge cannot be copied from itself: name another")
    slots = np.array([_private(draft, u, v)])
    draft.put(slots, {name: draft.values(name, np.array([source])) for name in draft.paged})


def to_default(draft: WorkingCopy, u: int, v: int) -> None:
    """A private edge becomes a default edge."""
    slot = draft.slot_of(u, v)
    if slot is None:
        kind = "forbidden: say --allow instead" if draft.is_forbidden(u, v) else "a default edge already"
        raise OptionError(f"{_shown(draft, u, v)} is {kind}")
    draft.drop(np.array([slot]))


def forbid(draft: WorkingCopy, u: int, v: int) -> None:
    """The edge is never chosen again: probability 0 everywhere. Parameters of its own are given up."""
    if draft.is_forbidden(u, v):
        raise OptionError(f"{_shown(draft, u, v)} is forbidden already")
    index, slot = draft.index, draft.slot_of(u, v)
    if int(index.defaults()[u]) + len(draft.row_slots(u)) == 1:
        raise OptionError(f"{_shown(draft, u, v)} is the last edge that may be chosen there: it cannot be forbidden")
    if slot is not None:
        draft.drop(np.array([slot]))
    draft.set_forbidden(np.concatenate([draft.forbidden, [[u, v]]]))


def allow(draft: WorkingCopy, u: int, v: int) -> None:
    """A forbidden edge becomes a default edge."""
    if not draft.is_forbidden(u, v):
        raise OptionError(f"{_shown(draft, u, v)} is not forbidden")
    draft.set_forbidden(draft.forbidden[(draft.forbidden != [u, v]).any(axis=1)])


def _private(draft: WorkingCopy, u: int, v: int) -> int:
    """The slot of the edge; a default edge becomes private, with the default edge's values, for that."""
    if draft.is_forbidden(u, v):
        raise OptionError(f"{_shown(draft, u, v)} is forbidden: say --allow first")
    slot = draft.slot_of(u, v)
    if slot is None:
        slot = int(make_private(draft, np.array([u]), np.array([v]), np.zeros(1, np.int64))[0])
        note_pairs(draft, np.array([slot]))
    return slot


def make_private(draft: WorkingCopy, source: np.ndarray, target: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Default edges become private with the default edge's own values: no energy changes. Returns their slots."""
    k = len(source)
    slots = draft.add(draft.generated(source, target, count, np.full(k, Rest.of(draft).default)))
    W, b = (draft.small[name] for name in ("default/weight", "default/bias"))
    values = {WEIGHT: np.broadcast_to(W, (k, *W.shape)), BIAS: np.broadcast_to(b, (k, *b.shape))}
    if "optimizer/last_step" in draft.paged:
        values["optimizer/last_step"] = draft.values("optimizer/last_step", slots)
    draft.put(slots, values)
    return slots


def _shown(draft: WorkingCopy, u: int, v: int) -> str:
    names = draft.tokenizer.vocabulary
    return f"the edge {names[u]} {names[v]}"
