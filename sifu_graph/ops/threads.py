"""Linear algebra whose bits do not depend on the number of threads, nor on how many other rows a table has.

A BLAS divides a product among its threads; the order of the sums, which decides the last bits, depends on the parts. It
computes the columns that fill no block in an order of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

FEW = 256
"""Rows of a product up to which it runs in one thread. Measured with MKL 2024.2 and 2 to 16 threads: some products of 5
to 27 rows had other bits than with 1 thread, none of 28 rows or more."""

BLOCK = 64
"""`padded` fills up to a multiple of this. With MKL 2024.2 a multiple of 8 was enough, for widths of 16 to 64."""


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """The operations of torch on the CPU run in one thread within this context."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def one_thread() -> Iterator[None]:
    """The linear algebra of numpy, scipy and torch runs in one thread within this context."""
    with threadpool_limits(1, user_api="blas"), one_torch_thread():
        yield


def padded(rows: Tensor) -> Tensor:
    """Rows [n, d] with rows of zeros up to a multiple of `BLOCK`: a product with each has the same bits for any n."""
    return torch.nn.functional.pad(rows, (0, 0, 0, -len(rows) % BLOCK))


def product(left: Tensor, right: Tensor) -> Tensor:
    """left right [T, e] of [T, d] and [d, e]; on the CPU in an order that the number of threads does not change."""
    if left.device.type != "cpu" or len(left) > FEW:
        return left @ right
    with one_torch_thread():
        return left @ right
