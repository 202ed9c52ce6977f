"""Threads that work on many jobs in turns, a few milliseconds each, so that none waits for another to end.

A job is a generator of results. Its results go to the event loop that asked for it; a reader that is slow stops its own
job alone. The module knows generators and event loops; it does not know what the results are.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")

TURN_S = 0.003
"""Length of a turn. A job that is new waits for one turn of each of the others at most."""
MOST_UNREAD = 256
"""Unread results after which a job waits for its reader."""


class Busy(Exception):  # noqa: N818  (not an error of the server)
    """There are as many jobs as may be."""


class Job(Generic[Result]):
    """The results of one generator, as an asynchronous iterator. Leave it by `close` in any case.

    Raises
    ------
    Exception
        What the generator raised, once its results have been read.
    """

    def __init__(self, turns: Turns, work: Iterator[Result | None], end: Callable[[], None]) -> None:
        self._turns, self.work, self._end = turns, work, end
        self._loop, self._news = asyncio.get_running_loop(), asyncio.Event()
        self._results: deque[Result] = deque()
        self._error: Exception | None = None
        self.finished = self.closed = self.waits = False

    @property
    def full(self) -> bool:
        """Whether it has `MOST_UNREAD` results, and waits for its reader."""
        return len(self._results) >= MOST_UNREAD

    def turn(self) -> None:
        """Work for one turn, in a thread of `Turns`."""
        until = time.monotonic() + TURN_S
        try:
            while not self.closed and not self.full and time.monotonic() < until:
                result = next(self.work)
                if result is not None:
                    self._results.append(result)
        except StopIteration:
            self._finish()
        except Exception as error:
            self._error = error
            self._finish()
        if self.closed and not self.finished:
            self._finish()
        elif self._results:
            self._tell()

    def _finish(self) -> None:
        self.work = iter(())
        self._end()
        self.finished = True
        self._tell()

    def _tell(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._news.set)

    async def read(self) -> list[Result]:
        """All results since the last call; waits until there are some. Empty: that was all."""
        while True:
            self._news.clear()
            finished = self.finished
            found = []
            while self._results:
                found.append(self._results.popleft())
            self._turns.resume(self)
            if found:
                return found
            if finished:
                if self._error is not None:
                    raise self._error
                return []
            await self._news.wait()

    def close(self) -> None:
        """Nothing more is read: the job ends at its next turn."""
        self.closed = True
        self._turns.resume(self)


class Turns:
    """Some threads, and the jobs that they work on.

    Parameters
    ----------
    threads
        Number of threads: of jobs that work at the same moment.
    most
        Number of jobs that may be, 1 or more.
    """

    def __init__(self, *, threads: int, most: int) -> None:
        self.most = most
        self._ready: deque[Job[Any]] = deque()
        self._jobs = 0
        self._change = threading.Condition()
        self._stopped = False
        self._threads = [threading.Thread(target=self._run, name=f"turns-{k}", daemon=True) for k in range(threads)]
        for thread in self._threads:
            thread.start()

    @property
    def jobs(self) -> int:
        """Number of jobs that have not ended."""
        return self._jobs

    def require_room(self, jobs: int) -> None:
        """Raise `Busy` if there is no room for this number of further jobs."""
        if self._jobs + jobs > self.most:
            raise Busy(f"{self._jobs} sequences are being generated, and {jobs} more would be above {self.most}")

    def start(self, work: Iterator[Result | None], *, end: Callable[[], None] = lambda: None) -> Job[Result]:
        """Begin a job. It gets the next turn.

        Parameters
        ----------
        work
            Its results; None: there is no result yet.
        end
            Called when the job has ended, in whatever way.

        Raises
        ------
        Busy
            There are as many jobs as may be.
        """
        self.require_room(1)

        def ended() -> None:
            with self._change:
                self._jobs -= 1
            end()

        job = Job(self, work, ended)
        with self._change:
            self._jobs += 1
            self._ready.appendleft(job)
            self._change.notify()
        return job

    def resume(self, job: Job[Any]) -> None:
        """Continue a job that waits for its reader."""
        with self._change:
            if job.waits:
                job.waits = False
                self._ready.append(job)
                self._change.notify()

    def stop(self) -> None:
        """End the threads, after their turns. Jobs that have not ended are left."""
        with self._change:
            self._stopped = True
            self._change.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._change:
                while not self._ready and not self._stopped:
                    self._change.wait()
                if self._stopped:
                    return
                job = self._ready.popleft()
            job.turn()
            with self._change:
                if job.finished:
                    continue
                job.waits = job.full and not job.closed
                if not job.waits:
                    self._ready.append(job)
