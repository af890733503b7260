"""Work that goes on when whoever asked for it has gone: half of it would be worse than none."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Unbroken:
    """Used from one event loop."""

    def __init__(self) -> None:
        self._under_way: set[asyncio.Task[Any]] = set()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which is done to its end also when this is cancelled."""
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        task.add_done_callback(_look_at_error)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """What was under way has ended."""
        await asyncio.gather(*self._under_way, return_exceptions=True)


def _look_at_error(task: asyncio.Task[Any]) -> None:
    """Whoever waited may have gone; asyncio complains of errors that nobody looked at."""
    if not task.cancelled():
        task.exception()
