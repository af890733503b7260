"""The `unfreeze.v1.Admin` servicer: training jobs, versions and promotion."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

from grpc.aio import ServicerContext
from pydantic import ValidationError

from registry.candidates import candidate_of, check_percent
from registry.errors import BadRequest, BundleError, Conflict, NotFound, Unavailable
from registry.jobs import JobRequest
from registry.pointers import Candidate, Pointer
from registry.quoted import quoted
from registry.record import explain
from registry.store import Registry, check_name
from service.jobs.data_roots import resolve_data
from service.jobs.jobs import Jobs
from service.messages import (
    MODE_OF,
    POLICY_OF,
    candidate_message,
    event_message,
    job_message,
    version_message,
)
from service.models.model_manager import ModelManager
from service.models.registry_calls import in_registry
from unfreeze.v1 import admin_pb2 as pb
from unfreeze.v1 import admin_pb2_grpc as pb_grpc

DEFAULT_LIMIT = 100
MAX_LIMIT = 1_000
BY = "admin"
CHECKING_S = 5.0  # for a registry to say whether it can be written to; a hung disk never does

# generic only in the stubs
Context: TypeAlias = "ServicerContext[Any, Any]"


class Admin(pb_grpc.AdminServicer):
    """`jobs` is None if the server was started without a state folder."""

    def __init__(
        self,
        registry: Registry,
        models: ModelManager,
        jobs: Jobs | None,
        data_roots: Sequence[Path],
    ) -> None:
        self._registry = registry
        self._models = models
        self._optional_jobs = jobs
        self._data_roots = data_roots

    @property
    def _jobs(self) -> Jobs:
        if self._optional_jobs is None:
            raise Conflict("training is off on this server; start it with --state PATH")
        return self._optional_jobs

    # Jobs

    async def StartTraining(
        self, request: pb.StartTrainingRequest, context: Context
    ) -> pb.StartTrainingResponse:
        jobs = self._jobs
        data = await asyncio.to_thread(resolve_data, request.data, self._data_roots)
        if request.promotion not in POLICY_OF:
            raise BadRequest(
                f"promotion {request.promotion} is not a policy; use IF_BETTER, ALWAYS or NEVER"
            )
        try:
            wanted = JobRequest(
                model=check_name(request.model),
                data=str(data),
                settings=dict(request.settings),
                idempotency_key=request.idempotency_key,
                promotion=POLICY_OF[request.promotion],
                same_settings=request.same_settings,
            )
        except ValidationError as error:
            raise BadRequest(explain(error)) from error
        if started := await jobs.find(wanted):  # whatever has changed since, it was accepted
            return pb.StartTrainingResponse(job=job_message(started), existing=True)
        await self._check_writable(wanted.model)
        promoted = None
        if wanted.same_settings:
            promoted = await in_registry(self._promoted_bundle, wanted.model)
        job, existing = await jobs.start_job(wanted, promoted)
        return pb.StartTrainingResponse(job=job_message(job), existing=existing)

    async def _check_writable(self, model: str) -> None:
        """Raises: Conflict, now rather than after hours of training, if nothing could be published.
        A registry that is out of reach now may be back when the job begins."""
        with suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(CHECKING_S):
                if problem := await in_registry(self._registry.write_problem, model):
                    raise Conflict(problem)

    def _promoted_bundle(self, model: str) -> Path:
        """Raises: Conflict, if no version is promoted."""
        if promoted := self._registry.promoted(model):
            return self._registry.folder(model, promoted.pointer.version)
        raise Conflict(
            f"{model}: no version is promoted, whose settings could be taken; give the settings by "
            "name, without same_settings"
        )

    async def GetJob(self, request: pb.GetJobRequest, context: Context) -> pb.Job:
        return job_message(await self._jobs.get(request.job_id))

    async def ListJobs(self, request: pb.ListJobsRequest, context: Context) -> pb.ListJobsResponse:
        limit = min(request.limit or DEFAULT_LIMIT, MAX_LIMIT)
        jobs = await self._jobs.list(request.model, limit)
        return pb.ListJobsResponse(jobs=map(job_message, jobs))

    async def CancelJob(self, request: pb.CancelJobRequest, context: Context) -> pb.Job:
        return job_message(await self._jobs.cancel(request.job_id))

    async def WatchJob(
        self, request: pb.WatchJobRequest, context: Context
    ) -> AsyncIterator[pb.JobEvent]:
        async for event in self._jobs.watch(request.job_id, request.from_sequence):
            yield event_message(request.job_id, event)

    # Models and versions

    async def ListModels(
        self, request: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsResponse:
        names = await in_registry(self._registry.models)
        known = sorted({*names, *self._models.problems()})
        published = await asyncio.gather(*(in_registry(self._published, name) for name in known))
        live, problems = self._models.versions(), self._models.problems()
        models = []
        for model, wanted in published:
            model.ready = model.name in live
            model.live_version = live.get(model.name, 0)
            problem = model.problem or problems.get(model.name, "")
            model.problem = problem or ("" if model.promoted_version else "nothing is promoted")
            if wanted:
                trial, problem = self._models.trial(model.name)
                model.candidate.CopyFrom(candidate_message(wanted, trial, problem))
            models.append(model)
        return pb.ListModelsResponse(models=models)

    def _published(self, name: str) -> tuple[pb.Model, Candidate | None]:
        """A model and its candidate, as in the registry."""
        try:
            versions = self._registry.versions(name)
        except OSError as error:  # the other models are listed all the same
            return pb.Model(name=name, problem=f"it cannot be read: {error.strerror}"), None
        model = pb.Model(name=name, newest_version=max(versions, default=0), versions=len(versions))
        wanted = None
        try:
            promoted = self._registry.promoted(name)
            model.promoted_version = promoted.pointer.version if promoted else 0
        except BundleError as error:
            model.problem = str(error)
        try:
            _, wanted = candidate_of(self._registry, name) or (0, None)
        except BundleError as error:
            model.candidate.problem = str(error)
        return model, wanted

    async def ListVersions(
        self, request: pb.ListVersionsRequest, context: Context
    ) -> pb.ListVersionsResponse:
        versions = await in_registry(self._versions, request.model)
        return pb.ListVersionsResponse(versions=versions)

    def _versions(self, model: str) -> list[pb.Version]:
        numbers = self._registry.versions(model)
        if not numbers:
            raise NotFound(f"no model {quoted(model, 128)} in the registry")
        promoted = self._registry.promoted(model)
        live = promoted.pointer.version if promoted else None
        messages = []
        for number in reversed(numbers):
            try:
                bundle = self._registry.bundle(model, number)
                messages.append(version_message(model, number, bundle, number == live))
            except (BundleError, OSError) as error:  # the other versions are listed all the same
                broken = pb.Version(model=model, version=number, promoted=number == live)
                broken.provenance["problem"] = str(error)
                messages.append(broken)
        return messages

    async def Promote(self, request: pb.PromoteRequest, context: Context) -> pb.PromoteResponse:
        number, pointer = await self._models.operations.promote(
            check_name(request.model), request.version, by=BY, reason=request.reason
        )
        return self._promoted(request.model, number, pointer)

    async def Rollback(self, request: pb.RollbackRequest, context: Context) -> pb.PromoteResponse:
        model = check_name(request.model)
        number, pointer = await self._models.operations.rollback(
            model, by=BY, reason=request.reason
        )
        return self._promoted(model, number, pointer)

    def _promoted(self, model: str, number: int, pointer: Pointer) -> pb.PromoteResponse:
        return pb.PromoteResponse(
            model=model,
            version=pointer.version,
            replaced=pointer.replaced or 0,
            pointer=number,
            note=self._models.label_note(model, pointer.version),
        )

    async def SetCandidate(
        self, request: pb.SetCandidateRequest, context: Context
    ) -> pb.SetCandidateResponse:
        model = check_name(request.model)
        if request.mode not in MODE_OF:
            raise BadRequest(f"mode {request.mode} is not a candidate mode; use SPLIT or SHADOW")
        mode, percent = MODE_OF[request.mode], check_percent(request.percent)
        candidate = await self._models.operations.set_candidate(
            model, request.version, mode, percent, by=BY, reason=request.reason
        )
        message = candidate_message(candidate, *self._models.trial(model))
        return pb.SetCandidateResponse(model=model, candidate=message)

    async def ClearCandidate(
        self, request: pb.ClearCandidateRequest, context: Context
    ) -> pb.ClearCandidateResponse:
        model = check_name(request.model)
        cleared = await self._models.operations.clear_candidate(model, by=BY, reason=request.reason)
        return pb.ClearCandidateResponse(model=model, version=cleared or 0)

    async def PruneVersions(
        self, request: pb.PruneVersionsRequest, context: Context
    ) -> pb.PruneVersionsResponse:
        deleted = await self._models.operations.prune(request.model, request.keep)
        return pb.PruneVersionsResponse(deleted=deleted)
