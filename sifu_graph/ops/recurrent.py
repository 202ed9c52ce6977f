"""The recurrence that all edges share, and its contest: every token trains the same matrix and its own two vectors.

For a stream of tokens x_1, x_2, ..., with the norm of `functional.normalised` and GELU::

    r_i  = GELU( gain * norm(r_{i-1} W)  +  e_{x_i} )                   r_0 is learned; e: the vectors of the nodes
    E(v) = s log p(v | u_i)  +  n_v . r_i  +  c_v  +  a_{u_i v}         p, a: `PairModel`; n, c: the targets' own part
         + [k_v > 0] (f_v + m_v log k_v)  +  h_1 log(1 + k'_v)  +  h_2 log(1 + k''_v)
    loss = log(sum over v of exp E(v)) - E(x_{i+1})

The second line is repetition: in the document of x_i, v comes k_v times before x_i, k'_v times after a node x_i, and
k''_v times after x_{i-1} x_i. A node's f and m are its own part g and a parabola in the logarithm of its frequency::

    (f_v, m_v) = g_v + G (1, z_v, z_v^2)              z_v = 1 + log(q_v) / 10       q: `PairModel.log_lower`

What a rare word says of its return is learned from all rare words.
u_i is the source at x_i: the node, or its clone after the nodes before. At s = 1, and all else 0, the softmax of E is
p: untrained, the model is interpolated Kneser-Ney (of order 2 without clones). In training p leaves out the
document that the token is in, so that s learns how far counts are to be trusted on other text.

The module knows tensors and pair models; it does not know text or files.
"""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sifu_graph.arrays import Doubles
from sifu_graph.kernels import native as kernel
from sifu_graph.ops.functional import gelu, normalised
from sifu_graph.ops.pair_model import LeftOut, PairModel

NODE_DEVIATION = 0.1
"""Of the elements of e at the start. On 1.5 million tokens of Tang and Song poems 0.1 gave a held-out perplexity of
157, 0.3 158 and 1.0 176."""


MOST_NODES = 8
"""In the name of a source: the constant of the kernel."""
FORBIDDEN = -1e4
"""Nats that stand for -inf in the kernel: the probability is 0 in both number types."""


