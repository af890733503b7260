"""One job at a time, from its assignment to a version that is live, or to the reason why not.

Every step can be repeated: whatever moment this process is killed at, the next one goes on.
"""

import asyncio
import logging
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from registry.errors import Unavailable, UnfreezeError
from registry.files import write_durably
from registry.jobs import Assignment, Event, Job, JobState, Note, Progress
from registry.store import Registry
from service.job_records import JobRecords
from service.live import Live
from service.publication import promote_if_good, publish, published_before
from service.registry_calls import in_registry
from service.trainer import Outcome, Trainer

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
PROGRESS_EVERY_S = 0.25  # every event costs a write that must reach the disk
# Until a registry that cannot be used, full or out of reach, is tried again: two hours in all.
PAUSES_S = tuple(2.0**i for i in range(13))


@dataclass
class Running:
    """The job that runs now."""

    job_id: str
    trainer: Trainer | None = None
    cancelled: bool = False
    interrupted: asyncio.Event = field(default_factory=asyncio.Event)  # cancelled, or by a stop


class JobRunner:
    """Runs a job, and stops it when told to. Used from one event loop."""

    def __init__(
        self,
        records: JobRecords,
        registry: Registry,
        live: Live,
        *,
        command: Sequence[str],
        cancel_s: float,
        cache: Path,
        data_roots: Sequence[Path],
    ) -> None:
        """
        Args:
            command: starts a trainer.
            cancel_s: what a trainer gets to end by itself.
            cache: what all trainers share.
            data_roots: folders that a trainer may read.
        """
        self._records = records
        self._registry = registry
        self._live = live
        self._command = command
        self._cancel_s = cancel_s
        self._cache = cache
        self._data_roots = tuple(data_roots)
        self._running: Running | None = None
        self._stopping = False

    async def cancel(self, job_id: str) -> bool:
        """Its trainer has ended and the job soon will; False: it is not the one that runs."""
        running = self._running
        if not running or running.job_id != job_id:
            return False
        running.cancelled = True
        running.interrupted.set()
        if running.trainer:
            await running.trainer.stop(self._cancel_s)
        return True

    async def stop(self) -> None:
        """No trainer runs, and none will; a job that did is queued again."""
        self._stopping = True
        if self._running:
            self._running.interrupted.set()
            if self._running.trainer:
                await self._running.trainer.stop(self._cancel_s)

    async def run(self, job: Job) -> None:
        """The job has ended, or is queued again.

        Raises:
            Unavailable, OSError: the disk of the state folder refuses, and may not in a moment.
        """
        self._running = running = Running(job.id)
        log.info("job_started", extra={"job": job.id, "model": job.request.model})
        try:
            if job.state is JobState.RUNNING and job.attempt >= MAX_ATTEMPTS:
                reason = f"what came of attempt {job.attempt} could not be recorded: see the log"
                await self._records.end(job.id, JobState.FAILED, reason)
                return
            job = await self._records.begin(job)
            if not job.state.ended:  # cancelled at this very moment
                await self._run(job, running)
        finally:
            self._running = None

    async def _run(self, job: Job, running: Running) -> None:
        try:
            state, message = await self._attempt(job, running)
            if state is JobState.QUEUED:
                await self._queue_again(job, running, message)
            elif state is not JobState.SUCCEEDED:
                await self._records.end(job.id, state, message)
        except (Unavailable, OSError) as error:
            if job.attempt < MAX_ATTEMPTS:
                await self._queue_again(job, running, f"{error}; it goes on where it was")
                raise
            await self._records.end(job.id, JobState.FAILED, str(error))
        except UnfreezeError as error:
            await self._records.end(job.id, JobState.FAILED, str(error))
        except Exception as error:
            log.exception("job_broke", extra={"job": job.id, "model": job.request.model})
            await self._records.end(job.id, JobState.FAILED, f"internal error: {error}")

    async def _queue_again(self, job: Job, running: Running, message: str) -> None:
        await self._records.requeue(job.id, message)
        if running.cancelled:  # meanwhile: nobody else would see it
            await self._records.end(job.id, JobState.CANCELLED, "cancelled while it ran")

    async def _attempt(self, job: Job, running: Running) -> tuple[JobState, str]:
        """What became of the job, and why."""
        if await in_registry(published_before, self._registry, job) is None:
            outcome = await self._train(job, running)
            if running.cancelled:
                return JobState.CANCELLED, "cancelled while it ran"
            if self._stopping and not outcome.staged:
                return JobState.QUEUED, "the server stopped; it goes on with the next one"
            if outcome.killed and job.attempt < MAX_ATTEMPTS:
                return JobState.QUEUED, f"{outcome.reason}; it goes on where it was"
            if not outcome.staged:
                return JobState.FAILED, outcome.reason
        for pause_s in PAUSES_S:
            try:
                await self._publish_and_promote(job)
                return JobState.SUCCEEDED, ""
            except Unavailable as error:
                log.warning("registry_unusable", extra={"job": job.id, "problem": str(error)})
                text = f"{error}; it is tried again in {pause_s:g} s"
                with suppress(Unavailable):  # the registry's disk may be that of the jobs
                    await self._records.append(job.id, Note(text=text))
            with suppress(TimeoutError):
                await asyncio.wait_for(running.interrupted.wait(), pause_s)
            if running.cancelled:
                return JobState.CANCELLED, "cancelled while the registry could not be used"
            if self._stopping:
                return JobState.QUEUED, "the server stopped; it goes on with the next one"
        stage = self._records.folder(job.id) / "stage"
        return JobState.FAILED, f"the registry could not be used; what was trained is in {stage}"

    async def _train(self, job: Job, running: Running) -> Outcome:
        assignment = await asyncio.to_thread(self._prepare, job)
        folder = self._records.folder(job.id)
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
            await self._records.append(job.id, event)

        try:
            return await trainer.follow(tell)
        finally:
            running.trainer = None
            await asyncio.to_thread((folder / "pid").unlink, missing_ok=True)

    def _prepare(self, job: Job) -> Path:
        """The job's folder holds its assignment, and nothing staged by an attempt before."""
        folder = self._records.folder(job.id)
        stage = folder / "stage"
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir(parents=True)
        (folder / "run").mkdir(exist_ok=True)
        self._cache.mkdir(exist_ok=True)
        model = job.request.model
        promoted = self._registry.promoted(model)
        champion = promoted[1].version if promoted else None
        assignment = Assignment(
            model=model,
            data=Path(job.request.data),
            settings=job.request.settings,
            within=self._data_roots,
            cache=self._cache,
            run=folder / "run",
            stage=stage,
            champion=self._registry.folder(model, champion) if champion else None,
            champion_version=champion,
        )
        path = folder / "assignment.json"
        write_durably(path, assignment.model_dump_json(indent=2).encode())
        return path

    async def _publish_and_promote(self, job: Job) -> None:
        """The job has ended well.

        Raises:
            Unavailable: the registry cannot be used; another attempt goes on from there.
        """
        version = await in_registry(published_before, self._registry, job)
        if version is None:
            stage = self._records.folder(job.id) / "stage"
            version = await in_registry(publish, self._registry, job, stage)
        scored = await self._records.scored(job.id)
        decision = await promote_if_good(self._registry, self._live, job, version, scored)
        await self._records.change(job.id, decision)
        verb = "promoted" if decision.promote else "not promoted"
        message = f"version {version} published, {verb}: {decision.reason}"
        await self._records.end(
            job.id, JobState.SUCCEEDED, message, version=version, promoted=decision.promote
        )
