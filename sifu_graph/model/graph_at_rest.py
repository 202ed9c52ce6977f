"""A graph at rest: the energies and probabilities of edges where the mix is zero, which depend on no text.

``E = ||GELU(b + PE)||`` with the positional encoding of the first step (`ops.at_rest`); in a graph whose edges share a
base that of `base_at_rest`. Of the store, the tables are read once, and the counts and biases of the rows that are
asked for. The module knows tables and edges; it does not know signals, and imports torch only for a positional
encoding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sifu_store.layout import BIAS, TARGET_BIAS
from sifu_store.store import Store

from sifu_graph.arrays import Doubles, Floats, Ints, ranges
from sifu_graph.config import SignalConfig
from sifu_graph.edge_index import EdgeIndex
from sifu_graph.model.base_at_rest import BaseAtRest
from sifu_graph.model.edge_reader import EdgeReader
from sifu_graph.model.index_file import IndexFile
from sifu_graph.model.io import read_index, read_initial, read_sources, small_array, with_pairs
from sifu_graph.ops import at_rest
from sifu_graph.ops.initial import EdgeInitializer
from sifu_graph.ops.pair_model import PairModel
from sifu_graph.settings import GraphSettings

ROWS = 256
"""Rows whose biases are in memory at a time."""


@dataclass(frozen=True, slots=True)
class RowAtRest:
    """The candidates of one node at rest: its k private edges, by target, and the default edge.

    In a graph whose edges share a base, ``default_energy`` is the log of the mean of exp(E) over the default edges, so
    that the probabilities add up.
    """

    target: Ints  # [k]
    count: Ints  # [k]
    slot: Ints  # [k]
    energy: Doubles  # [k]
    probability: Doubles  # [k], of the softmax over all nodes
    default_energy: float
    default_probability: float  # of one default edge; 0 if the node has none


class GraphAtRest:
    """The energies of a graph at rest.

    Parameters
    ----------
    current
        Returns the store to read from.
    config, settings
        The signal, and the settings of that snapshot.
    """

    def __init__(self, current: Callable[[], Store], config: SignalConfig, settings: GraphSettings) -> None:
        self._current, self._config, self._settings = current, config, settings
        self._small: dict[str, NDArray[Any]] = {}
        self._last: tuple[Ints, BaseAtRest] | None = None  # what `base` returned, and its sources

    @property
    def has_base(self) -> bool:
        """Whether the edges share a base."""
        return self._config.base

    @cached_property
    def _index(self) -> tuple[EdgeIndex, IndexFile | None]:
        return read_index(self._current(), self._settings)

    @property
    def index(self) -> EdgeIndex:
        """The private edges, by (u, v)."""
        return self._index[0]

    def small(self, name: str) -> NDArray[Any]:
        """An array that is trained and not paged, by its name in the store."""
        if name not in self._small:
            self._small[name] = small_array(self._current(), name)
        return self._small[name]

    @cached_property
    def sources(self) -> PairModel:
        """Of a graph whose edges share a base: the nodes and clones, without pairs."""
        return read_sources(self._current(), self._settings)

    def reader(self) -> EdgeReader:
        """Reads the parameters of edges by their slots."""
        return EdgeReader(self._current(), self._settings["width"], lambda: self._initial)

    @cached_property
    def _initial(self) -> EdgeInitializer:
        return read_initial(self._current(), self._config, *self._index, self._settings)

    @cached_property
    def _encoding(self) -> Floats:
        """The positional encoding of the first step, float32 [d]."""
        width = self._settings["width"]
        if self._config.positional == "none":
            return np.zeros(width, np.float32)
        import torch

        from sifu_graph.ops.positional import step_encoding

        encoding: Floats = step_encoding(self._config, self._config.decode_offset, torch.zeros(width)).numpy()
        return encoding

    def base(self, sources: Ints) -> BaseAtRest:
        """Of a graph whose edges share a base: the energies after these sources, int64 [k], nodes or clones.

        The last ones are kept, and returned again for some of the same sources.
        """
        only = self.sources.tree.with_ancestors(sources)
        if self._last is None or not np.isin(only, self._last[0]).all():
            pairs = with_pairs(self.sources, self._current(), self.index, only)
            self._last = only, BaseAtRest(pairs, self.small(TARGET_BIAS), float(self.small("signal/scale")[0]))
        return self._last[1]

    def row(self, node: int) -> RowAtRest:
        """The row of a node."""
        return next(self.rows(np.array([node])))

    def rows(self, nodes: Ints) -> Iterator[RowAtRest]:
        """The rows of nodes, int64 [k], one after the other."""
        for begin in range(0, len(nodes), ROWS):
            yield from self._rows(nodes[begin : begin + ROWS])

    def _rows(self, nodes: Ints) -> Iterator[RowAtRest]:
        index = self.index
        if self._config.base:
            base = self.base(nodes)
            for node in nodes.tolist():
                energy = base.energies(node)
                private = index.target[index.row(node)]
                others = np.delete(energy, private)
                default = float(np.logaddexp.reduce(others, initial=-np.inf))
                yield self._shares(node, energy[private], default - float(np.log(max(1, self._defaults[node]))), 1.0)
            return
        scale, sizes = float(self.small("signal/scale")[0]), index.row_sizes()[nodes]
        default = float(at_rest.energies(self.small("default/bias"), self._encoding))
        energies = self.edges(ranges(index.row_start[nodes], sizes))
        for node, energy in zip(nodes.tolist(), np.split(energies, np.cumsum(sizes)[:-1]), strict=True):
            yield self._shares(node, energy, default, scale)

    @cached_property
    def _defaults(self) -> Ints:
        return self.index.defaults()

    def _shares(self, node: int, energy: Doubles, default: float, scale: float) -> RowAtRest:
        """A row with these energies of its private edges [k] and of its default edges."""
        row, defaults = self.index.row(node), int(self._defaults[node])
        logits = scale * np.append(energy, default)
        with np.errstate(divide="ignore"):
            shares = logits + np.log(np.append(np.ones(len(energy)), defaults))
        p = np.exp(logits - np.logaddexp.reduce(shares))
        return RowAtRest(
            target=self.index.target[row].astype(np.int64),
            count=self.index.count[row].astype(np.int64),
            slot=self.index.slots(row),
            energy=energy,
            probability=p[:-1],
            default_energy=default,
            default_probability=float(p[-1]) if defaults else 0.0,
        )

    def edges(self, places: Ints) -> Doubles:
        """The energies of private edges by their places in the index, int64 [k]: float64 [k]."""
        if not self._config.base:
            return at_rest.energies(self.reader().read(BIAS, self.index.slots(places)), self._encoding)
        source = np.searchsorted(self.index.row_start, places, side="right") - 1
        base, target = self.base(source), self.index.target[places].astype(np.int64)
        found = [base.parts(u, target[[k]]).sum()[0] for k, u in enumerate(source.tolist())]
        return np.array(found, np.float64)
