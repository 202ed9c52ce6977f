"""How a plan is cut up for a device: positions into tiles, rows into blocks, both into units and launches.

The words are those of `contest_tiled`, which computes on what is cut here. Which units there are depends on a group
alone. It knows positions, edges and places; it does not know energies or gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from sifu_graph.arrays import Ints, ranges
from sifu_graph.device import send
from sifu_graph.ops.contest import Plan, Rows

BLOCK = 16  # edges
TILES = (256, 64, 16, 4)  # positions
LAUNCH_BYTES = 64 << 20  # of the candidates' inputs in one launch
CPU_LAUNCH_BYTES = 1 << 20  # where large launches bring nothing
PIECE_BLOCKS = 2048  # of whose edges the gradients are held at a time: 128 MiB for d = 32
PIECE_PAIRS = 1 << 24  # (position, candidate) pairs whose energies are held at a time


@dataclass(frozen=True, slots=True)
class Tiles:
    """The segments and units of one size of tile in a piece. The last segment is empty: it fills launches up."""

    size: int
    position: Tensor  # int64 [segments + 1, size], in the plan; T: none
    segment: Tensor  # int64 [units, filled up], of every unit
    block: Tensor  # int64 [units, filled up]
    units: int
    lengths: Tensor  # int64 [segments], units of each
    first_unit: Tensor  # int64 [segments]
    turns: list[int]  # units between which no block comes twice


@dataclass(frozen=True, slots=True)
class Piece:
    """Some groups of a plan, cut up. The last block is empty."""

    edges: slice  # of the plan
    place: Tensor  # int64 [blocks + 1, BLOCK], 0 where there is no edge
    real: Tensor  # bool [blocks + 1, BLOCK]
    base: Tensor  # int64 [blocks + 1], rank of a block's first edge
    padded: Tensor  # int64 [edges], where each edge lies among the blocks
    flat: Tensor  # int64 [blocks + 1], where the energies of a block's group begin, less its first position's
    row: Tensor  # int64 [blocks + 1], edges in the row
    tiles: list[Tiles]

    @property
    def blocks(self) -> int:
        """The number of blocks, without the empty one."""
        return len(self.base) - 1


class Cutter:
    """Cuts plans into pieces.

    Parameters
    ----------
    device
        Where the tensors of a piece are.
    launch_bytes
        Bytes of the candidates' inputs in one launch. It decides the shape of a launch.
    piece_blocks, piece_pairs
        Blocks of edges, and pairs of a position and a candidate, that a piece has at most (one group at least).
    """

    def __init__(self, device: torch.device, *, launch_bytes: int, piece_blocks: int, piece_pairs: int) -> None:
        self.device, self.launch_bytes = device, launch_bytes
        self.piece_blocks, self.piece_pairs = piece_blocks, piece_pairs

    def launch(self, size: int, width: int, item_bytes: int) -> int:
        """The number of units in a launch: the same for every launch of one size of tile."""
        return max(1, self.launch_bytes // (BLOCK * width * max(size, width) * item_bytes))

    def pieces(self, group: Plan, rows: Rows, first: int, stop: int, ends: Ints) -> Iterator[Piece]:
        """The groups first .. stop - 1 of a plan, in pieces of whole groups.

        ``ends`` is `contest.energy_ends` of the plan, int64 [G + 1].
        """
        positions = np.diff(group.first_position.numpy())[first:stop]
        blocks = -(-np.diff(group.first_edge.numpy())[first:stop] // BLOCK)
        pairs = _padded(positions) * blocks * BLOCK
        begin = 0
        while begin < stop - first:
            fits = (np.cumsum(blocks[begin:]) <= self.piece_blocks) & (np.cumsum(pairs[begin:]) <= self.piece_pairs)
            end = begin + max(1, int(fits.argmin()) if not fits.all() else len(fits))
            if blocks[begin:end].any():
                yield self._piece(group, rows, first + begin, first + end, ends)
            begin = end

    def _piece(self, group: Plan, rows: Rows, first: int, stop: int, ends: Ints) -> Piece:
        first_edge = group.first_edge.numpy()[first : stop + 1]
        first_position = group.first_position.numpy()[first : stop + 1]
        sizes = np.diff(first_edge)
        blocks = -(-sizes // BLOCK)
        first_block = np.cumsum(blocks) - blocks
        of = np.repeat(np.arange(stop - first), blocks)  # the group of each block
        base = (np.arange(len(of)) - first_block[of]) * BLOCK
        rank = base[:, None] + np.arange(BLOCK)
        real = rank < sizes[of][:, None]
        edge = np.where(real, first_edge[of][:, None] + rank, 0)
        place = np.where(real, rows.place.numpy()[edge], 0)
        empty = np.zeros(1, np.int64)
        flat = ends[first:stop][of] - first_position[of] * sizes[of]
        launches = {size: self.launch(size, rows.W.shape[1], rows.W.element_size()) for size in TILES}
        return Piece(
            edges=slice(int(first_edge[0]), int(first_edge[-1])),
            place=send(np.concatenate([place, np.zeros((1, BLOCK), np.int64)]), self.device),
            real=send(np.concatenate([real, np.zeros((1, BLOCK), bool)]), self.device),
            base=send(np.append(base, empty), self.device),
            padded=send(ranges(first_block * BLOCK, sizes), self.device),
            flat=send(np.append(flat, empty), self.device),
            row=send(np.append(sizes[of], empty), self.device),
            tiles=list(self._tiles(first_position, blocks, first_block, launches)),
        )

    def _tiles(
        self, first_position: Ints, blocks: Ints, first_block: Ints, launches: dict[int, int]
    ) -> Iterator[Tiles]:
        positions, count = np.diff(first_position), len(blocks)
        nowhere, empty = int(blocks.sum()), np.zeros(0, np.int64)
        done = np.zeros(count, np.int64)
        for size, tiles in zip(TILES, _tile_counts(positions), strict=True):
            tiles = np.where(blocks > 0, tiles, 0)
            if tiles.any():
                of = np.repeat(np.arange(count), tiles)  # the group of each segment
                turn = np.arange(len(of)) - np.repeat(np.cumsum(tiles) - tiles, tiles)
                order = np.lexsort((of, turn))
                of, turn = of[order], turn[order]
                begin = first_position[of] + done[of] + turn * size
                position = begin[:, None] + np.arange(size)
                position = np.where(position < first_position[of + 1][:, None], position, first_position[-1])
                lengths = blocks[of]
                ends = np.cumsum(lengths)
                units = int(ends[-1])
                more = -units % launches[size]
                segment = np.append(np.repeat(np.arange(len(of)), lengths), np.full(more, len(of)))
                block = np.append(ranges(first_block[of], lengths), np.full(more, nowhere))
                turns = np.append(empty, ends[np.flatnonzero(np.diff(turn))])
                yield Tiles(
                    size=size,
                    position=self._positions(position, first_position),
                    segment=send(segment, self.device),
                    block=send(block, self.device),
                    units=units,
                    lengths=send(lengths, self.device),
                    first_unit=send(ends - lengths, self.device),
                    turns=[0, *turns.tolist(), units],
                )
            done += tiles * size

    def _positions(self, position: Ints, first_position: Ints) -> Tensor:
        """With one empty segment more; -1 (the last row of every tensor of the batch) where there is no position."""
        position = np.where(position < first_position[-1], position, -1)
        return send(np.concatenate([position, np.full((1, position.shape[1]), -1)]), self.device)


def _tile_counts(positions: Ints) -> Iterator[Ints]:
    """How many tiles of each size the positions of every group are cut into; at most half of one is empty."""
    left = positions
    for size in TILES:
        tiles = left // size
        rest = left - tiles * size
        tiles = tiles + ((rest > 0) if size == TILES[-1] else (rest > size // 2))
        left = np.maximum(0, left - tiles * size)
        yield tiles


def _padded(positions: Ints) -> Ints:
    """Positions of every group with those that fill up its tiles."""
    return sum(
        (size * tiles for size, tiles in zip(TILES, _tile_counts(positions), strict=True)), np.zeros_like(positions)
    )


def without_repeats(turns: list[int], at: slice) -> Iterator[slice]:
    """The real units of a launch, in runs in which no block comes twice."""
    for begin, end in pairwise(turns):
        if max(begin, at.start) < min(end, at.stop):
            yield slice(max(begin, at.start), min(end, at.stop))
