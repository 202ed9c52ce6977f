"""Rows with W in bfloat16: the bits of the float32 kernel on rounded rows, and a bound against rows that are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sifu_graph.edge_index import EdgeIndex, RowPlaces
from sifu_graph.kernels import native
from sifu_graph.ops import contest_bfloat16
from sifu_graph.ops.contest import Rows, plan
from sifu_graph.ops.contest_bfloat16 import Bfloat16Contest
from sifu_graph.ops.contest_native import cpu_contest

ROUNDOFF = 2.0**-8
"""Greatest relative error of a normal number that is rounded to a fraction of 7 bits."""
SLOPE = 1.13
"""Greatest slope of GELU: 1.1289."""


@pytest.fixture(params=["native", "torch"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "torch":
        monkeypatch.setenv("SIFU_KERNEL", "torch")
    native.load.cache_clear()
    request.addfinalizer(native.load.cache_clear)
    return request.param


def random_rows(width: int, edges: int, seed: int, *, size: float = 0.2, scale: float = 1.0) -> Rows:
    rng = torch.Generator().manual_seed(seed)
    W, b = torch.randn(edges + 3, width, width, generator=rng) * size, torch.randn(edges + 3, width, generator=rng)
    return Rows(W, b, torch.randperm(edges + 3, generator=rng)[:edges], W[0] * 0.5, b[0] * 0.5, b[:2] * 0.1, scale)


def halved(rows: Rows) -> tuple[Rows, Rows]:
    """The rows with W in bfloat16, and the same values as float32."""
    W = rows.W.bfloat16()
    others = rows.b, rows.place, rows.default_W, rows.default_b, rows.pe, rows.scale
    return Rows(W, *others), Rows(W.float(), *others)


@settings(max_examples=60, deadline=None)
@given(
    width=st.sampled_from([16, 32, 48]),
    edges=st.integers(0, 150),
    seed=st.integers(0, 1000),
    scale=st.sampled_from([1.0, -2.0]),
    size=st.sampled_from([0.0, 1e-3, 0.2, 3.0]),
    encoded=st.booleans(),
)
@pytest.mark.parametrize("path", ["native", "torch"])
def test_one_row(path: str, width: int, edges: int, seed: int, *, scale: float, size: float, encoded: bool) -> None:
    rows = random_rows(width, edges, seed, size=size, scale=scale)
    half, same = halved(rows)
    mix = torch.randn(1, width, generator=torch.Generator().manual_seed(seed + 1))
    pe = rows.pe[1] if encoded else None
    places = rows.place.numpy()
    row = RowPlaces(places, places.ctypes.data, edges)
    with pytest.MonkeyPatch.context() as patch:
        if path == "torch":
            patch.setenv("SIFU_KERNEL", "torch")
        native.load.cache_clear()
        of_half = Bfloat16Contest(width).row_contest(half, largest=edges)
        of_same = cpu_contest(width, torch.float32).row_contest(same, largest=edges)
        of_rows = cpu_contest(width, torch.float32).row_contest(rows, largest=edges)
    native.load.cache_clear()
    assert of_half.run(row, mix, pe) == of_same.run(row, mix, pe)
    assert of_half.found.tobytes() == of_same.found.tobytes()
    of_rows.run(row, mix, pe)
    bound = SLOPE * ROUNDOFF * (mix.abs() @ rows.W[rows.place].abs())[:, 0].norm(dim=-1).numpy()
    error = np.abs(of_half.found[:edges] - of_rows.found[:edges])
    assert (error <= bound + 1e-5 * (1 + of_rows.found[:edges])).all()
    assert of_half.found[edges] == of_rows.found[edges]  # the default edge is float32


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("at_a_time", [1, 40, 8192])
def test_a_batch_has_the_bits_of_rounded_rows(
    kernel: str, seed: int, at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contest_bfloat16, "WIDENED_EDGES", at_a_time)
    rng, n, width = np.random.default_rng(seed), 12, 16
    pairs = np.sort(rng.choice(n * n, 60, replace=False))
    slots = (pairs // n).astype(np.int32), (pairs % n).astype(np.int32), np.ones(60, np.int64)
    index = EdgeIndex.from_slots(n, *slots)
    source, target = rng.integers(0, n, 80), rng.integers(0, n, 80)
    group = plan(index, source=source, target=target, pe_row=np.zeros(80, np.int64), dtype=torch.float32)
    rows = random_rows(width, 60, seed)
    half, same = halved(Rows(rows.W, rows.b, group.slot, *list_of(rows)))
    S = torch.randn(80, width, generator=torch.Generator().manual_seed(seed))
    parts = [(0, 3), (3, len(group.source))]
    found, energies = Bfloat16Contest(width).forward(half, group, S, energies=True, parts=parts)
    expected, others = cpu_contest(width, torch.float32).forward(same, group, S, energies=True)
    assert torch.equal(energies, others)
    for name in ("logsumexp", "target_energy", "default_energy", "best"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


def list_of(rows: Rows) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    return rows.default_W, rows.default_b, rows.pe, rows.scale
