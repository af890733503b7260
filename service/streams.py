"""Incoming messages: how waiting for them ends, and how streams are answered in order."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import grpc

from registry.errors import Overloaded, Unavailable
from service.shielded import retrieve_error

Request = TypeVar("Request")
Response = TypeVar("Response")

IN_FLIGHT = 8  # concurrent requests of one stream; more if the model needs them to fill batches
ON_ITS_WAY_S = 2.0  # how long a unary call that came before the stop may take to send its message
# Unary calls that may wait for their message. Each takes some 20 kB, and a client may begin any
# number of them, over many connections, without ever sending one.
MOST_WAITING = 8192
# When a client goes, its messages end, and a moment later gRPC cancels the call. gRPC leaks a
# status that is sent in between (1.85, grpc/grpc#43360), and a read that is cancelled.
GOING_S = 0.001

Read = Callable[[], Coroutine[Any, Any, Any]]  # gives bytes, or gRPC's EOF


class Incoming:
    """The messages that a server's calls wait for."""

    def __init__(self) -> None:
        self._of_streams = _Waiting()
        self._of_others = _Waiting()

    def end(self) -> None:
        """Takes no further messages; those already sent are answered. A silent call would otherwise
        delay the server's stop for the whole grace period."""
        self._of_streams.end()
        asyncio.get_running_loop().call_later(ON_ITS_WAY_S, self._of_others.end)

    async def only(self, read: Read) -> Any:
        """The only message of a call, or gRPC's EOF if it ends without one.

        Raises:
            Unavailable: it has not come, and the server is stopping.
            Overloaded: it has not come, and of too many that wait for theirs, this call has waited
                longest. If new calls were refused instead, silent ones could shut all others out.
        """
        return await self._of_others.next(read, MOST_WAITING)

    async def requests(
        self, parse: Callable[[bytes], Request], read: Read
    ) -> AsyncIterator[Request]:
        """The requests of a stream, until either side ends it.

        Raises:
            Unavailable: the server is stopping.
        """
        while (message := await self._of_streams.next(read)) is not grpc.aio.EOF:
            yield parse(message)


class _Waiting:
    """Calls waiting for a message, for as long as messages are taken."""

    def __init__(self) -> None:
        self._ended = False
        self._waiting: dict[asyncio.Future[asyncio.Task[Any]], None] = {}  # in order of arrival

    def end(self) -> None:
        self._ended = True
        for one in self._waiting:
            if not one.done():
                one.set_exception(_leaving())

    async def next(self, read: Read, most: float = math.inf) -> Any:
        """The next message or EOF. When the client goes, the call is cancelled before EOF is
        returned. The read itself is never cancelled; it ends with the call.

        Args:
            most: calls that may wait at a time; the one that has waited longest makes room.
        """
        if self._ended:
            raise _leaving()
        if len(self._waiting) >= most:
            self._end_oldest()
        loop = asyncio.get_running_loop()
        has_read: asyncio.Future[asyncio.Task[Any]] = loop.create_future()
        loop.create_task(read()).add_done_callback(partial(_hand_over, has_read))
        self._waiting[has_read] = None
        try:
            message = (await has_read).result()
        finally:
            self._waiting.pop(has_read, None)
        if message is grpc.aio.EOF:
            await asyncio.sleep(GOING_S)
        return message

    def _end_oldest(self) -> None:
        oldest = next(iter(self._waiting))
        del self._waiting[oldest]
        if not oldest.done():  # else its message has just come
            problem = "too many calls wait for their message, and this one has waited longest"
            oldest.set_exception(Overloaded(problem, reason="silent"))


def _hand_over(has_read: asyncio.Future[asyncio.Task[Any]], reading: asyncio.Task[Any]) -> None:
    if not has_read.done():
        has_read.set_result(reading)
    else:  # nobody waits any more
        retrieve_error(reading)


def _leaving() -> Unavailable:
    return Unavailable("this server is shutting down; send the rest to another one")


@asynccontextmanager
async def in_order(
    requests: AsyncIterator[Request],
    answer: Callable[[Request], Coroutine[Any, Any, Response]],
    window: Callable[[Request], int],
) -> AsyncIterator[AsyncIterator[Response]]:
    """The answers, one per request, in order; leaving the block cancels those in progress.

    Backpressure: no more is read from a client that does not take its answers.

    Args:
        window: how many requests may be in progress together with this one, itself included.
    """
    tasks: asyncio.Queue[asyncio.Task[Response] | None] = asyncio.Queue()
    in_flight = 0
    fewer = asyncio.Event()

    async def read() -> None:
        nonlocal in_flight
        try:
            async for request in requests:
                while in_flight and in_flight >= window(request):
                    fewer.clear()
                    await fewer.wait()
                in_flight += 1
                tasks.put_nowait(asyncio.create_task(answer(request)))
        finally:
            tasks.put_nowait(None)

    reader = asyncio.create_task(read())

    async def answers() -> AsyncIterator[Response]:
        nonlocal in_flight
        while (task := await tasks.get()) is not None:
            yield await task
            in_flight -= 1
            fewer.set()
        await reader

    try:
        yield answers()
    finally:
        reader.cancel()
        while not tasks.empty():
            if left := tasks.get_nowait():
                left.cancel()
