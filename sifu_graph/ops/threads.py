"""Linear algebra whose bits do not depend on the number of threads.

A BLAS cuts a product among its threads, and with it the order of its sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits


@contextmanager
def one_thread() -> Iterator[None]:
    """The linear algebra of numpy, scipy and torch runs in one thread within this context."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(threads)
