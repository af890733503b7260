"""Runs registry calls in threads, so that the event loop never waits for a disk."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from registry.errors import Unavailable

P = ParamSpec("P")
T = TypeVar("T")

# A hung disk blocks the thread of every call, and any client may cause calls. So these threads are
# separate from asyncio's, which jobs and stopping the server need; only the exit of the process
# waits for them.
MOST_AT_ONCE = 16
_THREADS = ThreadPoolExecutor(MOST_AT_ONCE, thread_name_prefix="registry")


async def in_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of `call`, which reads or writes the registry."""
    work = partial(call, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_THREADS, work)


async def in_registry(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The same, for requests of clients.

    Raises:
        Unavailable: the disk reports an error.
    """
    try:
        return await in_thread(call, *args, **kwargs)
    except OSError as error:
        raise unusable(error) from error


def unusable(error: OSError) -> Unavailable:
    """The error for callers, without the registry's path."""
    return Unavailable(f"the registry cannot be used now ({error.strerror}); try again later")
