"""Changes of the graph in memory only, so that a trace can compare before and after.

    edge U V = default    the edge loses its own parameters, as after `Edit.default_edge`
    edge U V boost NATS   the edge has NATS more energy, as after `Edit.boost_edge`; in a graph with a base
    edge U V forbid       the edge is never taken, as after `Edit.forbid_edge`
    node X off            the node and all its edges are removed; the text reads it as unknown
    position K off        the signal of position K never enters the mix (0 is the separator that every text begins with)

Words are quoted as in a shell: ``edge 'a b' ' ' forbid``.

All but the last are edits of copies of tables, so the bits are those of the edited graph. The last changes one text and
has no equivalent edit: the signal still passes the position, the other signals share its weight, and a mix of no
signals is zero. In a graph whose edges share a base, the signal passes the position without a change, and its node does
not count as one that came before; U may be a clone.

The module knows the index and the tokenizer; it does not know pages, stores or how a contest is computed.
"""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sifu_store.errors import OptionError
from sifu_store.layout import REPEAT, TARGET_BIAS, TARGET_VECTOR

from sifu_graph.edge_index import EdgeIndex
from sifu_graph.edit_bounds import require_amount
from sifu_graph.model.base import Base
from sifu_graph.model.parameters import Parameters
from sifu_graph.text.clone_tree import CloneTree
from sifu_graph.text.node_lookup import node_named, shown_name, source_named
from sifu_graph.text.tokenizer import SPECIAL, Tokenizer

FORMS = '"edge U V = default", "edge U V boost NATS", "edge U V forbid", "node X off" or "position K off"'
Way = Literal["default", "boost", "forbid"]


@dataclass(frozen=True, slots=True)
class Change:
    """One change: ``names`` are the nodes of an edge or a node, ``position`` is that of a position.

    An edge is changed in a ``way``; a boost has ``nats``. As text (``str``) it is what `parse` reads, for all names.
    """

    kind: Literal["edge", "node", "position"]
    names: tuple[str, ...] = ()
    position: int = 0
    way: Way = "default"
    nats: float = 0.0

    def __str__(self) -> str:
        if self.kind == "position":
            return f"position {self.position} off"
        names = " ".join(map(_word, self.names))
        if self.kind == "node":
            return f"node {names} off"
        return (
            f"edge {names} " + {"default": "= default", "boost": f"boost {self.nats:g}", "forbid": "forbid"}[self.way]
        )


@dataclass(frozen=True, slots=True)
class Overlay:
    """A graph with changes. The parameters of edges are shared with the original graph and are not written.

    ``removed`` are the names of removed nodes, ``silent`` the positions whose signal does not enter the mix.
    """

    parameters: Parameters
    tokenizer: Tokenizer
    silent: frozenset[int] = frozenset()
    """Positions whose signal does not enter the mix."""
    removed: frozenset[str] = frozenset()
    """Names of the nodes that are off, as `shown_name` shows them."""


