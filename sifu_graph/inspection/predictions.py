"""What comes next after a text, and how probable a text is, token by token.

The next nodes are those of generation, at temperature 1, without <unk>; the scores are those of evaluation, with <unk>,
so that their mean is the perplexity that `evaluation.evaluate` reports. The module knows one text and a
graph; it does not know screens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from sifu_store.errors import OptionError
from sifu_store.short_repr import short_repr, table_html

from sifu_graph.config import require_positive
from sifu_graph.evaluation import evaluated_tokens, perplexity
from sifu_graph.generation.stream import GenerateOptions, Stream
from sifu_graph.inspection.distributions import log_p_of_tokens, logits_after
from sifu_graph.text.prompts import read_prompt
from sifu_graph.text.tokenizer import UNKNOWN

if TYPE_CHECKING:
    from sifu_graph.session import GraphSession

SHOWN = 5  # nodes in the line of a console


@short_repr
@dataclass(frozen=True, slots=True)
class NextNode:
    """A candidate for the next node.

    ``p`` is its probability (0 to 1) and ``log_p`` its natural logarithm; ``private`` says whether its edge is private,
    and ``count`` how often the pair was counted (None: a default edge, whose count is not stored).
    """

    node: int
    name: str
    p: float
    log_p: float
    private: bool
    count: int | None


class NextNodes(list[NextNode]):
    """Candidates for the next node, the best first.

    Attributes
    ----------
    unknown_p
        The probability (0 to 1) of <unk> among all nodes. The probabilities of the list leave <unk> out: times
        ``1 - unknown_p`` they are those of `score` and of evaluation.
    """

    def __init__(self, nodes: Iterable[NextNode], *, unknown_p: float) -> None:
        super().__init__(nodes)
        self.unknown_p = unknown_p

    def __repr__(self) -> str:
        shown = ", ".join(f"{one.name!r} {one.p:.3g}" for one in self[:SHOWN])
        return (
            f"<{len(self):,} NextNode: {shown}{', ...' if len(self) > SHOWN else ''}; unknown_p={self.unknown_p:.3g}>"
        )

    def _repr_html_(self) -> str:
        """A table, which notebooks show."""
        return table_html(self) if self else "<p>no node can follow</p>"


@short_repr
@dataclass(frozen=True, slots=True)
class TokenScore:
    """A token of a text and the natural logarithm of its probability after the tokens before; -inf: a forbidden edge.

    ``unknown``: it stands for text that is no node of the graph.
    """

    node: int
    name: str
    log_p: float
    unknown: bool


@short_repr
@dataclass(frozen=True, slots=True)
class Score:
    """How probable a text is.

    Attributes
    ----------
    tokens
        The tokens that are predicted, in the order of the text; the last one is the separator at its end.
    log_p
        The sum over the tokens: the natural logarithm of the probability of the text.
    perplexity
        exp of the mean loss per token, as `evaluation.evaluate` reports it for a file with this text alone.
    bits_per_character, characters
        Of the text and the end of the document; None at level ``tokens``.
    """

    tokens: tuple[TokenScore, ...]
    log_p: float
    perplexity: float
    bits_per_character: float | None
    characters: int | None


def next_nodes(graph: GraphSession, text: str | Sequence[str], *, k: int = 10) -> NextNodes:
    """The ``k`` most probable next nodes after a text, the best first.

    The probabilities are those that `generate` draws from at temperature 1 without ``top_k`` and ``top_p``. Generation
    never draws <unk>, so <unk> is left out of the softmax, unlike in `score` and in evaluation: the probabilities here
    are greater, by the share that `NextNodes.unknown_p` holds.

    Parameters
    ----------
    graph
        The open graph.
    text
        The text so far, read as a prompt of `generate`; at level ``tokens`` a list of tokens.
    k
        Number of nodes; fewer where fewer can follow.

    Raises
    ------
    OptionError
        The text is empty or consists of unknown characters only, or ``k`` is not positive.
    """
    require_positive(k=k)
    text = read_prompt(graph.tokenizer, text, "text")
    walk = Stream(graph, text, GenerateOptions(tokens=0)).walk
    walk.energies()
    index, names = graph.parameters.index, graph.tokenizer.vocabulary
    row, logits = index.row(walk.node), logits_after(walk, index.forbidden_after(walk.node))
    unknown = logits[UNKNOWN]
    logits[walk.banned()] = -np.inf
    normaliser = np.logaddexp.reduce(logits)
    log_p = logits - normaliser
    counts = dict(zip(index.target[row].tolist(), index.count[row].tolist(), strict=True))
    frequency = np.arange(index.nodes)
    if index.by_frequency is not None:
        frequency[index.by_frequency] = np.arange(index.nodes)
    private = np.zeros(index.nodes, bool)
    private[index.target[row]] = True
    order = np.lexsort((frequency, private, -logits))[:k]  # of equals, default edges come first, as in a greedy choice
    found = (
        NextNode(
            node=int(node),
            name=names[node],
            p=math.exp(log_p[node]),
            log_p=float(log_p[node]),
            private=bool(private[node]),
            count=counts.get(int(node)),
        )
        for node in order
        if logits[node] > -np.inf
    )
    return NextNodes(found, unknown_p=math.exp(unknown - np.logaddexp(unknown, normaliser)))


def score(graph: GraphSession, text: str | Sequence[str]) -> Score:
    """How probable a text is: the logarithm of the probability of each token after the tokens before.

    Parameters
    ----------
    graph
        The open graph.
    text
        Read as one document of a corpus, which `evaluation.evaluate` would score in the same way: its end is a token
        too. At level ``tokens`` a list of tokens. A token that is no node is <unk>, which has a probability here.

    Raises
    ------
    OptionError
        The text is empty.
    OptionTypeError
        It is a list, and the graph does not read lists of tokens.
    """
    text = read_prompt(graph.tokenizer, text, "text")
    tokenizer, length = graph.tokenizer, graph.settings["build"]["length"]
    ids = tokenizer.encode_document(text)
    graph._fit_memory(evaluated_edges=evaluated_tokens(graph.parameters, length))
    log_p, names = log_p_of_tokens(graph, ids), tokenizer.vocabulary
    tokens = tuple(
        TokenScore(node, names[node], value, node == tokenizer.unknown)
        for node, value in zip(ids[1:].tolist(), log_p.tolist(), strict=True)
    )
    if not tokens:
        raise OptionError("the text has no two tokens in a row that are nodes of the graph: there is nothing to score")
    total = float(log_p.sum())
    characters = None
    if tokenizer.level != "tokens":
        characters = sum(map(len, text)) + (tokenizer.separator is not None)
    return Score(
        tokens=tokens,
        log_p=total,
        perplexity=perplexity(-total / len(tokens)),
        bits_per_character=None if characters is None else -total / math.log(2.0) / characters,
        characters=characters,
    )
