"""Loads versions into memory: one load per version at a time, in a bounded number of threads."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from registry.errors import BundleError, NotFound, Unavailable
from registry.store import Registry
from service.models.loaded_version import LoadedVersion
from service.models.loader import Loader
from service.models.model_state import LoadFailure, ModelState
from service.models.registry_calls import unusable
from service.shielded import retrieve_error

log = logging.getLogger(__name__)

# Loading from slow storage occupies a thread. Versions that are to go live have threads of their
# own, so that they do not wait for candidates or for versions requested by number.
LIVE_LOADS = 4
OTHER_LOADS = 2


class LoadScheduler:
    """Used from one event loop; nothing else puts versions into a `ModelState`."""

    def __init__(self, registry: Registry, loader: Loader, pinned_versions: int) -> None:
        """`pinned_versions`: most versions of a model in memory only because they were requested by
        number."""
        self._registry = registry
        self._loader = loader
        self._pinned_versions = pinned_versions
        self._live = ThreadPoolExecutor(LIVE_LOADS, thread_name_prefix="load-live")
        self._other = ThreadPoolExecutor(OTHER_LOADS, thread_name_prefix="load-other")
        # by model, so that requests for one version after another do not occupy all threads
        self._one_at_a_time: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._under_way: dict[tuple[str, int, bool], asyncio.Task[None]] = {}
        self._closed = False

    async def find(self, state: ModelState, version: int) -> LoadedVersion:
        """The version, loaded if necessary, as one requested by number.

        Enter it (`with loaded:`) before the next await: it stays in memory until the block exits.

        Raises:
            NotFound, BundleError, Unavailable: it cannot be served.
        """
        while not (found := state.find(version)):
            failure = state.failures.get(version)
            if failure and failure.backs_off(version):  # too early to try again
                raise BundleError(failure.problem)
            await self._load(state, version, live=False)
        return found

    @asynccontextmanager
    async def lease(
        self, state: ModelState, version: int, *, live: bool
    ) -> AsyncIterator[LoadedVersion]:
        """Loads the version if necessary, and keeps it in memory while the caller gives it its
        place in `state`.

        Args:
            live: it is to go live, so other loads must not delay it.
        """
        state.n_going_live += live
        try:
            while not (found := state.find(version)):
                await self._load(state, version, live=live)
            with found:
                yield found
        finally:
            state.n_going_live -= live
            state.drop_oldest_pinned(self._pinned_versions)

    async def _load(self, state: ModelState, version: int, *, live: bool) -> None:
        """Loads a version; goes on when the caller is cancelled, so that no load is wasted."""
        key = state.name, version, live
        task = self._under_way.get(key)
        # awaiting a finished task would not yield to the event loop, so `_ended` would never run
        if task is None or task.done():
            load = self._load_now if live else self._load_after_others
            task = self._under_way[key] = asyncio.create_task(load(state, version))
            task.add_done_callback(lambda task: self._ended(key, task))
        await asyncio.shield(task)

    async def _load_after_others(self, state: ModelState, version: int) -> None:
        """Loads one version of a model at a time, unless it is in memory when its turn comes. The
        caller may have gone, so failures are noted and the oldest versions dropped here."""
        async with self._one_at_a_time[state.name]:
            if state.find(version):
                return
            try:
                await self._load_in(self._other, state, version)
            except BundleError as error:
                _note(state, version, str(error))
                raise
            state.failures.pop(version, None)
            state.drop_oldest_pinned(self._pinned_versions)

    async def _load_now(self, state: ModelState, version: int) -> None:
        await self._load_in(self._live, state, version)

    async def _load_in(self, threads: ThreadPoolExecutor, state: ModelState, version: int) -> None:
        def load() -> LoadedVersion:
            return self._loader.load(self._registry.folder(state.name, version), version)

        _check_wanted(state)
        if self._closed:
            raise Unavailable("this server is stopping; ask another one")
        try:
            loaded = await asyncio.get_running_loop().run_in_executor(threads, load)
        except OSError as error:
            raise unusable(error) from error
        if state.unloaded:  # meanwhile
            loaded.retire()
        _check_wanted(state)
        state.pin(loaded)

    def _ended(self, key: tuple[str, int, bool], task: asyncio.Task[None]) -> None:
        if self._under_way.get(key) is task:
            del self._under_way[key]
        retrieve_error(task)  # the caller may have gone

    async def close(self) -> None:
        """Waits for loads in progress; those that wait for a turn or a thread never begin."""
        self._closed = True
        for threads in (self._live, self._other):
            await asyncio.to_thread(threads.shutdown, cancel_futures=True)
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)


def _note(state: ModelState, version: int, problem: str) -> None:
    """Notes why a version cannot be loaded; the log has it once, however many callers ask."""
    failure = state.failures.setdefault(version, LoadFailure())
    if problem != failure.problem:
        facts = {"model": state.name, "version": version, "problem": problem}
        log.warning("version_unusable", extra=facts)
    failure.note(version, problem)


def _check_wanted(state: ModelState) -> None:
    if state.unloaded:
        raise NotFound(f"{state.name} was unloaded on this server; load it again")
