"""A graph that is open: its store, its settings, its tokenizer and its parameters, and what can be done with it.

This is the front door of the package. Each method calls one function of another module; the reading and writing of
a graph's arrays has its home here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sifu_store.errors import OptionError
from sifu_store.store import Store
from torch import Tensor

from sifu_graph.corpus import Corpus
from sifu_graph.index import EdgeIndex
from sifu_graph.initial import Counts, Initial
from sifu_graph.parameters import BIAS, WEIGHT, EdgePool, Parameters
from sifu_graph.signal import SignalConfig, initial_signal
from sifu_graph.tokenizer import Tokenizer
from sifu_graph.tokens import TokenFile, encode_corpus

if TYPE_CHECKING:
    from sifu_graph.evaluation import EvalReport
    from sifu_graph.generation import Generation
    from sifu_graph.graphmap import GraphMap
    from sifu_graph.inspection import EdgeReport, NodeReport
    from sifu_graph.trace import Trace
    from sifu_graph.training import TrainReport

SMALL = ("default/weight", "default/bias", "nodes/bias", "signal/alpha", "signal/scale")


@dataclass(frozen=True, slots=True)
class GraphInfo:
    """What a graph is: the figures of the paper's Table 3, and where it stands."""

    path: str
    nodes: int
    width: int
    dense_parameters: int
    private_edges: int
    stored_parameters: int
    ratio: float
    coverage: float
    corpus_tokens: int
    store_bytes: int
    trained_pages: int
    pages: int
    format_version: int
    snapshot: str
    settings: dict[str, Any]


def stored_parameters(nodes: int, edges: int, width: int) -> int:
    """Private edges, the default edge and the node biases."""
    return (edges + 1) * (width * width + width) + nodes * width


def dense_parameters(nodes: int, width: int) -> int:
    """n * n * (d * d + d): every ordered pair with parameters of its own (paper, section 4)."""
    return nodes * nodes * (width * width + width)


