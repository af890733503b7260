"""Training jobs: one runs at a time, the others are queued in the database.

queued -> running: train, publish, gate, promote -> succeeded, failed or cancelled
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

from registry.job_store import NumberedEvent
from registry.jobs import Job, JobRequest, JobState
from service.jobs.attempt import MAX_ATTEMPTS
from service.jobs.job_records import JobRecords
from service.jobs.job_runner import JobRunner
from service.jobs.settings_check import SettingsCheck
from service.jobs.trainer import kill_leftover
from service.shielded import ShieldedTasks

log = logging.getLogger(__name__)

REMEMBERED = 1_000  # latest jobs that a new server reads to know when each model was last trained
# Pause after an error of our own, such as a full disk; doubled with every further one in a row.
FIRST_RETRY_S, LONGEST_RETRY_S = 5.0, 300.0


class Jobs:
    """Accepts, runs and reports jobs. Used from one event loop; the database in threads."""

    def __init__(self, records: JobRecords, runner: JobRunner, settings: SettingsCheck) -> None:
        self._records = records
        self._runner = runner
        self._settings = settings
        self._shielded = ShieldedTasks()  # so that all that is recorded reaches the worker
        self._stopping = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None

    # What callers can do

    async def find(self, request: JobRequest) -> Job | None:
        """The job that was started before with the request's idempotency key.

        Raises:
            Conflict: the key was used for a different request.
        """
        return await self._records.find(request)

    async def start_job(
        self, request: JobRequest, as_trained: Path | None = None
    ) -> tuple[Job, bool]:
        """A queued job, stored durably; True if a job with its idempotency key existed.

        Args:
            as_trained: a bundle whose settings it is to have, overridden by those of the request.

        Raises:
            BadRequest: its settings are invalid.
            Conflict: the key was used for a different request, or the trainer does not say what
                the bundle's settings are.
            Unavailable: it does not say so in time.
        """
        resolved = None
        if as_trained:
            resolved = await self._settings.resolve(request.settings, as_trained)
        await self._settings.check(request.settings if resolved is None else resolved)
        return await self._shielded.run(self._records.create(request, resolved))

    async def get(self, job_id: str) -> Job:
        return await self._records.get(job_id)

    async def list(self, model: str, limit: int) -> list[Job]:
        return await self._records.newest(model, limit)

    def watch(self, job_id: str, from_sequence: int) -> AsyncIterator[NumberedEvent]:
        """Every event from there on, as it happens; ends when the job has."""
        return self._records.watch(job_id, from_sequence)

    async def cancel(self, job_id: str) -> Job:
        """Cancels the job and returns it once it has ended, perhaps before this could reach it."""
        job = await self.get(job_id)
        if not job.state.ended:
            await self._shielded.run(self._cancel(job_id))
        return await self._records.ended(job_id)

    async def _cancel(self, job_id: str) -> None:
        if not await self._runner.cancel(job_id):
            await self._records.end(job_id, JobState.CANCELLED, "cancelled before it began")
            await self._runner.cancel(job_id)  # it may have begun just then

    # The life cycle

    async def start(self) -> None:
        """Queues jobs again that a dead server left behind, and starts working."""
        for job in reversed(await self.list("", REMEMBERED)):
            self._records.count_success(job)
        for job in await self._records.unfinished():
            folder = self._records.folder(job.id)
            kill_leftover(folder / "pid", folder / "assignment.json")
            if job.state is JobState.RUNNING:
                await self._take_over(job)
        await self._records.count()
        self._worker = asyncio.create_task(self._work())

    async def _take_over(self, job: Job) -> None:
        if job.attempt >= MAX_ATTEMPTS:
            message = f"the server died during attempt {job.attempt}, the last; start a new job"
            await self._records.end(job.id, JobState.FAILED, message)
        else:
            message = "the server died meanwhile; it goes on where it was"
            await self._records.requeue(job, message, counts=True)

    async def stop(self) -> None:
        """Stops the running job and queues it for the next server."""
        self._stopping.set()
        await self._runner.stop()
        await self._records.notify_watchers()
        if self._worker:
            await self._worker
        await self._shielded.close()

    async def _work(self) -> None:
        retry_s = FIRST_RETRY_S
        while not self._stopping.is_set():
            try:
                if job := await self._next():
                    await self._runner.run(job)
                retry_s = FIRST_RETRY_S
            except Exception:  # a full disk, a locked database: it may pass
                log.exception("jobs_failed", extra={"retry_s": retry_s})
                await self._wait_for_stop(retry_s)
                retry_s = min(2 * retry_s, LONGEST_RETRY_S)

    async def _wait_for_stop(self, longest_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(longest_s):
                await self._stopping.wait()

    async def _next(self) -> Job | None:
        """The oldest waiting job; if there is none, None after the next change."""
        seen = self._records.n_changes
        if waiting := await self._records.unfinished():
            return waiting[0]
        await self._records.change_after(seen)
        return None
