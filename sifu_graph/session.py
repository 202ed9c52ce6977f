"""An open graph: its store, its settings, its tokenizer, its parameters and the memory that they take.

Every package above takes a `GraphSession` as its argument; it knows none of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, Self, SupportsIndex

from sifu_store.durable import format_bytes
from sifu_store.errors import OptionError, StoreDamagedError, StoreError
from sifu_store.links import refuse_link
from sifu_store.places import place_of
from sifu_store.store import Store

from sifu_graph.arguments import checked_methods
from sifu_graph.config import SignalConfig
from sifu_graph.graph_info import GraphInfo, info_of
from sifu_graph.paging import budget, process_memory
from sifu_graph.progress import SILENT, Stages
from sifu_graph.settings import read_settings
from sifu_graph.text.corpus import Corpora, Corpus
from sifu_graph.text.encoded import CACHE, TokenFile, encode_corpus
from sifu_graph.text.own_text import own_corpus
from sifu_graph.text.registry import read_tokenizer

if TYPE_CHECKING:
    from sifu_graph.model.edge_reader import EdgeReader
    from sifu_graph.model.graph_at_rest import GraphAtRest
    from sifu_graph.model.parameters import Known, Parameters


@contextmanager
def in_use(graph: GraphSession) -> Iterator[None]:
    """Around every public method: one thread at a time. Raises `StoreError` if the graph is closed."""
    with graph._lock:
        graph._require_open()
        yield


operations = checked_methods(around=in_use, without=("close",))
"""Of a class of graphs: public methods check their arguments, run one at a time, and refuse a graph that is closed.

