"""Held-out perplexity and accuracy of a graph, from the exact softmax.

The module knows batches and reports; the mathematics is in `forward` and `contest`, the baselines are in `kneser_ney`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from sifu_store.errors import CorpusError
from sifu_store.short_repr import short_repr
from torch import Tensor

from sifu_graph import device as devices
from sifu_graph.arrays import Doubles, Ids, Ints
from sifu_graph.config import SignalConfig, require_positive
from sifu_graph.edge_index import EdgeIndex
from sifu_graph.model import base_forward, forward
from sifu_graph.model.base import Base
from sifu_graph.model.parameters import Parameters
from sifu_graph.ops.contest import total
from sifu_graph.progress import SILENT, ProgressOption, Stage, Stages
from sifu_graph.progress_bar import reporting
from sifu_graph.text.batches import Batches
from sifu_graph.text.corpus import Corpora
from sifu_graph.text.encoded import CACHE, Split, TokenFile, encode_corpus, token_key, written_tokens
from sifu_graph.text.kneser_ney import Baseline, KneserNey, baselines
from sifu_graph.text.overlap import shared_share, trained_note
from sifu_graph.text.own_text import NAME_ONE, own_corpus
from sifu_graph.text.tokenizer import Tokenizer
from sifu_graph.text.unknown import characters_of_nodes, require_known, token_counts, unknown_note, unknown_share

if TYPE_CHECKING:
    from sifu_graph.session import GraphSession

BATCH = 256
"""Chunks that are evaluated together."""
ROWS_EDGES = 1 << 23
"""Edges of the rows of a batch, at most: in larger graphs, fewer chunks are evaluated together."""
NO_TEXT = "no held-out text: build with a larger share (`build_graph(holdout=0.1)`), or name a file to evaluate on"
WITHOUT_BASELINES = "leave `with_baselines` out, which needs that text"
MOST_STEPS = 64  # of a document that have figures of their own; the last ones are those of all later steps
SEED = 0  # of the order of held-out chunks: a limit selects the same chunks every time


@short_repr
@dataclass(frozen=True, slots=True)
class PartReport:
    """The figures of some of the predicted tokens: their number, perplexity, and share predicted by greedy decoding."""

    tokens: int
    perplexity: float
    top1: float


@short_repr
@dataclass(frozen=True, slots=True)
class EvalReport:
    """Held-out figures over ``tokens`` predicted tokens (separators among them).

    Attributes
    ----------
    perplexity, bits_per_token
        exp of the loss in nats per token, and the loss in bits per token.
    bits_per_character, characters
        The loss in bits per character of the text, and the number of characters; None at level ``tokens``. The end of a
        document is a character. With a limit, an estimate of the characters that unknown tokens stand for.
    top1, top5
        Shares (0 to 1) of the tokens that have the greatest energy, and that are among the five greatest.
    part
        ``held-out``, or ``all`` for another corpus.
    unknown_share
        Share (0 to 1) of the tokens without separators that are unknown; where text that is no node is left out, of its
        characters.
    known
        Figures of the tokens that are not unknown.
    private, default
        Figures of the tokens that are reached over a private edge, and over a default edge.
    positions
        Figures by the number of edges that carried the signal before the position; with a base, the last ones are
        those of all later positions.
    baselines
        Figures of the baselines; empty unless requested.
    notes
        What is to be said about the figures.
    """

    perplexity: float
    bits_per_token: float
    bits_per_character: float | None
    top1: float
    top5: float
    tokens: int
    characters: int | None
    part: str
    unknown_share: float
    known: PartReport
    private: PartReport
    default: PartReport
    positions: list[PartReport]
    baselines: list[Baseline]
    forbidden: int = 0
    """Number of further tokens without a probability, because their pair is forbidden."""
    trained_share: float = 0.0
    """Share (0 to 1) of the tokens of another text that are in documents which the graph was built from or trained
    on, as far as their encoded text is in the store's cache; 0 for the held-out part of its own text."""
    notes: list[str] = field(default_factory=list)


