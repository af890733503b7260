"""Which versions answer now. Follows the registry; a swap loses no request.

stage -> verify -> golden answers -> warm up -> swap the pointer -> the old version drains and stays
warm for a rollback; the one before it is freed. A load delays only requests for that version.
"""

import asyncio
import random
from collections.abc import Callable
from typing import NoReturn

from registry.errors import BundleError, NotFound, Overloaded, Unavailable
from registry.quoted import quoted
from registry.store import Registry, check_name
from service.execution.work import HIGH, NORMAL, Terms
from service.models.follower import Follower
from service.models.load_scheduler import LoadScheduler
from service.models.loaded_version import LoadedVersion
from service.models.loader import Loader
from service.models.model_state import ModelState
from service.models.operations import Operations
from service.models.registry_calls import in_registry
from service.models.swaps import Swaps
from service.models.trial import Content, Trial
from service.observability.metrics import Metrics

READ_ONE_IN = 8  # calls of a flood whose messages are read, lest one is urgent


class ModelManager:
    """The models of a registry as this server serves them. Used from one event loop."""

    def __init__(
        self,
        registry: Registry,
        loader: Loader,
        metrics: Metrics,
        on_ready: Callable[[str], None],
        on_gone: Callable[[str], None],
        pinned_versions: int,
    ) -> None:
        """
        Args:
            on_ready: called with a model whenever another version of it goes live.
            on_gone: called with a model that was unloaded.
            pinned_versions: most versions of a model in memory only because they were requested by
                number; the least recently used one makes room.
        """
        self._registry = registry
        self._metrics = metrics
        self._scheduler = LoadScheduler(registry, loader, pinned_versions)
        self._states: dict[str, ModelState] = {}
        self._most_urgent = NORMAL
        self._random = random.Random()
        swaps = Swaps(metrics, on_ready, on_gone)
        self._follower = Follower(registry, self._states, self._scheduler, swaps, metrics)
        self.operations = Operations(registry, self._states, self._scheduler, swaps)

    # Reading

    async def get(
        self,
        model: str,
        version: int | None,
        content: Callable[[], Content] = tuple,
        *,
        same_labels: bool = False,
        same_size: bool = False,
    ) -> LoadedVersion:
        """The version asked for, which is loaded if it is not in memory; without one, the promoted
        version, or a candidate for its share of the requests.

        Enter it (`with loaded:`) before the next await: it stays in memory until the block exits.

        Args:
            content: gives the images, which decide whether a candidate answers; without images it
                never does.
            same_labels, same_size: see `Trial.answers`.

        Raises:
            NotFound: there is no such model or version.
            Unavailable: it exists but cannot be loaded.
        """
        state = self._states.get(model)
        if version is None:
            if state is None or state.live is None:
                _explain_missing(model, state, self.ready())
            trial = state.trial
            if trial and trial.answers(content, same_labels=same_labels, same_size=same_size):
                return trial.candidate
            return state.live
        if state and (found := state.find(version)):
            return found
        try:
            # raises NotFound before a state is added
            await in_registry(self._registry.folder, check_name(model), version)
            state = self._states.setdefault(model, ModelState(model))
            return await self._scheduler.find(state, version)
        except BundleError as error:
            problem = f"version {version} of {model} cannot be served: {error}"
            raise Unavailable(problem) from error

    def ready(self) -> set[str]:
        """Models that answer now."""
        return set(self.versions())

    def versions(self) -> dict[str, int]:
        """The live version of each model that answers now."""
        states = self._states.items()
        return {name: state.live.version for name, state in states if state.live}

    def n_classes(self, model: str) -> int:
        """How many classes the live version has; 0 if none is live."""
        state = self._states.get(model)
        return len(state.live.bundle.labels) if state and state.live else 0

    def models_in_memory(self) -> list[str]:
        """Models that have a version in memory, whether one is promoted or not."""
        return sorted(name for name in self._states if self.in_memory(name))

    def in_memory(self, model: str) -> list[LoadedVersion]:
        """Loaded versions, lowest number first."""
        state = self._states.get(model)
        found = {loaded.version: loaded for loaded in state.versions()} if state else {}
        return [loaded for _, loaded in sorted(found.items())]

    def problems(self) -> dict[str, str]:
        """By model: why it does not follow its promoted version."""
        return {name: state.problem for name, state in self._states.items() if state.problem}

    def trial_beside(self, loaded: LoadedVersion) -> Trial | None:
        """The trial of a candidate beside this version, if it is live and there is one."""
        state = self._states.get(loaded.model)
        trial = state.trial if state else None
        return trial if trial and trial.live is loaded else None

    def trial(self, model: str) -> tuple[Trial | None, str]:
        """The trial of a candidate here, and why it is not of the one that the registry names."""
        state = self._states.get(model)
        return (state.trial, state.candidate_failure.problem) if state else (None, "")

    def label_note(self, model: str, version: int) -> str:
        """How the labels of a version that has just gone live differ from those of the one before,
        for people; empty if they do not."""
        state = self._states.get(model)
        current = state.live if state else None
        return state.label_note if state and current and current.version == version else ""

    def queue_depth(self, model: str) -> int:
        """Images queued for any version; read from another thread when metrics are scraped."""
        return sum(loaded.executor.n_awaited for loaded in self.in_memory(model))

    def stream_window(self, model: str) -> int:
        """How many requests of one stream a model can take at a time; 0: one of its versions is
        busy."""
        state = self._states.get(model)
        versions = state.versions() if state else ()
        return min((loaded.executor.stream_window for loaded in versions), default=0)

    def saw(self, terms: Terms) -> None:
        """Notes that a request came with these terms."""
        self._most_urgent = min(self._most_urgent, terms.level)

    def refusal(self, answer_s: float) -> Overloaded | None:
        """Why every version would refuse an image that has to be answered in `answer_s` seconds;
        None if one might take it, since each has a queue of its own.

        The priority is in the message, which has not been read. It counts as the most urgent one
        that any request has had so far, but for one call in READ_ONE_IN: else a flood would keep
        the server from ever seeing an urgent one. The previous version does not count: it stays in
        memory after every promotion, and hardly any request is for it. A refusal is counted as a
        rejection here, and as a failed request of a version only if there is just one: otherwise
        nobody knows which one was meant."""
        level = self._most_urgent if self._random.random() > 1 / READ_ONE_IN else HIGH
        terms = Terms(priority=level, answer_s=answer_s)
        refusal, full = None, set()
        for state in self._states.values():
            for loaded in state.wanted():
                if not (refusal := loaded.executor.refusal(terms)):
                    return None
                full.add(loaded)
        if refusal:
            self._metrics.rejected.labels(refusal.reason).inc()
        if refusal and len(full) == 1:
            full.pop().counts.failed(refusal, 0)
        return refusal

    # Following

    async def start(self, every_s: float) -> None:
        """Loads every promoted version that can be loaded. Does not wait for candidates.

        Args:
            every_s: how long to wait before retrying a registry that cannot be read.
        """
        await self._follower.start(every_s)

    async def refresh(self) -> None:
        """Makes every model serve what the registry says, or keep what it has and note why."""
        await self._follower.apply(candidates=True)

    async def follow(self, every_s: float) -> None:
        """Follows every change of the registry until cancelled."""
        await self._follower.follow(every_s)

    async def close(self) -> None:
        """Unloads everything."""
        await self._scheduler.close()
        await self.operations.close()
        await self._follower.close()
        for state in self._states.values():
            for loaded in set(state.versions()):
                await asyncio.to_thread(loaded.executor.close)
        self._states.clear()


def _explain_missing(name: str, state: ModelState | None, served: set[str]) -> NoReturn:
    if state and state.unloaded:
        raise NotFound(f"{name} was unloaded on this server; load it again")
    if state and state.failure.problem:
        raise Unavailable(f"{name} cannot be served: {state.failure.problem}")
    if state and state.n_going_live:
        raise Unavailable(f"{name} is being loaded; try again in a moment")
    known = ", ".join(sorted(served)[:5]) or "none"
    raise NotFound(f"no promoted version of a model {quoted(name, 128)}; models served: {known}")
