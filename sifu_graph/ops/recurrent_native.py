"""The recurrence that all edges share in the compiled kernel, `kernels/recurrent.cpp`.

`recurrent` has the equations.
"""

from __future__ import annotations

import ctypes
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from sifu_graph.kernels import native as kernel
from sifu_graph.ops.pair_model import LeftOut, PairModel
from sifu_graph.ops.recurrent import Recurrent, RecurrentBackend, StreamBatch
from sifu_graph.ops.recurrent_torch import TorchRecurrent
from sifu_graph.ops.repetition import frequency_basis, repeat_weights

MOST_NODES = 8
"""In the name of a source: the constant of the kernel."""
FORBIDDEN = -1e4
"""Nats that stand for -inf in the kernel: the probability is 0 in both number types."""


def cpu_recurrent(pairs: PairModel, width: int, dtype: torch.dtype) -> RecurrentBackend:
    """The backend of the CPU: the compiled kernel if there is one for this width and dtype, else torch."""
    library = kernel.compiled("recurrent", width, dtype)
    return TorchRecurrent(pairs) if library is None else NativeRecurrent(library, pairs, dtype)


_POINTERS, _Int = ctypes.c_void_p, ctypes.c_int64


_RecurrenceGradient = kernel.structure("RecurrenceGradient", "r W gain node start")
_Recurrence = kernel.structure(
    "Recurrence",
    "streams steps nodes token restart signal start W gain node before unit inverse z r",
    streams=_Int, steps=_Int, nodes=_Int,
)  # fmt: skip
_Pairs = kernel.structure(
    "Pairs",
    "first target count ratio log_ratio total left log_lower log_less added parent discount",
)
_LeftOut = kernel.structure("LeftOut", "piece first pair count first_node node ratio log_ratio")
_Past = kernel.structure("Past", "steps before token reach", steps=_Int, before=_Int)
_CandidateGradient = kernel.structure(
    "CandidateGradient", "target bias repeat repeat_after scale", scale=ctypes.c_double
)


