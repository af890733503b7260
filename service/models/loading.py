"""Versions come into memory: one load of each at a time, in threads whose number is bounded."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from registry.errors import BundleError, NotFound, Unavailable
from registry.store import Registry
from service.models.loaded import Loaded
from service.models.loader import Loader
from service.models.model import Model, Trouble
from service.models.registry_calls import unusable

# A version on a slow store holds up a thread. Those that are to go live do not wait for those that
# somebody asked for by number, or tries.
LIVE_LOADS = 4
OTHER_LOADS = 2


class Loading:
    """Used from one event loop; it alone puts versions into a `Model`."""

    def __init__(self, registry: Registry, loader: Loader) -> None:
        self._registry = registry
        self._loader = loader
        self._live = ThreadPoolExecutor(LIVE_LOADS, thread_name_prefix="load-live")
        self._other = ThreadPoolExecutor(OTHER_LOADS, thread_name_prefix="load-other")
        # by model: whoever asks for one number after the other does not keep all threads busy
        self._turns: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._under_way: dict[tuple[str, int, bool], asyncio.Task[None]] = {}
        self._closed = False

    async def find(self, entry: Model, version: int) -> Loaded:
        """The version, from memory or loaded among those that were asked for by number.

        Enter it (`with loaded:`) before the next await: from then on it stays until it is left.

        Raises:
            NotFound, BundleError, Unavailable: it cannot be served.
        """
        while not (found := entry.find(version)):
            trouble = entry.broken.get(version)
            if trouble and trouble.waits(version):  # whoever asks again does not load it again
                raise BundleError(trouble.problem)
            await self._load(entry, version, live=False)
        return found

    @asynccontextmanager
    async def lease(self, entry: Model, version: int, *, live: bool) -> AsyncIterator[Loaded]:
        """The version stays in memory while it is given its place in `entry`.

        Args:
            live: it is to answer whoever names no version, so others do not hold it up.
        """
        entry.coming += live
        try:
            while not (found := entry.find(version)):
                await self._load(entry, version, live=live)
            with found:
                yield found
        finally:
            entry.coming -= live
            entry.drop_oldest_pinned()

    async def _load(self, entry: Model, version: int, *, live: bool) -> None:
        """It goes on when the caller is cancelled, so that nothing loaded is lost."""
        key = entry.name, version, live
        task = self._under_way.get(key)
        # to await one that has ended would give nobody else a turn, not even `_ended`
        if task is None or task.done():
            load = self._load_now if live else self._load_in_turn
            task = self._under_way[key] = asyncio.create_task(load(entry, version))
            task.add_done_callback(lambda task: self._ended(key, task))
        await asyncio.shield(task)

    async def _load_in_turn(self, entry: Model, version: int) -> None:
        """One at a time of each model, unless it has come into memory before its turn. Whoever
        asked may have gone, so what is broken is noted here, and the oldest are let go."""
        async with self._turns[entry.name]:
            if entry.find(version):
                return
            try:
                await self._load_in(self._other, entry, version)
            except BundleError as error:
                entry.broken.setdefault(version, Trouble()).note(version, str(error))
                raise
            entry.broken.pop(version, None)
            entry.drop_oldest_pinned()

    async def _load_now(self, entry: Model, version: int) -> None:
        await self._load_in(self._live, entry, version)

    async def _load_in(self, threads: ThreadPoolExecutor, entry: Model, version: int) -> None:
        def load() -> Loaded:
            return self._loader.load(self._registry.folder(entry.name, version), version)

        _check_wanted(entry)
        if self._closed:
            raise Unavailable("this server is stopping; ask another one")
        try:
            loaded = await asyncio.get_running_loop().run_in_executor(threads, load)
        except OSError as error:
            raise unusable(error) from error
        if entry.unloaded:  # meanwhile
            loaded.retire()
        _check_wanted(entry)
        entry.pin(loaded)

    def _ended(self, key: tuple[str, int, bool], task: asyncio.Task[None]) -> None:
        if self._under_way.get(key) is task:
            del self._under_way[key]
        if not task.cancelled():
            task.exception()  # whoever waited may have gone; asyncio complains of unseen errors

    async def close(self) -> None:
        """Loads under way have ended, and those that wait for a turn or a thread never begin."""
        self._closed = True
        for threads in (self._live, self._other):
            await asyncio.to_thread(threads.shutdown, cancel_futures=True)
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)


def _check_wanted(entry: Model) -> None:
    if entry.unloaded:
        raise NotFound(f"{entry.name} was unloaded on this server; load it again")
