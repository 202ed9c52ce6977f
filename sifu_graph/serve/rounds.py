"""A thread that works on many jobs in rounds: each continues for a moment, and what all ask for is done at once.

A job is a generator of results. Its results go to the event loop that asked for it; a reader that is slow stops its own
job alone. The module knows generators and event loops; it does not know what results and questions are.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")
Asked = TypeVar("Asked")

TURN_S = 0.003
"""How long a job may continue in a round, if it asks for nothing. A job that is new waits for one round at most."""
TELL_S = 0.01
"""The least time between two messages to a reader, except after the first and before the last: a message costs a
change of threads."""
MOST_UNREAD = 256
"""Unread results after which a job waits for its reader."""


class Busy(Exception):  # noqa: N818  (not an error of the server)
    """There are as many jobs as may be."""


@dataclass(frozen=True, slots=True)
class Question(Generic[Asked]):
    """A job yields it, and is sent the answer in the same round: many are answered together."""

    asked: Asked


Work = Generator[Result | Question[Any] | None, Any, None]
"""Yields results, questions, or None: there is no result yet."""


class Job(Generic[Result]):
    """The results of one generator, as an asynchronous iterator. Leave it by `close` in any case.

    Attributes
    ----------
    question
        What it waits for in this round.
    answer
        What it is sent next; an exception is raised in the generator.

    Raises
    ------
    Exception
        What the generator raised, once its results have been read.
    """

    def __init__(self, rounds: Rounds, work: Work[Result], end: Callable[[], None], *, prompt: bool) -> None:
        self._rounds, self._work, self._end = rounds, work, end
        self._loop, self._news = asyncio.get_running_loop(), asyncio.Event()
        self._results: deque[Result] = deque()
        self._error: Exception | None = None
        self._told = 0.0 if prompt else math.inf
        self.question: Question[Any] | None = None
        self.answer: Any = None
        self.finished = self.closed = self.waits = False

    @property
    def full(self) -> bool:
        """Whether it has `MOST_UNREAD` results, and waits for its reader."""
        return len(self._results) >= MOST_UNREAD

    def turn(self) -> None:
        """Continue until it asks, or for `TURN_S`, in the thread of `Rounds`."""
        until = time.monotonic() + TURN_S
        answer, self.question, self.answer = self.answer, None, None
        try:
            while not self.closed and not self.full:
                throw = isinstance(answer, Exception)
                result = self._work.throw(answer) if throw else self._work.send(answer)
                answer = None
                if isinstance(result, Question):
                    self.question = result
                    break
                if result is not None:
                    self._results.append(result)
                if time.monotonic() > until:
                    break
            else:  # it keeps its answer until its reader has read
                self.answer = answer
        except StopIteration:
            self._finish()
        except Exception as error:
            self._error = error
            self._finish()
        if self.closed and not self.finished:
            self._finish()
        elif self._results and (self.full or time.monotonic() > self._told + TELL_S):
            self._tell()

    def _finish(self) -> None:
        self._work.close()
        self.question = None
        self._end()
        self.finished = True
        self._tell()

    def _tell(self) -> None:
        self._told = time.monotonic()
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
            self._rounds.resume(self)
            if found:
                return found
            if finished:
                if self._error is not None:
                    raise self._error
                return []
            await self._news.wait()

    def close(self, error: Exception | None = None) -> None:
        """The job ends in the next round. Nothing more is read, or its reader gets an error after what there is."""
        if error is not None:
            self._error = error
        self.closed = True
        self._rounds.resume(self)


class Rounds:
    """A thread, and the jobs that it works on.

    Parameters
    ----------
    most
        Number of jobs that may be, 1 or more.
    answer
        Answers what the jobs of a round ask, in their order; an answer may be an exception, which is for its job.
    """

    def __init__(self, *, most: int, answer: Callable[[Sequence[Any]], Sequence[Any]] = list) -> None:
        self.most, self._answer = most, answer
        self._ready: deque[Job[Any]] = deque()
        self._open: set[Job[Any]] = set()
        self._change = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="rounds", daemon=True)
        self._thread.start()

    @property
    def jobs(self) -> int:
        """Number of jobs that have not ended."""
        return len(self._open)

    def require_room(self, jobs: int) -> None:
        """Raise `Busy` if there is no room for this number of further jobs."""
        if self.jobs + jobs > self.most:
            raise Busy(f"{self.jobs} sequences are being generated, and {jobs} more would be above {self.most}")

    def start(self, work: Work[Result], *, end: Callable[[], None] = lambda: None, prompt: bool = True) -> Job[Result]:
        """Begin a job. It continues in the next round.

        Parameters
        ----------
        work
            Its results.
        end
            Called when the job has ended, in whatever way.
        prompt
            The reader wants results as they come; else when there are many, or all.

        Raises
        ------
        Busy
            There are as many jobs as may be.
        """
        self.require_room(1)

        def ended() -> None:
            with self._change:
                self._open.discard(job)
            end()

        job = Job(self, work, ended, prompt=prompt)
        with self._change:
            self._open.add(job)
            self._ready.append(job)
            self._change.notify()
        return job

    def cut(self, error: Exception) -> None:
        """End all jobs; their readers get an error."""
        with self._change:
            jobs = list(self._open)
        for job in jobs:
            job.close(error)

    def resume(self, job: Job[Any]) -> None:
        """Continue a job that waits for its reader."""
        with self._change:
            if job.waits:
                job.waits = False
                self._ready.append(job)
                self._change.notify()

    def stop(self) -> None:
        """End the thread, after its round. Jobs that have not ended are left."""
        with self._change:
            self._stopped = True
            self._change.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._change:
                while not self._ready and not self._stopped:
                    self._change.wait()
                if self._stopped:
                    return
                jobs = list(self._ready)
                self._ready.clear()
            for job in jobs:
                job.turn()
            asking = [job for job in jobs if job.question is not None]
            if asking:
                answers = self._answer([job.question.asked for job in asking if job.question is not None])
                for job, answer in zip(asking, answers, strict=True):
                    job.answer = answer
            with self._change:
                for job in jobs:
                    job.waits = job.full and not job.closed and not job.finished
                    if not job.waits and not job.finished:
                        self._ready.append(job)
