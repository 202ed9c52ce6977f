"""The node or the clone of a name, or an error with the nearest names.

The module knows a tokenizer's vocabulary and clones; it does not know edges or signals.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import numpy as np
from sifu_store.errors import OptionError

from sifu_graph.arrays import Ints
from sifu_graph.text.clone_tree import CloneTree
from sifu_graph.text.tokenizer import SEPARATOR, SPECIAL, UNKNOWN, Tokenizer

NEAREST = 5
MUCH_MORE = 10
"""Times as frequent as a node is its other form where a note asks whether that was meant."""
BETWEEN = ">"
"""Between the nodes of the name of a clone."""
SPACE = "\u2423"
"""Stands for a space in a name that is shown or given: a space at the beginning of a name cannot be seen."""
SAME_SCRIPT = 0x1000  # largest distance of code points within a script


def shown_name(name: str) -> str:
    """The name of a node with `SPACE` for each space; `node_named` reads it as the same node."""
    return name.replace(" ", SPACE)


def node_named(tokenizer: Tokenizer, name: str) -> int:
    """The node of a name of the vocabulary, in which `SPACE` may stand for a space.

    Raises
    ------
    OptionError
        No node has the name; the message lists the nearest names, or the nodes of the text.
    """
    node = _find(tokenizer, name)
    if node is not None:
        return node
    if not name:
        raise OptionError("the name of a node is empty: give one, such as <sep>")
    raise OptionError(f"{name!r} is not a node of this graph; {_instead(tokenizer, name)}")


def _find(tokenizer: Tokenizer, name: str) -> int | None:
    """The node of a name, in which `SPACE` may stand for a space; None: there is none."""
    node = tokenizer.token_id(name)
    return tokenizer.token_id(name.replace(SPACE, " ")) if node is None and SPACE in name else node


def other_form(tokenizer: Tokenizer, node: int) -> int | None:
    """The node whose name differs by the space at its beginning: ``␣the`` for ``the``; None: there is none."""
    name = tokenizer.vocabulary[node]
    return tokenizer.token_id(name[1:] if name.startswith(" ") else f" {name}")


def other_form_note(tokenizer: Tokenizer, node: int, count: Ints) -> str | None:
    """Which node was probably meant, where the other form is at least `MUCH_MORE` times as frequent; None: this one.

    ``count`` has the occurrences of each node, int64 [n].
    """
    other = other_form(tokenizer, node)
    if other is None or count[other] < MUCH_MORE * max(1, int(count[node])):
        return None
    name, others = (shown_name(tokenizer.vocabulary[one]) for one in (node, other))
    return f"{name!r} occurs {count[node]:,} times; did you mean {others!r} ({count[other]:,} times)?"


def names_of_new(tokenizer: Tokenizer, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names of new nodes as texts are read, with spaces for `SPACE`, and what is to be said about them.

    Byte-level BPE has the space before a word in the node of the word: a new word without it is read after a node for
    the space, which no other word has before it.
    """
    found = [tokenizer.normal(name.replace(SPACE, " ")) for name in names]
    if tokenizer.level != "bpe":
        return found, []
    bare = [name for name in found if name[:1].isalnum() and name.isascii() and f" {name}" not in found]
    bare = [name for name in bare if tokenizer.token_id(f" {name}") is None]
    if not bare:
        return found, []
    spaced = " ".join(repr(f"{SPACE}{name}") for name in bare[:NEAREST]) + (" ..." if len(bare) > NEAREST else "")
    return found, [f"words within a text begin with a space: add {spaced} too, or the space stays a node of its own"]


def source_named(tokenizer: Tokenizer, clones: CloneTree, name: str) -> int:
    """The source of a name: a node, or the clone of a node after others, as in ``立>春``.

    Raises
    ------
    OptionError
        No node or no clone has the name; the message says which clones there are.
    """
    if _find(tokenizer, name) is not None or BETWEEN not in name[1:-1]:
        return node_named(tokenizer, name)
    nodes = _nodes_in(tokenizer, name)
    if nodes is None:
        nodes = [node_named(tokenizer, part) for part in name.split(BETWEEN)]  # raises for the one that is unknown
    if not len(clones):
        raise OptionError(f"{name!r} would be a clone, and this graph has none")
    source, missing = _clone_of(clones, nodes)
    if missing:
        raise OptionError(f"{name!r} is not a clone of this graph; {_other_clones(tokenizer, clones, source)}")
    return source


def _clone_of(clones: CloneTree, nodes: Sequence[int]) -> tuple[int, bool]:
    """The clone of the last of some nodes after those before it, or the longest there is; whether it is shorter."""
    source = nodes[-1]
    for node in reversed(nodes[:-1]):
        found = int(clones.child(np.array([source]), np.array([node]))[0])
        if found < 0:
            return source, True
        source = found
    return source, False


def hiding_a_clone(tokenizer: Tokenizer, clones: CloneTree) -> set[str]:
    """The names of nodes that are the name of a clone, too: `source_named` finds the node."""
    if not len(clones):
        return set()
    read = ((name, _parts(tokenizer, name)) for name in tokenizer.vocabulary if BETWEEN in name[1:-1])
    return {name for name, nodes in read if nodes is not None and not _clone_of(clones, nodes)[1]}


def source_name(tokenizer: Tokenizer, clones: CloneTree, source: int) -> str:
    """The name of a source: that of the node, or those of the nodes of the clone with ``>`` between them."""
    return BETWEEN.join(tokenizer.vocabulary[node] for node in clones.name(source))


def _nodes_in(tokenizer: Tokenizer, name: str) -> list[int] | None:
    """The nodes of the name of a clone, in the first way to read it; None: there is none."""
    node = _find(tokenizer, name)
    return _parts(tokenizer, name) if node is None else [node]


def _parts(tokenizer: Tokenizer, name: str) -> list[int] | None:
    """The same of two nodes or more."""
    for at, character in enumerate(name):
        first = _find(tokenizer, name[:at]) if at and character == BETWEEN else None
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
        nodes = [int(node) for node in tokenizer.encode(name.replace(SPACE, " "))]
        if len(nodes) > 1 and not {UNKNOWN, SEPARATOR} & set(nodes):
            return f"the text consists of the nodes {_listed([tokenizer.vocabulary[node] for node in nodes])}"
    name = name.replace(SPACE, " ")
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
    return " ".join(repr(shown_name(name)) for name in names[:20]) + (" ..." if len(names) > 20 else "")
