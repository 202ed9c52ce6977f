"""What a run will take before it begins: memory, disk and time, from a graph or from the sizes of one to be built.

It knows sizes and rates; it does not read text or parameters. The time rests on this machine's rate of matrix
products, measured for a fraction of a second, and on the share of it that training reached where it was measured: 11
graphs of 300 to 4,000 nodes and of widths 8 to 64, all of which were between half and twice as fast as their estimate.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import torch
from sifu_store.durable import resolved
from sifu_store.layout import PAGE_EDGES
from sifu_store.short_repr import short_repr

from sifu_graph import evaluation
from sifu_graph.config import Kind, OptimizerConfig
from sifu_graph.edge_index import base_parameters, dense_parameters, stored_parameters
from sifu_graph.kernels import native
from sifu_graph.model.index_file import is_large
from sifu_graph.model.working_memory import FLOAT_BYTES, edge_working_bytes, working_bytes
from sifu_graph.paging.budget import FREE_SHARE, copied_bytes, least_bytes, require_least
from sifu_graph.paging.device_budget import WORK_BYTES
from sifu_graph.paging.process_memory import mapped_bytes
from sifu_graph.training.base_trainer import STEPS, STREAMS
from sifu_graph.training.step import edge_state_arrays

if TYPE_CHECKING:
    from sifu_graph.session import GraphSession

TRAINING_SHARE = 0.6  # of the matrix-product rate, exact softmax, batches of 512 chunks: measured
GELU_FLOPS = 520  # what an element of a contest costs beside its products, forward and backward: measured
TORCH_FLOPS, TORCH_WIDTH_FLOPS = 40_000, 1_500  # of an edge in a contest without the compiled kernel: measured
BASE_SHARE = 0.25  # the same for a base: three products of a signal with the vectors of all nodes for each token
BASE_FLOPS = 140_000  # what a token costs beside them: measured
PAGING_BYTES_PER_S = 1.7e9  # that a core writes to the scratch file, in the system's file cache: measured
TEXT_ROW = 4.0  # mean row that a token of text meets, relative to the mean over all rows (Tang + Song: 3.9)
COMMITS_KEPT = 3  # the last two of training, and the one that is being written
LIBRARY_BYTES = 180 << 20  # Python and the libraries, where no graph is open: measured
FIRST_USE_BYTES = 24 << 20  # that the libraries allocate and map when a step is computed: measured


@short_repr
@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Bytes, seconds and rates of a run.

    Attributes
    ----------
    private_edges
        Of the graph; of one to be built the most that there can be.
    whole_bytes
        All pages with the optimizer's state: what is needed to keep everything in memory.
    least_bytes
        The smallest ``host_memory`` that works.
    host_bytes
        What training takes for the edges: what the tables and the computation leave of ``host_memory``, else all, else
        most of what is free.
    table_bytes, working_bytes, library_bytes
        Memory of the tables of the graph, of the computation of a training step, and of Python and its libraries, with
        the files that are mapped into memory. ``host_memory`` bounds the edges, the tables and the computation
        together.
    process_bytes
        The most memory of the process in training: all of these.
    scratch_bytes, store_bytes
        Disk: pages that leave memory, and the store after training with the commits that are kept; at most.
    decoding_bytes
        All pages without the optimizer's state.
    device_bytes, device_least_bytes
        Of a GPU, in training: what keeps everything there, with what a step computes with; and the smallest
        ``device_memory`` that works, to which that is to be added. 0 for a graph with a base.
    tokens_per_s
        Of training within ``host_bytes``, between half and twice of it, without other load on the machine, and where
        the disk keeps up: a step writes all that does not fit.
    resident_tokens_per_s
        The same with everything in memory.
    epoch_tokens, epoch_s
        One pass over the text; None where there is no graph yet.
    fits
        Whether everything fits into ``host_bytes``.
    """

    nodes: int
    width: int
    dense_parameters: int
    private_edges: int
    stored_parameters: int
    pages: int
    page_bytes: int
    whole_bytes: int
    decoding_bytes: int
    least_bytes: int
    device_bytes: int
    device_least_bytes: int
    host_bytes: int
    table_bytes: int
    working_bytes: int
    library_bytes: int
    process_bytes: int
    fits: bool
    scratch_bytes: int
    store_bytes: int
    free_memory_bytes: int
    free_disk_bytes: int
    matrix_flops: float
    tokens_per_s: float
    resident_tokens_per_s: float
    epoch_tokens: int | None
    epoch_s: float | None


