"""The contest in the compiled kernel (`kernels/contest.cpp`), on the CPU: a few times faster than torch.

Addresses that do not change are computed once. A row contest runs once per token, with little of the program left in
the processor's caches, so it reuses its buffers and passes addresses instead of tensors.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sifu_graph.config import OptimizerConfig
from sifu_graph.edge_index import RowPlaces
from sifu_graph.kernels import native as kernel
from sifu_graph.ops import contest
from sifu_graph.ops.contest import ContestBackend, Gradients, Outcome, Plan, Range, Rows, Sink
from sifu_graph.ops.contest_torch import TorchContest, scatter


def cpu_contest(width: int, dtype: torch.dtype) -> ContestBackend:
    """The backend of the CPU: the compiled kernel if there is one for this width and dtype, else torch."""
    library = kernel.load(width, dtype)
    return TorchContest() if library is None else NativeContest(library)


class NativeContest:
    """The backend that calls the compiled kernel; the path gradients are added in torch. See `contest.ContestBackend`.

    Parameters
    ----------
    library
        What `kernels.native.load` returns for the width and dtype of the tensors.
    """

    writes_in_file = True

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def forward(
        self, rows: Rows, group: Plan, S: Tensor, *, energies: bool = False, parts: Iterable[Range] | None = None
    ) -> tuple[Outcome, Tensor | None]:
        """See `contest.ContestBackend.forward`."""
        outcome, ends = contest.empty_outcome(rows, group, S), contest.energy_ends(group).tolist()
        flat = S.new_empty(ends[-1]) if energies else None
        batch = _Batch(rows, group, S, outcome, weight=0.0)
        for first, stop in group.whole if parts is None else parts:
            into = None if flat is None else flat.data_ptr() + ends[first] * flat.itemsize
            self._library.sifu_forward(batch.pointer(first, stop), into, torch.get_num_threads())
        return outcome, flat

    def train(
        self, rows: Rows, group: Plan, S: Tensor, *, weight: float, sink: Sink, parts: Iterable[Range] | None = None
    ) -> tuple[Outcome, Gradients]:
        """See `contest.ContestBackend.train`."""
        outcome = contest.empty_outcome(rows, group, S)
        dS, d_scale = torch.empty_like(S), S.new_zeros(len(group.source))
        batch = _Batch(rows, group, S, outcome, weight=weight)
        for first, stop in group.whole if parts is None else parts:
            update = _update(sink, dS=dS, dscale=d_scale[first:])
            self._library.sifu_train(batch.pointer(first, stop), ctypes.byref(update), torch.get_num_threads())
        return outcome, contest.with_default(rows, group, S, outcome, weight=weight, dS=dS, d_scale=d_scale)

    def update_edges(self, rows: Rows, sink: Sink) -> None:
        """See `contest.ContestBackend.update_edges`."""
        update = _update(sink, dS=sink.dW, dscale=sink.dW)
        self._library.sifu_update(
            len(rows.place),
            rows.place.data_ptr(),
            rows.W.data_ptr(),
            rows.b.data_ptr(),
            ctypes.byref(update),
            torch.get_num_threads(),
        )

    def scatter(self, sink: Sink, row: Tensor, left: Tensor, right: Tensor) -> None:
        """See `contest.ContestBackend.scatter`."""
        scatter(sink, row, left, right)

    def row_contest(self, rows: Rows, *, largest: int) -> NativeRowContest:
        """See `contest.ContestBackend.row_contest`."""
        return NativeRowContest(self._library.sifu_energies, rows, largest=largest)


class NativeRowContest:
    """See `contest.RowContest`.

    Parameters
    ----------
    energies
        The function of the kernel for the type of ``rows.W``.
    """

    def __init__(self, energies: Callable[..., None], rows: Rows, *, largest: int) -> None:
        self._energies = energies
        self._no_pe = rows.default_b.new_zeros(rows.default_b.shape[0])
        out = rows.default_b.new_zeros(largest + 1)
        self.found: NDArray[np.floating[Any]] = out.numpy()
        self.values = self.found.data
        self._edges = tuple(t.contiguous() for t in (rows.W, rows.b, rows.default_W, rows.default_b))
        self._W, self._b, *rest = [t.data_ptr() for t in self._edges]
        self._best = ctypes.c_int64(-1)
        sign = 1.0 if rows.scale >= 0 else -1.0
        self._after = (*rest, out.data_ptr(), torch.get_num_threads(), sign, ctypes.byref(self._best))
        self._no_pe_at = self._no_pe.data_ptr()

    def run(self, row: RowPlaces, S: Tensor, pe: Tensor | None, *, S_at: int = 0) -> int:
        """See `contest.RowContest.run`."""
        _, pointer, edges = row
        encoding = self._no_pe_at if pe is None else pe.data_ptr()
        self._energies(S_at or S.data_ptr(), encoding, self._W, self._b, pointer, edges, *self._after)
        return self._best.value


class _Batch:
    """A filled `struct Batch`, and the tensors that it points into."""

    def __init__(self, rows: Rows, group: Plan, S: Tensor, outcome: Outcome, *, weight: float) -> None:
        structure = kernel.BatchDouble if S.dtype == torch.float64 else kernel.BatchFloat
        self.keep = [
            t.contiguous()
            for t in (
                group.first_position,
                group.first_edge,
                rows.place,
                S,
                rows.pe,
                group.pe_row,
                outcome.default_energy,
                group.log_defaults,
                group.target,
                rows.W,
                rows.b,
            )
        ]
        self.batch = structure(
            len(group.source),
            *(t.data_ptr() for t in self.keep),
            rows.scale,
            weight,
            outcome.logsumexp.data_ptr(),
            outcome.target_energy.data_ptr(),
            outcome.best.data_ptr(),
        )

    def pointer(self, first: int, stop: int) -> object:
        """For the groups first .. stop - 1; positions and edges are numbered as in the whole plan."""
        first_position, first_edge, log_defaults = self.keep[0], self.keep[1], self.keep[7]
        self.batch.groups = stop - first
        self.batch.first_position = first_position[first:].data_ptr()
        self.batch.first_edge = first_edge[first:].data_ptr()
        self.batch.log_defaults = log_defaults[first:].data_ptr()
        return ctypes.byref(self.batch)


def _update(sink: Sink, *, dS: Tensor, dscale: Tensor) -> ctypes.Structure:
    """`struct Update` for a sink."""
    config = sink.config or OptimizerConfig()
    structure = kernel.UpdateDouble if sink.dW.dtype == torch.float64 else kernel.UpdateFloat
    kind = 0 if sink.config is None else 1 if config.kind == "rowwise" else 2
    pointers = [0, 0, 0, 0, 0, 0 if sink.past is None else ctypes.addressof(sink.past)]
    if kind == 1:
        assert sink.state is not None
        pointers[4] = sink.state["v_row"][0].data_ptr()
    elif kind == 2:
        assert sink.state is not None
        (m_W, m_b), (v_W, v_b) = sink.state["m"], sink.state["v"]
        pointers[:4] = [m_W.data_ptr(), v_W.data_ptr(), m_b.data_ptr(), v_b.data_ptr()]
    step = max(1, sink.step)
    return structure(
        kind,
        sink.gradient_row.data_ptr(),
        sink.dW.data_ptr(),
        sink.db.data_ptr(),
        dS.data_ptr(),
        dscale.data_ptr(),
        config.rate(step),
        config.beta1,
        config.beta2,
        config.eps,
        config.weight_decay,
        config.clip,
        1.0 - config.beta1**step,
        1.0 - config.beta2**step,
        *pointers,
    )
