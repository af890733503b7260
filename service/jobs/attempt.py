"""One attempt at a job, from its assignment to a version that is live, or the reason why not.

Every step is idempotent: whenever this process is killed, the next attempt can go on.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from registry.errors import Unavailable
from registry.jobs import Event, Job, JobState, Note, Progress
from registry.store import Registry
from service.jobs.job_records import JobRecords
from service.jobs.preparation import PromotedBundle, find_promoted, prepare_folder
from service.jobs.publication import promote_if_good, publish, published_before
from service.jobs.trainer import Outcome, Trainer
from service.models.model_manager import ModelManager
from service.models.registry_calls import in_registry

log = logging.getLogger(__name__)

A = TypeVar("A")
T = TypeVar("T")

MAX_ATTEMPTS = 3
PROGRESS_EVERY_S = 0.25  # every event costs a synchronous write to the disk
# Pauses before a registry or a state folder that is full or out of reach is tried again: over two
# hours in total.
PAUSES_S = tuple(2.0**i for i in range(13))

CANCELLED = "cancelled while it ran"
STOPPED = "the server stopped; it goes on with the next one"

# What a job waits for.
Place = Literal["registry", "state folder"]
UNUSABLE: dict[Place, str] = {"registry": "registry_unusable", "state folder": "state_unusable"}


class NotDone(Exception):
    """An attempt at a job is over, and the job has not succeeded."""

    def __init__(self, state: JobState, reason: str) -> None:
        """`state` is the job's next state."""
        super().__init__(reason)
        self.state = state


@dataclass(frozen=True)
class TrainerSetup:
    """How trainers are started and stopped."""

    command: Sequence[str]
    cancel_s: float  # how long one may take to exit before it is killed
    cache: Path  # folder that all of them share
    data_roots: Sequence[Path]  # folders that they may read data from


