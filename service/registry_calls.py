"""Calls of the registry from the event loop, which never waits for a disk."""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from registry.errors import Unavailable

P = ParamSpec("P")
T = TypeVar("T")


async def in_registry(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `call` gives, in a thread.

    Raises:
        Unavailable: its disk refuses.
    """
    try:
        return await asyncio.to_thread(call, *args, **kwargs)
    except OSError as error:
        raise unusable(error) from error


def unusable(error: OSError) -> Unavailable:
    """What callers are told, who need not know where the registry is."""
    return Unavailable(f"the registry cannot be used now ({error.strerror}); try again later")
