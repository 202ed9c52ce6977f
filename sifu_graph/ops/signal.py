"""The signal: where it starts, how it is mixed, and one step along an edge. Its settings are in `config`.

This is the only code that carries a signal; training, evaluation and generation all call it. It knows vectors and
edge parameters; it does not know where parameters are kept, what a token is, or how the next one is chosen.

The formulas (DESIGN 3, after arXiv 2503.11299), for tokens x_1 .. x_L::

    r_1     = GELU(r_0 + b_{x_1} + PE_0)
    S_i     = sum_{k=1..i} softmax(alpha_1..alpha_i)_k  r_k
    drive_i = r_i ("chain")  |  S_i ("mix")
    r_{i+1} = GELU(drive_i W_{x_i x_{i+1}} + b_{x_i x_{i+1}} + PE_i)

An edge's weight is stored input-major: element ``[i, o]`` multiplies input ``i`` into output ``o``.
"""

from __future__ import annotations

import ctypes
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from sifu_graph.config import SignalConfig
from sifu_graph.kernels import native as kernel
from sifu_graph.ops.functional import NORM_EPS, alpha_at, gelu, normalised
from sifu_graph.ops.positional import first_encoding, step_encoding


class PathEdges:
    """The edges that B signals are carried along: places in pools of private edges, -1: the default edge.

    Parameters
    ----------
    W, b
        [edges, d, d] and [edges, d].
    default_W, default_b
        [d, d] and [d].
    place
        int64 [B].
    """

    def __init__(self, W: Tensor, b: Tensor, default_W: Tensor, default_b: Tensor, place: Tensor) -> None:
        self.tensors = W, b, place.contiguous(), default_W.contiguous(), default_b.contiguous()
        self.pointers = tuple(tensor.data_ptr() for tensor in self.tensors)

    def at(self, place: Tensor) -> PathEdges:
        """The same pools at other places."""
        W, b, _, default_W, default_b = self.tensors
        return PathEdges(W, b, default_W, default_b, place)

    def gather(self) -> tuple[Tensor, Tensor]:
        """W [B, d, d] and b [B, d], copied."""
        W, b, place, default_W, default_b = self.tensors
        if len(W) == 0:
            return default_W.expand(len(place), -1, -1), default_b.expand(len(place), -1)
        private, at = place >= 0, place.clamp_min(0)
        return torch.where(private[:, None, None], W[at], default_W), torch.where(private[:, None], b[at], default_b)


class Vectors(NamedTuple):
    """What one step computes, each [B, d]: they lie one after another from `address` on."""

    z: Tensor
    r: Tensor
    weighted: Tensor
    raw_mix: Tensor
    mix: Tensor
    address: int
    r_at: int
    weighted_at: int
    mix_at: int

    @classmethod
    def like(cls, r: Tensor, *, normalised: bool) -> Vectors:
        """Room for signals like these [B, d]. ``normalised``: `mix` is not the raw one."""
        out = r.new_empty(5, *r.shape)
        mix = 4 if normalised else 3
        address, size = out.data_ptr(), r.numel() * r.itemsize
        at = address + size, address + 2 * size, address + mix * size
        return cls(out[0], out[1], out[2], out[3], out[mix], address, *at)


