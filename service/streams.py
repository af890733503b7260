"""Streams of requests: how they end, and how several requests of one are answered in order."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from registry.errors import Unavailable

Request = TypeVar("Request")
Response = TypeVar("Response")

IN_FLIGHT = 8  # requests of one stream that are worked on at a time


class Incoming:
    """The streams of requests of a server that are open now."""

    def __init__(self) -> None:
        self._ended = False
        self._waiting: set[asyncio.Task[Any]] = set()  # for the next request

    def end(self) -> None:
        """What was sent is answered, and no more is taken. A stream that is silent would otherwise
        hold up the end of the server for as long as it is let."""
        self._ended = True
        for task in self._waiting:
            task.cancel()

    async def requests(
        self, read: Callable[[bytes], Request], messages: AsyncIterator[bytes]
    ) -> AsyncIterator[Request]:
        """The requests of a stream, until either side ends it.

        Raises:
            Unavailable: the server does.
        """
        task, messages = asyncio.current_task(), aiter(messages)
        assert task
        while True:
            if self._ended:
                raise Unavailable("this server is leaving; send the rest to another one")
            self._waiting.add(task)
            try:
                message = await anext(messages)
            except StopAsyncIteration:
                return
            except asyncio.CancelledError:
                if not self._ended:
                    raise
                task.uncancel()
                continue
            finally:
                self._waiting.discard(task)
            yield read(message)


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
