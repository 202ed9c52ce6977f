"""Training of what all edges share: windows of parallel streams of the text, one step of AdamW each.

Data flow: documents -> windows (`text.streams`) -> gradients (`ops.recurrent`), by counts without the document of each
token (`pieces`) -> step (`ops.optim`). The signals of a window are where those of the next one begin; they are stored
with the optimizer's state, so that a resumed run is the uninterrupted one. It does not know commits and limits
(`loop`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from sifu_store.errors import CorpusError, OptionError
from torch import Tensor

from sifu_graph.model.base import NAMES, Base
from sifu_graph.model.base_forward import tensors
from sifu_graph.ops import optim
from sifu_graph.progress import Stages
from sifu_graph.settings import TrainingSettings
from sifu_graph.text.encoded import TokenFile
from sifu_graph.text.streams import Window, window_count, windows
from sifu_graph.training.options import TrainOptions, saved_optimizer
from sifu_graph.training.pieces import Pieces
from sifu_graph.training.progress import Progress

if TYPE_CHECKING:
    from sifu_graph.session import GraphSession

STREAMS = 64
"""Default of a window."""
STEPS = 32
"""Tokens of each stream in a window."""
MOST_PASSES = 8
"""Passes over the text of a run that only time limits. On 18,000 characters of Tang poems 4, 8 and 16 passes gave a
held-out perplexity of 609, 565 and 634 (untrained: 650), on 186,000 tokens of WordNet 68.6, 66.1 and 68.6 (83.5)."""
SIGNAL = "optimizer/streams"
"""The signals at the end of the last window, [streams, d]."""


class BaseTrainer:
    """See `trainer.Trainer`. Private edges are not trained.

    Parameters
    ----------
    graph
        Open for writing.
    tokens, progress, options, saved
        The text, where the run stands in it, its options, and the state of the last run.

    Raises
    ------
    CorpusError
        The text has no token that follows another.
    OptionError
        An option does not apply to a graph with a base.
    HostMemoryError
    """

    def __init__(
        self,
        graph: GraphSession,
        tokens: TokenFile,
        progress: Progress,
        options: TrainOptions,
        saved: TrainingSettings | None,
    ) -> None:
        if options.candidates not in (None, "all"):
            raise OptionError("`candidates`: a graph whose edges share a base is trained on all nodes")
        if options.contexts:
            raise OptionError("`contexts`: a graph whose edges share a base has no closed form")
        if not tokens.train.transitions:
            raise CorpusError("the corpus holds no two tokens in a row: there is nothing to train on")
        graph._fit_memory(trained_edges=progress.batch * STEPS)
        self._graph, self._tokens, self._progress = graph, tokens, progress
        self.optimizer = options.optimizer or saved_optimizer(saved, base=True)
        self.candidates: int | None = None
        self.most_passes: int | None = MOST_PASSES
        self.per_epoch = window_count(tokens.train, streams=progress.batch, steps=STEPS)
        self.stale: list[str] = []
        self._prepare_state(saved)
        self._pieces = Pieces(tokens.train, self._base.pairs)
        self._windows = self._endless()

    @property
    def _base(self) -> Base:
        base = self._graph.parameters.base
        assert base is not None
        return base

    def _prepare_state(self, saved: TrainingSettings | None) -> None:
        """The optimizer's state and the signals of the streams: those of the last run, or new ones."""
        store, state, progress = self._graph.store, self._graph.parameters.state, self._progress
        names = [name for name in store.names() if name.startswith("optimizer/")]
        state.clear()
        if saved is not None and saved["optimizer"]["kind"] == self.optimizer.kind:
            state.update({name: torch.from_numpy(store.read(name).copy()) for name in names})
        else:
            progress.began = progress.step
        for field, value in self._base.model.tensors().items():
            for key in optim.state_names(self.optimizer):
                name = f"optimizer/{NAMES[field]}/{key}"
                shape = value.shape[:1] if key == "v_row" else value.shape
                if name not in state or state[name].shape != shape:
                    state[name] = torch.zeros(shape, dtype=value.dtype)
        signal = state.get(SIGNAL)
        if signal is None or progress.position == 0 or len(signal) != self._streams:
            state[SIGNAL] = self._base.model.start.repeat(self._streams, 1)
        self.stale = [name for name in names if name not in state]

    @property
    def _streams(self) -> int:
        """B: a short text has fewer pairs of neighbours than the batch asks for."""
        return min(self._progress.batch, max(1, self._tokens.train.tokens - 1))

    def _endless(self) -> Iterator[Window]:
        """The windows from the position of the run on, one pass after another."""
        first = self._progress.position % self.per_epoch
        while True:
            yield from windows(
                self._tokens.train, streams=self._progress.batch, steps=STEPS, first=first, clones=self._base.pairs.tree
            )
            first = 0

    def fit(self, stages: Stages) -> None:
        """There is no closed form of the base."""

    def step(self, done: float) -> tuple[float, int]:
        """One window. The learning rate falls to the end of the run, unless ``decay_steps`` is given."""
        progress, base, state = self._progress, self._base, self._graph.parameters.state
        window = next(self._windows)
        batch = tensors(window, base.pairs)
        scored = int((batch.target >= 0).sum())
        piece, out = self._pieces.at(window.place)
        config = self.optimizer
        losses, gradient = base.backend.gradients(
            base.model, batch, state[SIGNAL], piece=piece, out=out, weight=1.0 / max(1, scored),
            keep=self._kept(batch.token.shape),
        )  # fmt: skip
        number = progress.step + 1 - progress.began
        rate = config.rate(number) if config.decay_steps else config.rate_at(number, done)
        found = gradient.tensors()
        if config.clip:
            # numpy: its sums do not depend on the number of threads
            norm = float(np.sqrt(sum(np.square(grad.numpy(), dtype=np.float64).sum() for grad in found.values())))
            for grad in found.values():
                grad *= min(1.0, config.clip / max(norm, 1e-30))
        plain = dataclasses.replace(config, lr=rate, clip=0.0, warmup_steps=0, decay_steps=0)
        for field, value in base.model.tensors().items():
            optim.update(
                plain,
                step=number,
                parts=[value],
                grads=[found[field]],
                state={key: [state[f"optimizer/{NAMES[field]}/{key}"]] for key in optim.state_names(config)},
                rows=slice(None),
            )
        return float(losses.double().sum()) / max(1, scored), scored

    def _kept(self, shape: torch.Size) -> Tensor | None:
        """Dropout: what the elements of the signals of a step are multiplied by, [B, T, d]."""
        share = self.optimizer.dropout
        if not share:
            return None
        model, progress = self._base.model, self._progress
        draw = np.random.default_rng([progress.seed, progress.step]).random((*shape, len(model.gain)), np.float32)
        return torch.from_numpy((draw >= share) / (1.0 - share)).to(model.gain.dtype)

    def catch_up(self) -> None:
        """Every step brings all of the base up to date."""

    def finish(self) -> None:
        """Nothing more than `catch_up`."""

    def cache(self) -> dict[str, float | int]:
        """No page is read: the base is in memory."""
        return self._graph.cache()

    def close(self) -> None:
        """Nothing is left to write."""
