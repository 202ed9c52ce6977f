"""What an edge is before it was ever trained: from counts, or from a hash. Any page of it, at any time, the same bits.

It knows the index, counts and settings; it does not know stores, caches or training.

``counts``
    The new graph *is* a smoothed bigram model. W = 0, and the bias of edge (u, v) gives it the energy
    ``E_base + log(p(v | u) / share)``, where p is interpolated Kneser-Ney with three discounts (Chen & Goodman 1999,
    section 3) and ``share`` the probability that is left for one default edge of u. The bias points along a direction
    of its own for every target v, so that the signal says which node it has reached.
``uniform``
    The paper's U(-0.5, 0.5), each element from a hash of (seed, u, v, element): moving an edge never changes it.

An edge's values depend on its *origin*, two keys of nodes, and on its *energy* alone. At the build the keys are the
numbers of the nodes and the energies come from the counts; the first edit stores both, so that whatever is added,
removed, counted or moved later changes no other edge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sifu_store.layout import WEIGHT

from sifu_graph.arrays import Doubles, Floats
from sifu_graph.config import SignalConfig
from sifu_graph.ops.origins import BASE_ENERGY, Origins

ACTIVE = 8
"""Dimensions that the direction of one node takes up."""


def mean_encoding(config: SignalConfig, width: int, length: int) -> Doubles:
    """The mean positional encoding of a text of ``length`` tokens [d]."""
    return _dimensions(config, width, length)[1]


def _dimensions(config: SignalConfig, width: int, length: int) -> tuple[NDArray[np.int64], Doubles]:
    """The dimensions in which the positional encoding hardly moves over a text (at least `ACTIVE` of them, if the width
    allows), and the encoding's mean [d]."""
    if config.positional == "none":
        spread = mean = np.zeros(width)
    else:  # as the signal has it
        import torch

        from sifu_graph.ops.positional import positional_encoding

        positions = torch.arange(length) + config.train_offset
        encoding = positional_encoding(config, positions, width, torch.float64).numpy()
        spread, mean = encoding.std(0), encoding.mean(0)
    steadiest = np.argsort(spread, kind="stable")[: max(ACTIVE, int((spread < 0.15).sum()))]
    return np.sort(steadiest), mean


