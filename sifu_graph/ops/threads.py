"""Linear algebra whose bits do not depend on the number of threads.

A BLAS divides a product among its threads; the order of the sums, which decides the last bits, depends on the parts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

T = TypeVar("T")
R = TypeVar("R")

FEW = 256
"""Rows of a product up to which it runs in one thread. Measured with MKL 2024.2 and 2 to 16 threads: some products of 5
to 27 rows had other bits than with 1 thread, none of 28 rows or more."""


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
def one_thread() -> Iterator[int]:
    """The linear algebra of numpy, scipy and torch runs in one thread within this context.

    Yields the number of threads that torch has outside, for `in_order`.
    """
    threads = torch.get_num_threads()
    with threadpool_limits(1, user_api="blas"), one_torch_thread():
        yield threads


def in_order(work: Callable[[T], R], items: Iterable[T], *, threads: int) -> Iterator[R]:
    """``work(item)`` of every item, computed by several threads and returned in the order of the items.

    At most ``threads`` results are computed ahead of the one that is returned.
    """
    if threads == 1:
        yield from map(work, items)
        return
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="sifu-worker") as workers:
        for item in items:
            waiting.append(workers.submit(work, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def product(left: Tensor, right: Tensor) -> Tensor:
    """left right [T, e] of [T, d] and [d, e]; on the CPU in an order that the number of threads does not change."""
    if left.device.type != "cpu" or len(left) > FEW:
        return left @ right
    with one_torch_thread():
        return left @ right
