"""Threads that work ahead of a generator. The module knows threads alone."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def pool(threads: int, *, name: str = "sifu") -> Iterator[ThreadPoolExecutor]:
    """A pool of threads, for a generator: at the end, no thread is waited for.

    The garbage collector may end a generator while its thread holds a lock of `threading` that a thread needs to end:
    waiting for that one would never end.
    """
    found = ThreadPoolExecutor(threads, thread_name_prefix=name)
    try:
        yield found
    finally:
        found.shutdown(wait=False, cancel_futures=True)
