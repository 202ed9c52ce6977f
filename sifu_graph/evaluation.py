"""How well a graph predicts text that it has not seen: perplexity and accuracy, from the exact softmax.

It knows batches and reports; the mathematics is in `step` and `contest`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from sifu_store.errors import CorpusError

from sifu_graph import step
from sifu_graph.corpus import Corpus
from sifu_graph.graph import require_positive
from sifu_graph.parameters import Parameters
from sifu_graph.signal import SignalConfig
from sifu_graph.tokens import Batches, Split

if TYPE_CHECKING:
    from sifu_graph.graph import Graph

BATCH = 256
SEED = 0  # the order of held-out chunks: a limit takes the same ones every time


@dataclass(frozen=True, slots=True)
class EvalReport:
    """Held-out figures over ``tokens`` predicted tokens (separators among them)."""

    perplexity: float
    bits_per_token: float
    top1: float
    tokens: int
    part: str
    forbidden: int = 0
    """Further tokens that were left out: their edge is forbidden, so that they have no probability."""


def evaluate(graph: Graph, corpus: Corpus | Sequence[str | Path] | None, *, limit: int | None = None) -> EvalReport:
    """Perplexity on the held-out part of the graph's corpus, or on all of another corpus.

    Parameters
    ----------
    corpus
        None: the held-out documents of the corpus that the graph was built from.
    limit
        Stop after about so many tokens (whole chunks, always the same ones).

    Raises
    ------
    CorpusError
        There is nothing to evaluate on.
    """
    require_positive(limit=limit)
    tokens = graph.tokens(corpus)
    graph.fit_memory(evaluated_edges=BATCH * graph.settings["build"]["length"])
    if corpus is None:
        return evaluate_split(graph.parameters, graph.signal, tokens.heldout, graph.settings["build"]["length"], limit)
    reports: list[EvalReport] = []
    for part in (tokens.train, tokens.heldout):
        left = None if limit is None else limit - sum(report.tokens for report in reports)
        if part.transitions and (left is None or left > 0):
            length = graph.settings["build"]["length"]
            reports.append(evaluate_split(graph.parameters, graph.signal, part, length, left))
    return _joined(reports)


def evaluate_split(
    parameters: Parameters, config: SignalConfig, split: Split, length: int, limit: int | None
) -> EvalReport:
    """The figures of one split, in chunks of ``length`` tokens."""
    batches = Batches(split, length=length, batch=BATCH, seed=SEED)
    if not batches.chunks:
        raise CorpusError("no held-out text: build with a larger --holdout, or name a file to evaluate on")
    nats, hits, seen, forbidden = 0.0, 0, 0, 0
    for batch in batches.epoch(0):
        loss, hit = step.evaluate(parameters, config, batch.tokens, batch.lengths.astype(np.int64))
        nats += float(loss.double().sum())
        hits += int(hit.sum())
        seen += len(loss)
        forbidden += int((batch.lengths - 1).sum()) - len(loss)
        if limit is not None and seen >= limit:
            break
    if not seen:
        raise CorpusError("every pair of the text is forbidden: there is nothing to evaluate on")
    return EvalReport(perplexity(nats / seen), nats / seen / math.log(2.0), hits / seen, seen, "held-out", forbidden)


def _joined(reports: list[EvalReport]) -> EvalReport:
    seen = sum(report.tokens for report in reports)
    bits = sum(report.bits_per_token * report.tokens for report in reports) / seen
    top1 = sum(report.top1 * report.tokens for report in reports) / seen
    forbidden = sum(report.forbidden for report in reports)
    return EvalReport(perplexity(bits * math.log(2.0)), bits, top1, seen, "all", forbidden)


def perplexity(nats: float) -> float:
    """exp of a loss in nats a token; infinite where that is beyond a float."""
    return math.exp(nats) if not nats > 700.0 else math.inf
