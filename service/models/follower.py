"""Looks at the registry again and again, and takes up what it says."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from registry.errors import BundleError, UnfreezeError
from registry.pointers import Candidate, Cleared
from registry.store import Registry
from service.models.loading import Loading
from service.models.model import NOTHING_PROMOTED, Model, Promoted, put_back
from service.models.registry_calls import in_thread
from service.models.swaps import Swaps
from service.observability.metrics import Metrics

log = logging.getLogger(__name__)

P = TypeVar("P")


@dataclass(frozen=True)
class Aliases:
    """The pointers of a model in force, with their numbers, or why they cannot be read; None: there
    is none."""

    promoted: Promoted | BundleError | None
    candidate: tuple[int, Candidate | Cleared] | BundleError | None
    followed: Promoted | None = None  # by this server, when it began to look


GONE = Aliases(promoted=None, candidate=None)  # of a model that was in the registry


class Follower:
    """Each model is followed on its own, and its candidate apart from its promoted version."""

    def __init__(
        self,
        registry: Registry,
        models: dict[str, Model],
        loading: Loading,
        swaps: Swaps,
        metrics: Metrics,
    ) -> None:
        self._registry = registry
        self._metrics = metrics
        self._unreadable = ""  # why, if it is
        self._models = models
        self._loading = loading
        self._swaps = swaps
        self._under_way: dict[tuple[str, str, int], asyncio.Task[None]] = {}

    async def start(self, every_s: float) -> None:
        """Every promoted version is loaded, or has a problem. A registry that cannot be read is
        waited for: a server that knows no model must not take the place of those that do."""
        await self.take_up(candidates=False)
        while self._unreadable:
            await asyncio.sleep(every_s)
            await self.take_up(candidates=False)

    async def take_up(self, *, candidates: bool) -> None:
        """Everything is as the registry says now, or has a problem."""
        found = await self._look()
        await asyncio.gather(*(self._promoted(name, one) for name, one in found.items()))
        if candidates:
            await asyncio.gather(*(self._candidate(name, one) for name, one in found.items()))

    async def follow(self, every_s: float) -> None:
        """Takes up every change until cancelled; a slow load delays its own pointer alone.

        A newer pointer overtakes it, so that what was rolled back meanwhile never goes live.
        """
        while True:
            await asyncio.sleep(every_s)
            try:
                found = await self._look()
            except Exception:  # whatever it is, the next second may be better
                log.exception("refresh_failed")
                continue
            for name, aliases in found.items():
                promoted, candidate = _number(aliases.promoted), _number(aliases.candidate)
                self._begin(("promoted", name, promoted), self._promoted, aliases)
                self._begin(("candidate", name, candidate), self._candidate, aliases)
            if not self._unreadable:
                self._metrics.registry_read.set_to_current_time()

    async def close(self) -> None:
        """What was under way has ended."""
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)

    def _begin(
        self,
        key: tuple[str, str, int],
        work: Callable[[str, Aliases], Coroutine[Any, Any, None]],
        aliases: Aliases,
    ) -> None:
        if key not in self._under_way:
            task = self._under_way[key] = asyncio.create_task(work(key[1], aliases))
            task.add_done_callback(lambda _: self._under_way.pop(key))

    async def _look(self) -> dict[str, Aliases]:
        followed = {name: entry.follows for name, entry in self._models.items()}
        try:
            found = await in_thread(read_aliases, self._registry)
        except OSError as error:
            if str(error) != self._unreadable:  # a line for each look would say no more
                log.error("registry_unreadable", extra={"problem": str(error)})
            self._unreadable = str(error)
            return {}
        if self._unreadable:
            log.info("registry_readable")
        self._unreadable = ""
        told = dict.fromkeys(self._models, GONE) | found
        return {name: replace(one, followed=followed.get(name)) for name, one in told.items()}

    async def _promoted(self, name: str, aliases: Aliases) -> None:
        if aliases.promoted is None:
            known = self._models.get(name)
            if known and known.current:
                self._swaps.problem(known, 0, BundleError(f"{name}: {NOTHING_PROMOTED}"))
            elif known:  # what could not be loaded is not wanted any more
                self._swaps.no_problem(known)
            return
        entry = self._models.setdefault(name, Model(name))
        if isinstance(aliases.promoted, BundleError):
            self._swaps.problem(entry, 0, aliases.promoted)
            return
        if entry.unloaded:
            return
        number, pointer = aliases.promoted
        conflict = put_back(name, aliases.followed, aliases.promoted)
        if conflict and entry.follows == aliases.followed:  # else it was changed here meanwhile
            self._swaps.problem(entry, 0, conflict)
            return
        if number <= entry.pointer:
            self._swaps.no_problem(entry)
            return
        if entry.trouble.waits(number):
            return
        try:
            async with self._loading.lease(entry, pointer.version, live=True) as loaded:
                self._swaps.go_live(entry, aliases.promoted, loaded)
        except Exception as error:  # whatever it is, the others go on
            self._swaps.problem(entry, number, error)

    async def _candidate(self, name: str, aliases: Aliases) -> None:
        entry = self._models.get(name)
        if entry is None:
            return
        if aliases.candidate is None:
            self._swaps.no_candidate_problem(entry)
            return
        if isinstance(aliases.candidate, BundleError):
            self._swaps.candidate_problem(entry, 0, aliases.candidate)
            return
        number, wanted = aliases.candidate
        if isinstance(wanted, Cleared):
            self._swaps.clear(entry, number)
            return
        if number <= entry.candidate_pointer or wanted.beside != entry.pointer:
            self._swaps.no_candidate_problem(entry)
            return
        if entry.candidate_trouble.waits(number):
            return
        try:
            async with self._loading.lease(entry, wanted.version, live=False) as loaded:
                self._swaps.try_out(entry, number, wanted, loaded)
        except Exception as error:
            self._swaps.candidate_problem(entry, number, error)


def read_aliases(registry: Registry) -> dict[str, Aliases]:
    """By model; a damaged pointer of one does not hide the others.

    Raises:
        OSError: the registry is not there now.
    """

    def candidate(name: str) -> tuple[int, Candidate | Cleared] | None:
        return registry.candidates(name).in_force()

    return {
        name: Aliases(_attempt(registry.promoted, name), _attempt(candidate, name))
        for name in registry.names()
    }


def _attempt(read: Callable[[str], P], name: str) -> P | BundleError:
    try:
        return read(name)
    except BundleError as error:
        return error
    except (UnfreezeError, OSError) as error:
        return BundleError(f"{name}: its pointers cannot be read: {error}")


def _number(found: tuple[int, object] | BundleError | None) -> int:
    """0 where there is no pointer, or none that can be read."""
    return found[0] if isinstance(found, tuple) else 0
