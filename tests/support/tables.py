"""A graph as plain dictionaries by the names of its nodes: what edits are compared on, bit by bit."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from sifu_store.layout import BIAS, WEIGHT

from sifu_graph import Graph
from sifu_graph.edge_index import RowPlaces
from sifu_graph.model.forward import rows_of
from sifu_graph.text.node_lookup import node_named

Pair = tuple[str, str]


@dataclass
class Table:
    """Nodes with their biases; private edges with counts and parameters, as bytes; pairs that are never chosen."""

    bias: dict[str, bytes]
    edges: dict[Pair, tuple[int, bytes]]
    forbidden: set[Pair]
    default: bytes
    energy: dict[Pair, float] = field(default_factory=dict)

    def same(self, other: Table) -> None:
        """Equal in every bit."""
        assert list(self.bias) == list(other.bias)
        assert self.bias == other.bias
        assert self.forbidden == other.forbidden
        assert self.edges.keys() == other.edges.keys()
        assert self.edges == other.edges
        assert self.default == other.default


def table(graph: Graph, *, energies: bool = False) -> Table:
    """The whole of a small graph. ``energies``: with those of every pair of nodes, for one mix."""
    parameters, index, names = graph.parameters, graph.parameters.index, graph.tokenizer.vocabulary
    slots = index.slots()
    W = parameters.edges.get(WEIGHT, slots).numpy()
    b = parameters.edges.get(BIAS, slots).numpy()
    pairs = [(names[u], names[int(v)]) for u in range(index.nodes) for v in index.target[index.row(u)]]
    edges = {pair: (int(index.count[i]), W[i].tobytes() + b[i].tobytes()) for i, pair in enumerate(pairs)}
    forbidden = {(names[u], names[v]) for u, v in (divmod(int(key), index.nodes) for key in index.forbidden)}
    small = parameters.small
    default = b"".join(small[name].numpy().tobytes() for name in sorted(small) if name != "nodes/bias")
    bias = {name: parameters.node_bias[node].numpy().tobytes() for node, name in enumerate(names)}
    found = Table(bias, edges, forbidden, default)
    if energies:
        generator = torch.Generator().manual_seed(0)
        S = torch.randn(1, parameters.width, generator=generator)
        one = parameters.backend.row_contest(
            rows_of(parameters, graph.signal, 1), largest=int(index.row_sizes().max(initial=0))
        )
        for u in range(index.nodes):
            row = index.row(u)
            places = slots[row]
            one.run(RowPlaces(places, places.ctypes.data, len(places)), S, None)
            private, shared = one.found[: len(places)], one.values[len(places)]
            of_target = dict(zip(index.target[row].tolist(), private.tolist(), strict=True))
            for v in range(index.nodes):
                found.energy[names[u], names[v]] = of_target.get(v, shared)
    return found


def distribution(graph: Graph, u: str) -> dict[str, float]:
    """p(v) after a text that consists of u alone, from the formulas: no code of the contest but the parameters."""
    parameters, names = graph.parameters, graph.tokenizer.vocabulary
    node = node_named(graph.tokenizer, u)
    bias, r_0 = parameters.node_bias[node].double(), parameters.r_0.double()
    mix = torch.nn.functional.gelu(r_0 + bias)
    if graph.signal.normalise_mix:
        mix = mix - mix.mean()
        mix = mix / torch.sqrt((mix * mix).mean() + 1e-6)
    logits = np.full(len(names), -np.inf)
    for v in range(len(names)):
        if bool(parameters.index.is_forbidden(np.int64(node), np.int64(v))):
            continue
        slot = parameters.index.slot_of(node, v)
        if slot is None:
            W, b = parameters.default_W, parameters.default_b
        else:
            W, b = (parameters.edges.get(name, np.array([slot]))[0] for name in (WEIGHT, BIAS))
        z = mix @ W.double() + b.double()
        logits[v] = float(parameters.scale) * float(torch.nn.functional.gelu(z).norm())
    p = np.exp(logits - logits.max())
    return dict(zip(names, (p / p.sum()).tolist(), strict=True))
