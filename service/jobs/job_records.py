"""Jobs in the database: every change is stored durably, counted, and sent to watchers."""

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

from registry.job_store import JobStore, NumberedEvent
from registry.jobs import CHECKPOINT, Event, Job, JobRequest, JobState, Scored
from service.observability.metrics import Metrics

log = logging.getLogger(__name__)

LARGEST = (1 << 63) - 1  # of SQLite's integers
# Names of what a killed trainer was writing, also one of an earlier version (`.tmp`).
UNFINISHED = (".*.unfinished", ".*.new", ".*.tmp")


class JobRecords:
    """The database, for use from one event loop, which it never blocks."""

    def __init__(self, state: Path, store: JobStore, metrics: Metrics) -> None:
        """`state` is the folder that the jobs' folders are in."""
        self._state = state
        self._store = store
        self._metrics = metrics
        self._changed = asyncio.Condition()
        self.n_changes = 0

    # Reading

    def folder(self, job_id: str) -> Path:
        """The job's folder, where its trainer works."""
        return self._state / "jobs" / job_id

    async def get(self, job_id: str) -> Job:
        return await asyncio.to_thread(self._store.get, job_id)

    async def newest(self, model: str, limit: int) -> list[Job]:
        return await asyncio.to_thread(self._store.jobs, model=model, limit=limit)

    async def unfinished(self) -> list[Job]:
        """Oldest first."""
        return await asyncio.to_thread(self._store.unfinished)

    async def scored(self, job_id: str) -> Scored | None:
        """The last comparison that the job's trainer has reported."""
        events = await asyncio.to_thread(self._store.events, job_id)
        scores = (one.event for one in reversed(events) if isinstance(one.event, Scored))
        return next(scores, None)

    async def watch(self, job_id: str, from_sequence: int) -> AsyncIterator[NumberedEvent]:
        """Every event from there on, as it happens; ends when the job has."""
        expected = min(max(1, from_sequence), LARGEST)
        while True:
            seen = self.n_changes
            job = await self.get(job_id)  # before its events, so that the last ones are not missed
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
        """Waits until `n_changes` differs from `seen`."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.n_changes != seen)

    async def find(self, request: JobRequest) -> Job | None:
        """The job with the request's idempotency key."""
        return await asyncio.to_thread(self._store.find, request)

    # Writing

    async def create(
        self, request: JobRequest, resolved: dict[str, str] | None = None
    ) -> tuple[Job, bool]:
        """A queued job, for `resolved` see `Job`; True if a job with its idempotency key existed.

        Raises:
            Conflict: the key was used for a different request.
        """
        job, existing = await asyncio.to_thread(self._store.create, request, resolved)
        if not existing:
            self._metrics.jobs_started.inc()
            await self.count()
        await self.notify_watchers()
        return job, existing

    async def append(self, job_id: str, event: Event) -> None:
        """Records an event of a running job."""
        self._metrics.job_progress.set_to_current_time()
        await asyncio.to_thread(self._store.append, job_id, event)
        await self.notify_watchers()

    async def begin(self, job: Job) -> Job:
        """Marks the job as running, in a new attempt, unless it has just ended."""
        started = datetime.now(UTC)
        return await self.change(
            job.id, state=JobState.RUNNING, attempt=job.attempt + 1, started_at=started
        )

    async def requeue(self, job: Job, message: str, *, counts: bool) -> None:
        """Queues the job again; an attempt that does not count is taken back."""
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
        """Ends the job, unless it has ended before; returns it as it ended."""
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
        # only now: a job that is not recorded as ended will be resumed
        try:
            await asyncio.to_thread(_discard_unfinished, self.folder(job_id) / "run")
        except OSError as error:
            log.warning("job_folder_kept", extra={"job": job_id, "problem": str(error)})
        return job

    async def change(self, job_id: str, event: Event | None = None, **changes: object) -> Job:
        """Changes fields of the job, and records an event of the change."""
        job = await asyncio.to_thread(self._store.update, job_id, event, **changes)
        if "state" in changes:
            await self.count()
        await self.notify_watchers()
        return job

    async def notify_watchers(self) -> None:
        """Wakes everyone who waits for a change."""
        self.n_changes += 1
        async with self._changed:
            self._changed.notify_all()

    # Counting

    async def count(self) -> None:
        """Updates the metrics of jobs by state."""
        states = [job.state for job in await self.unfinished()]
        for state in (JobState.QUEUED, JobState.RUNNING):
            self._metrics.jobs.labels(state.value).set(states.count(state))
        if JobState.RUNNING in states:
            self._metrics.job_progress.set_to_current_time()

    def count_success(self, job: Job) -> None:
        """Updates the time when the job's model was last trained, if the job succeeded."""
        if job.state is JobState.SUCCEEDED and job.finished_at:
            succeeded = self._metrics.training_success.labels(job.request.model)
            succeeded.set(job.finished_at.timestamp())


def _discard_unfinished(run: Path) -> None:
    """Removes the checkpoint from a trainer's folder, and what a killed trainer was writing."""
    (run / CHECKPOINT).unlink(missing_ok=True)
    for left in (path for pattern in UNFINISHED for path in run.glob(pattern)):
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()
