"""Training of private edges: batches of chunks, one update of every edge that a batch meets.

It knows batches and the edges in memory; it does not know commits and limits (`loop`), nor the mathematics of a step
(`step`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import psutil
import torch
from sifu_store.durable import format_bytes
from sifu_store.errors import CorpusError, OptionError
from sifu_store.layout import BIAS

from sifu_graph import evaluation
from sifu_graph.model.forward import pages_of
from sifu_graph.model.parameters import finite
from sifu_graph.paging.device_pool import DevicePool
from sifu_graph.paging.pool import Pool
from sifu_graph.paging.traffic import write_traffic
from sifu_graph.progress import Stages
from sifu_graph.settings import TrainingSettings
from sifu_graph.text.batches import Batches
from sifu_graph.text.encoded import TokenFile
from sifu_graph.training import step as steps
from sifu_graph.training.closed_form import CountedContexts, can_fit, count_contexts
from sifu_graph.training.options import TrainOptions, saved_optimizer
from sifu_graph.training.progress import Progress
from sifu_graph.training.trainer import NotFiniteError

if TYPE_CHECKING:
    from sifu_graph.session import GraphSession


LOOKED_AT = 4096
"""Chunks of a run, at most, whose pages are looked up before it begins."""


class EdgeTrainer:
    """See `trainer.Trainer`.

    Parameters
    ----------
    graph
        Open for writing.
    tokens, progress, options, saved
        The text, where the run stands in it, its options, and the state of the last run.

    Raises
    ------
    CorpusError
        The text has no two tokens in a row.
    HostMemoryError, DeviceMemoryError
    """

    def __init__(
        self,
        graph: GraphSession,
        tokens: TokenFile,
        progress: Progress,
        options: TrainOptions,
        saved: TrainingSettings | None,
    ) -> None:
        self._graph, self._tokens, self._progress, self._saved = graph, tokens, progress, saved
        self._say = options.say or (lambda _: None)
        self.optimizer = options.optimizer or saved_optimizer(saved, base=False)
        if self.optimizer.dropout:
            raise OptionError("`dropout`: only a graph whose edges share a base has it")
        self.candidates = _candidates(saved, options)
        self.most_passes: int | None = None
        self._length = graph.settings["build"]["length"]
        self._batches = Batches(tokens.train, length=self._length, batch=progress.batch, seed=progress.seed)
        if not self._batches.chunks:
            raise CorpusError("the corpus holds no two tokens in a row: there is nothing to train on")
        self.per_epoch = self._batches.per_epoch
        self.stale: list[str] = []
        self._fits = self._may_fit(wanted=options.contexts)
        self._prepare_state(None if self._fits else self._pages_met(options.steps))

    def _pages_met(self, most_steps: int | None) -> int | None:
        """Number of pages that `most_steps` steps meet; None: they are not limited, or too many to find out."""
        first = self._progress.position
        if most_steps is None or most_steps * self._progress.batch > LOOKED_AT:
            return None
        batches = [self._batches.batch_at(first + k).tokens for k in range(most_steps)]
        tokens = np.unique(np.concatenate([batch.ravel() for batch in batches])) if batches else np.empty(0, np.int32)
        return len(pages_of(self._graph.parameters.index, tokens, self._graph.parameters.edges.page_edges))

    def _prepare_state(self, changed_pages: int | None) -> None:
        """Brings the optimizer's state into memory, or begins a new one if the optimizer is another."""
        graph, store, parameters = self._graph, self._graph.store, self._graph.parameters
        names = [name for name in store.names() if name.startswith("optimizer/")]
        shapes = steps.edge_state_arrays(self.optimizer, parameters.width)
        same = self._saved is not None and self._saved["optimizer"]["kind"] == self.optimizer.kind
        if not same:
            self.stale = names
            self._progress.began = self._progress.step
            parameters.state.clear()
        graph._fit_memory(
            state=shapes,
            kept=[name for name in shapes if same and name in names],
            trained_edges=self._progress.batch * self._length,
            evaluated_edges=evaluation.evaluated_tokens(parameters, self._length),
            changed_pages=changed_pages,
        )
        if graph.memory_note is not None:
            self._say(graph.memory_note)
        if same:
            for name in names:
                if not store.is_paged(name):
                    parameters.state[name] = torch.from_numpy(store.read(name).copy())

    @property
    def _pool(self) -> Pool:
        """Where the edges are worked on."""
        return self._graph.parameters.working

    def _may_fit(self, *, wanted: bool | None) -> bool:
        """Whether the run begins with the closed form: no edge was trained or edited, and it is wanted or of use.

        Raises
        ------
        OptionError
            It is wanted, and not possible.
        """
        graph, host = self._graph, self._graph.parameters.edges
        why = (
            "its preset or its initialisation is another"
            if not can_fit(graph.signal, host.initial)
            else "it was trained before, or its edges were"
            if self._saved is not None or host.source.stored.any()
            else None
        )
        if wanted and why is not None:
            raise OptionError(
                f"the contexts of this graph cannot be counted: {why} (it must be tuned, from counts, new)"
            )
        if wanted is not None or why is not None or self.optimizer.kind != "rowwise":
            # AdamW's steps, of one size for every entry, undo it.
            return why is None and bool(wanted)
        needed_bytes, free_bytes = host.pages * host.page_bytes({}), psutil.disk_usage(str(graph.path)).free
        if needed_bytes > free_bytes:
            self._say(
                f"the run begins without the closed form: it trains every edge, {format_bytes(needed_bytes)}, and "
                f"{format_bytes(free_bytes)} are free on the disk"
            )
        return bool(needed_bytes <= free_bytes)

    def fit(self, stages: Stages) -> CountedContexts | None:
        """See `trainer.Trainer`."""
        if not self._fits:
            return None
        graph, host = self._graph, self._graph.parameters.edges
        return count_contexts(
            graph.parameters,
            graph.signal,
            self._tokens.train,
            length=self._length,
            folder=None if host.resident else graph._scratch_folder(),
            stages=stages,
        )

    def step(self, done: float) -> tuple[float, int]:
        """One batch; its rate depends on the number of the step alone."""
        progress = self._progress
        batch = self._batches.batch_at(progress.position)
        following = self._batches.batch_at(progress.position + 1).tokens if self._pool.missing else None
        return steps.train(
            self._graph.parameters,
            self._graph.signal,
            self.optimizer,
            batch.tokens,
            batch.lengths.astype(np.int64),
            step=progress.step + 1 - progress.began,
            candidates=self.candidates,
            rng=np.random.default_rng(np.random.SeedSequence([progress.seed, 1, progress.step])),
            following=following,
        )

    def finish(self) -> None:
        """See `trainer.Trainer`."""
        parameters = self._graph.parameters
        self.catch_up()
        if isinstance(parameters.tier, DevicePool):
            parameters.tier.write_back()
        for first, stop in parameters.edges.dirty_runs():
            if not finite(parameters.edges.values(BIAS, first, stop)):
                raise NotFiniteError(f"edges of pages {first} to {stop - 1} are not finite")

    def catch_up(self) -> None:
        """Dense-equivalent AdamW: edges in memory are brought up to the step before they are read or stored."""
        progress = self._progress
        if self.optimizer.kind == "adamw-dense" and progress.step > progress.began:
            pool, slot = self._pool, self._graph.parameters.index.slots()
            for part in pool.sweep(pool.parts(slot, np.arange(len(slot) + 1))):
                pool.touch(part.pages)
                places = pool.place(torch.from_numpy(slot[part.first : part.stop])).to(pool.device)
                steps.catch_up(self.optimizer, pool.arrays, places, progress.step - progress.began)

    def cache(self) -> dict[str, float | int]:
        """See `trainer.Trainer`."""
        return self._pool.report()

    def close(self) -> None:
        """Writes how often each page was read and written."""
        write_traffic(self._pool.table, graph_folder=self._graph.path)


def _candidates(saved: TrainingSettings | None, options: TrainOptions) -> int | None:
    if options.candidates is None:
        return saved["candidates"] if saved else None
    return None if options.candidates == "all" else options.candidates