@dataclass(frozen=True, slots=True)
class EdgeInitializer:
    """The values of untrained edges: ``weight``/``bias`` of any slots, the default edge, the node biases."""

    method: Literal["counts", "uniform"]
    seed: int
    width: int
    origins: Origins
    nodes: int  # n at the build: the key of the default edge
    direction: Floats  # [keys, d], unit vectors
    offset: Doubles  # [keys, 2]: M and Q, see `_amplitude`

    @classmethod
    def create(
        cls,
        *,
        method: Literal["counts", "uniform"],
        seed: int,
        config: SignalConfig,
        width: int,
        length: int,
        nodes: int,
        keys: int,
        origins: Origins,
    ) -> EdgeInitializer:
        """For edges with these origins; ``nodes`` at the build, ``keys`` given out since, ``length`` of its texts."""
        dimensions, mean = _dimensions(config, width, length)
        if config.base:  # an edge adds nothing to the base until it is trained
            direction = np.zeros((keys, width), np.float32)
        else:
            direction = _directions(nodes, keys, width, dimensions, seed)
        still = _gelu(mean) ** 2
        on = direction > 0
        offset = np.stack(
            [(direction * mean).sum(1), (on * mean**2).sum(1) + (~on * still).sum(1)], axis=1, dtype=np.float64
        )
        return cls(method, seed, width, origins, nodes, direction, offset)

    def energies(self, slots: NDArray[np.int64]) -> Floats:
        """The energies that these edges are generated with, float32 [k]; NaN: their values come from the hash."""
        return self.origins.energies(slots)

    def _amplitude(self, energy: Doubles, node: NDArray[np.integer[Any]]) -> Doubles:
        """a such that the bias ``a * direction`` has the energy: a^2 + 2 a M + Q = E^2.

        M is the mean positional encoding along the direction, Q what it adds in the square (where the direction
        points GELU is linear; elsewhere only the encoding acts).
        """
        M, Q = self.offset[node, 0], self.offset[node, 1]
        amplitude: Doubles = -M + np.sqrt(np.maximum(M**2 - Q + energy**2, 0.0))
        return amplitude

    def values(self, name: str, slots: NDArray[np.int64]) -> Floats | None:
        """``edges/weight`` [k, d, d] or ``edges/bias`` [k, d] of these slots; None: zeros."""
        return self.weight(slots) if name == WEIGHT else self.bias(slots)

    def weight(self, slots: NDArray[np.int64]) -> Floats | None:
        """[slots, d, d], or None for zeros."""
        hashed = np.isnan(self.energies(slots))
        if not hashed.any():
            return None
        values = self._uniform(slots, np.arange(self.width**2)).reshape(len(slots), self.width, self.width)
        values[~hashed] = 0.0
        return values

    def bias(self, slots: NDArray[np.int64]) -> Floats:
        """[slots, d]."""
        energy = self.energies(slots).astype(np.float64)
        hashed = np.isnan(energy)
        if hashed.all():
            return self._uniform(slots, self.width**2 + np.arange(self.width))
        values = self.counted_bias(energy, self.origins.keys(slots)[:, 1])
        if hashed.any():
            values[hashed] = self._uniform(slots[hashed], self.width**2 + np.arange(self.width))
        return values

    def counted_bias(self, energy: Doubles, key: NDArray[np.integer[Any]]) -> Floats:
        """Biases [k, d] along the directions of these keys, with these energies."""
        values: Floats = (self._amplitude(energy, key)[:, None] * self.direction[key]).astype(np.float32)
        return values

    def default(self) -> tuple[Floats, Floats]:
        """W [d, d] and b [d] of the default edge."""
        if self.method == "uniform":
            values = uniform(self.seed, self.nodes, self.nodes, np.arange(self.width**2 + self.width))
            return values[: self.width**2].reshape(self.width, self.width), values[self.width**2 :]
        bias = self._amplitude(np.array([BASE_ENERGY]), np.array([self.nodes]))[0] * self.direction[self.nodes]
        return np.zeros((self.width, self.width), np.float32), bias.astype(np.float32)

    def node_bias(self, keys: NDArray[np.integer[Any]] | None = None) -> Floats:
        """[n, d]: a node's own direction, or U(-0.5, 0.5). Of all nodes of the build, or of these keys."""
        keys = np.arange(self.nodes) if keys is None else keys
        if self.method == "uniform":
            return uniform(self.seed, keys[:, None], self.nodes, np.arange(self.width)[None])
        return (BASE_ENERGY * self.direction[keys]).astype(np.float32)

    def _uniform(self, slots: NDArray[np.int64], elements: NDArray[np.int64]) -> Floats:
        keys = self.origins.keys(slots)
        return uniform(self.seed, keys[:, :1], keys[:, 1:], elements[None])


def _gelu(mean: Doubles) -> Doubles:
    """GELU of the mean encoding [d]; of zeros without torch.

    Not `functional.gelu`, whose last bit is another: the values of every edge that was never trained depend on it.
    """
    if not mean.any():
        return mean
    import torch

    return np.asarray(torch.nn.functional.gelu(torch.from_numpy(mean)))


def _directions(nodes: int, keys: int, width: int, dimensions: NDArray[np.int64], seed: int) -> Floats:
    """Unit vectors with equal entries in `ACTIVE` of the dimensions, chosen by a hash [keys, d].

    Keys below ``nodes`` are those of the nodes at the build, then comes that of the default edge, then later nodes'.

    With no more than `ACTIVE` dimensions to choose from, every node gets the same one.
    """
    active = min(ACTIVE, len(dimensions))
    order = uniform(seed, np.arange(keys)[:, None], nodes + 1, dimensions[None]).argsort(1, kind="stable")
    out = np.zeros((keys, width), np.float32)
    np.put_along_axis(out, dimensions[order[:, :active]], np.float32(1 / np.sqrt(active)), 1)
    return out


def uniform(seed: int, u: Any, v: Any, element: Any) -> Floats:
    """U(-0.5, 0.5), float32 of the shape that u, v and element broadcast to: a hash of (seed, u, v, element) by three
    rounds of splitmix64 (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        h = _mix(np.asarray(seed, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15))
        h = _mix(h ^ (np.asarray(u).astype(np.uint64) << np.uint64(32)) ^ np.asarray(v).astype(np.uint64))
        h = _mix(h + np.asarray(element).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    unit = ((h >> np.uint64(40)).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-24)  # in (0, 1)
    values: Floats = unit - np.float32(0.5)
    return values


def _mix(x: Any) -> Any:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
