"""Jobs in rounds: none waits for another, a slow reader stops its own job alone, and errors reach the reader."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence

import pytest

from sifu_graph.serve import rounds
from sifu_graph.serve.rounds import Busy, Job, Question, Rounds, Work


async def read_all(job: Job[int]) -> list[int]:
    found: list[int] = []
    while some := await job.read():
        found += some
    return found


def numbers(count: int, *, pause_s: float = 0.0) -> Work[int]:
    for k in range(count):
        time.sleep(pause_s)
        yield k
        yield None


@pytest.fixture
def pool() -> Iterator[Rounds]:
    found = Rounds(most=50)
    yield found
    found.stop()


def test_every_result_arrives_in_order(pool: Rounds) -> None:
    async def run() -> None:
        jobs = [pool.start(numbers(count)) for count in (0, 1, 1000, 3 * rounds.MOST_UNREAD)]
        assert [await read_all(job) for job in jobs] == [list(range(n)) for n in (0, 1, 1000, 3 * rounds.MOST_UNREAD)]

    asyncio.run(run())
    assert pool.jobs == 0


def test_a_short_job_does_not_wait_for_a_long_one(pool: Rounds) -> None:
    async def run() -> None:
        long = [pool.start(numbers(10**9, pause_s=0.001)) for _ in range(5)]
        assert await read_all(pool.start(numbers(3))) == [0, 1, 2]
        assert not any(job.finished for job in long)
        for job in long:
            job.close()
        for job in long:
            while await job.read():
                pass

    asyncio.run(run())
    assert pool.jobs == 0


def test_a_slow_reader_stops_its_own_job_alone(pool: Rounds) -> None:
    async def run() -> None:
        unread = pool.start(numbers(10**9))
        for _ in range(1000):
            if unread.waits:
                break
            await asyncio.sleep(0.01)
        assert unread.waits and unread.full
        assert await read_all(pool.start(numbers(100))) == list(range(100))
        first = await unread.read()
        assert first == list(range(rounds.MOST_UNREAD))
        assert (await unread.read())[0] == rounds.MOST_UNREAD
        unread.close()
        while not unread.finished:
            await asyncio.sleep(0.01)

    asyncio.run(run())
    assert pool.jobs == 0


def test_an_error_comes_after_the_results_before_it(pool: Rounds) -> None:
    ended: list[bool] = []

    def failing() -> Work[int]:
        yield 1
        raise ValueError("broken")

    async def run() -> None:
        job = pool.start(failing(), end=lambda: ended.append(True))
        found: list[int] = []
        with pytest.raises(ValueError, match="broken"):
            while some := await job.read():
                found += some
        assert found == [1] and ended == [True]

    asyncio.run(run())


def test_there_is_a_limit() -> None:
    async def run() -> None:
        pool = Rounds(most=2)
        jobs = [pool.start(numbers(10**9, pause_s=0.001)) for _ in range(2)]
        with pytest.raises(Busy):
            pool.start(numbers(1))
        jobs[0].close()
        while not jobs[0].finished:
            await asyncio.sleep(0.01)
        assert await read_all(pool.start(numbers(1))) == [0]
        jobs[1].close()
        pool.stop()

    asyncio.run(run())


def test_what_the_jobs_of_a_round_ask_is_answered_at_once(pool: Rounds) -> None:
    asked: list[list[int]] = []

    def answer(numbers: Sequence[int]) -> list[int | Exception]:
        asked.append(list(numbers))
        return [ValueError("seven") if number == 7 else 10 * number for number in numbers]

    def asking(numbers: Sequence[int]) -> Work[int]:
        for number in numbers:
            yield (yield Question(number))

    async def run() -> None:
        jobs = [pool.start(asking(range(20 * k, 20 * k + 20))) for k in range(1, 5)]
        assert [await read_all(job) for job in jobs] == [
            [10 * n for n in range(20 * k, 20 * k + 20)] for k in range(1, 5)
        ]
        job, found = pool.start(asking([6, 7, 8])), []
        with pytest.raises(ValueError, match="seven"):
            while some := await job.read():
                found += some
        assert found == [60]
        slow = pool.start(asking(range(8, 3 * rounds.MOST_UNREAD)))
        while not slow.waits:
            await asyncio.sleep(0.01)
        assert await read_all(slow) == [10 * n for n in range(8, 3 * rounds.MOST_UNREAD)]

    pool.stop()
    pool = Rounds(most=50, answer=answer)
    asyncio.run(run())
    pool.stop()
    assert any(len(numbers) > 1 for numbers in asked)
