"""Retraining, versions and promotion over gRPC."""

import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Self, TypeVar

import grpc

from unfreeze import candidates, events, jobs, versions
from unfreeze.bounds import MOST_32, MOST_64, bounded, check_whole
from unfreeze.candidates import Candidate, CandidateMode
from unfreeze.channel import FIRST_PAUSE_S, UNCHECKED_OPTIONS, RetryPolicy, connect
from unfreeze.errors import call_error
from unfreeze.events import JobEvent
from unfreeze.jobs import Job, Promotion
from unfreeze.v1 import admin_pb2, admin_pb2_grpc
from unfreeze.versions import Model, Promoted, Version

TIMEOUT_S = 30.0
ATTEMPTS = 6
# A watch survives a restart of the server: it gives up after this many failures in a row, which
# take a minute or so.
WATCH_ATTEMPTS = 36
WATCH_RETRY_S = 90.0
# A stream is reopened after this long, so that a dead connection is noticed.
WATCH_STREAM_S = 300.0
# A stream that lasted longer had reached a server: connecting takes 20 s at most.
CONNECTED_S = 30.0

Request = TypeVar("Request")
Response = TypeVar("Response")


class AdminClient:
    """A connection to a server's admin listener. Close it after use.

    Calls are retried when the server cannot be reached or goes away, except for those that mean
    something else the second time: `promote`, `rollback`, `set_candidate`, `clear_candidate` and
    `prune` are sent once.
    """

    def __init__(
        self,
        address: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        attempts: int = ATTEMPTS,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """No connection is made before the first call; `timeout_s` applies to each call, and is a
        day at most."""
        self.address = address
        self._attempts = attempts
        self._timeout_s = bounded(timeout_s)
        self._answered = False
        self._closed = False
        self._channel = connect(address, credentials, UNCHECKED_OPTIONS)
        self._stub = admin_pb2_grpc.AdminStub(self._channel)

    def start_training(
        self,
        model: str,
        data: str,
        *,
        settings: Mapping[str, str] | None = None,
        same_settings: bool = False,
        promotion: Promotion = "if_better",
        idempotency_key: str | None = None,
    ) -> Job:
        """Queues a job and returns it, or returns the one that was started before with the same
        key.

        Args:
            data: a folder or CSV file below one of the server's data roots.
            settings: of the recipe, by name, e.g. `{"size": "160"}`.
            same_settings: take those that the promoted version was trained with, overridden by
                `settings`.
            idempotency_key: None: a random one, so that this call can be retried safely.
        """
        request = admin_pb2.StartTrainingRequest(
            model=model,
            data=data,
            settings=settings or {},
            idempotency_key=idempotency_key or str(uuid.uuid4()),
            promotion=jobs.PROMOTIONS[promotion],
            same_settings=same_settings,
        )
        return jobs.job(self._call(self._stub.StartTraining, request).job)

    def get_job(self, job_id: str) -> Job:
        request = admin_pb2.GetJobRequest(job_id=job_id)
        return jobs.job(self._call(self._stub.GetJob, request))

    def jobs(self, *, model: str = "", limit: int = 100) -> list[Job]:
        """Newest first; of all models if none is named."""
        check_whole("limit", limit, 0, MOST_32)
        request = admin_pb2.ListJobsRequest(model=model, limit=limit)
        return [jobs.job(job) for job in self._call(self._stub.ListJobs, request).jobs]

    def cancel(self, job_id: str) -> Job:
        """Asks for the job to be stopped, and returns it; a job that has ended stays as it is."""
        request = admin_pb2.CancelJobRequest(job_id=job_id)
        return jobs.job(self._call(self._stub.CancelJob, request))

    def watch(self, job_id: str, *, from_sequence: int = 1) -> Iterator[JobEvent]:
        """Yields every event of a job, in order and exactly once, until the job has ended.

        If the connection is lost or the server restarts, it reconnects and resumes after the last
        event received.
        """
        check_whole("from_sequence", from_sequence, 0, MOST_64)
        sequence = from_sequence
        about = admin_pb2.GetJobRequest(job_id=job_id)
        retries = self._retries_of_watch()
        while True:
            request = admin_pb2.WatchJobRequest(job_id=job_id, from_sequence=sequence)
            asked_at = time.monotonic()
            try:
                for proto in self._stub.WatchJob(request, timeout=WATCH_STREAM_S):
                    sequence = proto.sequence + 1
                    retries = self._retries_of_watch()
                    yield events.job_event(proto)
                if jobs.job(self._stub.GetJob(about, timeout=self._timeout_s)).ended:
                    return
                time.sleep(FIRST_PAUSE_S)
            except grpc.RpcError as failed:
                if time.monotonic() - asked_at > CONNECTED_S:  # a job may send nothing for hours
                    retries = self._retries_of_watch()
                if failed.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                    self._pause(retries.pause_s(failed, cancelled_here=self._closed), failed)

    def wait(self, job_id: str) -> Job:
        """Waits until the job has ended, successfully or not, and returns it."""
        for _ in self.watch(job_id):
            pass
        return self.get_job(job_id)

    def models(self) -> list[Model]:
        response = self._call(self._stub.ListModels, admin_pb2.ListModelsRequest())
        return [versions.model(model) for model in response.models]

    def versions(self, model: str) -> list[Version]:
        """Newest first."""
        response = self._call(self._stub.ListVersions, admin_pb2.ListVersionsRequest(model=model))
        return [versions.version(version) for version in response.versions]

    def promote(self, model: str, version: int, *, reason: str = "") -> Promoted:
        """Makes this version the one that answers requests which name none."""
        check_whole("version", version, 1, MOST_64)
        request = admin_pb2.PromoteRequest(model=model, version=version, reason=reason)
        return versions.promoted(self._call_once(self._stub.Promote, request))

    def rollback(self, model: str, *, reason: str = "") -> Promoted:
        """Promotes the version again that the promoted one replaced."""
        request = admin_pb2.RollbackRequest(model=model, reason=reason)
        return versions.promoted(self._call_once(self._stub.Rollback, request))

    def set_candidate(
        self, model: str, version: int, *, mode: CandidateMode, percent: float, reason: str = ""
    ) -> Candidate:
        """Tries the version on `percent` of the requests that name none, until it is cleared or any
        version is promoted.

        Args:
            mode: "split": it answers them; "shadow": the promoted version answers them, then the
                candidate runs on them too, for comparison.
        """
        check_whole("version", version, 1, MOST_64)
        request = admin_pb2.SetCandidateRequest(
            model=model,
            version=version,
            mode=candidates.MODES[mode],
            percent=percent,
            reason=reason,
        )
        return candidates.candidate(self._call_once(self._stub.SetCandidate, request).candidate)

    def clear_candidate(self, model: str, *, reason: str = "") -> int | None:
        """Stops trying a version; returns the one that was tried, if any."""
        request = admin_pb2.ClearCandidateRequest(model=model, reason=reason)
        return self._call_once(self._stub.ClearCandidate, request).version or None

    def prune(self, model: str, *, keep: int) -> list[int]:
        """Deletes all but the newest `keep` versions; returns those that it deleted.

        The promoted version, the one that a rollback would return to and a candidate always stay.
        """
        check_whole("keep", keep, 1, MOST_32)
        request = admin_pb2.PruneVersionsRequest(model=model, keep=keep)
        return list(self._call_once(self._stub.PruneVersions, request).deleted)

    def close(self) -> None:
        """Closes the connection; calls in flight fail."""
        self._closed = True
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _retries_of_watch(self) -> RetryPolicy:
        return RetryPolicy(self.address, WATCH_RETRY_S, max(self._attempts, WATCH_ATTEMPTS))

    def _call(
        self, method: "grpc.UnaryUnaryMultiCallable[Request, Response]", request: Request
    ) -> Response:
        retries = RetryPolicy(self.address, self._timeout_s, self._attempts)
        while True:
            try:
                response = method(request, timeout=retries.remaining_s())
                self._answered = True
                return response
            except grpc.RpcError as failed:
                pause_s = retries.pause_s(
                    failed, answered_before=self._answered, cancelled_here=self._closed
                )
                self._pause(pause_s, failed)

    def _pause(self, pause_s: float, failed: grpc.RpcError) -> None:
        """Waits before a retry; raises the failure if the client was closed meanwhile."""
        time.sleep(pause_s)
        if self._closed:
            raise call_error(failed, self.address) from failed

    def _call_once(
        self, method: "grpc.UnaryUnaryMultiCallable[Request, Response]", request: Request
    ) -> Response:
        try:
            return method(request, timeout=self._timeout_s)
        except grpc.RpcError as failed:
            raise call_error(failed, self.address) from failed
