"""A graph that is open: its store, its settings, its tokenizer and its parameters, and what can be done with it.

This is the front door of the package. Each method calls one function of another module; the reading and writing of
a graph's arrays has its home here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from sifu_store.errors import CorpusError, OptionError
from sifu_store.layout import COUNT, SOURCE
from sifu_store.store import Store

from sifu_graph.config import SignalConfig, initial_signal
from sifu_graph.edge_index import dense_parameters, stored_parameters
from sifu_graph.editable import Editable
from sifu_graph.model.io import SMALL, read_index, read_initial, read_usage
from sifu_graph.paging import budget
from sifu_graph.text.corpus import Corpus
from sifu_graph.text.encoded import TokenFile, encode_corpus
from sifu_graph.text.registry import read_tokenizer

if TYPE_CHECKING:
    from sifu_store.branching import Moved
    from sifu_store.history import History
    from torch import Tensor

    from sifu_graph.difference import Difference
    from sifu_graph.evaluation import EvalReport
    from sifu_graph.exporting import ExportReport
    from sifu_graph.generation import Generation
    from sifu_graph.graphmap import GraphMap
    from sifu_graph.inspection import EdgeReport, NodeReport
    from sifu_graph.model.parameters import Parameters
    from sifu_graph.trace import Trace
    from sifu_graph.training import TrainReport


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
    branch: str
    newest: bool  # the snapshot is the newest of the branch
    settings: dict[str, Any]


class Graph(Editable):
    """An open graph. Get one with `Graph.open` or `sifu_graph.build_graph`; close it, or use it in a ``with``.

    Examples
    --------
    >>> with Graph.open("graph.sifu") as graph:        # doctest: +SKIP
    ...     graph.train(minutes=1)
    ...     print(graph.generate("春風", tokens=32).text)
    """

    def __init__(
        self,
        store: Store,
        *,
        host_memory: str | int | None = None,
        modest: bool = False,
        scratch: str | Path | None = None,
        device: str = "cpu",
        device_memory: str | int | None = None,
        precision: str = "float32",
    ) -> None:
        self.store = store
        self.pinned = False
        self.host_memory, self.modest = host_memory, modest
        self.scratch = Path(scratch) if scratch is not None else None
        self.device, self.device_memory, self.precision = device, device_memory, precision
        self.memory_note: str | None = None
        self._load()

    # ---- opening and closing

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        at: str | None = None,
        host_memory: str | int | None = None,
        modest: bool = False,
        scratch: str | Path | None = None,
        device: str = "cpu",
        device_memory: str | int | None = None,
        precision: str = "float32",
    ) -> Graph:
        """Opens the graph at a path, or an older snapshot of it.

        Parameters
        ----------
        at
            ``HEAD``, a branch, a tag or the beginning of an id, each with ``~N`` for the N-th commit before it.
        host_memory
            The memory that the edges may take: bytes, or a size such as ``512MiB`` or ``50%``. It changes no result.
            None: all of them, or most of what is free.
        modest
            Where ``host_memory`` is None: 256 MiB, or the least that works. Enough to look at a few rows.
        scratch
            A folder for pages that leave memory before a commit. None: one beside the store's data.
        device
            Where `train`, `evaluate` and `generate` compute: ``cpu``, ``cuda`` or ``cuda:N``.
        device_memory
            The memory of the device that pages may take, as ``host_memory``. It changes no result. None: all of them,
            or most of what is free. With ``device="cpu"`` it is a slice of the machine's memory, in which the same code
            runs as on a GPU: for tests.
        precision
            Of matrix products on a GPU: ``float32``, ``tf32`` or ``bf16``.

        Raises
        ------
        StoreNotFoundError, StoreVersionError, StoreDamagedError, OptionError
        """
        if host_memory is not None:
            budget.parse_bytes(host_memory)
        if device != "cpu" or device_memory is not None or precision != "float32":
            from sifu_graph import device as devices

            place = devices.parse_device(device)
            devices.parse_precision(precision, place)
            if device_memory is not None:
                devices.parse_budget(device_memory, place)
        graph = cls(
            Store.open(path, at=at), host_memory=host_memory, modest=modest, scratch=scratch, device=device,
            device_memory=device_memory, precision=precision,
        )  # fmt: skip
        graph.pinned = at is not None
        return graph

    def close(self) -> None:
        """Closes the store. What was not committed is gone."""
        self._forget()
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
        self.tokenizer = read_tokenizer(store.read_json("nodes/tokenizer"))
        self._parameters: Parameters | None = None

    def _forget(self) -> None:
        """Gives back what the parameters took."""
        self._leave_device()
        if self._parameters is not None:
            self._parameters.edges.close()
            self._parameters = None

    @property
    def parameters(self) -> Parameters:
        """Everything that can be trained. Read on first use: who only edits the graph's tables waits for no torch."""
        if self._parameters is None:
            self._parameters = self._read_parameters()
        return self._parameters

    def _read_parameters(self) -> Parameters:
        import torch

        from sifu_graph.model.parameters import Parameters
        from sifu_graph.paging.edge_pool import EdgePool, row_pages

        store = self.store
        index, stored = read_index(store), store.page_stored()

        def rows() -> tuple[NDArray[np.float64], int]:
            source = np.repeat(np.arange(index.nodes), index.row_sizes())
            return row_pages(len(stored), source, index.slot, self.store.read("rows/total"))

        edges = EdgePool(
            read_initial(store, self.signal, index),
            slots=store.slots,
            stored=stored,
            read=lambda *run: self.store.read_pages(*run),
            rows=rows,
        )
        r_0 = torch.from_numpy(initial_signal(self.signal, self.settings["width"], self.settings["initial"]["seed"]))
        small = {name: torch.from_numpy(store.read(name).copy()) for name in SMALL}
        return Parameters(index, edges, r_0, small, usage=read_usage(store))

    def fit_memory(
        self,
        *,
        state: Mapping[str, tuple[int, ...]] | None = None,
        kept: Sequence[str] = (),
        trained_edges: int = 0,
        evaluated_edges: int = 0,
        parameters: Parameters | None = None,
    ) -> None:
        """Lays the edges out in the memory that they may take. What there is to say about it is ``memory_note``.

        Parameters
        ----------
        state, kept
            See `EdgePool.configure`.
        trained_edges, evaluated_edges
            Edges that the text of a batch takes, at most: they are copied, and count against the memory too.
        parameters
            Those of a draft of this graph instead of its own.

        Raises
        ------
        HostMemoryError, DeviceMemoryError
            It is less than the least that works.
        """
        pool = (parameters or self.parameters).edges
        page_bytes = pool.page_bytes(state)
        copied = budget.copied_bytes(
            pool.slots, trained_edges=trained_edges, evaluated_edges=evaluated_edges,
            edge_bytes=page_bytes // pool.page_edges, bare_bytes=pool.page_bytes({}) // pool.page_edges,
        )  # fmt: skip
        wanted = self.host_memory
        if wanted is None and self.modest:
            wanted = max(budget.MODEST_BYTES, pool.least_bytes(state) + copied)
        host_bytes, self.memory_note = budget.budget(
            wanted,
            whole_bytes=pool.pages * page_bytes,
            held_bytes=(pool.pages - pool.missing) * pool.page_bytes(),
        )
        pool.configure(
            state=state,
            kept=kept,
            host_bytes=host_bytes,
            copied_bytes=copied,
            folder=self.scratch or self.path / "scratch",
        )
        if parameters is None:
            self._fit_device(copied)

    def _fit_device(self, copied_bytes: int) -> None:
        """Lays the frames of the device out, where one computes."""
        if self.device == "cpu" and self.device_memory is None:
            return
        from sifu_graph import device as devices
        from sifu_graph.ops.contest_tiled import Grouped
        from sifu_graph.paging.device_pool import DevicePool

        pool, tier = self.parameters.edges, self.parameters.tier
        place = devices.parse_device(self.device)
        grouped = Grouped(place, precision=devices.parse_precision(self.precision, place))
        whole_bytes = pool.pages * pool.page_bytes() + copied_bytes
        held_bytes = 0 if tier is None else tier.frame_bytes
        device_bytes = min(whole_bytes, devices.budget(self.device_memory, place, held_bytes=held_bytes))
        if tier is None or not tier.fits(pool, grouped, device_bytes=device_bytes, copied_bytes=copied_bytes):
            self._leave_device()
            with devices.memory_errors():
                self.parameters.tier = DevicePool(
                    pool, grouped, device_bytes=device_bytes, copied_bytes=copied_bytes, prefetch=pool.prefetch
                )

    def _leave_device(self) -> None:
        """Gives the device's memory back. What was not written back is gone."""
        if self._parameters is not None and self._parameters.tier is not None:
            self._parameters.tier.close()
            self._parameters.tier = None

    def cache(self) -> dict[str, float | int]:
        """What the cache did since the memory was laid out: see `CacheStats`."""
        return self.parameters.working.report()

    def reload(self, store: Store, *, force: bool = False) -> None:
        """Goes on with another view of the same store; what is in memory is read anew if it is of another snapshot."""
        changed = store.snapshot != self.store.snapshot
        self.store.close()
        self.store = store
        self.settings = store.settings
        if changed or force:
            self._forget()
            self._load()

    # ---- what it is

    def info(self) -> GraphInfo:
        """The figures of the graph."""
        nodes, width, edges = self.settings["nodes"], self.settings["width"], int((self.store.read(SOURCE) >= 0).sum())
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
            coverage=min(1.0, float(self.store.read(COUNT).sum() / max(1, self.store.read("rows/total").sum()))),
            corpus_tokens=self.settings["build"]["corpus_tokens"],
            store_bytes=self.store.size_bytes(),
            trained_pages=int(stored_pages.sum()),
            pages=len(stored_pages),
            format_version=self.store.format_version,
            snapshot=self.store.snapshot,
            branch=self.store.branch,
            newest=self.store.newest,
            settings=self.settings,
        )

    def tokens(self, corpus: Corpus | Sequence[str | Path] | None = None, *, holdout: float | None = None) -> TokenFile:
        """The encoded corpus: the given one, or the one that the graph was built from.

        Parameters
        ----------
        holdout
            The share of the documents that is held out. None: as at the build.

        Raises
        ------
        CorpusError
            The corpus of the build is missing or has changed.
        """
        build = self.settings["build"]
        if corpus is None:
            if not build["corpus"]["sources"]:
                raise CorpusError("the graph was imported and has no text of its own: name a corpus")
            corpus = Corpus.from_record(build["corpus"])
        elif not isinstance(corpus, Corpus):
            corpus = Corpus(corpus, tokens=self.tokenizer.level == "tokens")
        return encode_corpus(
            corpus,
            self.tokenizer,
            directory=self.path / "cache",
            holdout=build["holdout"] if holdout is None else holdout,
        )

    # ---- what can be done with it

    def train(self, corpus: Corpus | Sequence[str | Path] | None = None, **options: Any) -> TrainReport:
        """Trains the graph and commits. See `sifu_graph.training.train` for the options."""
        from sifu_graph.training import TrainOptions, train

        return train(self, corpus, TrainOptions(**options))

    def evaluate(self, corpus: Corpus | Sequence[str | Path] | None = None, **options: Any) -> EvalReport:
        """Held-out perplexity. See `sifu_graph.evaluation.evaluate` for the options."""
        from sifu_graph.evaluation import evaluate

        return evaluate(self, corpus, **options)

    def generate(self, prompt: str | Sequence[str], **options: Any) -> Generation:
        """Continues a prompt. See `sifu_graph.generation.generate` for the options."""
        from sifu_graph.generation import GenerateOptions, generate

        return generate(self, prompt, GenerateOptions(**options))

    def stream(self, prompt: str | Sequence[str], **options: Any) -> Iterator[str]:
        """The same, piece by piece, as it comes."""
        from sifu_graph.generation import GenerateOptions, stream

        return stream(self, prompt, GenerateOptions(**options))

    def export(self, kind: str, path: str | Path | None = None, **options: Any) -> ExportReport:
        """Writes the graph in another format. See `sifu_graph.exporting.export`."""
        from sifu_graph.exporting import export

        return export(self, kind, path, **options)

    def to_scipy(self) -> Any:
        """Counts and first energies, two sparse matrices [n, n]. See `sifu_graph.exchange.to_scipy`."""
        from sifu_graph.exchange import to_scipy

        return to_scipy(self)

    def to_networkx(self) -> Any:
        """A `networkx.DiGraph`. See `sifu_graph.exchange.to_networkx`."""
        from sifu_graph.exchange import to_networkx

        return to_networkx(self)

    def to_pyg(self) -> Any:
        """A `torch_geometric.data.Data`. See `sifu_graph.exchange.to_pyg`."""
        from sifu_graph.exchange import to_pyg

        return to_pyg(self)

    def to_torch_sparse(self) -> Any:
        """A `torch_sparse.SparseTensor`. See `sifu_graph.exchange.to_torch_sparse`."""
        from sifu_graph.exchange import to_torch_sparse

        return to_torch_sparse(self)

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

    # ---- its history

    def log(self) -> History:
        """All commits: of every branch and tag, and what was undone."""
        return self.store.tree()

    def diff(self, before: str = "HEAD~1", after: str = "HEAD", *, top: int = 10) -> Difference:
        """What is different between two snapshots. See `sifu_graph.difference.diff`."""
        from sifu_graph.difference import diff

        return diff(self.path, before, after, top=top)

    def undo(self, steps: int = 1) -> Moved:
        """Goes back to the commit before the newest one. See `Store.undo`."""
        with self._writing() as store:
            return store.undo(steps)

    def redo(self, steps: int = 1) -> Moved:
        """Takes back an `undo`. See `Store.redo`."""
        with self._writing() as store:
            return store.redo(steps)

    def branch(self, name: str, at: str = "HEAD") -> str:
        """Makes a branch, and stays where it is. Returns the snapshot. See `Store.create_branch`."""
        with self._writing() as store:
            return store.create_branch(name, at)

    def switch(self, name: str) -> str:
        """Goes to another branch. Returns its newest snapshot. See `Store.switch`."""
        with self._writing() as store:
            return store.switch(name)

    def tag(self, name: str, at: str = "HEAD") -> str:
        """Gives a snapshot a name that never moves. See `Store.create_tag`."""
        with self._writing() as store:
            return store.create_tag(name, at)

    @contextmanager
    def _writing(self) -> Iterator[Store]:
        """The store, open for writing; after it, what is in memory is what is then current."""
        if self.pinned:
            raise OptionError("the graph is open at an older snapshot, which can only be read: open it without one")
        before = self.store.snapshot
        self.reload(Store.open(self.path, write=True))
        try:
            yield self.store
        finally:
            newest = Store.open(self.path)
            self.reload(newest, force=newest.snapshot != before)


def finite(values: Tensor | NDArray[np.float32]) -> bool:
    """No NaN and no infinity in it."""
    import torch

    return bool(torch.isfinite(torch.as_tensor(values)).all())
