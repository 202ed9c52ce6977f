"""Positional encodings: PE_i is added to the signal at step i, and to the energy's argument of every candidate.

It knows positions and `SignalConfig`; it does not know signals or edges.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from sifu_graph.config import Positional, SignalConfig

ENCODINGS = 512  # positions whose encodings are computed together


def positional_encoding(config: SignalConfig, positions: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """PE of the given integer positions, [..., d].

    ``sinusoid``: sin and cos of position / 10000^(2j/d) in dimensions 2j and 2j+1 (Vaswani et al. 2017, 3.5).
    """
    shape = (*positions.shape, width)
    if config.positional == "none":
        return torch.zeros(shape, dtype=dtype, device=positions.device)
    exponent = torch.arange(0, width, 2, device=positions.device) / width
    rate = 10000.0**exponent if config.positional == "brillm05" else 1.0 / 10000.0**exponent
    angle = positions[..., None] * rate  # float32, as the released code computes it
    encoding = torch.empty(shape, dtype=dtype, device=positions.device)
    encoding[..., 0::2] = torch.sin(angle).to(dtype)
    encoding[..., 1::2] = torch.cos(angle).to(dtype)
    return encoding


def first_encoding(config: SignalConfig, like: Tensor) -> Tensor:
    """PE_0 [d], in the dtype and on the device of ``like``."""
    return step_encoding(config, 0, like)


def step_encoding(config: SignalConfig, position: int, like: Tensor) -> Tensor:
    """PE of one position [d], in the dtype and on the device of ``like``."""
    if config.positional == "none":
        return like.new_zeros(like.shape[-1])
    block = _encodings(config.positional, position // ENCODINGS, like.shape[-1], like.dtype, like.device)
    return block[position % ENCODINGS]


@functools.lru_cache(maxsize=4)
def _encodings(kind: Positional, block: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """PE of `ENCODINGS` positions, made at once because decoding asks for them one by one [ENCODINGS, d]."""
    positions = torch.arange(block * ENCODINGS, (block + 1) * ENCODINGS, device=device)
    return positional_encoding(SignalConfig(positional=kind), positions, width, dtype)
