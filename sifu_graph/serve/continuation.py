"""One sequence of a request: its prompt is read and continued in small steps, between which others get their turn.

The module knows nodes, text and probabilities; it does not know connections, threads or other sequences.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from sifu_graph.arrays import Doubles
from sifu_graph.generation.base_walk import AnyWalk, Draw
from sifu_graph.generation.sampler import Sampler
from sifu_graph.generation.stop_text import StopText
from sifu_graph.inspection import distributions
from sifu_graph.serve.protocol import ApiError, CompletionRequest, TokenLogprob
from sifu_graph.serve.rounds import Question, Work
from sifu_graph.session import GraphSession
from sifu_graph.text.tokenizer import Tokenizer

IMPOSSIBLE = -9999.0
"""Stands for log 0, which JSON does not have."""
PIECE_S = 0.005
"""Time that a piece collects tokens, after the first, which is a piece of its own."""
MOST_IN_A_PIECE = 64
"""Tokens with log-probabilities."""
READ_AT_ONCE = 32  # tokens of a prompt between two steps

Reason = Literal["stop", "length"]


@dataclass(slots=True)
class Piece:
    """What became known since the last piece: text, its tokens (with `logprobs`), and at the end why it ended."""

    text: str = ""
    tokens: list[TokenLogprob] = field(default_factory=list)
    reason: Reason | None = None


def require_nodes(tokenizer: Tokenizer, ids: Sequence[int], param: str) -> None:
    """Raise `ApiError` if one of the ids in a field of a request is no node."""
    if wrong := [node for node in ids if not 0 <= node < len(tokenizer)]:
        message = f"`{param}`: there is no node {wrong[0]}; ids are 0 to {len(tokenizer) - 1}"
        raise ApiError(message, param=param)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as nodes.

    Attributes
    ----------
    ids
        It begins with a separator, if the graph has one: a prompt begins a document.
    put_before
        How many of the nodes are not in the prompt that was given: 1 or 0.
    text
        The text of what was given.
    """

    ids: list[int]
    put_before: int
    text: str


def encode_prompt(graph: GraphSession, prompt: str | list[int], *, most_tokens: int) -> Prompt:
    """The nodes of a prompt.

    Raises
    ------
    ApiError
        It has too many tokens, an id that is no node, or no token that is a node of the graph.
    """
    tokenizer = graph.tokenizer
    if isinstance(prompt, str):
        ids: list[int] = tokenizer.encode(prompt).tolist()
        if ids and all(node == tokenizer.unknown for node in ids):
            shown = "".join(tokenizer.unknown_characters(prompt)[:10])
            raise ApiError(f"`prompt`: no part of it is a node of the graph ({shown})", param="prompt")
    else:
        require_nodes(tokenizer, prompt, "prompt")
        ids = prompt
    if len(ids) > most_tokens:
        raise ApiError(
            f"`prompt` has {len(ids):,} tokens: this server reads at most {most_tokens:,}",
            param="prompt",
            code="context_length_exceeded",
        )
    separator = tokenizer.separator
    before = [separator] if separator is not None and ids[:1] != [separator] else []
    if not before and not ids:
        raise ApiError("`prompt` is empty: give at least one token that is a node of the graph", param="prompt")
    return Prompt([*before, *ids], len(before), prompt if isinstance(prompt, str) else tokenizer.decode(ids))


class Continuation:
    """The continuation of a prompt.

    Parameters
    ----------
    graph
        The open graph.
    prompt
        Of `encode_prompt`.
    request
        What is asked.
    seed
        Of this sequence; None: random.

    Attributes
    ----------
    generated
        Number of tokens that were generated.
    """

    def __init__(
        self,
        graph: GraphSession,
        prompt: Prompt,
        *,
        request: CompletionRequest,
        seed: int | None,
    ) -> None:
        self.generated = 0
        self._graph, self._prompt, self._ids, self._request = graph, prompt, prompt.ids, request
        self._rng = np.random.Generator(np.random.PCG64(seed))
        self._sampler = Sampler(temperature=request.temperature, top_k=request.top_k, top_p=request.top_p)
        self._names = graph.tokenizer.vocabulary
        self._decoder = graph.tokenizer.decoder()
        self._characters = 0  # of the text so far

    def work(self, walk: AnyWalk) -> Work[Piece]:
        """Do the work. Each step takes about as long as a token; for each node it asks with a `base_walk.Draw`.

        ``walk`` is one of the graph that nothing else uses meanwhile.
        """
        yield from self._read(walk)
        yield from self._generate(walk)

    def _read(self, walk: AnyWalk) -> Iterator[Piece | None]:
        separator = self._graph.tokenizer.separator
        if self._request.echo:
            piece = Piece(self._prompt.text)
            if self._request.logprobs is None:
                yield piece
            else:
                for tokens in self._scored_prompt(walk):
                    piece.tokens += tokens
                    yield None
                yield piece
            self._characters = len(self._prompt.text)
        for place, node in enumerate(self._ids):
            (walk.start if place == 0 or node == separator else walk.carry)(node)
            if place % READ_AT_ONCE == 0:
                yield None
        for node in self._ids[self._prompt.put_before :]:  # a character may continue bytes of the prompt
            self._decoder.push(node)

    def _scored_prompt(self, walk: AnyWalk) -> Iterator[list[TokenLogprob]]:
        """The tokens of the prompt and their log-probabilities; the first has none, unless a node was put before it."""
        decoder, begin = self._graph.tokenizer.decoder(), 0
        if not self._prompt.put_before:
            yield [TokenLogprob(self._names[self._ids[0]], None, None, 0)]
            begin = len(decoder.push(self._ids[0]))
        for node, log_p in zip(self._ids[1:], distributions.of_text(self._graph, self._ids, walk), strict=True):
            yield [self._token(node, log_p, begin)]
            begin += len(decoder.push(node))

    def _token(self, node: int, log_p: Doubles, offset: int) -> TokenLogprob:
        wanted = self._request.logprobs or 0
        best = np.argpartition(-log_p, wanted)[:wanted] if 0 < wanted < len(log_p) else np.arange(len(log_p))[:wanted]
        best = best[np.argsort(-log_p[best], kind="stable")]
        top = {self._names[each]: _finite(log_p[each]) for each in best.tolist()} if wanted else None
        return TokenLogprob(self._names[node], _finite(log_p[node]), top, offset)

    def _generate(self, walk: AnyWalk) -> Work[Piece]:
        request, separator = self._request, self._graph.tokenizer.separator
        stop = StopText(request.stop)
        question: Question[Draw] = Question((walk, self._sampler, self._rng))
        piece, due = Piece(), 0.0
        while self.generated < request.max_tokens:
            node = yield question
            self.generated += 1
            if request.logprobs is not None:
                piece.tokens.append(self._token(node, distributions.log_p_after(walk), self._characters))
            if node == separator and not request.ignore_eos:
                piece.text += stop.push("", last=True)
                piece.reason = "stop"
                yield piece
                return
            text = self._decoder.push(node)
            self._characters += len(text)
            piece.text += stop.push(text)
            if stop.found:
                piece.reason = "stop"
                yield piece
                return
            if len(piece.tokens) == MOST_IN_A_PIECE or time.monotonic() > due:
                yield piece
                piece, due = Piece(), time.monotonic() + PIECE_S
            (walk.start if node == separator else walk.carry)(node)
        piece.text += stop.push(self._decoder.flush(), last=True)
        piece.reason = "stop" if stop.found else "length"
        yield piece


def _finite(log_p: float) -> float:
    return float(log_p) if log_p > IMPOSSIBLE else IMPOSSIBLE  # of NaN too
