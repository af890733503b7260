"""What an operator can change: the promoted version, the candidate, and what is in memory.

A version is loaded first, then the registry is written, then requests are switched over: a version
that does not load changes nothing.
"""

import asyncio
import logging

from registry.candidates import clear_candidate, set_candidate
from registry.errors import NotFound, UnfreezeError
from registry.pointers import Candidate, Mode, Numbered
from registry.prune import sweep, withdraw
from registry.store import Registry, check_name
from service.models.load_scheduler import LoadScheduler
from service.models.model_state import ModelState, Promoted, restored_conflict
from service.models.registry_calls import in_registry
from service.models.swaps import Swaps
from service.shielded import ShieldedTasks

log = logging.getLogger(__name__)


class Operations:
    """Used from one event loop."""

    def __init__(
        self,
        registry: Registry,
        states: dict[str, ModelState],
        scheduler: LoadScheduler,
        swaps: Swaps,
    ) -> None:
        self._registry = registry
        self._states = states
        self._scheduler = scheduler
        self._swaps = swaps
        self._pruning = asyncio.Lock()  # so that no two delete the same files
        self._shielded = ShieldedTasks()  # so that the registry and this server stay consistent

    async def promote(
        self, model: str, version: int, *, by: str, reason: str, expected: int | None = None
    ) -> Promoted:
        """Promotes `version` in the registry and makes it live here; one that does not load changes
        nothing.

        Raises:
            NotFound, BundleError, Unavailable: it cannot be served.
            Conflict: another pointer than `expected` is in force, or the registry was restored.
        """
        await in_registry(self._registry.folder, model, version)
        return await self._shielded.run(self._promote(model, version, by, reason, expected))

    async def _promote(
        self, model: str, version: int, by: str, reason: str, expected: int | None
    ) -> Promoted:
        state = self._states.setdefault(model, ModelState(model))

        def write(followed: Promoted | None) -> Promoted:
            self._check_onward(model, followed)
            return self._registry.promote(model, version, by=by, reason=reason, expected=expected)

        try:
            async with (
                self._scheduler.lease(state, version, live=True, anew=True) as loaded,
                state.writing,
            ):
                promoted = await in_registry(write, state.follows)
                self._swaps.go_live(state, promoted, loaded)
        except UnfreezeError as error:
            facts = {"model": model, "version": version, "by": by, "problem": str(error)}
            log.warning("promotion_refused", extra=facts)
            raise
        return promoted

    def _check_onward(self, model: str, followed: Promoted | None) -> None:
        """Raises: Conflict, if this server would not follow a new pointer."""
        if conflict := restored_conflict(model, followed, self._registry.promoted(model)):
            raise conflict

    async def rollback(self, model: str, *, by: str, reason: str) -> Promoted:
        """Promotes the version that the promoted one replaced.

        Raises:
            NotFound: there is no such model.
            Conflict: there is nothing to roll back to.
        """
        number, version = await in_registry(self._registry.rollback_target, model)
        reason = reason or f"rollback to {version}"
        return await self.promote(model, version, by=by, reason=reason, expected=number)

    async def load(self, model: str) -> None:
        """Makes the promoted version live, and follows a model that was unloaded again.

        Raises:
            NotFound: nothing is promoted; what is promoted next will go live.
            Conflict: the registry was restored; what answered before still does, until unloaded.
            BundleError, Unavailable: it cannot be served; what answered before still does.
        """
        state = self._states.get(model)
        followed = state.follows if state else None
        promoted = await in_registry(self._registry.promoted, check_name(model))
        if promoted is None:
            if state:
                state.unloaded = False
            raise NotFound(f"no version of {model} is promoted; promote one, which also loads it")
        if conflict := restored_conflict(model, followed, promoted):
            raise conflict
        await self._shielded.run(self._load(model, promoted))

    async def _load(self, model: str, promoted: Promoted) -> None:
        number, pointer = promoted
        state = self._states.setdefault(model, ModelState(model))
        state.unloaded = False
        try:
            async with self._scheduler.lease(
                state, pointer.version, live=True, anew=True
            ) as loaded:
                self._swaps.go_live(state, promoted, loaded)
        except Exception as error:
            self._swaps.set_problem(state, number, error)
            raise

    def unload(self, model: str) -> None:
        """Stops answering for the model until it is loaded; requests in flight are answered."""
        if state := self._states.get(model):
            self._swaps.unload(state)

    async def set_candidate(
        self, model: str, version: int, mode: Mode, percent: float, *, by: str, reason: str
    ) -> Candidate:
        """`version` is tried here, and the registry says so; one that does not load changes
        nothing.

        Raises:
            NotFound, BundleError, Unavailable: it cannot be served.
            BadRequest: as `registry.candidates.set_candidate`.
            Conflict: as there, or the registry was restored.
        """
        await in_registry(self._registry.folder, model, version)
        work = self._set_candidate(model, version, mode, percent, by, reason)
        return await self._shielded.run(work)

    async def _set_candidate(
        self, model: str, version: int, mode: Mode, percent: float, by: str, reason: str
    ) -> Candidate:
        state = self._states.setdefault(model, ModelState(model))

        def write(followed: Promoted | None) -> Numbered[Candidate]:
            self._check_onward(model, followed)
            return set_candidate(
                self._registry, model, version, mode, percent, by=by, reason=reason
            )

        async with (
            self._scheduler.lease(state, version, live=False, anew=True) as loaded,
            state.writing,
        ):
            number, wanted = await in_registry(write, state.follows)
            self._swaps.try_out(state, number, wanted, loaded)
        return wanted

    async def clear_candidate(self, model: str, *, by: str, reason: str) -> int | None:
        """Ends the trial of the candidate; returns its version, or None."""
        return await self._shielded.run(self._clear_candidate(model, by, reason))

    async def _clear_candidate(self, model: str, by: str, reason: str) -> int | None:
        state = self._states.get(model) or ModelState(model)  # an unknown one adds no state
        async with state.writing:
            cleared = await in_registry(
                clear_candidate, self._registry, model, by=by, reason=reason
            )
            if cleared is None:
                return None
            number, candidate = cleared
            self._swaps.clear_candidate(state, number)
        return candidate.version

    async def prune(self, model: str, keep: int) -> list[int]:
        """As `registry.prune.prune`; this server does not promote or try a version until the old
        ones have stopped existing, but it does while their files are deleted."""
        return await self._shielded.run(self._prune(model, keep))

    async def _prune(self, model: str, keep: int) -> list[int]:
        state = self._states.get(model) or ModelState(model)  # an unknown one adds no state
        async with self._pruning:
            async with state.writing:
                withdrawn = await in_registry(withdraw, self._registry, model, keep)
            await in_registry(sweep, self._registry, model, withdrawn)
        return withdrawn

    async def close(self) -> None:
        """Waits for changes in progress."""
        await self._shielded.close()