@dataclass(slots=True, kw_only=True)
class Signal(ABC):
    """The state of B signals that flow side by side: O(d) each, however far they have come.

    `start` returns a `NativeSignal` where the kernel can be used, else a `TorchSignal`.

    Parameters
    ----------
    config, alpha
        Settings and mixing logits (K of them).
    offset
        Added to the step to give its PE index: ``config.train_offset`` or ``config.decode_offset``.
    """

    config: SignalConfig
    alpha: Sequence[float]
    offset: int
    r: Tensor  # [B, d], the last signal; as the others, contiguous
    step: int = 0  # edges carried since the start
    raw_mix: Tensor  # [B, d], S before normalisation
    mix: Tensor  # [B, d], S_i, what the candidates of the next step see
    weighted: Tensor  # [B, d], the mix's numerator, scaled by exp(-peak)
    total: float = 0.0  # its denominator, scaled likewise
    peak: float = -math.inf  # the greatest alpha so far
    silent: frozenset[int] = frozenset()
    """Steps whose signal never enters the mix (`what_if`); a mix in which nothing is left is zero."""
    mix_at: int = 0
    """Address of `mix`, or 0: not known."""

    @staticmethod
    def start(
        config: SignalConfig,
        *,
        r_0: Tensor,
        node_bias: Tensor,
        alpha: Sequence[float],
        offset: int,
        silent: frozenset[int] = frozenset(),
        rooms: tuple[Vectors, Vectors] | None = None,
    ) -> Signal:
        """r_1 from r_0 [d] or [B, d] and the biases [B, d] of the nodes where the signals start.

        ``rooms``: see `NativeSignal`; a `TorchSignal` does not use them.
        """
        if config.first == "biased":
            r = gelu(r_0 + node_bias + first_encoding(config, node_bias))
        else:
            r = r_0.expand_as(node_bias).clone()
        silenced = 0 in silent
        first = torch.zeros_like(r) if silenced else r
        mix = normalised(first) if config.normalise_mix else first
        library = kernel.native(r)
        make: Callable[..., Signal] = (
            TorchSignal if library is None else partial(NativeSignal, library=library, rooms=rooms)
        )
        signal = make(
            config=config,
            alpha=alpha,
            offset=offset,
            r=r,
            raw_mix=first,
            mix=mix,
            weighted=torch.zeros_like(r),
            silent=silent,
        )
        if config.mix_from == 1 and not config.skip_current and not silenced:
            signal._add()
        return signal

    def carry(self, edges: PathEdges) -> Tensor:
        """One step along an edge each. Returns z [B, d], the signal before GELU."""
        skip, mix_from = self.config.skip_current, self.config.mix_from
        turn = not skip or self.step + 2 > mix_from  # a signal joins the mix: the last one, or the new one
        silenced = turn and (self.step if skip else self.step + 1) in self.silent
        z = self._advance(edges, takes=turn and not silenced)
        if silenced and self.total == 0.0:
            self._set_mix(torch.zeros_like(self.r))
        if not turn and self.step < mix_from:  # nothing to mix yet
            self._set_mix(torch.zeros_like(self.r) if self.step in self.silent else self.r)
        return z

    @abstractmethod
    def _advance(self, edges: PathEdges, *, takes: bool) -> Tensor:
        """Carries the signals along the edges, and with ``takes`` one of them into the mix. Returns z [B, d]."""

    def _weights(self) -> tuple[float, float]:
        """What the mix so far and the signal that it takes in next weigh: the running form of the softmax."""
        logit = alpha_at(self.alpha, self.step + 2 - self.config.mix_from)
        peak = max(self.peak, logit)
        keep, fresh = math.exp(self.peak - peak), math.exp(logit - peak)
        self.total = self.total * keep + fresh
        self.peak = peak
        return keep, fresh

    def _add(self) -> None:
        """Takes the last signal into the mix."""
        keep, fresh = self._weights()
        self.weighted = torch.add(self.weighted * keep, self.r, alpha=fresh)
        self._set_mix(self.weighted / self.total)

    def _set_mix(self, raw: Tensor) -> None:
        self.raw_mix = raw
        self.mix, self.mix_at = normalised(raw) if self.config.normalise_mix else raw, 0

    @property
    def drive(self) -> Tensor:
        """What the next path edge carries on [B, d]."""
        return self.mix if self.config.drive == "mix" else self.r

    @property
    def encoding(self) -> Tensor:
        """PE of the next step [d]."""
        return step_encoding(self.config, self.step + self.offset, self.r)


@dataclass(slots=True, kw_only=True)
class TorchSignal(Signal):
    """Signals in torch, on any device: the reference for `NativeSignal`."""

    def _advance(self, edges: PathEdges, *, takes: bool) -> Tensor:
        skip, drive = self.config.skip_current, self.drive
        W, b = edges.gather()
        z = torch.baddbmm(b[:, None], drive[:, None], W)[:, 0]
        if self.config.positional != "none":
            z = z + self.encoding
        if skip and takes:
            self._add()
        self.r = gelu(z)
        self.step += 1
        if not skip and takes:
            self._add()
        return z


@dataclass(slots=True, kw_only=True)
class NativeSignal(Signal):
    """Signals in the compiled kernel. Addresses of tensors are kept from one step to the next.

    Parameters
    ----------
    library
        What `kernels.native.load` returns for the width and dtype of the signals.
    rooms
        Where every other step writes, so that no step allocates: `r`, `mix`, `raw_mix`, `weighted` and the result of a
        step are overwritten two steps later.
    """

    library: ctypes.CDLL
    rooms: tuple[Vectors, Vectors] | None = None
    r_at: int = 0
    """Address of `r`, or 0: not known."""
    weighted_at: int = 0

    def _advance(self, edges: PathEdges, *, takes: bool) -> Tensor:
        config, r = self.config, self.r
        skip, normalise = config.skip_current, config.normalise_mix
        encoding = None if config.positional == "none" else self.encoding
        if not skip:
            self.step += 1
        keep, fresh = self._weights() if takes else (0.0, 0.0)
        out = Vectors.like(r, normalised=normalise) if self.rooms is None else self.rooms[self.step % 2]
        r_at, weighted_at = self.r_at or r.data_ptr(), self.weighted_at or self.weighted.data_ptr()
        drive_at = r_at if config.drive == "chain" else self.mix_at or self.mix.data_ptr()
        taken = 0 if not takes else 1 if skip else 2
        self.library.sifu_carry(
            len(r),
            drive_at,
            *edges.pointers,
            None if encoding is None else encoding.data_ptr(),
            out.address,
            taken,
            r_at,
            weighted_at,
            keep,
            fresh,
            self.total,
            normalise,
            NORM_EPS,
        )
        self.r, self.r_at = out.r, out.r_at
        if takes:
            self.weighted, self.raw_mix, self.mix = out.weighted, out.raw_mix, out.mix
            self.weighted_at, self.mix_at = out.weighted_at, out.mix_at
        if skip:
            self.step += 1
        return out.z
