"""Runs one job at a time, from its assignment to a version that is live, or the reason why not.

Every step is idempotent: whenever this process is killed, the next one can go on.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from registry.errors import Unavailable, UnfreezeError
from registry.jobs import Event, Job, JobState, Note, Progress
from registry.store import Registry
from service.jobs.job_records import JobRecords
from service.jobs.preparation import PromotedBundle, find_promoted, prepare
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


@dataclass
class Running:
    """The job that runs now."""

    job_id: str
    trainer: Trainer | None = None
    cancelled: bool = False
    interrupted: asyncio.Event = field(default_factory=asyncio.Event)  # cancelled, or by a stop


class JobRunner:
    """Runs a job, and stops it on request. Used from one event loop."""

    def __init__(
        self,
        records: JobRecords,
        registry: Registry,
        models: ModelManager,
        *,
        command: Sequence[str],
        cancel_s: float,
        cache: Path,
        data_roots: Sequence[Path],
    ) -> None:
        """
        Args:
            command: starts a trainer.
            cancel_s: how long a trainer may take to exit before it is killed.
            cache: cache folder that all trainers share.
            data_roots: folders that a trainer may read data from.
        """
        self._records = records
        self._registry = registry
        self._models = models
        self._command = command
        self._cancel_s = cancel_s
        self._cache = cache
        self._data_roots = data_roots
        self._running: Running | None = None
        self._cancelled: set[str] = set()  # jobs whose end is not recorded yet
        self._stopping = False

    async def cancel(self, job_id: str) -> bool:
        """Stops the job's trainer; the job ends soon after. False if the job is not running."""
        running = self._running
        if not running or running.job_id != job_id:
            return False
        running.cancelled = True
        self._cancelled.add(job_id)
        running.interrupted.set()
        if running.trainer:
            await running.trainer.stop(self._cancel_s)
        return True

    async def stop(self) -> None:
        """Stops the trainer, for good; a running job is queued again."""
        self._stopping = True
        if self._running:
            self._running.interrupted.set()
            if self._running.trainer:
                await self._running.trainer.stop(self._cancel_s)

    async def run(self, job: Job) -> None:
        """Runs a job until it has ended or is queued again; does nothing after `stop`.

        Raises:
            Unavailable: its beginning or its end cannot be recorded now; it is to be run again.
        """
        if self._stopping:
            return
        self._running = running = Running(job.id)
        log.info("job_started", extra={"job": job.id, "model": job.request.model})
        try:
            if job.id in self._cancelled:  # before, but that could not be recorded
                await self._records.end(job.id, JobState.CANCELLED, CANCELLED)
            elif job.state is JobState.RUNNING and job.attempt >= MAX_ATTEMPTS:
                reason = f"the result of attempt {job.attempt} could not be recorded: see the log"
                await self._records.end(job.id, JobState.FAILED, reason)
            else:
                job = await self._records.begin(job)
                if not job.state.ended:  # it may have been cancelled just now
                    await self._run(job, running)
            self._cancelled.discard(job.id)
        finally:
            self._running = None

    async def _run(self, job: Job, running: Running) -> None:
        try:
            await self._with_retries(
                job, running, lambda: self._attempt(job, running), "state folder"
            )
        except NotDone as over:
            if over.state is JobState.QUEUED:
                await self._queue_again(job, running, str(over))
            else:
                await self._records.end(job.id, over.state, str(over))
        except UnfreezeError as error:
            await self._records.end(job.id, JobState.FAILED, str(error))
        except Exception as error:
            log.exception("job_broke", extra={"job": job.id, "model": job.request.model})
            await self._records.end(job.id, JobState.FAILED, f"internal error: {error}")

    async def _queue_again(self, job: Job, running: Running, message: str) -> None:
        await self._records.requeue(job, message, counts=not self._stopping)
        if running.cancelled:  # meanwhile; nothing else would notice
            await self._records.end(job.id, JobState.CANCELLED, CANCELLED)

    async def _attempt(self, job: Job, running: Running) -> None:
        """Makes one attempt at a job, until it has succeeded.

        Raises:
            NotDone: it has not succeeded.
        """
        published = await self._with_retries(
            job, running, lambda: self._read(running, published_before, job)
        )
        left = ""
        if published is None:
            promoted = await self._with_retries(
                job, running, lambda: self._read(running, find_promoted, job.request.model)
            )
            outcome = await self._train(job, running, promoted)
            self._check(outcome, job, running)
            left = f"; what was trained is in {self._records.folder(job.id) / 'stage'}"
        await self._with_retries(job, running, lambda: self._publish_and_promote(job), left=left)

    async def _with_retries(
        self,
        job: Job,
        running: Running,
        work: Callable[[], Awaitable[T]],
        where: Place = "registry",
        left: str = "",
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
                facts = {"job": job.id, "problem": str(error), "retry_s": pause_s}
                log.warning(UNUSABLE[where], extra=facts)
                if pause_s is None:
                    reason = f"the {where} could not be used: {error}{left}"
                    raise NotDone(JobState.FAILED, reason) from error
                text = f"{error}; next attempt in {pause_s:g} s"
            with suppress(Unavailable):  # the job database may be on the same disk
                await self._records.append(job.id, Note(text=text))
            with suppress(TimeoutError):
                await asyncio.wait_for(running.interrupted.wait(), pause_s)
            self._check_interrupted(running)

    async def _read(self, running: Running, call: Callable[[Registry, A], T], argument: A) -> T:
        """The result of `call`, which only reads the registry: an interrupted job does not wait for
        it, since a registry that hangs would hold up the server's stop."""
        reading = asyncio.ensure_future(in_registry(call, self._registry, argument))
        interrupted = asyncio.create_task(running.interrupted.wait())
        try:
            await asyncio.wait({reading, interrupted}, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                self._check_interrupted(running)
            return await reading
        finally:
            reading.cancel()
            interrupted.cancel()

    def _check_interrupted(self, running: Running) -> None:
        """Raises: NotDone, if the job was cancelled, or the server is stopping."""
        if running.cancelled:
            raise NotDone(JobState.CANCELLED, CANCELLED)
        if self._stopping:
            raise NotDone(JobState.QUEUED, STOPPED)

    def _check(self, outcome: Outcome, job: Job, running: Running) -> None:
        """Raises: NotDone, if nothing was trained, or the job was cancelled."""
        if outcome.staged and not running.cancelled:
            return
        self._check_interrupted(running)
        if outcome.killed and job.attempt < MAX_ATTEMPTS:
            raise NotDone(JobState.QUEUED, f"{outcome.reason}; it goes on where it was")
        raise NotDone(JobState.FAILED, outcome.reason)

    async def _train(self, job: Job, running: Running, promoted: PromotedBundle | None) -> Outcome:
        folder = self._records.folder(job.id)
        assignment = await asyncio.to_thread(
            prepare, folder, job, promoted, cache=self._cache, data_roots=self._data_roots
        )
        trainer = await Trainer.start(self._command, assignment, folder / "log.txt", folder / "pid")
        running.trainer = trainer
        if running.cancelled or self._stopping:  # while it was starting
            await trainer.stop(self._cancel_s)
        last_progress = 0.0

        async def record(event: Event) -> None:
            nonlocal last_progress
            if isinstance(event, Progress) and event.done < event.total:
                if time.monotonic() < last_progress + PROGRESS_EVERY_S:
                    return
                last_progress = time.monotonic()
            await self._records.append(job.id, event)

        try:
            return await trainer.follow(record)
        finally:
            running.trainer = None
            await asyncio.to_thread((folder / "pid").unlink, missing_ok=True)

    async def _publish_and_promote(self, job: Job) -> None:
        """Publishes, decides on promotion, and ends the job as succeeded.

        Raises:
            Unavailable: the registry cannot be used; another call goes on from there.
        """
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
