"""Several requests of one stream at a time."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from service.streams import Incoming, in_order


async def test_no_more_requests_are_taken_than_are_worked_on_at_a_time() -> None:
    taken: list[int] = []
    working: list[int] = []
    go = asyncio.Event()

    async def requests() -> AsyncIterator[int]:
        for i in range(20):
            taken.append(i)
            yield i

    async def answer(request: int) -> int:
        working.append(request)
        await go.wait()
        return request

    async with in_order(requests(), answer, lambda _: 3) as answers:
        for _ in range(100):
            await asyncio.sleep(0)
        assert (working, taken) == ([0, 1, 2], [0, 1, 2, 3])
        go.set()
        assert [one async for one in answers] == list(range(20))


async def test_more_requests_are_taken_when_fewer_are_worked_on_than_there_may_be_by_then() -> None:
    working: list[int] = []
    most, go = 3, asyncio.Semaphore(0)

    async def requests() -> AsyncIterator[int]:
        for i in range(20):
            yield i

    async def answer(request: int) -> int:
        working.append(request)
        await go.acquire()
        return request

    async with in_order(requests(), answer, lambda _: most) as answers:
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(working) == 3
        most = 5
        go.release()
        answered = [await anext(answers)]
        next_one = asyncio.create_task(anext(answers))
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(working) == 1 + 5
        for _ in range(20):
            go.release()
        answered.append(await next_one)
        assert answered + [one async for one in answers] == list(range(20))


async def test_an_end_that_comes_before_the_news_that_the_caller_has_gone_is_none() -> None:
    async def read() -> object:
        return grpc.aio.EOF

    call = asyncio.create_task(Incoming().only(read))
    for _ in range(5):
        await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_a_read_goes_on_when_its_call_is_cancelled() -> None:
    gone, ended = asyncio.Event(), asyncio.Event()

    async def read() -> object:
        await gone.wait()
        ended.set()
        return grpc.aio.EOF

    call = asyncio.create_task(Incoming().only(read))
    await asyncio.sleep(0.01)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    gone.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert ended.is_set()