def evaluate(
    graph: GraphSession,
    corpus: Corpora | None,
    *,
    limit: int | None = None,
    with_baselines: bool = False,
    like: GraphSession | None = None,
    progress: ProgressOption = None,
) -> EvalReport:
    """The figures on the held-out part of the graph's corpus, or on all of another corpus.

    Parameters
    ----------
    graph
        The open graph.
    corpus
        None: the held-out documents of the corpus that the graph was built from.
    limit
        Stop after this number of tokens. The documents or chunks come in an order that is always the same.
    with_baselines
        Add unigram and Kneser-Ney models, counted from the training part of the graph's own corpus, on the same
        tokens. Their histories begin with the document, also where the graph's chunk begins later.
    like
        Use the held-out documents of this graph's corpus instead (without ``corpus``), to compare graphs.
    progress
        See `progress_bar.reporting`.

    Raises
    ------
    CorpusError
        There is nothing to evaluate on, or nothing to count, or all tokens are unknown.
    OptionError
        ``limit`` is not positive.
    """
    require_positive(limit=limit)
    with reporting(progress) as stages:
        return _evaluate(graph, corpus, limit=limit, with_baselines=with_baselines, like=like, stages=stages)


def _evaluate(
    graph: GraphSession,
    corpus: Corpora | None,
    *,
    limit: int | None,
    with_baselines: bool,
    like: GraphSession | None,
    stages: Stages,
) -> EvalReport:
    graph._fit_memory(evaluated_edges=evaluated_tokens(graph.parameters, graph.settings["build"]["length"]))
    own = _own(graph, stages) if with_baselines else None
    if corpus is not None:
        part, name = graph._tokens(corpus, holdout=0.0, stages=stages).train, "all"
    else:
        tokens = graph._tokens(stages=stages) if like is None else _tokens_of(graph, like, stages)
        part, name = tokens.heldout, "held-out"
    own_heldout = corpus is None and like is None
    trained_share = 0.0 if own_heldout else shared_share(part, _training_texts(graph))
    plain = None
    if own is not None:
        stages.stage("counting the baselines")
        plain = KneserNey(own.train, n=graph.settings["nodes"])
    tokenizer = graph.tokenizer
    counts = token_counts(part, tokenizer)
    share = unknown_share(part, tokenizer, counts)
    require_known(share)
    tally = _Tally(characters_of_nodes(part, tokenizer, counts), tokenizer, graph.settings["build"]["length"])
    with devices.memory_errors():
        tally.add(graph.parameters, graph.signal, part, limit=limit, plain=plain, stages=stages)
    return tally.report(name, left_out=share if tokenizer.unknown is None else None, trained_share=trained_share)


def _training_texts(graph: GraphSession) -> Iterator[Split]:
    """Texts of the build and of the last training, where the cache of the store has them encoded."""
    build, training, directory = graph.settings["build"], graph.settings["training"], graph.path / CACHE
    keys = [] if training is None else [training["corpus"]]
    with contextlib.suppress(CorpusError):  # it is gone, or has changed
        own = own_corpus(build, directory)
        keys.append(token_key(own, graph.tokenizer, holdout=build["holdout"]))
    for key in dict.fromkeys(keys):
        if (found := written_tokens(directory, graph.tokenizer, key=key)) is not None:
            yield found.train


def _own(graph: GraphSession, stages: Stages) -> TokenFile:
    tokens = _tokens_of(graph, graph, stages, instead=WITHOUT_BASELINES)
    if not tokens.train.transitions:
        raise CorpusError("the corpus of the graph has no two tokens in a row: there is nothing to count")
    return tokens