Names that begin with an underscore are for the modules of this package alone, which take a graph as their argument."""


@operations
class GraphSession:
    """An open graph. Close it, or use it in a ``with``. `sifu_graph.graph.Graph` adds what can be done with it."""

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
        """`open` calls it."""
        self._store, self._open = store, True
        self._lock = threading.RLock()  # of the thread that uses the graph: memory and snapshot are those of one call
        self._pinned = False
        self.host_memory, self._modest = host_memory, modest
        self.scratch = Path(scratch) if scratch is not None else None
        self.device, self.device_memory, self.precision = device, device_memory, precision
        self.memory_note: str | None = None
        self._known: Known | None = None  # of `parameters`, before they are read
        self._library_bytes = self._table_bytes = 0
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
    ) -> Self:
        """Opens the graph at a path, or an older snapshot of it.

        Parameters
        ----------
        path
            The directory of the graph.
        at
            ``HEAD``, a branch, a tag or the beginning of an id, each with ``~N``: N commits before. None: ``HEAD``.
        host_memory
            The memory that the process may take, without Python and its libraries: bytes, or a size such as ``512MiB``
            or ``50%``. It changes no result. None: enough for all edges, or most of what is free for them.
        modest
            Where ``host_memory`` is None: 256 MiB, or the least that works. Enough to look at a few rows.
        scratch
            A folder for pages that leave memory before a commit. None: one beside the store's data.
        device
            Where `train`, `evaluate` and `generate` compute: ``cpu``, ``cuda`` or ``cuda:N``.
        device_memory
            The memory of the device that pages may take, as ``host_memory``. It changes no result. None: all of them,
            or most of what is free. With ``device="cpu"``, for tests, a slice of the machine's memory.
        precision
            Of matrix products on a GPU: ``float32``, ``tf32`` or ``bf16``. On the CPU ``bfloat16`` holds W of the edges
            in two bytes a number, which is faster and costs accuracy; it decodes and evaluates, and does not train.

        Returns
        -------
        Graph
            Close it, or use it in a ``with`` statement.

        Raises
        ------
        StoreNotFoundError, StoreVersionError, StoreDamagedError, OptionError

        Examples
        --------
        >>> graph = Graph.open("graph.sifu", host_memory="512MiB")              # doctest: +SKIP
        """
        if host_memory is not None:
            budget.parse_bytes(host_memory)
        if device != "cpu" or device_memory is not None or precision != "float32":
            from sifu_graph import device as devices
            from sifu_graph.paging import device_budget

            place = devices.parse_device(device)
            devices.parse_precision(precision, place)
            if device_memory is not None:
                device_budget.parse_budget(device_memory, place)
        graph = cls(
            Store.open(path, at=at),
            host_memory=host_memory,
            modest=modest,
            scratch=scratch,
            device=device,
            device_memory=device_memory,
            precision=precision,
        )
        graph._pinned = at is not None
        return graph

    def close(self) -> None:
        """Closes the store. What was not committed is gone. Every other method raises `StoreError` from then on.

        A call in another thread ends before.
        """
        with self._lock:
            self._open = False
            self._forget()
            self._store.close()

    def _require_open(self) -> None:
        """Raises `StoreError` if the graph is closed."""
        if not self._open:
            raise StoreError(f"{self.path}: the graph is closed: open it again")

    def __enter__(self) -> Self:
        """The graph itself, for a ``with`` statement. Raises `StoreError` if it is closed."""
        self._require_open()
        return self

    def __repr__(self) -> str:
        kind, nodes = type(self).__name__, self.settings["nodes"]
        state = f"snapshot {self._store.snapshot[:8]}" if self._open else "closed"
        return f"<{kind} {str(place_of(self.path))!r}: {nodes:,} nodes, width {self.settings['width']}, {state}>"

    def _repr_html_(self) -> str:
        """The main figures as a table, which notebooks show."""
        if not self._open:
            return f"<p>{escape(repr(self))}</p>"
        info = self.info()
        rows = {
            "graph": info.path,
            "nodes": f"{info.nodes:,}",
            "width": f"{info.width:,}",
            "private edges": f"{info.private_edges:,}",
            "clones": f"{info.clones:,}",
            "stored parameters": f"{info.stored_parameters:,}",
            "coverage": f"{info.coverage:.1%}",
            "store": format_bytes(info.store_bytes),
            "snapshot": f"{info.snapshot[:8]} of {info.branch}",
        }
        cells = (f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows.items())
        return f"<table>{''.join(cells)}</table>"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """A graph is neither pickled nor copied: its store has a lock and open files."""
        raise TypeError(f"{self.path}: an open graph is neither pickled nor copied: open it in each process")

    @property
    def store(self) -> Store:
        """The store at the snapshot that is read."""
        self._require_open()
        return self._store

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes the graph."""
        self.close()

    @property
    def path(self) -> Path:
        """Where the graph is."""
        return self._store.path

    @property
    def warning(self) -> str | None:
        """What was wrong with the newest snapshot, if the store fell back to an older one."""
        return self.store.recovered_from

    def _load(self) -> None:
        store = self.store
        self.settings = read_settings(store)
        self.signal = SignalConfig.from_json(self.settings["signal"])
        self.tokenizer = read_tokenizer(store.read_json("nodes/tokenizer"))
        if len(self.tokenizer) != self.settings["nodes"]:
            raise StoreDamagedError(
                f"{store.path}: the tokenizer has {len(self.tokenizer):,} nodes, the graph {self.settings['nodes']:,}"
            )
        self._parameters: Parameters | None = None
        self._graph_at_rest: GraphAtRest | None = None

    def _forget(self) -> None:
        """Gives back what the parameters took."""
        self._leave_device()
        self._graph_at_rest = None
        if self._parameters is not None:
            self._parameters.edges.close()
            self._parameters = None

    @property
    def parameters(self) -> Parameters:
        """Everything that can be trained. Read on first use: who only edits the graph's tables waits for no torch."""
        self._require_open()
        if self._parameters is None:
            from sifu_graph.model.parameters import read_parameters

            if self.host_memory is not None:
                process_memory.bound_freed_memory()
            self._library_bytes = process_memory.anonymous_bytes()
            known, self._known = self._known, None  # it holds for this snapshot alone
            self._parameters = read_parameters(
                lambda: self.store, self.signal, self.settings, known, self._scratch_folder
            )
            self._table_bytes = max(0, process_memory.anonymous_bytes() - self._library_bytes)
        return self._parameters

    def _edge_reader(self) -> EdgeReader:
        """Reads edges of the snapshot by their slots, past the pages in memory."""
        from sifu_graph.model.edge_reader import EdgeReader

        return EdgeReader(self.store, self.settings["width"], lambda: self.parameters.edges.initial)

    @property
    def _at_rest(self) -> GraphAtRest:
        """The graph where no signal flows. It reads the rows that are asked for, and imports no torch."""
        if self._graph_at_rest is None:
            from sifu_graph.model.graph_at_rest import GraphAtRest

            self._graph_at_rest = GraphAtRest(lambda: self.store, self.signal, self.settings)
        return self._graph_at_rest

    def _fit_memory(
        self,
        *,
        state: Mapping[str, tuple[int, ...]] | None = None,
        kept: Sequence[str] = (),
        trained_edges: int = 0,
        evaluated_edges: int = 0,
        changed_pages: int | None = None,
        parameters: Parameters | None = None,
    ) -> None:
        """Lays the edges out in the memory that they may take. What there is to say about it is ``memory_note``.

        They may take what the tables of the graph and the computation leave of ``host_memory``.

        Parameters
        ----------
        state, kept
            See `EdgePool.configure`.
        trained_edges, evaluated_edges
            Edges that the text of a batch takes, at most: they are copied, and count against the memory too.
        changed_pages
            See `EdgePool.configure`.
        parameters
            Those of a working copy instead of the graph's own.

        Raises
        ------
        HostMemoryError, DeviceMemoryError
            It is less than the least that works.
        """
        found, working = parameters or self.parameters, 0
        if self.host_memory is not None:
            from sifu_graph.model.working_memory import working_bytes

            working = working_bytes(
                found,
                trained=trained_edges,
                evaluated=evaluated_edges,
                text_row=found.index.text_row(self.store.read("rows/total")),
            )
        if found.base is not None:  # no page of an edge is read
            self._fit_base(working)
            return
        if self.precision == "bfloat16" and parameters is None:
            if trained_edges or self.device_memory is not None:
                raise OptionError("`precision` bfloat16 only decodes and evaluates, on the CPU without `device_memory`")
            left = None if self.host_memory is None else self._left_of_memory(working, least_bytes=0)
            found.hold_bfloat16(left)
            return
        pool = found.edges
        page_bytes = pool.page_bytes(state)
        copied = budget.copied_bytes(
            pool.slots,
            trained_edges=trained_edges,
            evaluated_edges=evaluated_edges,
            edge_bytes=page_bytes // pool.page_edges,
            bare_bytes=pool.page_bytes({}) // pool.page_edges,
        )
        wanted: int | None = None
        if self.host_memory is not None:
            least_bytes = min(pool.pages * page_bytes, pool.least_bytes(state) + copied)
            batch_bytes = copied + working if trained_edges else 0
            wanted = self._left_of_memory(working, least_bytes=least_bytes, batch_bytes=batch_bytes)
        elif self._modest:
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
            folder=self._scratch_folder(),
            changed_pages=changed_pages,
        )
        if parameters is None:
            self._fit_device(copied)

    def _scratch_folder(self) -> Path:
        """The folder for pages that leave memory before a commit.

        Raises
        ------
        StoreError
            It is in the store, and a symbolic link.
        """
        if self.scratch is None:
            refuse_link(self.path / "scratch")
        return self.scratch or self.path / "scratch"

    def _left_of_memory(self, working: int, *, least_bytes: int, batch_bytes: int = 0) -> int:
        """Bytes that ``host_memory`` leaves for the edges: without the tables and what the computation takes.

        Raises
        ------
        HostMemoryError
            They are less than ``least_bytes``. ``batch_bytes`` of all that is needed depend on the batch.
        """
        assert self.host_memory is not None
        fixed_bytes = self._table_bytes + working
        return (
            budget.require_least(self.host_memory, least_bytes=fixed_bytes + least_bytes, batch_bytes=batch_bytes)
            - fixed_bytes
        )

    def _fit_base(self, working: int) -> None:
        """Checks that the base fits the memory that the graph may take; it is never paged."""
        if self.device != "cpu" or self.device_memory is not None:
            raise OptionError("`device`: a graph whose edges share a base computes on the CPU")
        if self.precision == "bfloat16":
            raise OptionError("`precision`: a graph whose edges share a base has no matrix of its own for an edge")
        if self.host_memory is not None:
            self._left_of_memory(working, least_bytes=0)

    def _fit_device(self, copied_bytes: int) -> None:
        """Lays the frames of the device out, where one computes."""
        if self.device == "cpu" and self.device_memory is None:
            return
        from sifu_graph import device as devices
        from sifu_graph.ops.contest_tiled import TiledContest
        from sifu_graph.paging import device_budget
        from sifu_graph.paging.device_pool import DevicePool

        pool, tier = self.parameters.edges, self.parameters.tier
        place = devices.parse_device(self.device)
        grouped = TiledContest(place, precision=devices.parse_precision(self.precision, place))
        whole_bytes = pool.pages * pool.page_bytes() + copied_bytes
        held_bytes = 0 if tier is None else tier.frame_bytes
        device_bytes = min(whole_bytes, device_budget.budget(self.device_memory, place, held_bytes=held_bytes))
        sizes = {"device_bytes": device_bytes, "copied_bytes": copied_bytes}
        if not isinstance(tier, DevicePool) or not tier.fits(pool, grouped, **sizes):
            self._leave_device()
            with devices.memory_errors():
                self.parameters.tier = DevicePool(pool, grouped, **sizes, prefetch=pool.prefetch)

    def _leave_device(self) -> None:
        """Gives the device's memory back. What was not written back is gone."""
        if self._parameters is not None and self._parameters.tier is not None:
            self._parameters.tier.close()
            self._parameters.tier = None

    def cache(self) -> dict[str, float | int]:
        """What the cache did since the memory was laid out: see `CacheStats`. With a base, no page is ever read."""
        found = self.parameters.working.report()
        return found if self.parameters.base is None else {**found, "host_pool_bytes": 0}

    def _reload(self, store: Store, *, force: bool = False) -> None:
        """Replaces the store by another view of it; values in memory are dropped if the snapshot is another."""
        changed = store.snapshot != self.store.snapshot
        self._store.close()
        self._store = store
        self.settings = read_settings(store)
        if changed or force:
            self._forget()
            self._load()

    # ---- what it is

    def info(self) -> GraphInfo:
        """The figures of the graph, a `GraphInfo`: ``graph.info().private_edges``."""
        return info_of(self.path, self.store, self.settings, base=self.signal.base)

    def _tokens(
        self, corpus: Corpora | None = None, *, holdout: float | None = None, stages: Stages = SILENT
    ) -> TokenFile:
        """The encoded corpus: the given one, or the one that the graph was built from.

        Parameters
        ----------
        holdout
            The share of the documents that is held out. None: as at the build.
        stages
            As of `encode_corpus`.

        Raises
        ------
        CorpusError
            The corpus of the build is missing or has changed.
        """
        build = self.settings["build"]
        if corpus is None:
            corpus = own_corpus(build, self.path / CACHE)
        else:
            given = corpus if isinstance(corpus, Corpus) else Corpus(corpus)
            corpus = given.settled(tokens=self.tokenizer.level == "tokens", like=build["corpus"])
        return encode_corpus(
            corpus,
            self.tokenizer,
            directory=self.path / CACHE,
            holdout=build["holdout"] if holdout is None else holdout,
            stages=stages,
        )

    @contextmanager
    def _writing(self, *, stale: Callable[[], bool] | None = None) -> Iterator[Store]:
        """The store, open for writing. However it ends, the lock is released, and memory has what is then current.

        ``stale``: whether what is in memory is not what was committed last; None: it is not if there was a commit.
        """
        if self._pinned:
            raise OptionError("the graph is open at an older snapshot, which can only be read: open it without one")
        with self._lock:
            before, writer = self.store.snapshot, Store.open(self.path, write=True)
            try:
                self._reload(writer)
                writer.require_clock()
                yield writer
            finally:
                writer.close()  # first of all: nothing that fails below keeps the lock
                if self._open:
                    newest = Store.open(self.path)
                    self._reload(newest, force=newest.snapshot != before if stale is None else stale())
