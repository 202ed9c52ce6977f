"""The node or the clone of a name, or an error with the nearest names.

The module knows a tokenizer's vocabulary and clones; it does not know edges or signals.
"""

from __future__ import annotations

import difflib

import numpy as np
from sifu_store.errors import OptionError

from sifu_graph.text.clone_tree import CloneTree
from sifu_graph.text.tokenizer import SEPARATOR, SPECIAL, UNKNOWN, Tokenizer

NEAREST = 5
BETWEEN = ">"
"""Between the nodes of the name of a clone."""
SAME_SCRIPT = 0x1000  # largest distance of code points within a script


def node_named(tokenizer: Tokenizer, name: str) -> int:
    """The node of a name of the vocabulary.

    Raises
    ------
    OptionError
        No node has the name; the message lists the nearest names, or the nodes of the text.
    """
    node = tokenizer.token_id(name)
    if node is not None:
        return node
    if not name:
        raise OptionError("the name of a node is empty: give one, such as <sep>")
    raise OptionError(f"{name!r} is not a node of this graph; {_instead(tokenizer, name)}")


def source_named(tokenizer: Tokenizer, clones: CloneTree, name: str) -> int:
    """The source of a name: a node, or the clone of a node after others, as in ``立>春``.

    Raises
    ------
    OptionError
        No node or no clone has the name; the message says which clones there are.
    """
    if tokenizer.token_id(name) is not None or BETWEEN not in name[1:-1]:
        return node_named(tokenizer, name)
    nodes = _nodes_in(tokenizer, name)
    if nodes is None:
        nodes = [node_named(tokenizer, part) for part in name.split(BETWEEN)]  # raises for the one that is unknown
    if not len(clones):
        raise OptionError(f"{name!r} would be a clone, and this graph has none")
    source = nodes[-1]
    for node in reversed(nodes[:-1]):
        found = int(clones.child(np.array([source]), np.array([node]))[0])
        if found < 0:
            raise OptionError(f"{name!r} is not a clone of this graph; {_other_clones(tokenizer, clones, source)}")
        source = found
    return source


def source_name(tokenizer: Tokenizer, clones: CloneTree, source: int) -> str:
    """The name of a source: that of the node, or those of the nodes of the clone with ``>`` between them."""
    return BETWEEN.join(tokenizer.vocabulary[node] for node in clones.name(source))


def _nodes_in(tokenizer: Tokenizer, name: str) -> list[int] | None:
    """The nodes of the name of a clone, in the first way to read it; None: there is none."""
    node = tokenizer.token_id(name)
    if node is not None:
        return [node]
    for at, character in enumerate(name):
        first = tokenizer.token_id(name[:at]) if at and character == BETWEEN else None
        rest = None if first is None else _nodes_in(tokenizer, name[at + 1 :])
        if first is not None and rest is not None:
            return [first, *rest]
    return None


def _other_clones(tokenizer: Tokenizer, clones: CloneTree, source: int) -> str:
    mine = np.flatnonzero(clones.parent == source)
    shown = source_name(tokenizer, clones, source)
    if not len(mine):
        return f"{shown!r} has no clone"
    names = [source_name(tokenizer, clones, clones.nodes + int(one)) for one in mine[:NEAREST]]
    return f"of {shown!r} there are {_listed(names)}{' ...' if len(mine) > NEAREST else ''}"


def _instead(tokenizer: Tokenizer, name: str) -> str:
    if tokenizer.level != "tokens":
        nodes = [int(node) for node in tokenizer.encode(name)]
        if len(nodes) > 1 and not {UNKNOWN, SEPARATOR} & set(nodes):
            return f"the text consists of the nodes {_listed([tokenizer.vocabulary[node] for node in nodes])}"
    near = difflib.get_close_matches(name, tokenizer.vocabulary, n=NEAREST, cutoff=0.5)
    stripped = [each for each in tokenizer.vocabulary if each.strip() == name.strip()] if name.strip() else []
    near = list(dict.fromkeys([*stripped, *near]))[:NEAREST]
    if not near and len(name) == 1:  # Chinese characters near in Unicode share a radical
        letters = [each for each in tokenizer.vocabulary if len(each) == 1 and abs(ord(each) - ord(name)) < SAME_SCRIPT]
        near = sorted(letters, key=lambda each: (abs(ord(each) - ord(name)), each))[:NEAREST]
    if near:
        return f"the nearest names: {_listed(near)}"
    frequent = tokenizer.vocabulary[len(SPECIAL) : len(SPECIAL) + NEAREST]
    return f"no name is near to it; the most frequent nodes are {_listed(frequent)}"


def _listed(names: list[str]) -> str:
    return " ".join(repr(name) for name in names[:20]) + (" ..." if len(names) > 20 else "")
