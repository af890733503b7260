"""Which versions answer now. Follows the registry; a swap loses no request.

stage -> verify -> golden answers -> warm -> swap the pointer -> the old version drains and stays
warm for rollback; the one before it is freed.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn, TypeVar

from registry.errors import BundleError, NotFound, Unavailable, UnfreezeError
from registry.store import NAME, Pointer, Registry, check_name
from service.loader import Loaded, Loader
from service.metrics import Metrics
from service.model import Model

T = TypeVar("T")

log = logging.getLogger(__name__)


class Live:
    """The models of a registry as this server serves them. Used from one event loop."""

    def __init__(
        self,
        registry: Registry,
        loader: Loader,
        metrics: Metrics,
        on_ready: Callable[[str], None] = lambda model: None,
    ) -> None:
        """`on_ready` is told of a model whenever another version of it is live."""
        self._registry = registry
        self._loader = loader
        self._metrics = metrics
        self._on_ready = on_ready
        self._models: dict[str, Model] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="load")

    # Reading

    async def get(self, model: str, version: int | None) -> Loaded:
        """The promoted version, or the one asked for, which is loaded if it is not in memory.

        Enter it (`with loaded:`) before the next await: from then on it stays until it is left.

        Raises:
            NotFound: there is no such model or version.
            Unavailable: it is there and cannot be loaded.
        """
        entry = self._models.get(model)
        if version is None:
            if entry and entry.current:
                return entry.current
            _explain_missing(model, entry, self.ready())
        while not (entry and (found := entry.find(version))):
            folder = self._registry.folder
            await asyncio.to_thread(folder, check_name(model), version)  # NotFound adds no entry
            entry = self._models.setdefault(model, Model())
            await self._to_the_end(self._pin(model, entry, version))
        return found

    def ready(self) -> set[str]:
        """Models that answer now."""
        return {name for name, entry in self._models.items() if entry.current}

    def problems(self) -> dict[str, str]:
        """Why a model does not follow its promoted version."""
        return {name: entry.problem for name, entry in self._models.items() if entry.problem}

    def queue_depth(self) -> dict[str, int]:
        """Images that wait, by model."""
        entries = self._models.items()
        return {name: entry.current.executor.depth for name, entry in entries if entry.current}

    # Following

    async def follow(self, every_s: float) -> None:
        """Takes up every change of the registry until cancelled."""
        while True:
            await asyncio.sleep(every_s)
            try:
                await self.refresh()
            except Exception:  # whatever it is, the next second may be better
                log.exception("refresh_failed")

    async def refresh(self) -> None:
        """Every model serves what the registry says, or keeps what it has and has a problem."""
        try:
            pointers = await asyncio.to_thread(self._read_pointers)
        except OSError as error:
            log.error("registry_unreadable", extra={"problem": str(error)})
            return
        await asyncio.gather(*(self._catch_up(name, found) for name, found in pointers.items()))

    def _read_pointers(self) -> dict[str, tuple[int, Pointer] | BundleError]:
        root = self._registry.root
        names = [path.name for path in root.iterdir()] if root.is_dir() else []
        found: dict[str, tuple[int, Pointer] | BundleError] = {}
        for name in names:
            if not NAME.fullmatch(name):
                continue
            try:
                pointer = self._registry.promoted(check_name(name))
            except BundleError as error:
                found[name] = error
            except (UnfreezeError, OSError) as error:
                found[name] = BundleError(f"{name}: its pointers cannot be read: {error}")
            else:
                if pointer:
                    found[name] = pointer
        return found

    async def _catch_up(self, name: str, found: tuple[int, Pointer] | BundleError) -> None:
        entry = self._models.setdefault(name, Model())
        if isinstance(found, BundleError):
            self._note_problem(name, entry, 0, found)
            return
        number, pointer = found
        if entry.retries_later(number):
            return
        async with entry.lock:
            if number <= entry.pointer:
                if entry.problem:
                    self._forget_problem(name, entry)
                return
            try:
                self._swap(name, entry, number, await self._load(name, entry, pointer.version))
            except Exception as error:  # whatever it is, the others go on
                self._note_problem(name, entry, number, error)

    def _swap(self, name: str, entry: Model, number: int, loaded: Loaded) -> None:
        """From here on requests go to `loaded`. Nothing is awaited, so no request sees half."""
        old, older = entry.current, entry.previous
        entry.pointer = number
        self._forget_problem(name, entry)
        entry.pinned.pop(loaded.version, None)
        if old is loaded:
            return
        entry.current, entry.previous = loaded, old
        if older and older is not loaded:
            older.retire()
        facts = {"model": name, "version": loaded.version, "replaced": old and old.version}
        log.info("version_live", extra=facts)
        self._count_swap(name, old, loaded)
        self._on_ready(name)

    def _count_swap(self, name: str, old: Loaded | None, new: Loaded) -> None:
        self._metrics.swaps.labels(name).inc()
        self._metrics.live_version.labels(name).set(new.version)
        if old:
            self._metrics.model_info.remove(*self._info(name, old))
        self._metrics.model_info.labels(*self._info(name, new)).set(1)

    def _info(self, name: str, loaded: Loaded) -> tuple[str, str, str, str, str]:
        kind = loaded.kind
        return name, str(loaded.version), kind.provider, kind.precision, str(loaded.plan)

    def _note_problem(self, name: str, entry: Model, number: int, error: Exception) -> None:
        expected = isinstance(error, UnfreezeError)
        problem = str(error) if expected else f"{type(error).__name__}: {error}"
        if problem != entry.problem:
            facts = {"model": name, "problem": problem}
            log.error("load_failed", extra=facts, exc_info=None if expected else error)
        entry.note_problem(number, problem)
        self._metrics.load_problem.labels(name).set(1)

    def _forget_problem(self, name: str, entry: Model) -> None:
        entry.forget_problem()
        self._metrics.load_problem.labels(name).set(0)

    # Loading: always under the model's lock, and to the end, so that nothing loaded is lost

    async def _to_the_end(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which goes on when the caller is cancelled."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_look_at_error)
        return await asyncio.shield(task)

    async def _load(self, name: str, entry: Model, version: int) -> Loaded:
        like = entry.current

        def load() -> Loaded:
            return self._loader.load(self._registry.folder(name, version), version, like)

        if found := entry.find(version):
            return found
        return await asyncio.get_running_loop().run_in_executor(self._threads, load)

    async def _pin(self, name: str, entry: Model, version: int) -> None:
        async with entry.lock:
            if entry.find(version):
                return
            try:
                entry.pinned[version] = await self._load(name, entry, version)
            except BundleError as error:
                problem = f"version {version} of {name} cannot be served: {error}"
                raise Unavailable(problem) from error
            entry.drop_oldest_pinned()

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
        entry = self._models.setdefault(model, Model())
        return await self._to_the_end(self._promote(entry, model, version, by, reason, expected))

    async def _promote(
        self, entry: Model, model: str, version: int, by: str, reason: str, expected: int | None
    ) -> tuple[int, Pointer]:
        async with entry.lock:
            loaded = await self._load(model, entry, version)
            try:
                number, pointer = await asyncio.to_thread(
                    self._registry.promote, model, version, by=by, reason=reason, expected=expected
                )
            except BaseException:
                if entry.find(version) is None:
                    loaded.retire()
                raise
            self._swap(model, entry, number, loaded)
        return number, pointer

    async def rollback(self, model: str, *, by: str, reason: str) -> tuple[int, Pointer]:
        """What the promoted version replaced is live again.

        Raises:
            Conflict: there is nothing to go back to.
        """
        number, version = await asyncio.to_thread(self._registry.rollback_target, model)
        reason = reason or f"rollback to {version}"
        return await self.promote(model, version, by=by, reason=reason, expected=number)

    async def close(self) -> None:
        """Nothing is in memory any more."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self._threads.shutdown)
        for entry in self._models.values():
            for loaded in (entry.current, entry.previous, *entry.pinned.values()):
                if loaded:
                    await asyncio.to_thread(loaded.executor.close)
        self._models.clear()


def _look_at_error(task: asyncio.Task[Any]) -> None:
    """Whoever waited may have gone; asyncio complains of errors that nobody looked at."""
    if not task.cancelled():
        task.exception()


def _explain_missing(name: str, entry: Model | None, served: set[str]) -> NoReturn:
    if entry and entry.problem:
        raise Unavailable(f"{name} cannot be served: {entry.problem}")
    known = ", ".join(sorted(served)[:5]) or "none"
    raise NotFound(f"no promoted version of a model {name!r:.80}; models served: {known}")