def _tokens_of(graph: GraphSession, other: GraphSession, stages: Stages, *, instead: str = NAME_ONE) -> TokenFile:
    """The corpus of a graph, encoded by the tokenizer of another one; ``instead`` as of `own_corpus`."""
    build = other.settings["build"]
    corpus = own_corpus(build, other.path / CACHE, instead=instead)
    return encode_corpus(corpus, graph.tokenizer, directory=graph.path / CACHE, holdout=build["holdout"], stages=stages)


@dataclass(slots=True)
class _Tally:
    """Sums over the positions evaluated so far; arrays are by step of the signal."""

    characters_of: Doubles | None
    tokenizer: Tokenizer
    length: int
    nats: NDArray[np.float64] = field(default_factory=lambda: np.zeros((2, 0)))  # [default/private, steps]
    seen: NDArray[np.int64] = field(default_factory=lambda: np.zeros((2, 0), np.int64))
    first: NDArray[np.int64] = field(default_factory=lambda: np.zeros((2, 0), np.int64))
    among_five: int = 0
    characters: float = 0.0
    forbidden: int = 0
    separators: int = 0
    unknown: Doubles = field(default_factory=lambda: np.zeros(3))  # nats, tokens, first choices
    plain: dict[str, float] = field(default_factory=dict)
    plain_known: dict[str, float] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        return int(self.seen.sum())

    def add(
        self,
        parameters: Parameters,
        config: SignalConfig,
        split: Split,
        *,
        limit: int | None,
        plain: KneserNey | None,
        stages: Stages,
    ) -> None:
        """One split, in chunks of ``length`` tokens, until ``limit`` tokens were seen in all.

        A graph with a base reads whole documents instead.
        """
        if parameters.base is not None:
            self._add_documents(parameters.base, parameters.index, split, limit=limit, plain=plain, stages=stages)
            return
        stage = _stage(stages, split, limit)
        batches = Batches(split, length=self.length, batch=evaluated_chunks(parameters, self.length), seed=SEED)
        places: list[NDArray[np.int64]] = []
        for batch in batches.epoch(0) if batches.chunks else ():
            if limit is not None and self.tokens >= limit:
                break
            lengths = _cut(batch.lengths.astype(np.int64), None if limit is None else limit - self.tokens)
            tokens = batch.tokens[: len(lengths)]
            found = forward.examine(parameters, config, tokens, lengths)
            self._add(found)
            stage.advance(int((lengths - 1).sum()))
            self.forbidden += int((lengths - 1).sum()) - len(found.rank)
            within = np.arange(1, tokens.shape[1])
            places.append((batch.start[: len(lengths), None] + within)[within < lengths[:, None]])
        self._add_baselines(split, plain, places)

    def _add_documents(
        self,
        base: Base,
        index: EdgeIndex,
        split: Split,
        *,
        limit: int | None,
        plain: KneserNey | None,
        stages: Stages,
    ) -> None:
        if not split.transitions:
            return
        chosen, place = base_forward.documents_of(split, limit, seed=SEED)
        places: list[NDArray[np.int64]] = []
        stage = _stage(stages, split, limit)
        for found, at in base_forward.examine(base, index, chosen):
            stage.advance(len(found.rank))
            self._add(dataclasses.replace(found, step=np.minimum(found.step, MOST_STEPS - 1)))
            places.append(place[at])
        self.forbidden += chosen.transitions - sum(map(len, places))
        self._add_baselines(split, plain, places)

    def _add_baselines(self, split: Split, plain: KneserNey | None, places: list[Ints]) -> None:
        if plain is None or not places:
            return
        every = np.sort(np.concatenate(places))
        self.plain = self.plain_known = plain.nats(split, every)
        if self.unknown[1]:
            self.plain_known = plain.nats(split, every, without=self.tokenizer.unknown)

    def _add(self, found: forward.Examined) -> None:
        steps = max(self.nats.shape[1], int(found.step.max(initial=0)) + 1)
        cell = found.private.astype(np.int64) * steps + found.step

        def grown(before: NDArray[Any], weights: NDArray[np.float64] | None) -> NDArray[np.float64]:
            out = np.bincount(cell, weights=weights, minlength=2 * steps).reshape(2, steps).astype(np.float64)
            out[:, : before.shape[1]] += before
            return out

        self.nats = grown(self.nats, found.loss.double().numpy())
        self.seen = grown(self.seen, None).astype(np.int64)
        self.first = grown(self.first, (found.rank == 0).astype(np.float64)).astype(np.int64)
        self.among_five += int((found.rank < 5).sum())
        separator, unknown = (found.target == node for node in _special(self.tokenizer))
        self.separators += int(separator.sum())
        first = int((found.rank[unknown] == 0).sum())
        self.unknown += [total(found.loss[torch.from_numpy(unknown)]), int(unknown.sum()), first]
        if self.characters_of is not None:
            self.characters += float(self.characters_of[found.target].sum())

    def report(self, part: str, *, left_out: float | None = None, trained_share: float = 0.0) -> EvalReport:
        """The figures.

        ``left_out``: the share of the characters of the text that the tokenizer left out. ``trained_share``: see
        `EvalReport`.
        """
        if not self.tokens:
            raise CorpusError(NO_TEXT)
        bits, characters = float(self.nats.sum()) / math.log(2.0), round(self.characters) or None
        known = np.array([self.nats.sum(), self.seen.sum(), self.first.sum()]) - self.unknown
        share = float(self.unknown[1]) / max(1, self.tokens - self.separators) if left_out is None else left_out
        notes = [
            unknown_note(share, characters=characters is not None),
            trained_note(trained_share),
        ]
        return EvalReport(
            perplexity=perplexity(float(self.nats.sum()) / self.tokens),
            bits_per_token=bits / self.tokens,
            bits_per_character=bits / characters if characters else None,
            top1=int(self.first.sum()) / self.tokens,
            top5=self.among_five / self.tokens,
            tokens=self.tokens,
            characters=characters,
            part=part,
            unknown_share=share,
            known=_part(*known),
            private=_part(self.nats[1], self.seen[1], self.first[1]),
            default=_part(self.nats[0], self.seen[0], self.first[0]),
            positions=[_part(self.nats[:, i], self.seen[:, i], self.first[:, i]) for i in range(self.nats.shape[1])],
            baselines=baselines(
                self.plain, self.plain_known, tokens=self.tokens, known=int(known[1]), characters=characters
            ),
            forbidden=self.forbidden,
            trained_share=trained_share,
            notes=[note for note in notes if note is not None],
        )


