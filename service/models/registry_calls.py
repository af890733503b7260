"""Calls of the registry from the event loop, which never waits for a disk."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from registry.errors import Unavailable

P = ParamSpec("P")
T = TypeVar("T")

# A disk that hangs keeps the thread of each who asks it, and anybody may ask. So these are not
# asyncio's own, which jobs and the stop of a server need; the end of the process alone waits for
# them.
MOST_AT_ONCE = 16
_THREADS = ThreadPoolExecutor(MOST_AT_ONCE, thread_name_prefix="registry")


async def in_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `call` gives, which reads or writes the registry."""
    work = partial(call, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_THREADS, work)


async def in_registry(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The same, for those who answer a caller.

    Raises:
        Unavailable: its disk refuses.
    """
    try:
        return await in_thread(call, *args, **kwargs)
    except OSError as error:
        raise unusable(error) from error


def unusable(error: OSError) -> Unavailable:
    """What callers are told, who need not know where the registry is."""
    return Unavailable(f"the registry cannot be used now ({error.strerror}); try again later")
