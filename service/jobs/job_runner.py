"""Runs one job at a time, and records how each attempt at it ended."""

import logging

from registry.errors import UnfreezeError
from registry.jobs import Job, JobState
from registry.store import Registry
from service.jobs.attempt import CANCELLED, MAX_ATTEMPTS, Attempt, NotDone, TrainerSetup
from service.jobs.job_records import JobRecords
from service.models.model_manager import ModelManager

log = logging.getLogger(__name__)


class JobRunner:
    """Runs a job, and stops it on request. Used from one event loop."""

    def __init__(
        self, records: JobRecords, registry: Registry, models: ModelManager, setup: TrainerSetup
    ) -> None:
        self._records = records
        self._registry = registry
        self._models = models
        self._setup = setup
        self._attempt: Attempt | None = None  # in progress
        self._cancelled: set[str] = set()  # jobs whose end is not recorded yet
        self._stopping = False

    async def cancel(self, job_id: str) -> bool:
        """Stops the job's trainer; the job ends soon after. False if the job is not running."""
        attempt = self._attempt
        if not attempt or attempt.job.id != job_id:
            return False
        self._cancelled.add(job_id)
        await attempt.cancel()
        return True

    async def stop(self) -> None:
        """Stops the trainer, for good; a running job is queued again."""
        self._stopping = True
        if self._attempt:
            await self._attempt.stop()

    async def run(self, job: Job) -> None:
        """Runs a job until it has ended or is queued again; does nothing after `stop`.

        Raises:
            Unavailable: its beginning or its end cannot be recorded now; it is to be run again.
        """
        if self._stopping:
            return
        attempt = Attempt(job, self._records, self._registry, self._models, self._setup)
        self._attempt = attempt
        log.info("job_started", extra={"job": job.id, "model": job.request.model})
        try:
            if job.id in self._cancelled:  # before, but that could not be recorded
                await self._records.end(job.id, JobState.CANCELLED, CANCELLED)
            elif job.state is JobState.RUNNING and job.attempt >= MAX_ATTEMPTS:
                reason = f"the result of attempt {job.attempt} could not be recorded: see the log"
                await self._records.end(job.id, JobState.FAILED, reason)
            elif await attempt.begin():
                await self._run(attempt)
            self._cancelled.discard(job.id)
        finally:
            self._attempt = None

    async def _run(self, attempt: Attempt) -> None:
        job = attempt.job
        try:
            await attempt.run()
        except NotDone as over:
            if over.state is JobState.QUEUED:
                await self._queue_again(attempt, str(over))
            else:
                await self._records.end(job.id, over.state, str(over))
        except UnfreezeError as error:
            await self._records.end(job.id, JobState.FAILED, str(error))
        except Exception as error:
            log.exception("job_broke", extra={"job": job.id, "model": job.request.model})
            await self._records.end(job.id, JobState.FAILED, f"internal error: {error}")

    async def _queue_again(self, attempt: Attempt, message: str) -> None:
        await self._records.requeue(attempt.job, message, counts=not self._stopping)
        if attempt.cancelled:  # meanwhile; nothing else would notice
            await self._records.end(attempt.job.id, JobState.CANCELLED, CANCELLED)