def _stage(stages: Stages, split: Split, limit: int | None) -> Stage:
    """The stage of an evaluation. Pairs that are forbidden, which have no probability, may be missing in the end."""
    tokens = split.transitions if limit is None else min(limit, split.transitions)
    return stages.stage(f"evaluating on {tokens:,} tokens", tokens, "tokens")


def _special(tokenizer: Tokenizer | None) -> tuple[int, int]:
    """The separator and the unknown node; -1 for one that there is not."""
    nodes = (None, None) if tokenizer is None else (tokenizer.separator, tokenizer.unknown)
    separator, unknown = (-1 if node is None else node for node in nodes)
    return separator, unknown


def _cut(lengths: Ints, limit: int | None) -> Ints:
    """The lengths of the first chunks [B] with ``limit`` predicted tokens: the last one is cut off there."""
    predicted = np.cumsum(lengths - 1)
    if limit is None or predicted[-1] <= limit:
        return lengths
    kept = lengths[: 1 + int(np.searchsorted(predicted, limit))].copy()
    kept[-1] -= predicted[len(kept) - 1] - limit
    return kept


def _part(nats: NDArray[Any], seen: NDArray[Any], first: NDArray[Any]) -> PartReport:
    tokens = int(seen.sum())
    if not tokens:
        return PartReport(0, math.nan, math.nan)
    return PartReport(tokens, perplexity(float(nats.sum()) / tokens), int(first.sum()) / tokens)


