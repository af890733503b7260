"""Jobs in the database: every change is on the disk, counted, and told to those who watch."""

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

from registry.job_store import JobStore, NumberedEvent
from registry.jobs import CHECKPOINT, Event, Job, JobRequest, JobState, Scored
from service.observability.metrics import Metrics

log = logging.getLogger(__name__)

LARGEST = (1 << 63) - 1  # of SQLite's integers


class JobRecords:
    """The database seen from one event loop, which it never holds up."""

    def __init__(self, state: Path, store: JobStore, metrics: Metrics) -> None:
        """`state` is the folder that has a folder for each job."""
        self._state = state
        self._store = store
        self._metrics = metrics
        self._changed = asyncio.Condition()
        self.n_changes = 0

    # Reading

    def folder(self, job_id: str) -> Path:
        """Where its trainer works."""
        return self._state / "jobs" / job_id

    async def get(self, job_id: str) -> Job:
        return await asyncio.to_thread(self._store.get, job_id)

    async def newest(self, model: str, limit: int) -> list[Job]:
        return await asyncio.to_thread(self._store.jobs, model=model, limit=limit)

    async def unfinished(self) -> list[Job]:
        """Oldest first."""
        return await asyncio.to_thread(self._store.unfinished)

    async def scored(self, job_id: str) -> Scored | None:
        """The last comparison that the job's trainer has told of."""
        told = await asyncio.to_thread(self._store.events, job_id)
        scores = (one.event for one in reversed(told) if isinstance(one.event, Scored))
        return next(scores, None)

    async def watch(self, job_id: str, from_sequence: int) -> AsyncIterator[NumberedEvent]:
        """Every event from there on, as it happens; ends when the job has."""
        expected = min(max(1, from_sequence), LARGEST)
        while True:
            seen = self.n_changes
            job = await self.get(job_id)  # before its events, so that none is missed at the end
            for event in await asyncio.to_thread(self._store.events, job_id, expected):
                yield event
                expected = event.sequence + 1
            if job.state.ended:
                return
            await self.change_after(seen)

    async def ended(self, job_id: str) -> Job:
        """The job, once it has ended."""
        while True:
            seen = self.n_changes
            job = await self.get(job_id)
            if job.state.ended:
                return job
            await self.change_after(seen)

    async def change_after(self, seen: int) -> None:
        """`n_changes` is another number than `seen`."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.n_changes != seen)

    # Writing

    async def create(self, request: JobRequest) -> tuple[Job, bool]:
        """A queued job; True when its idempotency key named one before.

        Raises:
            Conflict: the key is that of another request.
        """
        job, existing = await asyncio.to_thread(self._store.create, request)
        if not existing:
            self._metrics.jobs_started.inc()
            await self.count()
        await self.tell()
        return job, existing

    async def append(self, job_id: str, event: Event) -> None:
        """What a running job tells of itself."""
        self._metrics.job_progress.set_to_current_time()
        await asyncio.to_thread(self._store.append, job_id, event)
        await self.tell()

    async def begin(self, job: Job) -> Job:
        """The job runs once more, unless it has ended at this very moment."""
        started = datetime.now(UTC)
        return await self.change(
            job.id, state=JobState.RUNNING, attempt=job.attempt + 1, started_at=started
        )

    async def requeue(self, job: Job, message: str, *, counts: bool) -> None:
        """The job waits again; an attempt that does not count is given back."""
        attempt = job.attempt if counts else job.attempt - 1
        await self.change(job.id, state=JobState.QUEUED, message=message, attempt=attempt)

    async def end(
        self,
        job_id: str,
        state: JobState,
        message: str,
        version: int | None = None,
        promoted: bool = False,
    ) -> Job:
        """The job as it has ended: like this, or as it had before."""
        now = datetime.now(UTC)
        job = await self.change(
            job_id,
            state=state,
            message=message,
            version=version,
            promoted=promoted,
            finished_at=now,
        )
        if job.finished_at == now:  # else it had ended before
            self._metrics.jobs_ended.labels(job.state.value).inc()
            self.count_success(job)
            log.info("job_ended", extra={"job": job_id, "state": job.state, "problem": message})
        # only now: what has not been recorded as ended is gone on with
        checkpoint = self.folder(job_id) / "run" / CHECKPOINT
        await asyncio.to_thread(checkpoint.unlink, missing_ok=True)
        return job

    async def change(self, job_id: str, event: Event | None = None, **changes: object) -> Job:
        """The job with other fields, and an event that tells of it."""
        job = await asyncio.to_thread(self._store.update, job_id, event, **changes)
        if "state" in changes:
            await self.count()
        await self.tell()
        return job

    async def tell(self) -> None:
        """Whoever waits for a change looks again."""
        self.n_changes += 1
        async with self._changed:
            self._changed.notify_all()

    # Counting

    async def count(self) -> None:
        """The jobs of each state are shown."""
        states = [job.state for job in await self.unfinished()]
        for state in (JobState.QUEUED, JobState.RUNNING):
            self._metrics.jobs.labels(state.value).set(states.count(state))
        if JobState.RUNNING in states:
            self._metrics.job_progress.set_to_current_time()

    def count_success(self, job: Job) -> None:
        """When the job's model was last trained is shown, if the job did that."""
        if job.state is JobState.SUCCEEDED and job.finished_at:
            succeeded = self._metrics.training_success.labels(job.request.model)
            succeeded.set(job.finished_at.timestamp())
