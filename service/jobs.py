"""Training jobs: one runs at a time, the others wait in the database.

queued -> running: train, publish, gate, promote -> succeeded, failed or cancelled

Every step can be repeated: whatever moment this process is killed at, the next one goes on.
"""

import asyncio
import logging
import shutil
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from registry.errors import Conflict, UnfreezeError
from registry.files import write_durably
from registry.job_store import JobStore, NumberedEvent
from registry.jobs import (
    CHECKPOINT,
    Assignment,
    Event,
    Job,
    JobRequest,
    JobState,
    Progress,
    Scored,
)
from registry.store import Registry
from service.live import Live
from service.metrics import Metrics
from service.publication import promote_if_good, publish, published_before
from service.trainer import Outcome, Trainer, kill_leftover

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
PROGRESS_EVERY_S = 0.25  # every event costs a write that must reach the disk
REMEMBERED = 1_000  # jobs that a new server looks at for when each model was last trained
# After an error of our own, such as a full disk; each time in a row it is twice as long.
FIRST_BREATH_S, LONGEST_BREATH_S = 5.0, 300.0


@dataclass
class _Running:
    """The job that runs now."""

    job_id: str
    trainer: Trainer | None = None
    cancelled: bool = False


class Jobs:
    """Accepts, runs and tells of jobs. Used from one event loop; the database in threads."""

    def __init__(
        self,
        state: Path,
        store: JobStore,
        registry: Registry,
        live: Live,
        metrics: Metrics,
        command: Sequence[str],
        cancel_s: float,
        data_roots: Sequence[Path],
    ) -> None:
        """`command` starts a trainer, which may read below `data_roots`; `cancel_s` is what it gets
        to end by itself."""
        self._state = state
        self._store = store
        self._registry = registry
        self._live = live
        self._metrics = metrics
        self._command = command
        self._cancel_s = cancel_s
        self._data_roots = tuple(data_roots)
        self._running: _Running | None = None
        self._stopping = False
        self._changed = asyncio.Condition()
        self._n_changes = 0
        self._worker: asyncio.Task[None] | None = None

    # What callers can do

    async def start_job(self, request: JobRequest) -> tuple[Job, bool]:
        """A queued job, on the disk; True when its idempotency key named one before."""
        job, existing = await asyncio.to_thread(self._store.create, request)
        if not existing:
            self._metrics.jobs_started.inc()
            await self._count()
        await self._tell()
        return job, existing

    async def get(self, job_id: str) -> Job:
        return await asyncio.to_thread(self._store.get, job_id)

    async def list(self, model: str, limit: int) -> list[Job]:
        return await asyncio.to_thread(self._store.jobs, model=model, limit=limit)

    async def watch(self, job_id: str, from_sequence: int) -> AsyncIterator[NumberedEvent]:
        """Every event from there on, as it happens; ends when the job has."""
        expected = max(1, from_sequence)
        while True:
            seen = self._n_changes
            job = await self.get(job_id)  # before its events, so that none is missed at the end
            for event in await asyncio.to_thread(self._store.events, job_id, expected):
                yield event
                expected = event.sequence + 1
            if job.state.ended:
                return
            await self._change_after(seen)

    async def cancel(self, job_id: str) -> Job:
        """The job has ended: cancelled, or as it did before this could reach it."""
        job = await self.get(job_id)
        running = self._running
        if running and running.job_id == job_id:
            running.cancelled = True
            if running.trainer:
                await running.trainer.stop(self._cancel_s)
            return await self._wait_for_end(job_id)
        if job.state.ended:
            return job
        return await self._end(job_id, JobState.CANCELLED, "cancelled before it began")

    async def _wait_for_end(self, job_id: str) -> Job:
        async for _ in self.watch(job_id, 1):
            pass
        return await self.get(job_id)

    # The life of the supervisor

    async def start(self) -> None:
        """Jobs that a dead server left behind are queued again, and work begins."""
        for job in reversed(await self.list("", REMEMBERED)):
            self._count_success(job)
        for job in await asyncio.to_thread(self._store.unfinished):
            folder = self._folder(job.id)
            kill_leftover(folder / "pid", folder / "assignment.json")
            if job.state is not JobState.RUNNING:
                continue
            if job.attempt >= MAX_ATTEMPTS:
                message = f"the server stopped under it {job.attempt} times; start a new job"
                await self._end(job.id, JobState.FAILED, message)
            else:
                await self._requeue(job.id, "the server stopped under it; it goes on where it was")
        await self._count()
        self._worker = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """Nothing runs any more; a job that did is queued for the next server."""
        self._stopping = True
        if self._running and self._running.trainer:
            await self._running.trainer.stop(self._cancel_s)
        await self._tell()
        if self._worker:
            await self._worker

    async def _work(self) -> None:
        breath_s = FIRST_BREATH_S
        while not self._stopping:
            try:
                if job := await self._next():
                    await self._run(job)
                breath_s = FIRST_BREATH_S
            except Exception:  # a full disk, a locked database: it may pass
                log.exception("jobs_failed", extra={"retry_s": breath_s})
                await self._wait_for_stop(breath_s)
                breath_s = min(2 * breath_s, LONGEST_BREATH_S)

    async def _wait_for_stop(self, longest_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(longest_s), self._changed:
                await self._changed.wait_for(lambda: self._stopping)

    async def _next(self) -> Job | None:
        seen = self._n_changes
        if waiting := await asyncio.to_thread(self._store.unfinished):
            return waiting[0]
        await self._change_after(seen)
        return None

    # One job

    async def _run(self, job: Job) -> None:
        self._running = running = _Running(job.id)
        facts = {"job": job.id, "model": job.request.model}
        log.info("job_started", extra=facts)
        try:
            if job.state is JobState.RUNNING and job.attempt >= MAX_ATTEMPTS:
                raise Conflict(f"{job.attempt} times its end could not be recorded: see the log")
            job = await self._change(
                job.id, state=JobState.RUNNING, attempt=job.attempt + 1, started_at=_now()
            )
            if job.state.ended:  # cancelled at this very moment
                return
            state, message = await self._attempt(job, running)
            if state is JobState.QUEUED:
                await self._requeue(job.id, message)
                if running.cancelled:  # meanwhile: nobody else would see it
                    await self._end(job.id, JobState.CANCELLED, "cancelled while it ran")
            elif state is not JobState.SUCCEEDED:
                await self._end(job.id, state, message)
        except UnfreezeError as error:
            await self._end(job.id, JobState.FAILED, str(error))
        except Exception as error:
            log.exception("job_broke", extra=facts)
            await self._end(job.id, JobState.FAILED, f"internal error: {error}")
        finally:
            self._running = None

    async def _attempt(self, job: Job, running: _Running) -> tuple[JobState, str]:
        """What became of the job, and why."""
        version = await asyncio.to_thread(published_before, self._registry, job)
        if version is None:
            outcome = await self._train(job, running)
            if running.cancelled:
                return JobState.CANCELLED, "cancelled while it ran"
            if self._stopping and not outcome.staged:
                return JobState.QUEUED, "the server stopped; it goes on with the next one"
            if outcome.killed and job.attempt < MAX_ATTEMPTS:
                return JobState.QUEUED, f"{outcome.reason}; it goes on where it was"
            if not outcome.staged:
                return JobState.FAILED, outcome.reason
        await self._publish_and_promote(job, version)
        return JobState.SUCCEEDED, ""

    async def _train(self, job: Job, running: _Running) -> Outcome:
        assignment = await asyncio.to_thread(self._prepare, job)
        folder = self._folder(job.id)
        trainer = await Trainer.start(self._command, assignment, folder / "log.txt", folder / "pid")
        running.trainer = trainer
        if running.cancelled or self._stopping:  # that came while it started
            await trainer.stop(self._cancel_s)
        last_progress = 0.0

        async def tell(event: Event) -> None:
            nonlocal last_progress
            if isinstance(event, Progress) and event.done < event.total:
                if time.monotonic() < last_progress + PROGRESS_EVERY_S:
                    return
                last_progress = time.monotonic()
            self._metrics.job_progress.set_to_current_time()
            await asyncio.to_thread(self._store.append, job.id, event)
            await self._tell()

        try:
            return await trainer.follow(tell)
        finally:
            running.trainer = None
            (folder / "pid").unlink(missing_ok=True)

    def _prepare(self, job: Job) -> Path:
        """The job's folder holds its assignment, and nothing staged by an attempt before."""
        folder = self._folder(job.id)
        stage = folder / "stage"
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir(parents=True)
        (folder / "run").mkdir(exist_ok=True)
        (self._state / "cache").mkdir(exist_ok=True)
        model = job.request.model
        promoted = self._registry.promoted(model)
        champion = promoted[1].version if promoted else None
        assignment = Assignment(
            model=model,
            data=Path(job.request.data),
            settings=job.request.settings,
            within=self._data_roots,
            cache=self._state / "cache",
            run=folder / "run",
            stage=stage,
            champion=self._registry.folder(model, champion) if champion else None,
            champion_version=champion,
        )
        path = folder / "assignment.json"
        write_durably(path, assignment.model_dump_json(indent=2).encode())
        return path

    async def _publish_and_promote(self, job: Job, version: int | None) -> None:
        if version is None:
            stage = self._folder(job.id) / "stage"
            version = await asyncio.to_thread(publish, self._registry, job, stage)
        scored = await asyncio.to_thread(self._scored, job)
        decision = await promote_if_good(self._registry, self._live, job, version, scored)
        await self._change(job.id, decision)
        verb = "promoted" if decision.promote else "not promoted"
        message = f"version {version} published, {verb}: {decision.reason}"
        await self._end(
            job.id, JobState.SUCCEEDED, message, version=version, promoted=decision.promote
        )

    def _scored(self, job: Job) -> Scored | None:
        told = [numbered.event for numbered in self._store.events(job.id)]
        return next((event for event in reversed(told) if isinstance(event, Scored)), None)

    # Records

    def _folder(self, job_id: str) -> Path:
        return self._state / "jobs" / job_id

    async def _requeue(self, job_id: str, message: str) -> None:
        await self._change(job_id, state=JobState.QUEUED, message=message)

    async def _end(
        self,
        job_id: str,
        state: JobState,
        message: str,
        version: int | None = None,
        promoted: bool = False,
    ) -> Job:
        checkpoint = self._folder(job_id) / "run" / CHECKPOINT
        await asyncio.to_thread(checkpoint.unlink, missing_ok=True)
        job = await self._change(
            job_id,
            state=state,
            message=message,
            version=version,
            promoted=promoted,
            finished_at=_now(),
        )
        self._metrics.jobs_ended.labels(job.state.value).inc()
        self._count_success(job)
        log.info("job_ended", extra={"job": job_id, "state": job.state, "problem": message})
        return job

    async def _change(self, job_id: str, event: Event | None = None, **changes: object) -> Job:
        job = await asyncio.to_thread(self._store.update, job_id, event, **changes)
        if "state" in changes:
            await self._count()
        await self._tell()
        return job

    async def _count(self) -> None:
        states = [job.state for job in await asyncio.to_thread(self._store.unfinished)]
        for state in (JobState.QUEUED, JobState.RUNNING):
            self._metrics.jobs.labels(state.value).set(states.count(state))
        if JobState.RUNNING in states:
            self._metrics.job_progress.set_to_current_time()

    def _count_success(self, job: Job) -> None:
        if job.state is JobState.SUCCEEDED and job.finished_at:
            succeeded = self._metrics.training_success.labels(job.request.model)
            succeeded.set(job.finished_at.timestamp())

    async def _tell(self) -> None:
        self._n_changes += 1
        async with self._changed:
            self._changed.notify_all()

    async def _change_after(self, seen: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._n_changes != seen)


def _now() -> datetime:
    return datetime.now(UTC)