@dataclass(frozen=True, slots=True)
class Recurrent:
    """The parameters, or their gradients.

    Attributes
    ----------
    W, gain
        [d, d] and [d].
    node, start
        e [n, d] and r_0 [d].
    target, bias
        n [n, d] and c [n].
    scale
        s, [1].
    repeat, repeat_shared, repeat_after
        g [n, 2], G [2, 3] and h [2].
    """

    W: Tensor
    gain: Tensor
    node: Tensor
    start: Tensor
    target: Tensor
    bias: Tensor
    scale: Tensor
    repeat: Tensor
    repeat_shared: Tensor
    repeat_after: Tensor

    @classmethod
    def initial(cls, nodes: int, width: int, *, seed: int, dtype: torch.dtype = torch.float32) -> Recurrent:
        """The parameters before training: the recurrence is a random rotation, and the contest that of the counts."""
        generator = torch.Generator().manual_seed(seed)
        rotation = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))[0]
        node = torch.randn(nodes, width, generator=generator, dtype=torch.float64) * NODE_DEVIATION
        return cls(
            W=rotation.to(dtype).contiguous(),
            gain=torch.ones(width, dtype=dtype),
            node=node.to(dtype),
            start=torch.zeros(width, dtype=dtype),
            target=torch.zeros(nodes, width, dtype=dtype),
            bias=torch.zeros(nodes, dtype=dtype),
            scale=torch.ones(1, dtype=dtype),
            repeat=torch.zeros(nodes, 2, dtype=dtype),
            repeat_shared=torch.zeros(2, 3, dtype=dtype),
            repeat_after=torch.zeros(2, dtype=dtype),
        )

    def tensors(self) -> dict[str, Tensor]:
        """All of them by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


@dataclass(frozen=True, slots=True)
class StreamBatch:
    """A `text.streams.Window` as tensors of the same names, shapes and dtypes; a target of -1 is not scored."""

    token: Tensor
    source: Tensor
    target: Tensor
    restart: Tensor
    past: Tensor
    reach: Tensor


Step = Callable[[int, int], Tensor]


class RecurrentBackend(Protocol):
    """Computes windows of streams with one pair model.

    For all methods: ``signal`` [B, d] comes in and is replaced by the last one.
    """

    def carry(self, model: Recurrent, token: Tensor, restart: Tensor, signal: Tensor) -> Tensor:
        """The signals after each token, [B, T, d]."""

    def stepper(self, model: Recurrent) -> Step:
        """Carries one signal token by token: a function of (node, 1 if the signal begins there, else 0).

        It returns the signal [d] after the node, which is valid until the next call.
        """

    def losses(self, model: Recurrent, batch: StreamBatch, signal: Tensor) -> Tensor:
        """The losses in nats, [B, T]; 0 where nothing is scored."""

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
        """The losses and the gradients of ``weight`` times their sum, by counts without the piece of each token.

        ``piece`` is int32 [B, T], the number of the piece in ``out``; ``keep`` [B, T, d] multiplies the signals in the
        contest (dropout). Gradients do not pass to the windows before.
        """


def cpu_recurrent(pairs: PairModel, width: int, dtype: torch.dtype) -> RecurrentBackend:
    """The backend of the CPU: the compiled kernel if there is one for this width and dtype, else torch."""
    library = kernel.compiled("recurrent", width, dtype)
    return TorchRecurrent(pairs) if library is None else NativeRecurrent(library, pairs, dtype)


def _one(model: Recurrent) -> tuple[Tensor, Tensor, Tensor]:
    """Token, restart and signal of one stream of one token."""
    return (
        torch.zeros(1, 1, dtype=torch.int32),
        torch.ones(1, 1, dtype=torch.bool),
        model.start[None].clone(),
    )


class TorchRecurrent:
    """The equations in torch, and their gradients by autograd. It holds the energies of a whole window."""

    def __init__(self, pairs: PairModel) -> None:
        self._pairs = pairs

    def carry(self, model: Recurrent, token: Tensor, restart: Tensor, signal: Tensor) -> Tensor:
        """See `RecurrentBackend.carry`."""
        r, signals = signal, []
        for step in range(token.shape[1]):
            r = torch.where(restart[:, step, None], model.start, r)
            r = gelu(model.gain * normalised(r @ model.W) + model.node[token[:, step].long()])
            signals.append(r)
        signal.copy_(r.detach())
        return torch.stack(signals, 1)

    def stepper(self, model: Recurrent) -> Step:
        """See `RecurrentBackend.stepper`."""
        token, restart, signal = _one(model)

        def step(node: int, begins: int) -> Tensor:
            token[0, 0], restart[0, 0] = node, begins
            return self.carry(model, token, restart, signal)[0, 0]

        return step

    def losses(self, model: Recurrent, batch: StreamBatch, signal: Tensor) -> Tensor:
        """See `RecurrentBackend.losses`."""
        return self._losses(model, batch, signal)

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
        leaf = Recurrent(**{name: value.detach().requires_grad_() for name, value in model.tensors().items()})
        with torch.enable_grad():
            losses = self._losses(leaf, batch, signal, piece=piece, out=out, keep=keep)
            found = torch.autograd.grad(weight * losses.sum(), list(leaf.tensors().values()), materialize_grads=True)
        return losses.detach(), Recurrent(*found)

    def _losses(
        self,
        model: Recurrent,
        batch: StreamBatch,
        signal: Tensor,
        *,
        piece: Tensor | None = None,
        out: LeftOut | None = None,
        keep: Tensor | None = None,
    ) -> Tensor:
        signals = self.carry(model, batch.token, batch.restart, signal)
        if keep is not None:
            signals = signals * keep
        scored = batch.target >= 0
        at, goal = (x[scored].numpy().astype(np.int64) for x in (batch.source, batch.target))
        if piece is None or out is None:
            rows = self._pairs.rows(at)
        else:
            rows = self._pairs.rows_without(at, piece[scored].numpy().astype(np.int64), out)
        r = signals[scored]
        energy = model.scale * torch.from_numpy(rows).to(r.dtype) + r @ model.target.T + model.bias
        if self._pairs.added is not None:
            energy = energy + torch.from_numpy(self._pairs.added_rows(at)).to(r.dtype)
        before, *after = (times[scored].to(r.dtype) for times in repeated(batch, len(model.bias)))
        weight = repeat_weights(model, torch.from_numpy(frequency_basis(self._pairs)).to(r.dtype))
        energy = energy + (before > 0) * (weight[:, 0] + weight[:, 1] * before.clamp(min=1).log())
        for factor, times in zip(model.repeat_after, after, strict=True):
            energy = energy + factor * torch.log1p(times)
        losses = r.new_zeros(scored.shape)
        losses[scored] = torch.nn.functional.cross_entropy(energy, torch.from_numpy(goal), reduction="none")
        return losses


def frequency_basis(pairs: PairModel) -> Doubles:
    """(1, z_v, z_v^2) of every node, float64 [n, 3]."""
    z = 1.0 + pairs.log_lower / 10.0
    return np.stack([np.ones_like(z), z, z * z], axis=1)


def repeat_weights(model: Recurrent, basis: Tensor) -> Tensor:
    """f and m of every node, [n, 2], from `frequency_basis`."""
    # no matrix product: its bits would depend on the number of threads
    return model.repeat + (basis[:, None] * model.repeat_shared).sum(-1)


def repeated(batch: StreamBatch, nodes: int) -> list[Tensor]:
    """How often each node came before in the document, at all, after x_i, and after x_{i-1} x_i: int32 [B, T, n]."""
    past, reach = batch.past.numpy(), batch.reach.numpy()
    streams, steps = reach.shape
    found = [np.zeros((streams, steps, nodes), np.int32) for _ in range(3)]
    for stream, step in np.ndindex(streams, steps):
        now = past.shape[1] - steps + step
        tokens = past[stream, now - reach[stream, step] : now + 1]
        after_one = np.flatnonzero(tokens[:-1] == tokens[-1]) + 1
        after_two = after_one[after_one > 1]
        after_two = after_two[tokens[after_two - 2] == tokens[-2]] if len(after_two) else after_two
        for times, at in zip(found, (slice(0, -1), after_one, after_two), strict=True):
            np.add.at(times[stream, step], tokens[at], 1)
    return list(map(torch.from_numpy, found))


_POINTERS, _Int = ctypes.c_void_p, ctypes.c_int64


def _structure(name: str, fields: str, **other: Any) -> type[ctypes.Structure]:
    """A structure of pointers, except the fields in ``other``."""
    listed = [(field, other.get(field, _POINTERS)) for field in fields.split()]
    return type(name, (ctypes.Structure,), {"_fields_": listed})


_RecurrenceGradient = _structure("RecurrenceGradient", "r W gain node start")
_Recurrence = _structure(
    "Recurrence",
    "streams steps nodes token restart signal start W gain node before unit inverse z r",
    streams=_Int, steps=_Int, nodes=_Int,
)  # fmt: skip
_Pairs = _structure(
    "Pairs",
    "first target count ratio log_ratio total left log_lower log_less added parent discount",
)
_LeftOut = _structure("LeftOut", "piece first pair count first_node node ratio log_ratio")
_Past = _structure("Past", "steps before token reach", steps=_Int, before=_Int)
_CandidateGradient = _structure("CandidateGradient", "target bias repeat repeat_after scale", scale=ctypes.c_double)


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
        self._candidates = _structure(
            "Candidates", "nodes target bias repeat repeat_after scale", nodes=_Int, scale=self._real
        )
        library.sifu_recurrent_contest.argtypes = [
            _Int, *[_POINTERS] * 7, self._real, *[_POINTERS] * 3, _Int,
        ]  # fmt: skip
        library.sifu_recurrent_forward.argtypes = [_POINTERS, _Int]
        library.sifu_recurrent_backward.argtypes = [_POINTERS, _POINTERS, _Int]
        for name in ("forward", "backward", "contest"):
            getattr(library, f"sifu_recurrent_{name}").restype = None
        self._kind = np.float32 if dtype == torch.float32 else np.float64
        self._counts = pairs
        self._sources = pairs.tree.sources
        self._basis = torch.from_numpy(frequency_basis(pairs)).to(dtype)

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

    def stepper(self, model: Recurrent) -> Step:
        """See `RecurrentBackend.stepper`."""
        token, restart, signal = _one(model)
        recurrence, tape = self._carry(model, token, restart, signal)
        nodes, begin, forward = token.numpy().data, tape["restart"].numpy().data, self._library.sifu_recurrent_forward
        address, r = ctypes.addressof(recurrence), signal[0]

        def step(node: int, begins: int) -> Tensor:
            nodes[0, 0], begin[0, 0] = node, begins
            forward(address, 1)
            return r

        step.kept = recurrence, tape, token, signal  # type: ignore[attr-defined]
        return step

    def losses(self, model: Recurrent, batch: StreamBatch, signal: Tensor) -> Tensor:
        """See `RecurrentBackend.losses`."""
        _, tape = self._carry(model, batch.token, batch.restart, signal)
        return self._contest(model, batch, tape["r"], weight=0.0)

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
        repeat = repeat_weights(model, self._basis).contiguous()
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
            None if d_r is None else d_r.data_ptr(),
            None if into is None else ctypes.addressof(into),
            torch.get_num_threads(),
        )
        return losses
