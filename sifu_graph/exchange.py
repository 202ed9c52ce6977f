"""A graph as other libraries have it: edges block by block, scipy matrices, GraphML, networkx, PyTorch Geometric.

Everything is read from the store in blocks of edges sorted by (u, v), so that a graph far larger than memory goes
through. It knows graphs and other libraries' containers; it does not know file formats of checkpoints.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray
from sifu_store.errors import OptionError, StoreExistsError
from sifu_store.layout import BIAS, PAGE_EDGES, WEIGHT

from sifu_graph.arrays import runs
from sifu_graph.ops.functional import gelu, step_encoding
from sifu_graph.ops.signal import Signal

if TYPE_CHECKING:
    from sifu_graph.session import GraphSession

BLOCK_PAGES = 32
BLOCK_EDGES = BLOCK_PAGES * PAGE_EDGES
"""Edges that are in memory at a time: 64 MiB of weights for d = 32, and as much again while they are read."""
NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def free_target(path: str | Path, *, force: bool = False) -> Path:
    """The path, if nothing is there or ``force`` allows to replace it.

    Raises
    ------
    StoreExistsError, OptionError
    """
    target = Path(path).absolute()
    if not target.parent.is_dir():
        raise OptionError(f"{target.parent}: no such folder to export to")
    if (target.exists() or target.is_symlink()) and not force:
        raise StoreExistsError(f"{path} exists: name another, or replace it with --force")
    return target


# ---- edges, block by block


def blocks(edges: int) -> Iterator[slice]:
    """Runs of places in the sorted index."""
    return (slice(begin, min(begin + BLOCK_EDGES, edges)) for begin in range(0, edges, BLOCK_EDGES))


def read_edges(graph: GraphSession, name: str, slots: NDArray[np.int64]) -> NDArray[np.float32]:
    """``edges/weight`` [k, d, d] or ``edges/bias`` [k, d] of these slots, from the store; nothing stays in memory."""
    store, initial, width = graph.store, graph.parameters.edges.initial, graph.parameters.width
    out = np.zeros((len(slots), width, width) if name == WEIGHT else (len(slots), width), np.float32)
    page = slots // PAGE_EDGES
    wanted = np.unique(page)
    stored = store.page_stored()[wanted]
    for first, stop in runs(wanted[stored]):
        values = store.read_pages(name, first, stop)
        mine = (page >= first) & (page < stop)
        out[mine] = values[slots[mine] - first * PAGE_EDGES]
    fresh = np.isin(page, wanted[~stored])
    if fresh.any():
        made = initial.weight(slots[fresh]) if name == WEIGHT else initial.bias(slots[fresh])
        if made is not None:
            out[fresh] = made
    return out


def edge_blocks(graph: GraphSession, name: str) -> Iterator[NDArray[np.float32]]:
    """The values of all private edges, sorted by (u, v), block by block."""
    index = graph.parameters.index
    return (read_edges(graph, name, index.slot[block]) for block in blocks(index.edges))


def sources(graph: GraphSession) -> NDArray[np.int64]:
    """u of every private edge, in the order of the index."""
    index = graph.parameters.index
    return np.repeat(np.arange(index.nodes), index.row_sizes())


def first_energies(graph: GraphSession) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What each edge is worth where a text begins: its energy at the first position, when all signal is r_1.

    Returns
    -------
    private : float32 [edges]
        E(v) of every private edge (u, v), in the order of the index.
    default : float32 [n]
        The energy that all default edges of u share.
    """
    parameters, config = graph.parameters, graph.signal
    signal = Signal.start(
        config,
        r_0=parameters.r_0,
        node_bias=parameters.node_bias,
        alpha=parameters.alpha.tolist(),
        offset=config.train_offset,
    )
    S, pe = signal.mix, step_encoding(config, config.train_offset, parameters.r_0)
    default = gelu(S @ parameters.default_W + parameters.default_b + pe).norm(dim=-1)
    source = torch.from_numpy(sources(graph))
    private = np.empty(parameters.index.edges, np.float32)
    weights, biases = edge_blocks(graph, WEIGHT), edge_blocks(graph, BIAS)
    for block, W, b in zip(blocks(len(private)), weights, biases, strict=True):
        z = torch.bmm(S[source[block]][:, None], torch.from_numpy(W))[:, 0] + torch.from_numpy(b) + pe
        private[block] = gelu(z).norm(dim=-1).numpy()
    return private, default.numpy()


# ---- scipy


def to_scipy(graph: GraphSession) -> tuple[scipy.sparse.csr_array, scipy.sparse.csr_array]:
    """Counts (int64) and energies at the first position (float32) of the private edges, two [n, n] matrices."""
    return _matrices(graph, first_energies(graph)[0])


def _matrices(
    graph: GraphSession, energy: NDArray[np.float32]
) -> tuple[scipy.sparse.csr_array, scipy.sparse.csr_array]:
    index = graph.parameters.index

    def matrix(values: NDArray[Any]) -> scipy.sparse.csr_array:
        return scipy.sparse.csr_array((values, index.target, index.row_start), shape=(index.nodes, index.nodes))

    return matrix(index.count), matrix(energy)


def export_scipy(graph: GraphSession, folder: Path) -> list[Path]:
    """``counts.npz`` and ``energies.npz`` (`scipy.sparse.load_npz`), ``default_energies.npy`` [n], ``nodes.json``."""
    energy, default = first_energies(graph)
    counts, energies = _matrices(graph, energy)
    scipy.sparse.save_npz(folder / "counts.npz", counts)
    scipy.sparse.save_npz(folder / "energies.npz", energies)
    np.save(folder / "default_energies.npy", default)
    (folder / "nodes.json").write_text(json.dumps(graph.tokenizer.vocabulary, ensure_ascii=False), encoding="utf-8")
    return [folder / name for name in ("counts.npz", "energies.npz", "default_energies.npy", "nodes.json")]


