"""The compiled kernel and the structures that cross its border."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import needs
import pytest
import torch

from sifu_graph.kernels import native
from sifu_graph.ops.contest_native import NativeContest, cpu_contest
from sifu_graph.ops.contest_torch import TorchContest


class Longer(ctypes.Structure):
    """`native.Past` with a field that the kernel does not have."""

    _fields_ = [*native.Past._fields_, ("more", ctypes.c_int64)]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Loads the kernel anew in the test and after it."""
    if native.compiler() is None:
        pytest.skip(needs.COMPILER)
    native.load.cache_clear()
    yield
    native.load.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_structures_have_the_sizes_of_the_kernel(dtype: torch.dtype) -> None:
    assert isinstance(cpu_contest(32, dtype), NativeContest)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_structures_of_another_size_are_not_used(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "Past", Longer)
    with pytest.warns(UserWarning, match="other sizes"):
        assert isinstance(cpu_contest(32, dtype), TorchContest)