class Graph:
    """An open graph. Get one with `Graph.open` or `sifu_graph.build_graph`; close it, or use it in a ``with``.

    Examples
    --------
    >>> with Graph.open("graph.sifu") as graph:        # doctest: +SKIP
    ...     graph.train(minutes=1)
    ...     print(graph.generate("春風", tokens=32).text)
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.pinned = False
        self._load()

    # ---- opening and closing

    @classmethod
    def open(cls, path: str | Path, *, at: str | None = None) -> Graph:
        """Opens the graph at a path, or an older snapshot of it.

        Raises
        ------
        StoreNotFoundError, StoreVersionError, StoreDamagedError
        """
        graph = cls(Store.open(path, at=at))
        graph.pinned = at is not None
        return graph

    def close(self) -> None:
        """Closes the store. What was not committed is gone."""
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def path(self) -> Path:
        """Where the graph is."""
        return self.store.path

    @property
    def warning(self) -> str | None:
        """What was wrong with the newest snapshot, if the store fell back to an older one."""
        return self.store.recovered_from

    def _load(self) -> None:
        store = self.store
        self.settings = store.settings
        self.signal = SignalConfig.from_json(self.settings["signal"])
        self.tokenizer = Tokenizer.from_json(store.read_json("nodes/tokenizer"))
        nodes, width = self.settings["nodes"], self.settings["width"]
        target = store.read("edges/target")
        count = store.read("edges/count")
        index = EdgeIndex.from_slots(nodes, store.read("edges/source"), target, count)
        initial = Initial.create(
            method=self.settings["initial"]["method"],
            seed=self.settings["initial"]["seed"],
            config=self.signal,
            width=width,
            length=self.settings["build"]["length"],
            index=index,
            slots=len(target),
            counts=Counts(
                store.read("rows/total"),
                store.read("rows/discounted"),
                store.read("nodes/predecessors"),
                tuple(self.settings["initial"]["discounts"]),
            ),
        )
        edges = EdgePool.create(
            initial,
            slots=len(target),
            stored=store.page_stored(),
            read=lambda *run: self.store.read_pages(*run),
        )
        r_0 = torch.from_numpy(initial_signal(self.signal, width, self.settings["initial"]["seed"]))
        small = {name: torch.from_numpy(store.read(name).copy()) for name in SMALL}
        self.parameters = Parameters(index, edges, r_0, small)

    def reload(self, store: Store, *, force: bool = False) -> None:
        """Goes on with another view of the same store; what is in memory is read anew if it is of another snapshot."""
        changed = store.snapshot != self.store.snapshot
        self.store.close()
        self.store = store
        self.settings = store.settings
        if changed or force:
            self._load()

    # ---- what it is

    def info(self) -> GraphInfo:
        """The figures of the graph."""
        nodes, width, edges = self.settings["nodes"], self.settings["width"], self.parameters.index.edges
        dense, stored = dense_parameters(nodes, width), stored_parameters(nodes, edges, width)
        stored_pages = self.store.page_stored()
        return GraphInfo(
            path=str(self.path),
            nodes=nodes,
            width=width,
            dense_parameters=dense,
            private_edges=edges,
            stored_parameters=stored,
            ratio=stored / dense,
            coverage=self.settings["build"]["coverage"],
            corpus_tokens=self.settings["build"]["corpus_tokens"],
            store_bytes=self.store.size_bytes(),
            trained_pages=int(stored_pages.sum()),
            pages=len(stored_pages),
            format_version=self.settings["format_version"],
            snapshot=self.store.snapshot,
            settings=self.settings,
        )

    def tokens(self, corpus: Corpus | Sequence[str | Path] | None = None) -> TokenFile:
        """The encoded corpus: the given one, or the one that the graph was built from.

        Raises
        ------
        CorpusError
            The corpus of the build is missing or has changed.
        """
        build = self.settings["build"]
        if corpus is None:
            corpus = Corpus.from_record(build["corpus"])
        elif not isinstance(corpus, Corpus):
            corpus = Corpus(corpus, tokens=self.tokenizer.level == "tokens")
        return encode_corpus(corpus, self.tokenizer, directory=self.path / "cache", holdout=build["holdout"])

    # ---- what can be done with it

    def train(self, corpus: Corpus | Sequence[str | Path] | None = None, **options: Any) -> TrainReport:
        """Trains the graph and commits. See `sifu_graph.training.train` for the options."""
        from sifu_graph.training import TrainOptions, train

        return train(self, corpus, TrainOptions(**options))

    def evaluate(self, corpus: Corpus | Sequence[str | Path] | None = None, *, limit: int | None = None) -> EvalReport:
        """Held-out perplexity. See `sifu_graph.evaluation.evaluate`."""
        from sifu_graph.evaluation import evaluate

        return evaluate(self, corpus, limit=limit)

    def generate(self, prompt: str | Sequence[str], **options: Any) -> Generation:
        """Continues a prompt. See `sifu_graph.generation.generate` for the options."""
        from sifu_graph.generation import GenerateOptions, generate

        return generate(self, prompt, GenerateOptions(**options))

    def stream(self, prompt: str | Sequence[str], **options: Any) -> Iterator[str]:
        """The same, piece by piece, as it comes."""
        from sifu_graph.generation import GenerateOptions, stream

        return stream(self, prompt, GenerateOptions(**options))

    def map(self, *files: str | Path, **options: Any) -> GraphMap:
        """A map of the graph, drawn to files. See `sifu_graph.graphmap.draw_map` for the options."""
        from sifu_graph.graphmap import draw_map

        return draw_map(self, *files, **options)

    def plot(self, kind: str, out: str | Path, *, force: bool = False) -> dict[str, Any]:
        """One picture of the graph or of its training. See `sifu_graph.plots.plot` for the kinds."""
        from sifu_graph.plots import plot

        return plot(self, kind, out, force=force)

    def trace(self, text: str | Sequence[str], **options: Any) -> Trace:
        """What the signal does, position by position: tensors. See `sifu_graph.trace.trace` for the options."""
        from sifu_graph.trace import TraceOptions, trace

        return trace(self, text, TraceOptions(**options))

    def inspect(self, node: str, target: str | None = None, *, top: int = 10) -> NodeReport | EdgeReport:
        """One node, or the edge between two. See `sifu_graph.inspection`."""
        from sifu_graph.inspection import inspect_edge, inspect_node

        return inspect_node(self, node, top=top) if target is None else inspect_edge(self, node, target)


def write_parameters(store: Store, parameters: Parameters) -> int:
    """Puts the small arrays and the changed pages into the store's next commit. Returns the number of pages.

    The pages count as clean only after `EdgePool.mark_stored`, when the commit is durable.
    """
    pool = parameters.edges
    for name, value in parameters.small.items():
        store.write(name, value.numpy())
    for name, value in parameters.state.items():
        store.write(name, value.numpy())
    for name, array in pool.arrays.items():
        if name not in (WEIGHT, BIAS):
            store.create_paged(name, tuple(array.shape[1:]), np.float32)
    written = 0
    for first, stop in pool.dirty_runs():
        for name in pool.arrays:
            store.write_pages(name, first, pool.values(name, first, stop))
        store.mark_stored(np.arange(first, stop))
        written += stop - first
    return written


def finite(values: Tensor | NDArray[np.float32]) -> bool:
    """No NaN and no infinity in it."""
    return bool(torch.isfinite(torch.as_tensor(values)).all())


def require_positive(**values: float | None) -> None:
    """Raises `OptionError` for a value that is given and not positive."""
    for name, value in values.items():
        if value is not None and not value > 0:
            raise OptionError(f"{name} is {value}: it must be above 0")
