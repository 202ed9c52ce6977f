"""Generation: a prompt in, text out, piece by piece.

It knows prompts, nodes and text; `walk` moves the signal, `sampler` chooses.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sifu_store.errors import OptionError
from sifu_store.short_repr import short_repr

from sifu_graph import device as devices
from sifu_graph.generation.base_walk import AnyWalk, walk_of
from sifu_graph.generation.choices import Choice, explain
from sifu_graph.generation.sampler import Sampler
from sifu_graph.generation.stop_text import StopText
from sifu_graph.session import GraphSession, in_use
from sifu_graph.text.prompts import known_ids, read_prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateOptions:
    """Options of a continuation.

    Attributes
    ----------
    tokens
        Number of tokens to generate, 0 or more.
    temperature, top_k, top_p, greedy
        See `sifu_graph.generation.sampler.Sampler`.
    seed
        0 or more: the same graph, prompt, options and seed give the same text. None: a random seed.
    stop
        Generation ends where the text contains this; it is not part of the result.
    signal_vector
        r_0, float32 [d], the initial signal. None: that of the graph.
    explain
        Records how each token was chosen, as `sifu_graph.generation.choices.Choice`.
    """

    tokens: int = 100
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = 0.9
    greedy: bool = False
    seed: int | None = None
    stop: str | None = None
    signal_vector: Sequence[float] | np.ndarray | None = None
    explain: bool = False


@short_repr
@dataclass(frozen=True, slots=True)
class Generation:
    """A finished continuation.

    Attributes
    ----------
    prompt, text
        The prompt, and the text that follows it.
    tokens
        Number of tokens that were generated.
    seconds, tokens_per_s
        Duration, and tokens per second.
    unknown
        Characters of the prompt that are no nodes.
    choices
        How each token was chosen; empty without ``explain``.
    """

    prompt: str
    text: str
    tokens: int
    seconds: float
    tokens_per_s: float
    unknown: list[str]
    choices: list[Choice]


class Stream(Iterator[str]):
    """An iterator over pieces of generated text; a piece has complete characters only.

    ``tokens`` is the number of nodes so far, ``unknown`` lists the characters of the prompt that are no nodes; with
    ``explain``, ``choices`` lists how each node was chosen.

    Raises
    ------
    OptionError
        The prompt is empty or consists of unknown characters only, or an option has no meaning.
    """

    def __init__(self, graph: GraphSession, prompt: str | Sequence[str], options: GenerateOptions) -> None:
        if options.tokens < 0:
            raise OptionError(f"`tokens` is {options.tokens}: it must be 0 or more")
        if options.seed is not None and options.seed < 0:
            raise OptionError(f"`seed` is {options.seed}: it must be 0 or more")
        if options.stop == "":
            raise OptionError("the stop text is empty: leave `stop` out to generate all tokens")
        self.tokens = 0
        self._graph = graph
        tokenizer = graph.tokenizer
        document = read_prompt(tokenizer, prompt, "prompt")
        self.unknown = tokenizer.unknown_characters(document)
        ids = known_ids(tokenizer, document, "prompt")
        self._options = options
        temperature = 0.0 if options.greedy else options.temperature
        self._sampler = Sampler(temperature=temperature, top_k=options.top_k, top_p=options.top_p)
        self._rng = np.random.Generator(np.random.PCG64(options.seed))
        graph._fit_memory()
        self._separator = tokenizer.separator
        self.choices: list[Choice] = []
        self._names = tokenizer.vocabulary if options.explain else []
        self._walk = walk_of(
            graph.parameters, graph.signal, forbidden=tokenizer.never_generated, r_0=_signal_vector(graph, options)
        )
        self._decoder = tokenizer.decoder()
        for node in ids:
            self._decoder.push(int(node))
        self._stop = StopText(() if options.stop is None else (options.stop,))
        self._done = False
        self._follow(ids if self._separator is None else np.concatenate([[self._separator], ids]))

    @property
    def walk(self) -> AnyWalk:
        """The signal, at the last node of the text so far."""
        return self._walk

    def _follow(self, ids: np.ndarray) -> None:
        """Carries the signal along the prompt. With resets, only the part after the last reset is carried."""
        reset = self._walk.config.reset_after
        begin = 0 if reset is None else (len(ids) - 1) // reset * reset
        self._walk.start(int(ids[begin]))
        for node in ids[begin + 1 :]:
            self._walk.carry(int(node))

    def __next__(self) -> str:
        try:
            with in_use(self._graph):
                return self._next()
        except torch.cuda.OutOfMemoryError as error:
            raise devices.out_of_memory(error) from error

    def _next(self) -> str:
        while not self._done and self.tokens < self._options.tokens:
            node = self._walk.choose(self._sampler, self._rng)
            self.tokens += 1
            text = self._decoder.push(node)
            if self._options.explain:
                self.choices.append(explain(self._walk, node, names=self._names, text=text))
            if node == self._separator:
                self._walk.start(node)
            else:
                self._walk.carry(node)
            text = self._stop.push(text)
            self._done = self._stop.found
            if text:
                return text
        if not self._done:
            self._done = True
            if text := self._stop.push(self._decoder.flush(), last=True):
                return text
        raise StopIteration


def stream(graph: GraphSession, prompt: str | Sequence[str], options: GenerateOptions) -> Stream:
    """Continues a prompt, piece by piece.

    Raises
    ------
    OptionError
        The prompt is empty or consists of unknown characters only, or an option has no meaning.
    """
    return Stream(graph, prompt, options)


def generate(graph: GraphSession, prompt: str | Sequence[str], options: GenerateOptions) -> Generation:
    """Continues a prompt and returns the whole text. Raises what `stream` raises."""
    started = time.perf_counter()
    pieces = stream(graph, prompt, options)
    text = "".join(pieces)
    seconds = time.perf_counter() - started
    shown = prompt if isinstance(prompt, str) else " ".join(prompt)
    return Generation(
        shown, text, pieces.tokens, seconds, pieces.tokens / max(seconds, 1e-9), pieces.unknown, pieces.choices
    )


def _signal_vector(graph: GraphSession, options: GenerateOptions) -> torch.Tensor | None:
    if options.signal_vector is None:
        return None
    vector = torch.as_tensor(np.asarray(options.signal_vector, dtype=np.float32))
    width = graph.parameters.width
    if vector.shape != (width,) or not bool(torch.isfinite(vector).all()):
        raise OptionError(f"the signal vector has shape {tuple(vector.shape)}: it must be {width} finite numbers")
    return vector
