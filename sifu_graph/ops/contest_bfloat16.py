"""The contest of rows whose W are bfloat16: one position at a time in the kernel, batches with copies as float32.

Each number is widened exactly, so that an energy has the bits of one that float32 rows of the rounded values give.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from sifu_graph.kernels import native as kernel
from sifu_graph.ops import contest
from sifu_graph.ops.contest import ContestBackend, Gradients, Outcome, Plan, Range, RowContest, Rows, Sink
from sifu_graph.ops.contest_native import NativeRowContest, cpu_contest
from sifu_graph.ops.contest_torch import TorchRowContest

WIDENED_EDGES = 8192
"""Edges that are widened at a time, if one row does not have more."""


class Bfloat16Contest:
    """See `contest.ContestBackend`. It trains nothing.

    Parameters
    ----------
    width, dtype
        d, and the type of signals and energies.
    """

    writes_in_file = False

    def __init__(self, width: int, dtype: torch.dtype = torch.float32) -> None:
        self._float32: ContestBackend = cpu_contest(width, dtype)
        self._library = kernel.load(width, dtype) if dtype == torch.float32 else None

    def forward(
        self, rows: Rows, group: Plan, S: Tensor, *, energies: bool = False, parts: Iterable[Range] | None = None
    ) -> tuple[Outcome, Tensor | None]:
        """See `contest.ContestBackend.forward`."""
        outcome, ends = contest.empty_outcome(rows, group, S), contest.energy_ends(group).tolist()
        flat = S.new_empty(ends[-1]) if energies else None
        first_edge, first_position = group.first_edge.tolist(), group.first_position.tolist()
        for part in group.whole if parts is None else parts:
            for first, stop in _cut(part, first_edge):
                edges = slice(first_edge[first], first_edge[stop])
                place = torch.full_like(rows.place, -1)
                place[edges] = torch.arange(edges.stop - edges.start)
                widened = replace(
                    rows, W=rows.W[rows.place[edges]].to(S.dtype), b=rows.b[rows.place[edges]], place=place
                )
                found, some = self._float32.forward(widened, group, S, energies=energies, parts=[(first, stop)])
                positions = slice(first_position[first], first_position[stop])
                for name in ("logsumexp", "target_energy", "best"):
                    getattr(outcome, name)[positions] = getattr(found, name)[positions]
                if flat is not None and some is not None:
                    flat[ends[first] : ends[stop]] = some[ends[first] : ends[stop]]
        return outcome, flat

    def train(
        self, rows: Rows, group: Plan, S: Tensor, *, weight: float, sink: Sink, parts: Iterable[Range] | None = None
    ) -> tuple[Outcome, Gradients]:
        """See `contest.ContestBackend.train`: never called."""
        raise AssertionError("rows of bfloat16 are not trained")

    def update_edges(self, rows: Rows, sink: Sink) -> None:
        """See `contest.ContestBackend.update_edges`: never called."""
        raise AssertionError("rows of bfloat16 are not trained")

    def scatter(self, sink: Sink, row: Tensor, left: Tensor, right: Tensor) -> None:
        """See `contest.ContestBackend.scatter`: never called."""
        raise AssertionError("rows of bfloat16 are not trained")

    def row_contest(self, rows: Rows, *, largest: int) -> RowContest:
        """See `contest.ContestBackend.row_contest`."""
        if self._library is None:
            return TorchRowContest(rows, largest=largest)
        return NativeRowContest(self._library.sifu_energies_bfloat16, rows, largest=largest)


def _cut(part: Range, first_edge: list[int]) -> list[Range]:
    """Consecutive ranges of the groups of a part, with at most `WIDENED_EDGES` edges each, or one group."""
    first, stop = part
    found = []
    while first < stop:
        end = first + 1
        while end < stop and first_edge[end + 1] - first_edge[first] <= WIDENED_EDGES:
            end += 1
        found.append((first, end))
        first = end
    return found
