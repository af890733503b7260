"""Work that goes on when its caller has gone, since half of it would be worse than none."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class ShieldedTasks:
    """Tasks that run to their end even if whoever waits for them is cancelled. Used from one event
    loop."""

    def __init__(self) -> None:
        self._under_way: set[asyncio.Task[Any]] = set()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which runs to its end even if this is cancelled."""
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        task.add_done_callback(retrieve_error)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Waits for work in progress."""
        await asyncio.gather(*self._under_way, return_exceptions=True)


def retrieve_error(task: asyncio.Task[Any]) -> None:
    """Marks the exception of a task that has ended as retrieved: if nobody waits for it any more,
    asyncio would warn."""
    if not task.cancelled():
        task.exception()
