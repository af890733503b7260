"""Requests as they come in: how waiting for them ends, and how several are answered in order."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from registry.errors import Unavailable

Message = TypeVar("Message")
Request = TypeVar("Request")
Response = TypeVar("Response")

IN_FLIGHT = 8  # requests of one stream that are worked on at a time
ON_ITS_WAY_S = 2.0  # for the message of a call that has come before the order to stop


class Incoming:
    """The messages that the calls of a server wait for."""

    def __init__(self) -> None:
        self._of_streams = _Waiting()
        self._of_others = _Waiting()

    def end(self) -> None:
        """What was sent is answered, and no more is taken. A call that is silent would otherwise
        hold up the end of the server for as long as it is let."""
        self._of_streams.end()
        asyncio.get_running_loop().call_later(ON_ITS_WAY_S, self._of_others.end)

    async def only(self, read: Callable[[], Awaitable[Message]]) -> Message:
        """The message of a call that has one, or the end in its place.

        Raises:
            Unavailable: it has not come, and the server does not wait any longer.
        """
        return await self._of_others.next(read)

    async def requests(
        self, parse: Callable[[bytes], Request], messages: AsyncIterator[bytes]
    ) -> AsyncIterator[Request]:
        """The requests of a stream, until either side ends it.

        Raises:
            Unavailable: the server does.
        """
        read = partial(anext, aiter(messages))
        while True:
            try:
                message = await self._of_streams.next(read)
            except StopAsyncIteration:
                return
            yield parse(message)


class _Waiting:
    """Tasks that wait for a message, for as long as messages are taken."""

    def __init__(self) -> None:
        self._ended = False
        self._tasks: set[asyncio.Task[Any]] = set()

    def end(self) -> None:
        self._ended = True
        for task in self._tasks:
            task.cancel()

    async def next(self, read: Callable[[], Awaitable[Message]]) -> Message:
        task = asyncio.current_task()
        assert task
        if not self._ended:
            self._tasks.add(task)
            try:
                return await read()
            except asyncio.CancelledError:
                if not self._ended:
                    raise
                task.uncancel()
            finally:
                self._tasks.discard(task)
        raise Unavailable("this server is leaving; send the rest to another one")


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
