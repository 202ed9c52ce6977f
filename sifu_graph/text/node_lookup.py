"""The node of a name, or an error with the nearest names.

The module knows a tokenizer's vocabulary; it does not know edges or signals.
"""

from __future__ import annotations

import difflib

from sifu_store.errors import OptionError

from sifu_graph.text.tokenizer import SEPARATOR, SPECIAL, UNKNOWN, Tokenizer

NEAREST = 5
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