class NativeRecurrent:
    """The compiled kernel (`kernels/recurrent.cpp`): the same bits with any number of threads.

    Parameters
    ----------
    library
        What `kernels.native.compiled` returns.
    pairs
        The pair model.
    dtype
        Of all tensors.
    """

    def __init__(self, library: ctypes.CDLL, pairs: PairModel, dtype: torch.dtype) -> None:
        self._library, self._dtype = library, dtype
        self._real = ctypes.c_float if dtype == torch.float32 else ctypes.c_double
        self._candidates = kernel.structure(
            "Candidates", "nodes target bias repeat repeat_after scale", nodes=_Int, scale=self._real
        )
        library.sifu_recurrent_contest.argtypes = [
            _Int, *[_POINTERS] * 7, self._real, *[_POINTERS] * 4, _Int,
        ]  # fmt: skip
        library.sifu_recurrent_forward.argtypes = [_POINTERS, _Int]
        library.sifu_recurrent_backward.argtypes = [_POINTERS, _POINTERS, _Int]
        for name in ("forward", "backward", "contest"):
            getattr(library, f"sifu_recurrent_{name}").restype = None
        self._kind = np.float32 if dtype == torch.float32 else np.float64
        self._counts = pairs
        self._sources = pairs.tree.sources
        self._basis = torch.from_numpy(frequency_basis(pairs.log_lower)).to(dtype)

    @cached_property
    def _pairs(self) -> ctypes.Structure:
        """The structure of the kernel; it keeps its arrays."""
        pairs, real = self._counts, self._kind
        ratio, log_ratio = np.empty(len(pairs.target), real), np.empty(len(pairs.target), real)
        for block, values in pairs.ratios():
            ratio[block], log_ratio[block] = values, np.log1p(values)
        discount = np.zeros((MOST_NODES, 4))
        discount[: len(pairs.discounts), 1:] = pairs.discounts
        added = None if pairs.added is None else np.maximum(pairs.added, FORBIDDEN)
        columns = (
            (pairs.first, np.int64), (pairs.target, np.int32), (pairs.count, np.int32), (ratio, real),
            (log_ratio, real), (pairs.total, np.int64), (pairs.left, np.float64), (pairs.log_lower, real),
            (pairs.log_less, real), (added, real), (pairs.tree.parents, np.int32), (discount, np.float64),
        )  # fmt: skip
        arrays = [None if values is None else np.ascontiguousarray(values, kind) for values, kind in columns]
        found = _Pairs(*(None if array is None else array.ctypes.data for array in arrays))
        found.kept = arrays
        return found

    def carry(self, model: Recurrent, token: Tensor, restart: Tensor, signal: Tensor) -> Tensor:
        """See `RecurrentBackend.carry`."""
        return self._carry(model, token, restart, signal)[1]["r"]

    def outcomes(self, model: Recurrent, batch: StreamBatch, r: Tensor) -> tuple[Tensor, Tensor]:
        """See `RecurrentBackend.outcomes`."""
        ranks = torch.empty(batch.target.shape, dtype=torch.int32)
        return self._contest(model, batch, r.contiguous(), weight=0.0, ranks=ranks), ranks

    def gradients(
        self,
        model: Recurrent,
        batch: StreamBatch,
        signal: Tensor,
        *,
        piece: Tensor,
        out: LeftOut,
        weight: float,
        keep: Tensor | None = None,
    ) -> tuple[Tensor, Recurrent]:
        """See `RecurrentBackend.gradients`."""
        recurrence, tape = self._carry(model, batch.token, batch.restart, signal)
        found = Recurrent(**{name: torch.empty_like(value) for name, value in model.tensors().items()})
        r = tape["r"] if keep is None else tape["r"] * keep
        d_r = torch.empty_like(r)
        into = _CandidateGradient(
            *(x.data_ptr() for x in (found.target, found.bias, found.repeat, found.repeat_after)), 0.0
        )
        losses = self._contest(model, batch, r, weight=weight, without=(piece, out), d_r=d_r, into=into)
        if keep is not None:
            d_r *= keep
        found.scale.fill_(into.scale)
        shared = found.repeat.numpy()[:, :, None] * self._basis.numpy()[:, None]
        found.repeat_shared.copy_(torch.from_numpy(shared.sum(0, dtype=np.float64)))
        pointers = [x.data_ptr() for x in (d_r, found.W, found.gain, found.node, found.start)]
        gradient = _RecurrenceGradient(*pointers)
        self._library.sifu_recurrent_backward(ctypes.byref(recurrence), ctypes.byref(gradient), torch.get_num_threads())
        return losses, found

    def _left_out(self, piece: Tensor, out: LeftOut) -> ctypes.Structure:
        """The structure of the kernel; it keeps its arrays."""
        if not piece.is_contiguous() or int(piece.min()) < 0 or int(piece.max()) >= len(out.first) - 1:
            raise ValueError(f"a piece is not one of the {len(out.first) - 1:,} pieces")
        columns = (
            (piece.numpy(), np.int32), (out.first, np.int64), (out.pair, np.int64), (out.count, np.int32),
            (out.first_node, np.int64), (out.node, np.int32), (out.ratio, self._kind), (np.log(out.ratio), self._kind),
        )  # fmt: skip
        arrays = [np.ascontiguousarray(values, kind) for values, kind in columns]
        found = _LeftOut(*(array.ctypes.data for array in arrays))
        found.kept = arrays
        return found

    def _carry(
        self, model: Recurrent, token: Tensor, restart: Tensor, signal: Tensor
    ) -> tuple[ctypes.Structure, dict[str, Tensor]]:
        """Carries the signals; the structure is valid as long as its tensors."""
        streams, steps = token.shape
        width = model.W.shape[0]
        wide = [streams, steps, width]
        tape = {name: model.W.new_empty(wide) for name in ("before", "unit", "z", "r")}
        tape["inverse"] = model.W.new_empty(streams, steps)
        tape["restart"] = restart.to(torch.uint8)
        inputs = (token, tape["restart"], signal, model.start, model.W, model.gain, model.node)
        if not all(tensor.is_contiguous() for tensor in (*inputs, model.target, model.bias)):
            raise ValueError("all tensors must be contiguous")
        if int(token.min()) < 0 or int(token.max()) >= len(model.node):
            raise ValueError(f"a token is not one of the {len(model.node):,} nodes")
        results = (tape[name] for name in ("before", "unit", "inverse", "z", "r"))
        recurrence = _Recurrence(
            streams, steps, len(model.node), *(x.data_ptr() for x in inputs), *(x.data_ptr() for x in results)
        )
        self._library.sifu_recurrent_forward(ctypes.byref(recurrence), torch.get_num_threads())
        return recurrence, tape

    def _contest(
        self,
        model: Recurrent,
        batch: StreamBatch,
        r: Tensor,
        *,
        weight: float,
        ranks: Tensor | None = None,
        without: tuple[Tensor, LeftOut] | None = None,
        d_r: Tensor | None = None,
        into: ctypes.Structure | None = None,
    ) -> Tensor:
        source, target = batch.source, batch.target
        if not all(x.is_contiguous() for x in (source, target, batch.past, batch.reach)):
            raise ValueError("all tensors must be contiguous")
        if int(source.min()) < 0 or int(source.max()) >= self._sources:
            raise ValueError(f"a source is not one of the {self._sources:,} sources")
        if int(target.max()) >= len(model.node):
            raise ValueError(f"a target is not one of the {len(model.node):,} nodes")
        left = None if without is None else self._left_out(*without)
        losses = r.new_empty(target.shape)
        repeat = repeat_weights(model.repeat, model.repeat_shared, self._basis).contiguous()
        candidates = self._candidates(
            len(model.bias),
            *(x.data_ptr() for x in (model.target, model.bias, repeat, model.repeat_after)),
            float(model.scale),
        )
        steps, most = target.shape[1], batch.past.shape[1] - target.shape[1]
        if int(batch.past.min()) < 0 or int(batch.past.max()) >= len(model.node) or int(batch.reach.max()) > most:
            raise ValueError(f"the past is not of the {len(model.node):,} nodes, or it is shorter than its reach")
        past = _Past(steps, most, batch.past.data_ptr(), batch.reach.data_ptr())
        self._library.sifu_recurrent_contest(
            target.numel(),
            r.data_ptr(),
            source.data_ptr(),
            target.data_ptr(),
            ctypes.addressof(candidates),
            ctypes.addressof(self._pairs),
            None if left is None else ctypes.addressof(left),
            ctypes.addressof(past),
            weight,
            losses.data_ptr(),
            None if ranks is None else ranks.data_ptr(),
            None if d_r is None else d_r.data_ptr(),
            None if into is None else ctypes.addressof(into),
            torch.get_num_threads(),
        )
        return losses