@dataclass(frozen=True, slots=True)
class _Size:
    """What the memory and the time of a run depend on."""

    nodes: int
    width: int
    edges: int
    length: int
    slots: int
    largest_row: int  # private edges
    text_row: float  # private edges of a token's row, on average over the text
    epoch_tokens: int | None

    @classmethod
    def of(cls, graph: GraphSession) -> _Size:
        index, build, sizes = graph.parameters.index, graph.settings["build"], graph.parameters.index.row_sizes()
        return cls(
            nodes=index.nodes,
            width=graph.parameters.width,
            edges=index.edges,
            length=build["length"],
            slots=graph.parameters.edges.slots,
            largest_row=int(sizes.max(initial=0)),
            text_row=index.text_row(graph.store.read("rows/total")),
            epoch_tokens=build["corpus_tokens"],
        )

    @classmethod
    def planned(cls, vocab: int, sparsify: float, *, width: int, length: int) -> _Size:
        """Of a graph to be built, with the greatest number of private edges."""
        edges = int(sparsify * vocab * vocab)
        return cls(
            nodes=vocab,
            width=width,
            edges=edges,
            length=length,
            slots=edges,
            largest_row=min(vocab, 10 * max(1, edges // vocab)),
            text_row=min(float(vocab), TEXT_ROW * edges / vocab),
            epoch_tokens=None,
        )


def estimate(
    graph: GraphSession | None = None,
    *,
    vocab: int = 4000,
    sparsify: float = 0.1,
    width: int = 32,
    length: int = 32,
    batch: int = 512,
    optimizer: Kind = "rowwise",
    host_memory: str | int | None = None,
    folder: Path | None = None,
) -> Estimate:
    """What training and decoding will take.

    Parameters
    ----------
    graph
        An open graph; None: one to be built, of the next three sizes.
    vocab, sparsify, width, length
        As in `build_graph`; not looked at where there is a graph.
    batch, optimizer, host_memory
        As in training.
    folder
        Where the store will be, for the free disk space.

    Raises
    ------
    OptionError
        A value has no meaning.
    HostMemoryError
        ``host_memory`` is less than what training needs.
    """
    if graph is not None and graph.parameters.base is not None:
        return _of_base(graph, min(batch, STREAMS), host_memory)
    size = _Size.of(graph) if graph is not None else _Size.planned(vocab, sparsify, width=width, length=length)
    nodes, width, edges, slots = size.nodes, size.width, size.edges, size.slots
    folder = folder if graph is None else graph.path
    state = edge_state_arrays(OptimizerConfig.of(kind=optimizer), width)
    edge_floats = width * width + width
    state_floats = sum(int(np.prod(shape)) for shape in state.values())
    page_bytes = PAGE_EDGES * (edge_floats + state_floats) * FLOAT_BYTES
    pages = -(-slots // PAGE_EDGES)
    copied = copied_bytes(
        slots,
        trained_edges=batch * size.length,
        evaluated_edges=evaluation.BATCH * size.length,
        edge_bytes=page_bytes // PAGE_EDGES,
        bare_bytes=edge_floats * FLOAT_BYTES,
    )
    row_pages = -(-size.largest_row // PAGE_EDGES) + 1
    working = edge_working_bytes(
        nodes=nodes,
        rows=min(edges, max(batch, evaluation.BATCH) * size.length * size.largest_row),
        width=width,
        pages=pages,
        page_bytes=PAGE_EDGES * edge_floats * FLOAT_BYTES,
        trained=batch * size.length,
        evaluated=evaluation.BATCH * size.length,
        text_row=size.text_row,
    )
    tables = (0 if is_large(slots) else 100 * slots) + 200 * nodes if graph is None else graph._table_bytes
    library = _library_bytes(graph)
    memory = psutil.virtual_memory()
    whole = pages * page_bytes
    edges_least = least_bytes(pages, row_pages, page_bytes) + copied
    least, given = min(whole, edges_least) + tables + working, None
    if host_memory is not None:
        given = require_least(host_memory, least_bytes=least, batch_bytes=copied + working) - tables - working
    host = max(0, min(whole, int(FREE_SHARE * memory.available) if given is None else given))
    rate = matrix_flops()
    resident_speed = TRAINING_SHARE * rate / (max(1.0, size.text_row) * _edge_flops(width))
    paging_s = (whole - host) / PAGING_BYTES_PER_S / torch.get_num_threads()
    speed = 1 / (1 / resident_speed + paging_s / (batch * size.length))
    return Estimate(
        nodes=nodes,
        width=width,
        dense_parameters=dense_parameters(nodes, width),
        private_edges=edges,
        stored_parameters=stored_parameters(nodes, edges, width),
        pages=pages,
        page_bytes=page_bytes,
        whole_bytes=whole,
        decoding_bytes=pages * PAGE_EDGES * edge_floats * FLOAT_BYTES,
        least_bytes=least,
        host_bytes=host,
        device_bytes=whole + copied + WORK_BYTES,
        device_least_bytes=edges_least,
        table_bytes=tables,
        working_bytes=working,
        library_bytes=library,
        process_bytes=host + library + tables + working + (copied if host == whole else 0),
        fits=host >= whole,
        scratch_bytes=0 if host >= whole else whole + copied,
        store_bytes=COMMITS_KEPT * whole,
        free_memory_bytes=memory.available,
        free_disk_bytes=psutil.disk_usage(str(existing(folder))).free,
        matrix_flops=rate,
        tokens_per_s=speed,
        resident_tokens_per_s=resident_speed,
        epoch_tokens=size.epoch_tokens,
        epoch_s=None if size.epoch_tokens is None else size.epoch_tokens / speed,
    )


def _edge_flops(width: int) -> int:
    """What an edge in a contest costs in training, in floating point operations of a matrix product."""
    if native.load(width, torch.float32) is None:
        return TORCH_FLOPS + TORCH_WIDTH_FLOPS * width
    return 3 * 2 * width * width + GELU_FLOPS * width


def _library_bytes(graph: GraphSession | None) -> int:
    """Memory of Python and its libraries, with the files that they map."""
    return (LIBRARY_BYTES if graph is None else graph._library_bytes) + FIRST_USE_BYTES + mapped_bytes()


def _of_base(graph: GraphSession, streams: int, host_memory: str | int | None) -> Estimate:
    """Of a graph whose edges share a base: it is all in memory, and no page of an edge is read."""
    base = graph.parameters.base
    assert base is not None
    working = working_bytes(graph.parameters, trained=streams * STEPS)
    if host_memory is not None:
        require_least(host_memory, least_bytes=graph._table_bytes + working)
    index, width, memory = graph.parameters.index, graph.parameters.width, psutil.virtual_memory()
    parameters = base_parameters(index.nodes, width)
    stored = 3 * FLOAT_BYTES * parameters + 12 * len(base.pairs.target)  # with the state of AdamW; at most
    rate = matrix_flops()
    speed = BASE_SHARE * rate / (3 * 2 * index.nodes * width + BASE_FLOPS)
    library = _library_bytes(graph)
    tokens = graph.settings["build"]["corpus_tokens"]
    return Estimate(
        nodes=index.nodes,
        width=width,
        dense_parameters=dense_parameters(index.nodes, width, base=True),
        private_edges=index.edges,
        stored_parameters=stored_parameters(index.nodes, index.edges, width, base=True),
        pages=0,
        page_bytes=0,
        whole_bytes=graph._table_bytes + working,
        decoding_bytes=graph._table_bytes + working_bytes(graph.parameters),
        least_bytes=graph._table_bytes + working,
        device_bytes=0,
        device_least_bytes=0,
        host_bytes=graph._table_bytes + working,
        table_bytes=graph._table_bytes,
        working_bytes=working,
        library_bytes=library,
        process_bytes=library + graph._table_bytes + working,
        fits=True,
        scratch_bytes=0,
        store_bytes=COMMITS_KEPT * stored,
        free_memory_bytes=memory.available,
        free_disk_bytes=psutil.disk_usage(str(graph.path)).free,
        matrix_flops=rate,
        tokens_per_s=speed,
        resident_tokens_per_s=speed,
        epoch_tokens=tokens,
        epoch_s=tokens / speed,
    )


def existing(folder: Path | None) -> Path:
    """The folder, or the nearest one above it that is there."""
    found = resolved(folder or Path())
    while not found.exists():
        found = found.parent
    return found


def matrix_flops(*, size: int = 1024, tries: int = 6) -> float:
    """Floating point operations a second of float32 matrix products on this machine: the best of a few."""
    a = torch.ones(size, size)
    best = float("inf")
    for _ in range(tries):
        began = time.perf_counter()
        torch.mm(a, a)
        best = min(best, time.perf_counter() - began)
    return 2.0 * size**3 / best