def parse(text: str) -> Change:
    """Parses one change.

    Raises
    ------
    OptionError
        The text has none of the forms.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise OptionError(f"`what_if` {text!r} cannot be read ({error}): quote a name that holds a quote") from None
    match words:
        case ["edge", u, v, "=", "default"]:
            return Change("edge", (u, v))
        case ["edge", u, v, "forbid"]:
            return Change("edge", (u, v), way="forbid")
        case ["edge", u, v, "boost", nats] if (amount := _number(nats)) is not None:
            return Change("edge", (u, v), way="boost", nats=amount)
        case ["node", name, "off"]:
            return Change("node", (name,))
        case ["position", number, "off"] if number.isascii() and number.isdigit():
            return Change("position", position=int(number))
    raise OptionError(f"`what_if` {text!r} cannot be read: expected {FORMS}")


def lay(parameters: Parameters, tokenizer: Tokenizer, changes: Sequence[Change]) -> Overlay:
    """The graph with all these changes.

    Raises
    ------
    OptionError
        A node is unknown, an edge is not private or forbidden already, or a special node is to be removed.
    """
    silent = frozenset(change.position for change in changes if change.kind == "position")
    for change in changes:
        if change.kind == "edge":
            parameters = _EDGES[change.way](parameters, *_ends(parameters, tokenizer, change), change)
    for change in changes:
        if change.kind == "node":
            node = node_named(tokenizer, change.names[0])
            if node < len(SPECIAL):
                raise OptionError(f"`what_if` {str(change)!r}: a graph cannot do without {SPECIAL[node]}")
            parameters, tokenizer = _without_node(parameters, node), _renamed(tokenizer, node)
    removed = frozenset(shown_name(change.names[0]) for change in changes if change.kind == "node")
    return Overlay(parameters, tokenizer, silent, removed)


def _word(name: str) -> str:
    """A name as a word of a change, which `parse` reads as this name."""
    return name if name and not set(name) & set(" \t\r\n'\"\\") else shlex.quote(name)


def _number(text: str) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def _ends(parameters: Parameters, tokenizer: Tokenizer, change: Change) -> tuple[int, int]:
    """The source, a node or a clone, and the target of an edge."""
    base = parameters.base
    clones = CloneTree.empty(parameters.index.nodes) if base is None else base.pairs.tree
    return source_named(tokenizer, clones, change.names[0]), node_named(tokenizer, change.names[1])


def _default(parameters: Parameters, u: int, v: int, change: Change) -> Parameters:
    if _is_forbidden(parameters, u, v):
        raise OptionError(f"`what_if` {str(change)!r}: the edge is forbidden: allow it instead")
    index, base = parameters.index, parameters.base
    if u < index.nodes:
        place = _place(index, u, v)
        if place < 0:
            raise OptionError(f"`what_if` {str(change)!r}: the edge is a default edge already")
        index = _kept(index, np.arange(index.edges) != place)
    if base is not None:
        pairs = base.pairs.without_edge(u, v)
        if pairs is base.pairs:
            where = " in this context" if u >= index.nodes else ", and it has no matrix of its own"
            raise OptionError(f"`what_if` {str(change)!r} changes nothing: no edit gave this edge an energy{where}")
        base = Base.of(parameters.small, pairs)
    return dataclasses.replace(parameters, index=index, base=base)


def _forbid(parameters: Parameters, u: int, v: int, change: Change) -> Parameters:
    _require_allowed(parameters, u, v, change)
    index, base = parameters.index, parameters.base
    if base is not None:
        base = Base.of(parameters.small, base.pairs.with_edge(u, v, -math.inf))
    if u < index.nodes:
        place = _place(index, u, v)
        if place >= 0:
            index = _kept(index, np.arange(index.edges) != place)
        forbidden = np.sort(np.append(index.forbidden, u * index.nodes + v))
        index = dataclasses.replace(index, forbidden=forbidden)
        if not int(index.defaults()[u]) + len(index.target[index.row(u)]):
            raise OptionError(f"`what_if` {str(change)!r}: it is the last edge that may be chosen there")
    return dataclasses.replace(parameters, index=index, base=base)


def _boost(parameters: Parameters, u: int, v: int, change: Change) -> Parameters:
    _require_allowed(parameters, u, v, change)
    require_amount(change.nats, "what_if", " nats")
    base, index = parameters.base, parameters.index
    if base is None:
        raise OptionError(
            f"`what_if` {str(change)!r}: where every edge has a matrix of its own, a boost is not computed in memory; "
            "boost the edge, and undo it"
        )
    base = Base.of(parameters.small, base.pairs.with_edge(u, v, change.nats))
    if u < index.nodes and _place(index, u, v) < 0:
        index = _with_edge(index, u, v)
    return dataclasses.replace(parameters, index=index, base=base)


_EDGES: dict[Way, Callable[[Parameters, int, int, Change], Parameters]] = {
    "default": _default,
    "boost": _boost,
    "forbid": _forbid,
}


def _is_forbidden(parameters: Parameters, u: int, v: int) -> bool:
    base, source, target = parameters.base, np.array([u]), np.array([v])
    banned = parameters.index.is_forbidden(source, target) if base is None else base.pairs.is_banned(source, target)
    return bool(banned[0])


def _require_allowed(parameters: Parameters, u: int, v: int, change: Change) -> None:
    if _is_forbidden(parameters, u, v):
        raise OptionError(f"`what_if` {str(change)!r}: the edge is forbidden already")


def _place(index: EdgeIndex, u: int, v: int) -> int:
    return int(index.find(np.array([u]), np.array([v]))[0])


def _with_edge(index: EdgeIndex, u: int, v: int) -> EdgeIndex:
    """The index with one more private edge, which never occurred."""
    row, slot = index.row(u), index.slots()
    place = row.start + int(np.searchsorted(index.target[row], v))
    return dataclasses.replace(
        index,
        row_start=index.row_start + (np.arange(len(index.row_start)) > u),
        target=np.insert(index.target, place, v),
        count=np.insert(index.count, place, 0),
        moved=np.insert(slot, place, int(slot.max(initial=-1)) + 1),
    )


def _kept(index: EdgeIndex, keep: NDArray[np.bool_]) -> EdgeIndex:
    """The index of some of its edges."""
    kept_before = np.concatenate([[0], np.cumsum(keep)])
    return dataclasses.replace(
        index,
        row_start=kept_before[index.row_start],
        target=index.target[keep],
        count=index.count[keep],
        moved=index.slots(np.flatnonzero(keep)),
    )


def _without_node(parameters: Parameters, node: int) -> Parameters:
    """Later nodes move up by one, as in the order of the ids after a removal."""
    index = parameters.index
    keep = index.target != node
    keep[index.row(node)] = False
    index = _kept(index, keep)
    nodes = index.nodes - 1
    banned = np.stack(np.divmod(index.forbidden, index.nodes))
    banned = banned[:, (banned != node).all(0)]
    banned -= banned > node
    order = index.by_frequency
    if order is not None:
        order = order[order != node]
        order = order - (order > node)
    index = dataclasses.replace(
        index,
        nodes=nodes,
        row_start=np.delete(index.row_start, node + 1),  # its row is empty
        target=index.target - (index.target > node),
        forbidden=banned[0] * nodes + banned[1],
        by_frequency=order,
    )
    others = torch.arange(nodes + 1) != node
    by_node = ("nodes/bias", TARGET_VECTOR, TARGET_BIAS, REPEAT)
    small = {name: value[others] if name in by_node else value for name, value in parameters.small.items()}
    base = parameters.base
    if base is not None:
        base = Base.of(small, base.pairs.without_node(node))
    return dataclasses.replace(parameters, index=index, small=small, base=base)


def _renamed(tokenizer: Tokenizer, node: int) -> Tokenizer:
    record = tokenizer.to_json()
    record["nodes"] = [name for other, name in enumerate(record["nodes"]) if other != node]
    record["added"] = [other - (other > node) for other in record["added"] if other != node]
    return tokenizer.from_record(record)
