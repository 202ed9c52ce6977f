"""The working copy of a graph that an edit changes: its tables in memory, and the pages that a change must write.

Nothing reaches the store before `WorkingCopy.write`. Two columns of the table of edges say where the parameters and the
optimizer state of an edge are, ``value`` and ``row``:

========= ======================================== ==============================================================
value     row                                      the parameters
========= ======================================== ==============================================================
STORED    a slot of the snapshot that was copied   those of that slot
GENERATED -1                                       computed from its key and energy (`EdgeInitializer`), not on disk
NEW       a row of the values that were `put`      those of that row
========= ======================================== ==============================================================

An edge is moved or copied by moving or copying its row of the table. A page is written if it holds an edge whose
parameters are stored or new and were not in the same slot before; a page of generated edges is not written. The module
knows nodes, edges, slots and pages; it does not know texts or the reason of a change.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sifu_store.durable import require_free_bytes
from sifu_store.layout import (
    BIAS,
    COUNT,
    EDITED_VERSION,
    ENERGY,
    FORBIDDEN,
    KEY,
    LOG_LESS,
    LOG_LOWER,
    ORIGIN,
    PAGE_EDGES,
    REPEAT,
    REPEAT_VERSION,
    SOURCE,
    STORED,
    TARGET,
    USAGE,
    WEIGHT,
    page_slots,
)
from sifu_store.store import Store

from sifu_graph.arrays import Doubles, Floats, Ints, runs
from sifu_graph.disk_arrays import DiskArrays
from sifu_graph.edge_index import EdgeIndex, by_frequency, forbidden_keys
from sifu_graph.edit.columns import (
    FREE,
    ROW,
    VALUE,
    Columns,
    EdgeColumns,
    EdgeValue,
    Table,
    columns_of_nodes,
)
from sifu_graph.edit.pair_table import PairTable
from sifu_graph.edit.reports import number
from sifu_graph.edit_bounds import require_bounded
from sifu_graph.model.counts import discounts_of
from sifu_graph.model.index_file import is_large
from sifu_graph.model.io import read_index, small_array, small_names
from sifu_graph.ops.initial import EdgeInitializer
from sifu_graph.ops.origins import StoredOrigins, initial_energies
from sifu_graph.ops.pair_model import PairModel
from sifu_graph.settings import read_settings
from sifu_graph.text.kneser_ney import Counts

if TYPE_CHECKING:
    from sifu_graph.session import GraphSession

_PAGES_KEPT = 6  # pages of the old snapshot that stay in memory while edges are collected from many pages


class WorkingCopy:
    """The tables of a graph in memory, to be changed and then written or discarded.

    Attributes
    ----------
    nodes
        Arrays [n, ...] by their names in the store, with the optimizer's state if the graph has one.
    edges
        Columns [slots, ...]: those of the store, and ``value`` and ``row`` (see the module's docstring).
    pairs
        The counts of all pairs, of a graph whose edges share a base; None: they do not.
    forbidden : int64 [pairs, 2]
        Pairs (u, v) that are never chosen; none of them is private.
    shelf
        What edges were that this copy forbade (`forbidding`).
    """

    def __init__(self, graph: GraphSession) -> None:
        store = graph.store
        self.graph, self.old = graph, store
        self.settings = read_settings(store)
        self.config, self.width = graph.signal, int(self.settings["width"])
        small = small_names(self.config)
        self.small = Table(lambda name: small_array(store, name), lambda: small, small.__contains__)
        self.pairs = PairTable(store, self.settings["nodes"]) if graph.signal.base else None
        self.tokenizer = graph.tokenizer
        n = self.settings["nodes"]
        self.nodes = columns_of_nodes(store)
        if graph.signal.base and not store.has(REPEAT):
            self.nodes[REPEAT] = small_array(store, REPEAT)
        self.keys = int(self.settings["initial"].get("keys", n + 1))  # the next unused key; n: the default edge
        self.arrays = DiskArrays(graph._scratch_folder() if is_large(store.slots) else None)
        self.edges = EdgeColumns(store, self.arrays)
        self.forbidden = (store.read(FORBIDDEN) if store.has(FORBIDDEN) else np.empty((0, 2))).astype(np.int64)
        self._new: defaultdict[str, list[NDArray[Any]]] = defaultdict(list)
        self._new_rows, self.shelf = 0, dict[tuple[int, ...], Columns | float]()
        self._pages_read: dict[tuple[str, int], NDArray[Any]] = {}
        self._index: EdgeIndex | None = None
        self._initial: EdgeInitializer | None = None
        self.changed = self.new_tokenizer = False
        if not store.has(ENERGY):
            self.edges[ORIGIN] = origin = self.arrays.zeros(self.slots, np.int32, 2)
            origin[:, 0], origin[:, 1] = self.edges.peek(SOURCE), self.edges.peek(TARGET)
            method = self.settings["initial"]["method"]
            self.edges[ENERGY] = initial_energies(method, self.index, self.counts, self.slots, self.arrays)

    # ---- reading it

    @cached_property
    def paged(self) -> list[str]:
        """The names of the paged arrays."""
        return [name for name in self.old.names() if self.old.is_paged(name)]

    @cached_property
    def vocabulary(self) -> list[dict[str, Any]]:
        """The records of the nodes."""
        found: list[dict[str, Any]] = self.old.read_json("nodes/vocabulary")
        return found

    @property
    def n(self) -> int:
        """Number of nodes."""
        return len(self.nodes.peek("nodes/count"))

    @property
    def slots(self) -> int:
        """Number of slots, free ones included."""
        return self.edges.slots

    @property
    def private(self) -> int:
        """Number of private edges."""
        return int((self.edges.peek(SOURCE) >= 0).sum())

    @property
    def index(self) -> EdgeIndex:
        """The index of the current edges."""
        if self._index is None and is_large(self.slots) and not self.changed:
            self._index, _ = read_index(self.old, self.settings)
        if self._index is None:
            forbidden = forbidden_keys(self.n, self.forbidden.astype(np.int32))
            order = by_frequency(self.nodes.peek("nodes/count"))
            self._index = dataclasses.replace(self.edges.index(self.n), forbidden=forbidden, by_frequency=order)
        return self._index

    @property
    def initial(self) -> EdgeInitializer:
        """The initializer that generates the parameters of the current edges."""
        if self._initial is None:
            initial = self.settings["initial"]
            self._initial = EdgeInitializer.create(
                method=initial["method"],
                seed=initial["seed"],
                config=self.config,
                width=self.width,
                length=self.settings["build"]["length"],
                nodes=initial.get("nodes", self.settings["nodes"]),
                keys=self.keys,
                origins=StoredOrigins(self.edges.peek(ORIGIN), self.edges.peek(ENERGY)),
            )
        return self._initial

    @property
    def counts(self) -> Counts:
        """The counts of the text that initial parameters are computed from."""
        return Counts(
            self.nodes.peek("rows/total"),
            self.nodes.peek("rows/discounted"),
            self.nodes.peek("nodes/predecessors"),
            discounts_of(self.settings["initial"]),
        )

    def pair_model(self, sources: Ints | None = None) -> PairModel:
        """The pair model of a graph with a base, with what its private edges and forbidden pairs add.

        ``sources``: those that are needed, int64 [k]; others may lack their pairs. None: all.
        """
        assert self.pairs is not None
        energy = self.edges.peek(ENERGY)[self.index.slots()].astype(np.float64)
        return self.pairs.model(self.nodes, self.settings["initial"], self.index, energy, sources)

    def slot_of(self, u: int, v: int) -> int | None:
        """The slot of one edge, or None for a default edge."""
        return self.index.slot_of(u, v)

    def row_slots(self, u: int) -> Ints:
        """The slots of the private edges out of a node, by target, int64 [k]."""
        return self.index.slots(self.index.row(u))

    def column_slots(self, v: int) -> Ints:
        """The slots of the private edges into a node, int64 [k]."""
        return np.flatnonzero(self.edges.peek(TARGET) == v)

    def is_forbidden(self, u: int, v: int) -> bool:
        """Whether a pair is never chosen."""
        return bool(self.index.is_forbidden(np.int64(u), np.int64(v)))

    def values(self, name: str, slots: Ints) -> NDArray[Any]:
        """The values of a paged array at these slots, [k, ...]."""
        value, row = self.edges.peek(VALUE)[slots], self.edges.peek(ROW)[slots]
        out = np.zeros((len(slots), *self.trailing(name)), np.float32)
        if (made := value == EdgeValue.GENERATED).any() and name in (WEIGHT, BIAS):
            found = self.initial.weight(slots[made]) if name == WEIGHT else self.initial.bias(slots[made])
            out[made] = 0.0 if found is None else found
        stored = np.flatnonzero(value == EdgeValue.STORED)
        page_of, offset = np.divmod(row[stored], PAGE_EDGES)
        for page in np.unique(page_of).tolist():
            here = page_of == page
            out[stored[here]] = self._old_page(name, page)[offset[here]]
        if (new := value == EdgeValue.NEW).any():
            self._new[name] = [np.concatenate(self._new[name])]
            out[new] = self._new[name][0][row[new]]
        return out

    def trailing(self, name: str) -> tuple[int, ...]:
        """The shape of a paged array, per slot."""
        fixed = {WEIGHT: (self.width, self.width), BIAS: (self.width,)}
        return fixed[name] if name in fixed else tuple(self.old.shape(name)[1:])

    def is_generated(self, slots: Ints) -> NDArray[np.bool_]:
        """Whether the parameters of these edges are generated, bool [k]."""
        out: NDArray[np.bool_] = self.edges.peek(VALUE)[slots] == EdgeValue.GENERATED
        return out

    def read_pages(self, name: str, first: int, stop: int) -> NDArray[Any]:
        """Pages ``first`` to ``stop`` - 1 of a paged array after the changes, [slots, ...]; zeros in free slots."""
        slots = np.arange(page_slots(first, self.slots)[0], page_slots(stop - 1, self.slots)[1])
        used = self.edges.peek(SOURCE)[slots] >= 0
        out = np.zeros((len(slots), *self.trailing(name)), np.float32)
        out[used] = self.values(name, slots[used])
        return out

    # ---- changing it

    def add_nodes(self, tokens: Sequence[str], kind: str, *, like: int | None = None) -> Ints:
        """Adds nodes without edges. Returns their ids, int64 [k].

        With ``like``, they get the bias, the counts and the optimizer state of that node.

        Raises
        ------
        OptionError
            A token is a node already, is empty, or can never be read from a text.
        """
        first, k = self.n, len(tokens)
        self.tokenizer = self.tokenizer.with_added(tokens)
        for node in range(first, first + k):
            self.tokenizer.require_readable(node)
        keys = np.arange(self.keys, self.keys + k, dtype=np.int32)
        self.keys += k
        for name, column in self.nodes.items():
            row = np.zeros_like(column[:1]) if like is None else column[like : like + 1]
            self.nodes[name] = np.concatenate([column, np.repeat(row, k, axis=0)])
        self.nodes[KEY][first:] = keys
        if self.pairs is not None:
            self.pairs.add_nodes(k)
            if like is not None:
                self.pairs.add_like(np.arange(first, first + k), like)
        self.vocabulary += [{"token": token, "kind": kind} for token in tokens]
        self.touched(nodes=True)
        if like is None:
            self.nodes["nodes/bias"][first:] = self.initial.node_bias(keys)
            for name in (LOG_LOWER, LOG_LESS):  # with a base: a node that no text has is as improbable as any
                if name in self.nodes:
                    self.nodes[name][first:] = self.nodes[name][:first].min()
        return np.arange(first, first + k)

    def remove_nodes(self, nodes: Ints, *, tokenizer: Any) -> None:
        """Removes nodes (int64 [k]) and their edges; later ids decrease. ``tokenizer`` is the one without them."""
        gone = np.isin(np.arange(self.n), nodes)
        ends = np.append(gone, False)  # the last one for free slots, -1
        self.drop(np.flatnonzero(ends[self.edges[SOURCE]] | ends[self.edges[TARGET]]))
        self.forbidden = self.forbidden[~gone[self.forbidden].any(axis=1)]
        place = np.cumsum(~gone) - 1
        for name in (SOURCE, TARGET):
            used = self.edges[name] >= 0
            self.edges[name] = np.where(used, place[self.edges[name]], -1).astype(np.int32)
        self.forbidden = place[self.forbidden]
        if self.pairs is not None:
            self.pairs.remove(gone)
        for name, column in self.nodes.items():
            self.nodes[name] = column[~gone]
        self.vocabulary = [record for record, out in zip(self.vocabulary, gone, strict=True) if not out]
        self.tokenizer = tokenizer
        self.touched(nodes=True)

    def rename_node(self, node: int, name: str) -> None:
        """Changes the name of a node.

        Raises
        ------
        OptionError
            The name is empty, is a node already, or can never be read from a text; or the node is a special one.
        """
        self.tokenizer = self.tokenizer.renamed(node, name)
        self.tokenizer.require_readable(node)
        self.vocabulary[node] = {**self.vocabulary[node], "token": name}
        self.touched(nodes=True)

    def drop(self, slots: Ints) -> None:
        """Makes the private edges at these slots, int64 [k], default edges; the slots become free."""
        if len(slots):
            for name, (_, free) in FREE.items():
                self.edges[name][slots] = free
            self.touched()

    def rows_of(self, slots: Ints) -> Columns:
        """The rows of the table at these slots, [k, ...], as `add` takes them. A copy has the same parameters."""
        return {name: self.edges.peek(name)[slots] for name in FREE}

    def generated(self, source: Ints, target: Ints, count: Ints, energy: NDArray[np.float64]) -> Columns:
        """Rows for new edges with generated parameters: along the direction of the target, with these energies.

        ``source``, ``target`` and ``count`` are int64 [k], ``energy`` float64 [k].
        """
        key = self.nodes.peek(KEY)
        return {
            SOURCE: source,
            TARGET: target,
            COUNT: count,
            USAGE: np.zeros(len(source), np.int64),
            ORIGIN: np.stack([key[source], key[target]], axis=1),
            ENERGY: energy,
            VALUE: np.full(len(source), EdgeValue.GENERATED, np.int8),
            ROW: np.full(len(source), -1),
        }

    def add(self, rows: Columns) -> Ints:
        """Adds private edges from rows [k]; none of the pairs is private. Returns their slots, int64 [k].

        Generated edges get free slots of pages of generated edges, the others free slots of entirely free pages, and
        the remaining ones slots at the end. So no stored page is written again only to fill a free slot.
        """
        k = len(rows[SOURCE])
        if not k:
            return np.empty(0, np.int64)
        valued = rows[VALUE] != EdgeValue.GENERATED
        used = self.edges.peek(SOURCE) >= 0
        empty, open_ = ~self.edges.pages_with(used), ~self.edges.page_values()
        slots = np.empty(k, np.int64)
        end = self.slots
        for wanted, pages in ((np.flatnonzero(valued), empty), (np.flatnonzero(~valued), open_)):
            gaps = np.flatnonzero(~used & np.repeat(pages, PAGE_EDGES)[: self.slots])[: len(wanted)]
            slots[wanted[: len(gaps)]] = gaps
            open_[gaps // PAGE_EDGES] &= pages is open_  # pages with stored values get no generated edges
            more = len(wanted) - len(gaps)
            slots[wanted[len(gaps) :]] = np.arange(end, end + more)
            end += more
        self.edges.extend(end - self.slots)
        for name, column in self.edges.items():
            column[slots] = rows[name]
        self.touched()
        if "optimizer/last_step" in self.paged and not valued.all():
            # adamw-dense: a new edge has no steps to catch up on.
            training = self.settings["training"]
            assert training is not None  # only training makes this array
            new = slots[~valued]
            last_step = np.full(len(new), training["step"] - training["began"], np.float32)
            values = {name: self.values(name, new) for name in (WEIGHT, BIAS)}
            self.put(new, {**values, "optimizer/last_step": last_step})
        return slots

    def put(self, slots: Ints, values: Mapping[str, NDArray[Any]]) -> None:
        """Sets the values of edges: arrays [k, ...] by name. Paged arrays that are not named become 0 there."""
        for name, value in values.items():
            require_bounded(value, name)
        for name in self.paged:
            found = values.get(name)
            rows = np.zeros((len(slots), *self.trailing(name)), np.float32) if found is None else found
            self._new[name].append(np.asarray(rows, np.float32))
        self.edges[VALUE][slots] = EdgeValue.NEW
        self.edges[ROW][slots] = self._new_rows + np.arange(len(slots))
        self._new_rows += len(slots)
        self.changed |= len(slots) > 0

    def add_energy(self, slots: Ints, nats: Doubles | Floats) -> None:
        """Adds nats, [k], to what the private edges at these slots add to the base at rest."""
        energy = self.edges[ENERGY][slots] + nats.astype(np.float32)
        require_bounded(energy, "the energy of the edge")
        self.edges[ENERGY][slots] = energy
        if nats.any():
            self.touched()

    def set_forbidden(self, pairs: Ints) -> None:
        """Sets the pairs that are never chosen, int64 [pairs, 2]. None may be private."""
        self.forbidden = np.unique(pairs.reshape(-1, 2), axis=0)
        self.touched()

    def compact(self) -> None:
        """Stores every row as one run of slots, in the order of the index, without free slots."""
        order = self.index.slots()
        for name, column in self.edges.items():
            self.edges[name] = column[order]
        self.touched()

    # ---- writing it

    def write(self, store: Store) -> int:
        """Writes all changes to the store, without a commit. Returns the number of pages written.

        Raises
        ------
        DiskFullError
            Too little disk space is free.
        """
        initial = self.settings["initial"]
        initial.setdefault("nodes", self.settings["nodes"])
        initial["keys"] = self.keys
        self.settings["nodes"] = self.n
        version = REPEAT_VERSION if self.pairs else EDITED_VERSION
        store.require_version(version)
        pages = self.edges.pages_to_write()
        what = f"a commit with {number(len(pages), 'page')} of edges" if len(pages) else "a commit"
        require_free_bytes(self.old.path, len(pages) * self.page_bytes(), what)
        self._write_edges(store)
        for name, column in self.nodes.changed().items():
            store.write(name, column)
        if self.pairs is not None:
            self.pairs.write(store)
        if self.new_tokenizer:
            for name, value in (("vocabulary", self.vocabulary), ("tokenizer", self.tokenizer.to_json())):
                store.write_json(f"nodes/{name}", value)
        for first, stop in runs(pages):
            for name in self.paged:
                store.write_pages(name, first, self.read_pages(name, first, stop))
        store.set_settings({**self.settings, "format_version": version})
        return len(pages)

    def _write_edges(self, store: Store) -> None:
        """Writes the columns of the edges that may have changed, and which pages are stored."""
        edges = self.edges.changed()
        for name in (SOURCE, TARGET, COUNT, ORIGIN, ENERGY):  # the source first: it sets the length of the paged arrays
            if name in edges:
                store.write(name, edges[name])
        if USAGE in edges and (store.has(USAGE) or edges[USAGE].any()):
            store.write(USAGE, edges[USAGE])
        if store.has(FORBIDDEN) or len(self.forbidden):
            store.write(FORBIDDEN, self.forbidden.astype(np.int32))
        if VALUE in edges:
            store.write(STORED, self.edges.page_values().astype(np.uint8))

    def page_bytes(self) -> int:
        """Size of one page on disk, in bytes, with the optimizer's state."""
        return 4 * PAGE_EDGES * sum(int(np.prod(self.trailing(name), dtype=np.int64)) for name in self.paged)

    # ---- inside

    def touched(self, *, nodes: bool = False) -> None:
        """Notes that a column of edges changed, or also one of nodes."""
        self._index = None
        self._initial = None
        self.changed = True
        self.new_tokenizer |= nodes

    def _old_page(self, name: str, page: int) -> NDArray[Any]:
        found = self._pages_read.get((name, page))
        if found is None:
            while len(self._pages_read) >= _PAGES_KEPT * len(self.paged):
                self._pages_read.pop(next(iter(self._pages_read)))
            found = self._pages_read[name, page] = self.old.read_page(name, page)
        return found