class Attempt:
    """Used from one event loop."""

    def __init__(
        self,
        job: Job,
        records: JobRecords,
        registry: Registry,
        models: ModelManager,
        setup: TrainerSetup,
    ) -> None:
        self.job = job
        self.cancelled = False
        self._records = records
        self._registry = registry
        self._models = models
        self._setup = setup
        self._trainer: Trainer | None = None
        self._stopped = False
        self._interrupted = asyncio.Event()  # cancelled or stopped

    async def cancel(self) -> None:
        """Stops the trainer; the attempt ends soon after, and with it the job."""
        self.cancelled = True
        await self._interrupt()

    async def stop(self) -> None:
        """Stops the trainer; the attempt ends soon after, and the job is to be queued again."""
        self._stopped = True
        await self._interrupt()

    async def _interrupt(self) -> None:
        self._interrupted.set()
        if self._trainer:
            await self._trainer.stop(self._setup.cancel_s)

    async def begin(self) -> bool:
        """Records that the job runs; False if it has just ended, because it was cancelled."""
        self.job = await self._records.begin(self.job)
        return not self.job.state.ended

    async def run(self) -> None:
        """Trains, publishes and perhaps promotes, until the job has succeeded.

        Raises:
            NotDone: it has not succeeded.
        """
        await self._with_retries(self._run, "state folder")

    async def _run(self) -> None:
        published = await self._with_retries(lambda: self._read(published_before, self.job))
        left = ""
        if published is None:
            model = self.job.request.model
            promoted = await self._with_retries(lambda: self._read(find_promoted, model))
            self._check_outcome(await self._train(promoted))
            left = f"; what was trained is in {self._records.folder(self.job.id) / 'stage'}"
        await self._with_retries(self._publish_and_promote, left=left)

    async def _with_retries(
        self, work: Callable[[], Awaitable[T]], where: Place = "registry", left: str = ""
    ) -> T:
        """The result of `work`, which is retried while the folder that it uses cannot be used.

        Args:
            where: that folder.
            left: end of the message on giving up: where to find what was trained.

        Raises:
            NotDone: the job was interrupted meanwhile, or the last retry failed.
        """
        pauses = iter(PAUSES_S)
        while True:
            try:
                return await work()
            except (Unavailable, OSError) as error:
                pause_s = next(pauses, None)
                facts = {"job": self.job.id, "problem": str(error), "retry_s": pause_s}
                log.warning(UNUSABLE[where], extra=facts)
                if pause_s is None:
                    reason = f"the {where} could not be used: {error}{left}"
                    raise NotDone(JobState.FAILED, reason) from error
                text = f"{error}; next attempt in {pause_s:g} s"
            with suppress(Unavailable):  # the job database may be on the same disk
                await self._records.append(self.job.id, Note(text=text))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._interrupted.wait(), pause_s)
            self._check_interrupted()

    async def _read(self, call: Callable[[Registry, A], T], argument: A) -> T:
        """The result of `call`, which only reads the registry: an interrupted job does not wait for
        it, since a registry that hangs would hold up the server's stop."""
        reading = asyncio.ensure_future(in_registry(call, self._registry, argument))
        interrupted = asyncio.create_task(self._interrupted.wait())
        try:
            await asyncio.wait({reading, interrupted}, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                self._check_interrupted()
            return await reading
        finally:
            reading.cancel()
            interrupted.cancel()

    def _check_interrupted(self) -> None:
        """Raises: NotDone, if the job was cancelled, or the server is stopping."""
        if self.cancelled:
            raise NotDone(JobState.CANCELLED, CANCELLED)
        if self._stopped:
            raise NotDone(JobState.QUEUED, STOPPED)

    def _check_outcome(self, outcome: Outcome) -> None:
        """Raises: NotDone, if nothing was trained, or the job was cancelled."""
        if outcome.staged and not self.cancelled:
            return
        self._check_interrupted()
        if outcome.killed and self.job.attempt < MAX_ATTEMPTS:
            raise NotDone(JobState.QUEUED, f"{outcome.reason}; it goes on where it was")
        raise NotDone(JobState.FAILED, outcome.reason)

    async def _train(self, promoted: PromotedBundle | None) -> Outcome:
        setup, folder = self._setup, self._records.folder(self.job.id)
        assignment = await asyncio.to_thread(
            prepare_folder,
            folder,
            self.job,
            promoted,
            cache=setup.cache,
            data_roots=setup.data_roots,
        )
        trainer = await Trainer.start(setup.command, assignment, folder / "log.txt", folder / "pid")
        self._trainer = trainer
        if self._interrupted.is_set():  # while it was starting
            await trainer.stop(setup.cancel_s)
        last_progress = 0.0

        async def record(event: Event) -> None:
            nonlocal last_progress
            if isinstance(event, Progress) and event.done < event.total:
                if time.monotonic() < last_progress + PROGRESS_EVERY_S:
                    return
                last_progress = time.monotonic()
            await self._records.append(self.job.id, event)

        try:
            return await trainer.follow(record)
        finally:
            self._trainer = None
            await asyncio.to_thread((folder / "pid").unlink, missing_ok=True)

    async def _publish_and_promote(self) -> None:
        """Publishes, decides on promotion, and ends the job as succeeded.

        Raises:
            Unavailable: the registry cannot be used; another call goes on from there.
        """
        job = self.job
        version = await in_registry(published_before, self._registry, job)
        if version is None:
            stage = self._records.folder(job.id) / "stage"
            version = await in_registry(publish, self._registry, job, stage)
        scored = await self._records.scored(job.id)
        decision = await promote_if_good(self._registry, self._models, job, version, scored)
        await self._records.change(job.id, decision)
        verb = "promoted" if decision.promote else "not promoted"
        message = f"version {version} published, {verb}: {decision.reason}"
        await self._records.end(
            job.id, JobState.SUCCEEDED, message, version=version, promoted=decision.promote
        )
