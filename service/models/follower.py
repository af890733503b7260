"""Polls the registry and applies its changes."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from registry.errors import BundleError, Unavailable, UnfreezeError
from registry.pointers import Candidate, Cleared, Numbered
from registry.store import Registry
from service.models.load_scheduler import LoadScheduler
from service.models.model_state import NOTHING_PROMOTED, ModelState, Promoted, restored_conflict
from service.models.registry_calls import in_thread
from service.models.swaps import Swaps
from service.observability.metrics import Metrics

log = logging.getLogger(__name__)

P = TypeVar("P")


@dataclass(frozen=True)
class Aliases:
    """A model's pointers in force, or why they cannot be read; None if there is none."""

    promoted: Promoted | BundleError | None
    candidate: Numbered[Candidate | Cleared] | BundleError | None
    followed: Promoted | None = None  # by this server, when it began to read the registry


GONE = Aliases(promoted=None, candidate=None)  # of a model that the registry no longer has


class Follower:
    """Follows every model independently, and its candidate apart from its promoted version."""

    def __init__(
        self,
        registry: Registry,
        states: dict[str, ModelState],
        scheduler: LoadScheduler,
        swaps: Swaps,
        metrics: Metrics,
    ) -> None:
        self._registry = registry
        self._metrics = metrics
        self._unreadable = ""  # why the registry cannot be read, if it cannot
        self._states = states
        self._scheduler = scheduler
        self._swaps = swaps
        self._under_way: dict[tuple[str, str, int], asyncio.Task[None]] = {}
        # nobody waits for a previous version, so loading these leaves a thread to other loads
        self._one_previous = asyncio.Semaphore(1)

    async def start(self, every_s: float) -> None:
        """Loads every promoted version, or notes why it cannot. Waits for a registry that cannot be
        read: in a rollout, a server without models must not replace those that have them."""
        await self.apply(candidates=False)
        while self._unreadable:
            await asyncio.sleep(every_s)
            await self.apply(candidates=False)

    async def apply(self, *, candidates: bool) -> None:
        """Makes everything as the registry says now, or notes why it cannot."""
        found = await self._read_pointers()
        await asyncio.gather(*(self._follow_promoted(name, one) for name, one in found.items()))
        if candidates:
            await asyncio.gather(
                *(self._follow_candidate(name, one) for name, one in found.items())
            )

    async def follow(self, every_s: float) -> None:
        """Applies every change until cancelled; a slow load delays only its own pointer.

        A newer pointer overtakes a slow one, so that a version rolled back meanwhile never goes
        live. After a restart, or several promotions at once, what a rollback would return to is
        loaded here, behind all that is live.
        """
        while True:
            await asyncio.sleep(every_s)
            try:
                found = await self._read_pointers()
            except Exception:  # whatever it is, the next poll may succeed
                log.exception("refresh_failed")
                continue
            for name, aliases in found.items():
                promoted, candidate = _number(aliases.promoted), _number(aliases.candidate)
                self._begin(("promoted", name, promoted), self._follow_promoted, aliases)
                self._begin(("candidate", name, candidate), self._follow_candidate, aliases)
                self._begin(("previous", name, promoted), self._load_previous, aliases)
            if not self._unreadable:
                self._metrics.registry_read.set_to_current_time()

    async def close(self) -> None:
        """Waits for what is in progress."""
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

    async def _read_pointers(self) -> dict[str, Aliases]:
        followed = {name: state.follows for name, state in self._states.items()}
        try:
            found = await in_thread(read_aliases, self._registry)
        except OSError as error:
            if str(error) != self._unreadable:  # log it once, not at every poll
                log.error("registry_unreadable", extra={"problem": str(error)})
            self._unreadable = str(error)
            return {}
        if self._unreadable:
            log.info("registry_readable")
        self._unreadable = ""
        pointers = dict.fromkeys(self._states, GONE) | found
        return {name: replace(one, followed=followed.get(name)) for name, one in pointers.items()}

    async def _follow_promoted(self, name: str, aliases: Aliases) -> None:
        if aliases.promoted is None:
            known = self._states.get(name)
            if known is None or known.follows != aliases.followed:
                return  # this server changed it meanwhile; the next poll sees it
            if known.live:
                self._swaps.set_problem(known, 0, BundleError(f"{name}: {NOTHING_PROMOTED}"))
            else:  # what could not be loaded is no longer promoted
                self._swaps.clear_problem(known)
            return
        state = self._states.setdefault(name, ModelState(name))
        if isinstance(aliases.promoted, BundleError):
            self._swaps.set_problem(state, 0, aliases.promoted)
            return
        if state.unloaded:
            return
        number, pointer = aliases.promoted
        conflict = restored_conflict(name, aliases.followed, aliases.promoted)
        if conflict and state.follows == aliases.followed:  # else this server changed it meanwhile
            self._swaps.set_problem(state, 0, conflict)
            return
        if number <= state.pointer:
            self._swaps.clear_problem(state)
            return
        if state.failure.backs_off(number):
            return
        anew = state.failure.note_try(number)  # another server could load it, and promoted it
        try:
            async with self._scheduler.lease(
                state, pointer.version, live=True, anew=anew
            ) as loaded:
                self._swaps.go_live(state, aliases.promoted, loaded)
        except Exception as error:  # whatever it is, other models must not suffer
            self._swaps.set_problem(state, number, error)

    async def _load_previous(self, name: str, aliases: Aliases) -> None:
        """Loads what a rollback would return to, unless it is kept because it was live here before;
        tried once."""
        state = self._states.get(name)
        if state is None or state.follows is None or state.follows != aliases.promoted:
            return
        number, pointer = state.follows
        kept = state.previous and state.previous.version
        if pointer.replaced in (None, kept) or state.previous_sought == number:
            return
        state.previous_sought = number
        try:
            async with (
                self._one_previous,
                self._scheduler.lease(state, pointer.replaced, live=False) as loaded,
            ):
                self._swaps.keep_previous(state, number, loaded)
        except Unavailable:  # the model was unloaded meanwhile, or the server stops
            pass
        except Exception as error:  # a rollback will say it again
            facts = {"model": name, "version": pointer.replaced, "problem": str(error)}
            log.warning("previous_not_loaded", extra=facts)

    async def _follow_candidate(self, name: str, aliases: Aliases) -> None:
        state = self._states.get(name)
        if state is None:
            return
        if aliases.candidate is None:
            self._swaps.clear_candidate_problem(state)
            return
        if isinstance(aliases.candidate, BundleError):
            self._swaps.set_candidate_problem(state, 0, aliases.candidate)
            return
        number, wanted = aliases.candidate
        if isinstance(wanted, Cleared):
            self._swaps.clear_candidate(state, number)
            return
        if number <= state.candidate_pointer or wanted.beside != state.pointer:
            self._swaps.clear_candidate_problem(state)
            return
        if state.candidate_failure.backs_off(number):
            return
        anew = state.candidate_failure.note_try(number)
        try:
            async with self._scheduler.lease(
                state, wanted.version, live=False, anew=anew
            ) as loaded:
                self._swaps.try_out(state, number, wanted, loaded)
        except Exception as error:
            self._swaps.set_candidate_problem(state, number, error)


def read_aliases(registry: Registry) -> dict[str, Aliases]:
    """The pointers of all models; a damaged one does not hide the others.

    Raises:
        OSError: the registry is not accessible now.
    """

    def candidate(name: str) -> Numbered[Candidate | Cleared] | None:
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


def _number(found: Promoted | Numbered[Candidate | Cleared] | BundleError | None) -> int:
    """0 where there is no pointer, or none that can be read."""
    return found.number if isinstance(found, Numbered) else 0
