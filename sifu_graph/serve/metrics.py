"""What a server has done, in the text format of Prometheus.

The module knows numbers; it does not know requests.
"""

from __future__ import annotations

import bisect
import threading
from collections import Counter

BOUNDS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Bounds of the histograms."""


class Histogram:
    """How often a duration in seconds was at most each of `BOUNDS_S`."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS_S) + 1)
        self._sum_s = 0.0

    def add(self, seconds: float) -> None:
        """Count a duration."""
        self._counts[bisect.bisect_left(BOUNDS_S, seconds)] += 1
        self._sum_s += seconds

    def lines(self, name: str) -> list[str]:
        """The lines of a metric of this name."""
        out, total = [], 0
        for bound, count in zip((*map(str, BOUNDS_S), "+Inf"), self._counts, strict=True):
            total += count
            out.append(f'{name}_bucket{{le="{bound}"}} {total}')
        return [*out, f"{name}_sum {self._sum_s:.6f}", f"{name}_count {total}"]


class Metrics:
    """The counters of one server. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[int] = Counter()
        self._prompt_tokens = self._generated_tokens = 0
        self._first, self._request = Histogram(), Histogram()

    def request(self, status: int, seconds: float) -> None:
        """Count a request that ended."""
        with self._lock:
            self._requests[status] += 1
            self._request.add(seconds)

    def first_token(self, seconds: float) -> None:
        """Count the time from a request to its first token."""
        with self._lock:
            self._first.add(seconds)

    def tokens(self, *, prompt: int = 0, generated: int = 0) -> None:
        """Count tokens that were read and generated."""
        with self._lock:
            self._prompt_tokens += prompt
            self._generated_tokens += generated

    def text(self, *, sequences: int, snapshot: str) -> str:
        """All metrics as text.

        Parameters
        ----------
        sequences
            Number of sequences that are being generated.
        snapshot
            Id of the snapshot that is served.
        """
        with self._lock:
            requests = [f'sifu_requests_total{{status="{status}"}} {n}' for status, n in sorted(self._requests.items())]
            parts = (
                ("sifu_requests_total", "counter", "Requests that ended, by status.", requests),
                ("sifu_prompt_tokens_total", "counter", "Tokens of prompts.", [self._prompt_tokens]),
                ("sifu_generated_tokens_total", "counter", "Tokens that were generated.", [self._generated_tokens]),
                ("sifu_sequences", "gauge", "Sequences that are being generated.", [sequences]),
                ("sifu_snapshot_info", "gauge", "The snapshot.", [f'sifu_snapshot_info{{snapshot="{snapshot}"}} 1']),
                (
                    "sifu_first_token_seconds",
                    "histogram",
                    "Time to the first token.",
                    self._first.lines("sifu_first_token_seconds"),
                ),
                (
                    "sifu_request_seconds",
                    "histogram",
                    "Time of a request.",
                    self._request.lines("sifu_request_seconds"),
                ),
            )
        out = []
        for name, kind, text, lines in parts:
            out += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
            out += [line if isinstance(line, str) else f"{name} {line}" for line in lines]
        return "\n".join(out) + "\n"
