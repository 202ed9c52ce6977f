"""Changes of the graph in memory only, so that a trace can compare before and after.

    edge U V = default    the edge loses its own parameters, as after `Edit.default_edge`
    node X off            the node and all its edges are removed; the text reads it as unknown
    position K off        the signal of position K never enters the mix (0 is the separator that every text begins with)

The first two are edits of a copy of the index, so the bits are those of the edited graph. The last changes one text and
has no equivalent edit: the signal still passes the position, the other signals share its weight, and a mix of no
signals is zero. In a graph whose edges share a base, the signal passes the position without a change, and its node does
not count as one that came before; U may be a clone.

The module knows the index and the tokenizer; it does not know pages, stores or how a contest is computed.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sifu_store.errors import OptionError
from sifu_store.layout import REPEAT, TARGET_BIAS, TARGET_VECTOR

from sifu_graph.edge_index import EdgeIndex
from sifu_graph.model.base import Base
from sifu_graph.model.parameters import Parameters
from sifu_graph.text.clone_tree import CloneTree
from sifu_graph.text.node_lookup import node_named, shown_name, source_named
from sifu_graph.text.tokenizer import SPECIAL, Tokenizer

FORMS = '"edge U V = default", "node X off" or "position K off"'


@dataclass(frozen=True, slots=True)
class Change:
    """One change: ``names`` are the nodes of an edge or a node, ``position`` is that of a position."""

    kind: Literal["edge", "node", "position"]
    names: tuple[str, ...] = ()
    position: int = 0

    def __str__(self) -> str:
        if self.kind == "position":
            return f"position {self.position} off"
        shown = map(shown_name, self.names)
        names = " ".join(shlex.quote(name) if set(name) & set("'\"\\") else name for name in shown)
        return f"edge {names} = default" if self.kind == "edge" else f"node {names} off"


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
        The text has none of the three forms.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise OptionError(f"`what_if` {text!r} cannot be read ({error}): quote a name that holds a quote") from None
    match words:
        case ["edge", u, v, "=", "default"]:
            return Change("edge", (u, v))
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
        A node is unknown, an edge is not private, or a special node is to be removed.
    """
    silent = frozenset(change.position for change in changes if change.kind == "position")
    index = parameters.index
    for change in changes:
        if change.kind == "edge":
            base = parameters.base
            clones = CloneTree.empty(index.nodes) if base is None else base.pairs.tree
            u, v = source_named(tokenizer, clones, change.names[0]), node_named(tokenizer, change.names[1])
            if u < index.nodes:
                place = int(index.find(np.array([u]), np.array([v]))[0])
                if place < 0:
                    raise OptionError(f"`what_if` {str(change)!r}: the edge is a default edge already")
                index = _kept(index, np.arange(index.edges) != place)
            if base is not None:
                pairs = base.pairs.without_edge(u, v)
                if pairs is base.pairs:
                    where = " in this context" if u >= index.nodes else ", and it has no matrix of its own"
                    raise OptionError(
                        f"`what_if` {str(change)!r} changes nothing: no edit gave this edge an energy{where}"
                    )
                parameters = dataclasses.replace(parameters, base=Base.of(parameters.small, pairs))
    parameters = dataclasses.replace(parameters, index=index)
    for change in changes:
        if change.kind == "node":
            node = node_named(tokenizer, change.names[0])
            if node < len(SPECIAL):
                raise OptionError(f"`what_if` {str(change)!r}: a graph cannot do without {SPECIAL[node]}")
            parameters, tokenizer = _without_node(parameters, node), _renamed(tokenizer, node)
    removed = frozenset(shown_name(change.names[0]) for change in changes if change.kind == "node")
    return Overlay(parameters, tokenizer, silent, removed)


def _kept(index: EdgeIndex, keep: NDArray[np.bool_]) -> EdgeIndex:
    """The index of some of its edges."""
    kept_before = np.concatenate([[0], np.cumsum(keep)])
    return dataclasses.replace(
        index,
        row_start=kept_before[index.row_start],
        target=index.target[keep],
        slot=index.slot[keep],
        count=index.count[keep],
        keys=index.keys[keep],
    )


def _without_node(parameters: Parameters, node: int) -> Parameters:
    """Later nodes move up by one, as in the order of the ids after a removal."""
    index = parameters.index
    keep = index.target != node
    keep[index.row(node)] = False
    index = _kept(index, keep)
    source, target = np.divmod(index.keys, index.nodes)
    target -= target > node
    source -= source > node
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
        target=target.astype(np.int32),
        keys=source * nodes + target,
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
