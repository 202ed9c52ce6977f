"""Ctrl-C, SIGTERM and SIGHUP as a request to stop after the current step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sifu_graph.training.options import Remaining


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C ended the training at once. Its text says what is kept; ``left`` is the rest of the run."""

    def __init__(self, text: str, left: Remaining) -> None:
        super().__init__(text)
        self.left = left


@contextmanager
def interrupts() -> Iterator[threading.Event]:
    """Set by the first Ctrl-C, SIGTERM or SIGHUP, where this is the main thread; the second has its usual effect.

    A signal that is ignored stays ignored.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    previous: dict[int, Any] = {}

    def handle(number: int, frame: Any) -> None:
        event.set()
        signal.signal(number, previous[number])

    numbers = [getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP")]
    for number in filter(None, numbers):  # Windows has no SIGHUP
        if signal.getsignal(number) is not signal.SIG_IGN:
            previous[int(number)] = signal.signal(number, handle)
    try:
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
