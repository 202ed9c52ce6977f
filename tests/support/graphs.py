"""Random graphs, as the package has them and as the oracle has them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import oracle
import torch

from sifu_graph.config import PRESETS, SignalConfig, initial_signal
from sifu_graph.edge_index import EdgeIndex
from sifu_graph.model.forward import Batch
from sifu_graph.model.parameters import Parameters
from sifu_graph.ops.initial import EdgeInitializer
from sifu_graph.ops.origins import origins_of_build
from sifu_graph.paging.edge_pool import EdgePool
from sifu_graph.text.kneser_ney import Counts

EDGE_PRESETS = sorted(name for name, config in PRESETS.items() if not config.base)
"""Presets whose edges have parameters of their own: those of `oracle`."""


@dataclass
class Random:
    """One random graph twice: with shared tensors, so that both see the same numbers."""

    parameters: Parameters
    model: oracle.Model


def random_graph(
    seed: int,
    *,
    nodes: int,
    share: float,
    config: SignalConfig,
    width: int = 32,
    alphas: int = 6,
    dtype: torch.dtype = torch.float64,
    amplitude: float = 0.5,
) -> Random:
    rng = np.random.default_rng(seed)
    keys = np.flatnonzero(rng.random(nodes * nodes) < share)
    source, target = (keys // nodes).astype(np.int32), (keys % nodes).astype(np.int32)
    edges = len(keys)
    scattered = rng.permutation(edges)  # slots in any order: the index sorts
    index = EdgeIndex.from_slots(nodes, source[scattered], target[scattered], np.ones(edges, np.int64))
    zero = np.zeros(nodes, np.int64)
    counts = Counts(zero, zero.astype(np.float64), zero, (0.5, 0.5, 0.5))
    initial = EdgeInitializer.create(
        method="uniform", seed=seed, config=config, width=width, length=8, nodes=nodes, keys=nodes + 1,
        origins=origins_of_build("uniform", index, counts, slots=edges),
    )  # fmt: skip
    pool = EdgePool(initial, slots=edges, dtype=dtype)
    pool.require(np.arange(edges))

    def draw(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.uniform(-amplitude, amplitude, shape)).to(dtype)

    if edges:
        pool.W.copy_(draw(edges, width, width))
        pool.b.copy_(draw(edges, width))
    small = {
        "default/weight": draw(width, width),
        "default/bias": draw(width),
        "nodes/bias": draw(nodes, width),
        "signal/alpha": draw(alphas),
        "signal/scale": torch.full((1,), 1.3 if config.learn_scale else 1.0, dtype=dtype),
    }
    r_0 = torch.from_numpy(initial_signal(config, width, seed)).to(dtype)
    parameters = Parameters(index, pool, r_0, small)
    private = {
        (int(u), int(v)): slot for slot, (u, v) in enumerate(zip(source[scattered], target[scattered], strict=True))
    }
    leaves = {name: value.clone().requires_grad_() for name, value in small.items()}
    model = oracle.Model(
        nodes, private, pool.W.clone().requires_grad_(), pool.b.clone().requires_grad_(), leaves["default/weight"],
        leaves["default/bias"], leaves["nodes/bias"], leaves["signal/alpha"], r_0, leaves["signal/scale"],
    )  # fmt: skip
    return Random(parameters, model)


def texts(seed: int, *, nodes: int, batch: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Padded tokens [B, L] in which sources repeat, and lengths [B] from 2 on."""
    rng = np.random.default_rng([seed, 1])
    tokens = rng.integers(0, max(2, nodes // 2), (batch, length)).astype(np.int32)
    lengths = rng.integers(2, length + 1, batch)
    return tokens, lengths.astype(np.int64)


def in_text_order(batch: Batch, config: SignalConfig, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Where each position of a plan stands in the texts, one text after the other, as the oracle runs them: int64 [T].

    A signal's resets cut the texts: all first pieces come first, then all second ones of the texts that have one.
    """
    steps = tokens.shape[1] - 1
    cut = config.reset_after if config.reset_after is not None and config.reset_after < steps else steps
    pieces = [
        (row, at) for at in range(0, steps, cut) for row in range(len(tokens)) if at == 0 or lengths[row] - 1 > at
    ]
    row, at = np.array(pieces).T
    piece, step = np.divmod(batch.places.numpy(), batch.steps)
    before = np.append(0, np.cumsum(lengths - 1))
    return np.asarray(before[row[piece]] + at[piece] + step)