@dataclass(frozen=True, slots=True)
class SplitReport:
    """The figures that training prints. ``known_perplexity`` leaves out unknown tokens.

    ``losses`` are those of the tokens in nats, float64 [tokens], in an order that is always the same.
    """

    perplexity: float
    bits_per_token: float
    top1: float
    tokens: int
    unknown_share: float
    known_perplexity: float
    losses: Doubles = field(repr=False, compare=False)


def evaluate_split(
    parameters: Parameters,
    config: SignalConfig,
    split: Split,
    length: int,
    limit: int | None,
    *,
    tokenizer: Tokenizer | None = None,
    stages: Stages = SILENT,
) -> SplitReport:
    """The figures of one split, in chunks of ``length`` tokens, over about ``limit`` tokens (None: all).

    ``tokenizer``: which nodes are the unknown node and the separator; None: there are none. The evaluation is a stage.

    Raises
    ------
    CorpusError
        The split has no two tokens in a row, or every pair is forbidden.
    """
    separator, unknown = _special(tokenizer)
    stage = _stage(stages, split, limit)
    nats, tokens, hits, words = np.zeros(2), np.zeros(2, np.int64), 0, 0  # of known and of unknown tokens
    losses: list[Doubles] = []
    for loss, hit, target in _figures(parameters, config, split, length, limit):
        known = torch.from_numpy(target != unknown)
        nats += [total(loss[known]), total(loss[~known])]
        tokens += [int(known.sum()), int((~known).sum())]
        losses.append(loss.double().numpy())
        hits += int(hit.sum())
        words += int((target != separator).sum())
        stage.advance(len(target))
    if not (seen := int(tokens.sum())):
        raise CorpusError("every pair of the text is forbidden: there is nothing to evaluate on")
    mean = float(nats.sum()) / seen
    return SplitReport(
        perplexity=perplexity(mean),
        bits_per_token=mean / math.log(2.0),
        top1=hits / seen,
        tokens=seen,
        unknown_share=int(tokens[1]) / max(1, words),
        known_perplexity=perplexity(float(nats[0]) / int(tokens[0])) if tokens[0] else math.nan,
        losses=np.concatenate(losses),
    )


def _figures(
    parameters: Parameters, config: SignalConfig, split: Split, length: int, limit: int | None
) -> Iterator[tuple[Tensor, NDArray[np.bool_] | Tensor, Ids]]:
    """Loss, whether it is the first choice, and target of the tokens of a split, [T] each, part by part."""
    if parameters.base is not None:
        if not split.transitions:
            raise CorpusError(NO_TEXT)
        chosen, _ = base_forward.documents_of(split, limit, seed=SEED)
        for found, _ in base_forward.examine(parameters.base, parameters.index, chosen):
            yield found.loss, found.rank == 0, found.target
        return
    batches = Batches(split, length=length, batch=evaluated_chunks(parameters, length), seed=SEED)
    if not batches.chunks:
        raise CorpusError(NO_TEXT)
    seen = 0
    for batch in batches.epoch(0):
        figures = forward.evaluate(parameters, config, batch.tokens, batch.lengths.astype(np.int64))
        yield figures
        seen += len(figures[0])
        if limit is not None and seen >= limit:
            break


def evaluated_chunks(parameters: Parameters, length: int) -> int:
    """Number of chunks of ``length`` tokens that are evaluated together."""
    index = parameters.index
    if index.edges <= ROWS_EDGES:
        return BATCH
    rows = int(np.searchsorted(np.cumsum(np.sort(index.row_sizes())[::-1]), ROWS_EDGES))
    return max(1, min(BATCH, rows // length))


def evaluated_tokens(parameters: Parameters, length: int) -> int:
    """Number of tokens that are evaluated together, of chunks of ``length``."""
    return evaluated_chunks(parameters, length) * length


def perplexity(nats: float) -> float:
    """exp of a loss in nats per token; infinity if a float cannot hold it."""
    return math.exp(nats) if not nats > 700.0 else math.inf
