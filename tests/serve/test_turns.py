"""Jobs that take turns: none waits for another, a slow reader stops its own job alone, and errors reach the reader."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from sifu_graph.serve import turns
from sifu_graph.serve.turns import Busy, Job, Turns


async def read_all(job: Job[int]) -> list[int]:
    found: list[int] = []
    while some := await job.read():
        found += some
    return found


def numbers(count: int, *, pause_s: float = 0.0) -> Iterator[int | None]:
    for k in range(count):
        time.sleep(pause_s)
        yield k
        yield None


@pytest.fixture(params=[1, 3])
def pool(request: pytest.FixtureRequest) -> Iterator[Turns]:
    found = Turns(threads=request.param, most=50)
    yield found
    found.stop()


def test_every_result_arrives_in_order(pool: Turns) -> None:
    async def run() -> None:
        jobs = [pool.start(numbers(count)) for count in (0, 1, 1000, 3 * turns.MOST_UNREAD)]
        assert [await read_all(job) for job in jobs] == [list(range(n)) for n in (0, 1, 1000, 3 * turns.MOST_UNREAD)]

    asyncio.run(run())
    assert pool.jobs == 0


def test_a_short_job_does_not_wait_for_a_long_one(pool: Turns) -> None:
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


def test_a_slow_reader_stops_its_own_job_alone(pool: Turns) -> None:
    async def run() -> None:
        unread = pool.start(numbers(10**9))
        for _ in range(1000):
            if unread.waits:
                break
            await asyncio.sleep(0.01)
        assert unread.waits and unread.full
        assert await read_all(pool.start(numbers(100))) == list(range(100))
        first = await unread.read()
        assert first == list(range(turns.MOST_UNREAD))
        assert (await unread.read())[0] == turns.MOST_UNREAD
        unread.close()
        while not unread.finished:
            await asyncio.sleep(0.01)

    asyncio.run(run())
    assert pool.jobs == 0


def test_an_error_comes_after_the_results_before_it(pool: Turns) -> None:
    ended: list[bool] = []

    def failing() -> Iterator[int | None]:
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
        pool = Turns(threads=1, most=2)
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
