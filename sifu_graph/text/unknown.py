"""How much of a text is no node of a graph: its share, a note about it, and the refusal of a text that is all unknown.

The unknown node is easy to predict, so a perplexity over many unknown tokens is low for no good reason. The module
knows an encoded text and its tokenizer; it does not know graphs or perplexities.
"""

from __future__ import annotations

import numpy as np
from sifu_store.errors import CorpusError

from sifu_graph.arrays import Doubles, Ints
from sifu_graph.text.encoded import Split
from sifu_graph.text.tokenizer import Tokenizer

NOTED_SHARE = 0.02
"""Of unknown tokens in a text, above which a note says so."""


def token_counts(split: Split, tokenizer: Tokenizer) -> Ints:
    """How often each node occurs in a text, int64 [n]; 0 for the separator."""
    counts = split.node_counts(len(tokenizer))
    if tokenizer.separator is not None:
        counts[tokenizer.separator] = 0
    return counts


def unknown_share(split: Split, tokenizer: Tokenizer, counts: Ints) -> float:
    """The share (0 to 1) of the tokens of a text, without separators, that are unknown; ``counts`` [n]: `token_counts`.

    Where text that is no node is left out, the share of its characters.
    """
    if tokenizer.unknown is not None:
        return float(counts[tokenizer.unknown] / max(1, counts.sum()))
    characters = tokenizer.character_counts()
    if characters is None or not split.characters:
        return 0.0
    return max(0.0, 1.0 - float(counts @ characters) / split.characters)


def require_known(share: float) -> None:
    """Raises `CorpusError` for a text all of whose tokens are unknown."""
    if share == 1.0:
        raise CorpusError(
            "no token of the text is a node of this graph, so that all of them are unknown: name a text like that of "
            "the graph, or build a graph from this one"
        )


def unknown_note(share: float, what: str = "the text", *, characters: bool = False) -> str | None:
    """What is to be said about the share of unknown tokens of ``what``; None: it is small.

    ``characters``: bits per character are among the figures.
    """
    if share <= NOTED_SHARE:
        return None
    return (
        f"{share:.1%} of the tokens of {what} are unknown: they are easy to predict, so the perplexity with them is "
        "lower than that of a graph with more nodes" + ("; so are the bits per character" if characters else "")
    )


def left_out_note(p: float, where: str) -> str | None:
    """What is to be said where <unk>, of probability ``p`` (0 to 1) ``where``, is left out; None: it is small."""
    if p <= NOTED_SHARE:
        return None
    return (
        f"<unk> has {p:.1%} of the probability {where} and is left out here, as generation never draws it: "
        "`score()` and `evaluate()` keep it, so their probabilities are lower"
    )


def characters_of_nodes(split: Split, tokenizer: Tokenizer, counts: Ints) -> Doubles | None:
    """How many characters of the text each node stands for, float64 [n]; None at level ``tokens``.

    ``counts`` [n]: `token_counts`.

    The sum over all tokens is the number of characters of the text: what is no character of another node is shared
    by the unknown tokens, or by all tokens where there are none (text was left out, or is read as another node).
    """
    table = tokenizer.character_counts()
    if table is None:
        return None
    characters = table.astype(np.float64)
    if split.characters is None:
        return characters
    unknown = tokenizer.unknown
    if unknown is not None and counts[unknown]:
        others = float(counts @ characters) - counts[unknown] * characters[unknown]
        characters[unknown] = max(0.0, split.characters - others) / counts[unknown]
    elif (read := float(counts @ characters)) > 0:
        characters[counts > 0] *= split.characters / read
    return characters
