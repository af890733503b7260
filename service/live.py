"""Which versions answer now. Follows the registry; a swap loses no request.

stage -> verify -> golden answers -> warm -> swap the pointer -> the old version drains and stays
warm for rollback; the one before it is freed. A load holds up nothing but what needs that version.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, TypeVar

from registry.candidates import clear_candidate, set_candidate
from registry.errors import BundleError, NotFound, Unavailable
from registry.pointers import Candidate, Mode, Pointer
from registry.store import Registry, check_name
from service.candidacy import Candidacy, Content
from service.follower import Follower
from service.loader import Loaded, Loader
from service.loading import Loading
from service.metrics import Metrics
from service.model import Model
from service.swaps import Swaps

T = TypeVar("T")


class Live:
    """The models of a registry as this server serves them. Used from one event loop."""

    def __init__(
        self,
        registry: Registry,
        loader: Loader,
        metrics: Metrics,
        on_ready: Callable[[str], None] = lambda model: None,
        on_gone: Callable[[str], None] = lambda model: None,
    ) -> None:
        """
        Args:
            on_ready: told of a model whenever another version of it is live.
            on_gone: told of a model that was unloaded.
        """
        self._registry = registry
        self._loading = Loading(registry, loader)
        self._swaps = Swaps(metrics, on_ready, on_gone)
        self._models: dict[str, Model] = {}
        self._follower = Follower(registry, self._models, self._loading, self._swaps)
        self._changes: set[asyncio.Task[Any]] = set()

    # Reading

    async def get(
        self,
        model: str,
        version: int | None,
        content: Content = (),
        *,
        same_shape: bool = False,
    ) -> Loaded:
        """The promoted version, a candidate that has its share of them, or the version asked for,
        which is loaded if it is not in memory.

        Enter it (`with loaded:`) before the next await: from then on it stays until it is left.

        Args:
            content: the images, which decide whether a candidate answers; none: it does not.
            same_shape: one whose input or output is shaped otherwise does not.

        Raises:
            NotFound: there is no such model or version.
            Unavailable: it is there and cannot be loaded.
        """
        entry = self._models.get(model)
        if version is None:
            if entry is None or entry.current is None:
                _explain_missing(model, entry, self.ready())
            if (tried := entry.candidate) and tried.answers(content):
                return tried.loaded if tried.same_shape or not same_shape else entry.current
            return entry.current
        if entry and (found := entry.find(version)):
            return found
        # NotFound adds no entry
        await asyncio.to_thread(self._registry.folder, check_name(model), version)
        try:
            return await self._loading.find(model, self._entry(model), version)
        except BundleError as error:
            problem = f"version {version} of {model} cannot be served: {error}"
            raise Unavailable(problem) from error

    def ready(self) -> set[str]:
        """Models that answer now."""
        return {name for name, entry in self._models.items() if entry.current}

    def in_memory(self, model: str) -> list[Loaded]:
        """Versions that can answer at once, oldest first."""
        entry = self._models.get(model)
        found = {loaded.version: loaded for loaded in entry.versions()} if entry else {}
        return [loaded for _, loaded in sorted(found.items())]

    def problems(self) -> dict[str, str]:
        """Why a model does not follow its promoted version."""
        return {name: entry.problem for name, entry in self._models.items() if entry.problem}

    def candidate(self, model: str) -> tuple[Candidacy | None, str]:
        """The candidate that is tried here, and why it is not the one that the registry names."""
        entry = self._models.get(model)
        return (entry.candidate, entry.candidate_trouble.problem) if entry else (None, "")

    def queue_depth(self) -> dict[str, int]:
        """Images that wait, by model."""
        entries = self._models.items()
        return {name: entry.current.executor.depth for name, entry in entries if entry.current}

    def _entry(self, model: str) -> Model:
        return self._models.setdefault(model, Model())

    # Following

    async def start(self) -> None:
        """Every promoted version that can be loaded answers. Candidates are not waited for."""
        await self._follower.take_up(candidates=False)

    async def refresh(self) -> None:
        """Every model serves what the registry says, or keeps what it has and has a problem."""
        await self._follower.take_up(candidates=True)

    async def follow(self, every_s: float) -> None:
        """Takes up every change of the registry until cancelled."""
        await self._follower.follow(every_s)

    # Changing

    async def promote(
        self, model: str, version: int, *, by: str, reason: str, expected: int | None = None
    ) -> tuple[int, Pointer]:
        """`version` is live here, and the registry says so; a version that does not load changes
        nothing.

        Raises:
            NotFound, BundleError, Unavailable: it cannot be served.
            Conflict: another pointer than `expected` is in force.
        """
        await asyncio.to_thread(self._registry.folder, model, version)
        return await self._to_the_end(self._promote(model, version, by, reason, expected))

    async def _promote(
        self, model: str, version: int, by: str, reason: str, expected: int | None
    ) -> tuple[int, Pointer]:
        entry = self._entry(model)
        async with self._loading.lease(model, entry, version, live=True) as loaded, entry.writing:
            number, pointer = await asyncio.to_thread(
                self._registry.promote, model, version, by=by, reason=reason, expected=expected
            )
            self._swaps.go_live(model, entry, number, loaded)
        return number, pointer

    async def rollback(self, model: str, *, by: str, reason: str) -> tuple[int, Pointer]:
        """What the promoted version replaced is live again.

        Raises:
            Conflict: there is nothing to go back to.
        """
        number, version = await asyncio.to_thread(self._registry.rollback_target, model)
        reason = reason or f"rollback to {version}"
        return await self.promote(model, version, by=by, reason=reason, expected=number)

    async def load(self, model: str) -> None:
        """What the registry promotes now is live; what was unloaded is followed again.

        Raises:
            NotFound: nothing is promoted.
            BundleError, Unavailable: it cannot be served; what answered before still does.
        """
        promoted = await asyncio.to_thread(self._registry.promoted, check_name(model))
        if promoted is None:
            raise NotFound(f"no version of {model} is promoted; promote one, then load it")
        await self._to_the_end(self._load(model, *promoted))

    async def _load(self, model: str, number: int, pointer: Pointer) -> None:
        entry = self._entry(model)
        entry.unloaded = False
        try:
            async with self._loading.lease(model, entry, pointer.version, live=True) as loaded:
                self._swaps.go_live(model, entry, number, loaded)
        except Exception as error:
            self._swaps.problem(model, entry, number, error)
            raise

    def unload(self, model: str) -> None:
        """No version of it answers here until it is loaded; requests under way are answered."""
        if entry := self._models.get(model):
            self._swaps.unload(model, entry)

    async def set_candidate(
        self, model: str, version: int, mode: Mode, percent: float, *, by: str, reason: str
    ) -> Candidate:
        """`version` is tried here, and the registry says so; one that does not load changes
        nothing.

        Raises:
            NotFound, BundleError, Unavailable: it cannot be served.
            BadRequest, Conflict: as `registry.candidates.set_candidate`.
        """
        await asyncio.to_thread(self._registry.folder, model, version)
        work = self._set_candidate(model, version, mode, percent, by, reason)
        return await self._to_the_end(work)

    async def _set_candidate(
        self, model: str, version: int, mode: Mode, percent: float, by: str, reason: str
    ) -> Candidate:
        entry = self._entry(model)

        def write() -> tuple[int, Candidate]:
            return set_candidate(
                self._registry, model, version, mode, percent, by=by, reason=reason
            )

        async with self._loading.lease(model, entry, version, live=False) as loaded, entry.writing:
            number, wanted = await asyncio.to_thread(write)
            self._swaps.try_out(model, entry, number, wanted, loaded)
        return wanted

    async def clear_candidate(self, model: str, *, by: str, reason: str) -> int | None:
        """No version is tried any more; gives the one that was."""
        return await self._to_the_end(self._clear_candidate(model, by, reason))

    async def _clear_candidate(self, model: str, by: str, reason: str) -> int | None:
        entry = self._models.get(model) or Model()  # an unknown one adds no entry
        async with entry.writing:
            cleared = await asyncio.to_thread(
                clear_candidate, self._registry, model, by=by, reason=reason
            )
            if cleared is None:
                return None
            number, candidate = cleared
            self._swaps.clear(model, entry, number)
        return candidate.version

    async def _to_the_end(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which goes on when the caller is cancelled, so that the registry
        and this server agree."""
        task = asyncio.create_task(work)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        task.add_done_callback(_look_at_error)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Nothing is in memory any more."""
        await self._loading.close()
        await asyncio.gather(*self._changes, return_exceptions=True)
        await self._follower.close()
        for entry in self._models.values():
            for loaded in set(entry.versions()):
                await asyncio.to_thread(loaded.executor.close)
        self._models.clear()


def _look_at_error(task: asyncio.Task[Any]) -> None:
    """Whoever waited may have gone; asyncio complains of errors that nobody looked at."""
    if not task.cancelled():
        task.exception()


def _explain_missing(name: str, entry: Model | None, served: set[str]) -> NoReturn:
    if entry and entry.unloaded:
        raise NotFound(f"{name} was unloaded on this server; load it again")
    if entry and entry.trouble.problem:
        raise Unavailable(f"{name} cannot be served: {entry.trouble.problem}")
    known = ", ".join(sorted(served)[:5]) or "none"
    raise NotFound(f"no promoted version of a model {name!r:.80}; models served: {known}")
