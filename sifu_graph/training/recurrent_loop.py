"""Trains the shared recurrence on a text, and scores it on another.

Data flow: documents -> windows of parallel streams -> gradients (`ops/recurrent.py`) -> AdamW. The signals of a window
are where those of the next one begin. It knows node ids and documents; it does not know stores or edges.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from sifu_store.errors import CorpusError
from torch import Tensor

from sifu_graph.config import OptimizerConfig, require_positive
from sifu_graph.ops.recurrent import Recurrent, RecurrentBackend
from sifu_graph.ops.threads import one_torch_thread
from sifu_graph.text.encoded import Split
from sifu_graph.text.streams import Window, windows

STREAMS, STEPS = 64, 32
"""Of a training window. On 5 million tokens of Tang and Song poems 64 x 32 with a rate of 8e-3 gave 132.5, 32 x 32 with
4e-3 133.3."""
SCORED_STEPS = 1024  # of a window of evaluation, in one stream

OPTIMIZER = OptimizerConfig(
    kind="adamw", lr=8e-3, beta2=0.99, eps=1e-8, clip=1.0, shared_rate=1.0, warmup_steps=50, final_fraction=0.05
)
"""``decay_steps`` is not used: the rate falls with the tokens or the minutes that are done."""


@dataclass(frozen=True, slots=True)
class RecurrentReport:
    """The result of a run.

    Attributes
    ----------
    tokens, steps
        Tokens that were predicted, and steps of the optimizer.
    seconds
        Time of the run.
    loss
        Mean over the last steps in nats, weighted by 0.99 a step; with leave-one-out counts.
    """

    tokens: int
    steps: int
    seconds: float
    loss: float


def train_recurrent(
    model: Recurrent,
    backend: RecurrentBackend,
    split: Split,
    *,
    tokens: int | None = None,
    minutes: float | None = None,
    optimizer: OptimizerConfig = OPTIMIZER,
    streams: int = STREAMS,
    steps: int = STEPS,
) -> RecurrentReport:
    """Trains the parameters in place, on whole passes and parts of passes over a text.

    Parameters
    ----------
    model, backend
        The parameters and what computes their gradients.
    split
        The documents, as often as needed.
    tokens, minutes
        When to stop; one of both. A run by tokens has the same result every time.
    optimizer
        AdamW with its rate, its betas and ``clip``, the greatest norm of the gradient of all parameters (0: no limit).
        The rate rises over ``warmup_steps`` and falls as a half cosine to ``final_fraction`` of ``lr`` at the end.
    streams, steps
        B and T of a window.

    Raises
    ------
    CorpusError
        The text has no token that follows another.
    OptionError
        ``tokens`` or ``minutes`` is not positive.
    """
    require_positive(tokens=tokens, minutes=minutes)
    if (tokens is None) == (minutes is None):
        raise TypeError("give one of tokens and minutes")
    parameters = list(model.tensors().values())
    adam = torch.optim.AdamW(
        parameters, lr=optimizer.lr, betas=(optimizer.beta1, optimizer.beta2), eps=optimizer.eps,
        weight_decay=optimizer.weight_decay,
    )  # fmt: skip
    done = count = 0
    smooth, started = math.nan, time.monotonic()
    signal = model.start.new_empty(0)
    for window in _endless(split, streams=streams, steps=steps):
        finished = done / tokens if tokens is not None else (time.monotonic() - started) / (60 * (minutes or 1.0))
        if finished >= 1.0:
            break
        scored = int((window.target >= 0).sum())
        if not scored:
            continue
        if len(signal) != len(window.token):
            signal = model.start.repeat(len(window.token), 1)
        losses, gradient = backend.gradients(model, *_tensors(window), signal, weight=1.0 / scored)
        count += 1
        for parameter, found in zip(parameters, gradient.tensors().values(), strict=True):
            parameter.grad = found
        with one_torch_thread():  # the order of the norm's sum depends on the number of threads
            if optimizer.clip:
                torch.nn.utils.clip_grad_norm_(parameters, optimizer.clip)
            adam.param_groups[0]["lr"] = optimizer.rate_at(count, finished)
            adam.step()
        loss = float(losses.double().sum()) / scored
        smooth = loss if math.isnan(smooth) else 0.99 * smooth + 0.01 * loss
        done += scored
    for parameter in parameters:
        parameter.grad = None
    return RecurrentReport(done, count, time.monotonic() - started, smooth)


def score_recurrent(model: Recurrent, backend: RecurrentBackend, split: Split) -> tuple[float, int]:
    """The sum of the losses in nats over all tokens that follow another, and how many there are.

    The documents pass in one stream, so that the result does not depend on how a text is cut.
    """
    nats, count = 0.0, 0
    signal = model.start[None].clone()
    for window in windows(split, streams=1, steps=SCORED_STEPS):
        nats += float(backend.losses(model, *_tensors(window), signal).double().sum())
        count += int((window.target >= 0).sum())
    return nats, count


def _endless(split: Split, *, streams: int, steps: int) -> Iterator[Window]:
    """The windows of one pass after another."""
    if split.tokens <= split.documents:
        raise CorpusError("the text has no token that follows another: there is nothing to train on")
    while True:
        yield from windows(split, streams=streams, steps=steps)


def _tensors(window: Window) -> tuple[Tensor, Tensor, Tensor]:
    return torch.from_numpy(window.token), torch.from_numpy(window.target), torch.from_numpy(window.restart)
