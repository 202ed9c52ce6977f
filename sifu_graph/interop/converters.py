"""A graph in the containers of other libraries: scipy matrices, networkx, PyTorch Geometric, torch-sparse.

Parameters are read from the store in blocks of edges sorted by (u, v), so that they need not fit into memory. The
module knows graphs and these containers; it does not know file formats of checkpoints.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray
from sifu_store.errors import OptionError

from sifu_graph.arrays import Floats, Ints
from sifu_graph.inspection.energies import default_energies_at_first_step, energies_at_first_step
from sifu_graph.progress import SILENT, Stages

if TYPE_CHECKING:
    from sifu_graph.session import GraphSession


# ---- scipy


def to_scipy(graph: GraphSession, *, stages: Stages = SILENT) -> tuple[scipy.sparse.csr_array, scipy.sparse.csr_array]:
    """Counts (int64) and energies at the first step (float32) of the private edges, two matrices [n, n]."""
    return _matrices(graph, energies_at_first_step(graph, stages))


def _matrices(graph: GraphSession, energy: Floats) -> tuple[scipy.sparse.csr_array, scipy.sparse.csr_array]:
    index = graph.parameters.index

    def matrix(values: NDArray[Any]) -> scipy.sparse.csr_array:
        return scipy.sparse.csr_array((values, index.target, index.row_start), shape=(index.nodes, index.nodes))

    return matrix(index.count), matrix(energy)


def export_scipy(graph: GraphSession, folder: Path, stages: Stages = SILENT) -> list[Path]:
    """Writes the files of a graph for scipy into an existing folder.

    ``counts.npz`` and ``energies.npz`` (`scipy.sparse.load_npz`), ``default_energies.npy`` [n], ``forbidden.npy`` (the
    forbidden pairs, int32 [pairs, 2]) and ``nodes.json`` (the names).
    """
    energy, default = energies_at_first_step(graph, stages), default_energies_at_first_step(graph, stages)
    counts, energies = _matrices(graph, energy)
    stages.stage("writing counts and energies")
    scipy.sparse.save_npz(folder / "counts.npz", counts)
    scipy.sparse.save_npz(folder / "energies.npz", energies)
    np.save(folder / "default_energies.npy", default)
    np.save(folder / "forbidden.npy", _forbidden(graph).astype(np.int32))
    (folder / "nodes.json").write_text(json.dumps(graph.tokenizer.vocabulary, ensure_ascii=False), encoding="utf-8")
    names = ("counts.npz", "energies.npz", "default_energies.npy", "forbidden.npy", "nodes.json")
    return [folder / name for name in names]


def _forbidden(graph: GraphSession) -> Ints:
    """The forbidden pairs (source, target), int64 [pairs, 2], ascending."""
    index = graph.parameters.index
    return np.stack(np.divmod(index.forbidden, index.nodes), 1)


# ---- networkx


def to_networkx(graph: GraphSession, *, stages: Stages = SILENT) -> Any:
    """A `networkx.DiGraph`: nodes with ``token`` and ``count``, edges with ``count`` and ``energy``.

    The energies are those at the first step. The graph holds a dictionary for every edge: about 500 bytes each. The
    attribute ``forbidden`` of the graph lists the forbidden pairs (source, target).
    """
    networkx = _library("networkx", "networkx")
    index, counts = graph.parameters.index, graph.store.read("nodes/count")
    energy, default = energies_at_first_step(graph, stages), default_energies_at_first_step(graph, stages)
    made = networkx.DiGraph(forbidden=[tuple(pair) for pair in _forbidden(graph).tolist()])
    for node, name in enumerate(graph.tokenizer.vocabulary):
        made.add_node(node, token=name, count=int(counts[node]), default_energy=float(default[node]))
    every = zip(index.sources().tolist(), index.target.tolist(), index.count.tolist(), energy.tolist(), strict=True)
    made.add_edges_from((u, v, {"count": count, "energy": value}) for u, v, count, value in every)
    return made


# ---- PyTorch libraries


def to_pyg(graph: GraphSession, *, stages: Stages = SILENT) -> Any:
    """A `torch_geometric.data.Data`.

    ``x`` (node biases) float32 [n, d], ``edge_index`` int64 [2, edges], ``edge_attr`` (count, energy at the first step)
    float32 [edges, 2], ``forbidden``, the forbidden pairs, int64 [2, pairs], and ``token``, the names.

    Raises
    ------
    OptionError
        PyTorch Geometric is not installed.
    """
    geometric = _library("torch_geometric.data", "torch-geometric")
    index = graph.parameters.index
    energy = energies_at_first_step(graph, stages)
    return geometric.Data(
        x=graph.parameters.node_bias.clone(),
        edge_index=torch.from_numpy(np.stack([index.sources(), index.target.astype(np.int64)])),
        edge_attr=torch.from_numpy(np.stack([index.count.astype(np.float32), energy], 1)),
        forbidden=torch.from_numpy(_forbidden(graph).T.copy()),
        num_nodes=index.nodes,
        token=graph.tokenizer.vocabulary,
    )


def to_torch_sparse(graph: GraphSession, *, stages: Stages = SILENT) -> Any:
    """A `torch_sparse.SparseTensor` [n, n], float32: the energies at the first step of the private edges.

    Raises
    ------
    OptionError
        torch-sparse is not installed.
    """
    sparse = _library("torch_sparse", "torch-sparse")
    index = graph.parameters.index
    energy = energies_at_first_step(graph, stages)
    return sparse.SparseTensor(
        rowptr=torch.from_numpy(index.row_start.astype(np.int64)),
        col=torch.from_numpy(index.target.astype(np.int64)),
        value=torch.from_numpy(energy),
        sparse_sizes=(index.nodes, index.nodes),
        is_sorted=True,
    )


def from_pyg(data: Any) -> tuple[scipy.sparse.csr_array, scipy.sparse.csr_array]:
    """Counts (int64) and energies (float32) [n, n] of a result of `to_pyg`: the matrices of `to_scipy`."""
    n = int(data.num_nodes)
    place = tuple(data.edge_index.numpy())
    count, energy = data.edge_attr.numpy().T
    made = (scipy.sparse.csr_array((values, place), shape=(n, n)) for values in (count.astype(np.int64), energy))
    counts, energies = made
    return counts, energies


def from_torch_sparse(matrix: Any) -> scipy.sparse.csr_array:
    """The energies at the first step [n, n] of a result of `to_torch_sparse`: the second matrix of `to_scipy`."""
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
