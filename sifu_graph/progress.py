"""How far a long operation is: its stages, and the callback that receives the reports.

It knows numbers and times; it does not know who shows them (`progress_bar` shows them to a person).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")

EVERY_S = 0.1
"""Least seconds between two reports of a stage, except its first and its last one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressReport:
    """How far one stage of a long operation is.

    Attributes
    ----------
    stage
        What is being done, in words. An operation reports one stage after another.
    done, total
        How much is done, and how much there is to do, in ``unit``. ``total`` None: it is not known.
    unit
        What is counted: ``tokens``, ``edges``, ``bytes``, ...
    seconds
        Since the stage began.
    eta_s
        Seconds until the stage ends, at its rate so far; None: not known.
    detail
        Figures of the moment, such as the perplexity of a training; may be empty.
    """

    stage: str
    done: int
    total: int | None
    unit: str
    seconds: float
    eta_s: float | None
    detail: str = ""

    @property
    def share(self) -> float | None:
        """The share (0 to 1) of the stage that is done; None: it is not known."""
        if self.total is None:
            return None
        return min(1.0, self.done / self.total) if self.total else 1.0


OnProgress = Callable[[ProgressReport], None]
"""Called with reports. An exception that it raises ends the operation."""


ProgressOption = bool | OnProgress | None
"""What a parameter ``progress`` takes: a callback; None: a bar, where a person looks; True; or False: nothing."""


class Stages:
    """Makes the stages of an operation, which report to a callback; None: they report nothing."""

    def __init__(self, on_progress: OnProgress | None = None) -> None:
        self._on_progress = on_progress

    def stage(self, what: str, total: int | None = None, unit: str = "") -> Stage:
        """Begins a stage, and reports that; ``what``, ``total`` and ``unit`` are those of `ProgressReport`."""
        return Stage(what, total, unit, self._on_progress)

    def counted(self, what: str, unit: str) -> Callable[[int, int], None]:
        """A stage that begins with its first report: a function of how much is done, and of how much there is to do."""
        begun: list[Stage] = []

        def report(done: int, total: int) -> None:
            if not begun:
                begun.append(self.stage(what, total, unit))
            begun[0].at(done)

        return report

    def also(self, act: Callable[[], None]) -> Stages:
        """The same stages, with something that is done before each report."""
        report = self._on_progress
        if report is None:
            return self

        def both(found: ProgressReport) -> None:
            act()
            report(found)

        return Stages(both)


class Stage:
    """One stage. It is over when the next one begins, or the operation ends."""

    def __init__(self, what: str, total: int | None, unit: str, on_progress: OnProgress | None) -> None:
        self._what, self._total, self._unit, self._on_progress = what, total, unit, on_progress
        self.done, self._detail = 0, ""
        self._began = time.monotonic()
        self._report()

    def advance(self, amount: int = 1) -> None:
        """Adds to what is done."""
        self.at(self.done + amount)

    def at(self, done: int, total: int | None = None, *, eta_s: float | None = None, detail: str = "") -> None:
        """Sets what is done.

        Parameters
        ----------
        done, total
            As of `ProgressReport`; ``total`` None: as before.
        eta_s
            None: computed from the time so far.
        detail
            Figures of the moment.
        """
        self.done, self._total, self._detail = done, self._total if total is None else total, detail
        over = self._total is not None and done >= self._total
        if self._on_progress is not None and (over or time.monotonic() - self._reported >= EVERY_S):
            self._report(eta_s=eta_s, detail=detail)

    def note(self, detail: str) -> None:
        """Reports what is being done beside the stage, at once."""
        self._report(detail=detail)

    def end(self) -> None:
        """Reports that the stage is over: what is done is all of it."""
        if self._total is not None and self.done != self._total:
            self._total = self.done
            self._report(eta_s=0.0, detail=self._detail)

    def track(self, items: Iterable[Item], size: Callable[[Item], int] = lambda _: 1) -> Iterator[Item]:
        """The items; after each, as much as its ``size`` is done."""
        for item in items:
            yield item
            self.advance(size(item))

    def _report(self, *, eta_s: float | None = None, detail: str = "") -> None:
        self._reported = now = time.monotonic()
        if self._on_progress is None:
            return
        done, total, seconds = self.done, self._total, now - self._began
        if total is not None:
            done = min(done, total)
            if eta_s is None and done:
                eta_s = seconds * (total - done) / done
        self._on_progress(
            ProgressReport(
                stage=self._what,
                done=done,
                total=total,
                unit=self._unit,
                seconds=seconds,
                eta_s=eta_s,
                detail=detail,
            )
        )


SILENT = Stages()
"""Stages that report nothing."""


def duration(seconds: float) -> str:
    """`3.4 s`, `2:05 min`, `1:02:03 h`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"