# ---- GraphML and networkx


def export_graphml(graph: GraphSession, path: Path) -> None:
    """GraphML (graphml.graphdrawing.org): nodes with token and count, edges with count and first energy.

    Written as a stream. Characters that XML cannot hold stand as ``<0x1F>``.
    """
    index, counts = graph.parameters.index, graph.store.read("nodes/count")
    energy, default = first_energies(graph)
    keys = [("token", "node", "string"), ("count", "node", "long"), ("default_energy", "node", "double"),
            ("count", "edge", "long"), ("energy", "edge", "double")]  # fmt: skip
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write('<?xml version="1.0" encoding="UTF-8"?>\n<graphml xmlns="http://graphml.graphdrawing.org/xmlns">\n')
        for i, (name, owner, kind) in enumerate(keys):
            file.write(f'<key id="d{i}" for="{owner}" attr.name="{name}" attr.type="{kind}"/>\n')
        file.write('<graph edgedefault="directed">\n')
        for node, name in enumerate(graph.tokenizer.vocabulary):
            text = escape(NOT_XML.sub(lambda found: f"<0x{ord(found.group()):02X}>", name), {"\r": "&#13;"})
            file.write(
                f'<node id="{node}"><data key="d0">{text}</data><data key="d1">{counts[node]}</data>'
                f'<data key="d2">{default[node]:.9g}</data></node>\n'
            )
        for node in range(index.nodes):
            row = index.row(node)
            file.writelines(
                f'<edge source="{node}" target="{target}"><data key="d3">{count}</data>'
                f'<data key="d4">{value:.9g}</data></edge>\n'
                for target, count, value in zip(index.target[row], index.count[row], energy[row], strict=True)
            )
        file.write("</graph>\n</graphml>\n")


def to_networkx(graph: GraphSession) -> Any:
    """A `networkx.DiGraph`: nodes with ``token`` and ``count``, edges with ``count`` and ``energy``.

    It holds a dictionary for every edge: about 500 bytes each.
    """
    networkx = _library("networkx", "networkx")
    index, counts = graph.parameters.index, graph.store.read("nodes/count")
    energy, default = first_energies(graph)
    made = networkx.DiGraph()
    for node, name in enumerate(graph.tokenizer.vocabulary):
        made.add_node(node, token=name, count=int(counts[node]), default_energy=float(default[node]))
    every = zip(sources(graph).tolist(), index.target.tolist(), index.count.tolist(), energy.tolist(), strict=True)
    made.add_edges_from((u, v, {"count": count, "energy": value}) for u, v, count, value in every)
    return made


# ---- PyTorch libraries


def to_pyg(graph: GraphSession) -> Any:
    """A `torch_geometric.data.Data`: ``x`` (node biases) [n, d], ``edge_index`` int64 [2, edges], ``edge_attr``
    (count, first energy) float32 [edges, 2], and the tokens."""
    geometric = _library("torch_geometric.data", "torch-geometric")
    index = graph.parameters.index
    energy, _ = first_energies(graph)
    return geometric.Data(
        x=graph.parameters.node_bias.clone(),
        edge_index=torch.from_numpy(np.stack([sources(graph), index.target.astype(np.int64)])),
        edge_attr=torch.from_numpy(np.stack([index.count.astype(np.float32), energy], 1)),
        num_nodes=index.nodes,
        token=graph.tokenizer.vocabulary,
    )


def to_torch_sparse(graph: GraphSession) -> Any:
    """A `torch_sparse.SparseTensor` [n, n] with the first energies of the private edges as values."""
    sparse = _library("torch_sparse", "torch-sparse")
    index = graph.parameters.index
    energy, _ = first_energies(graph)
    return sparse.SparseTensor(
        rowptr=torch.from_numpy(index.row_start.astype(np.int64)),
        col=torch.from_numpy(index.target.astype(np.int64)),
        value=torch.from_numpy(energy),
        sparse_sizes=(index.nodes, index.nodes),
        is_sorted=True,
    )


def from_pyg(data: Any) -> tuple[scipy.sparse.csr_array, scipy.sparse.csr_array]:
    """Counts and first energies [n, n] of what `to_pyg` made: the matrices of `to_scipy` again."""
    n = int(data.num_nodes)
    place = tuple(data.edge_index.numpy())
    count, energy = data.edge_attr.numpy().T
    made = (scipy.sparse.csr_array((values, place), shape=(n, n)) for values in (count.astype(np.int64), energy))
    counts, energies = made
    return counts, energies


def from_torch_sparse(matrix: Any) -> scipy.sparse.csr_array:
    """The first energies [n, n] of what `to_torch_sparse` made: the second matrix of `to_scipy` again."""
    row_start, column, value = (part.numpy() for part in matrix.csr())
    return scipy.sparse.csr_array((value, column, row_start), shape=tuple(matrix.sparse_sizes()))


def _library(module: str, package: str) -> Any:
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        how = (
            "pip install --no-build-isolation torch-sparse (it builds from source, for about half an hour)"
            if package == "torch-sparse"
            else "pip install 'sifu-graph[interop]'"
        )
        raise OptionError(f"this needs {package}, which cannot be imported ({error}): {how}") from error
