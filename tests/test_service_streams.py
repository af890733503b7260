"""Several requests of one stream at a time."""

import asyncio
from collections.abc import AsyncIterator

from service.streams import in_order


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

    async with in_order(requests(), answer, in_flight=3) as answers:
        for _ in range(100):
            await asyncio.sleep(0)
        assert (working, taken) == ([0, 1, 2], [0, 1, 2, 3])
        go.set()
        assert [one async for one in answers] == list(range(20))
