"""Several requests of one stream at a time, and their answers in the order of the requests."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

Request = TypeVar("Request")
Response = TypeVar("Response")

IN_FLIGHT = 8  # requests of one stream that are worked on at a time


@asynccontextmanager
async def in_order(
    requests: AsyncIterator[Request],
    answer: Callable[[Request], Coroutine[Any, Any, Response]],
    in_flight: int = IN_FLIGHT,
) -> AsyncIterator[AsyncIterator[Response]]:
    """The answers, one for each request; what is under way at the end of the block is cancelled.

    A client that does not take its answers is not read any further.
    """
    tasks: asyncio.Queue[asyncio.Task[Response] | None] = asyncio.Queue()
    places = asyncio.Semaphore(in_flight)

    async def read() -> None:
        try:
            async for request in requests:
                await places.acquire()
                tasks.put_nowait(asyncio.create_task(answer(request)))
        finally:
            tasks.put_nowait(None)

    reader = asyncio.create_task(read())

    async def answers() -> AsyncIterator[Response]:
        while (task := await tasks.get()) is not None:
            yield await task
            places.release()
        await reader

    try:
        yield answers()
    finally:
        reader.cancel()
        while not tasks.empty():
            if left := tasks.get_nowait():
                left.cancel()
