"""Converts records of the registry to messages of `unfreeze.v1.Admin`."""

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from registry import jobs
from registry.bundle import Bundle
from registry.job_store import NumberedEvent
from registry.pointers import Candidate, Mode
from service.models.trial import Trial
from unfreeze.v1 import admin_pb2 as pb

STATES = {
    jobs.JobState.QUEUED: pb.JOB_STATE_QUEUED,
    jobs.JobState.RUNNING: pb.JOB_STATE_RUNNING,
    jobs.JobState.SUCCEEDED: pb.JOB_STATE_SUCCEEDED,
    jobs.JobState.FAILED: pb.JOB_STATE_FAILED,
    jobs.JobState.CANCELLED: pb.JOB_STATE_CANCELLED,
}
POLICIES = {
    jobs.PromotionPolicy.IF_BETTER: pb.PROMOTION_POLICY_IF_BETTER,
    jobs.PromotionPolicy.ALWAYS: pb.PROMOTION_POLICY_ALWAYS,
    jobs.PromotionPolicy.NEVER: pb.PROMOTION_POLICY_NEVER,
}
POLICY_OF = {number: policy for policy, number in POLICIES.items()} | {
    pb.PROMOTION_POLICY_UNSPECIFIED: jobs.PromotionPolicy.IF_BETTER
}

MODES: dict[Mode, "pb.CandidateMode.ValueType"] = {
    "split": pb.CANDIDATE_MODE_SPLIT,
    "shadow": pb.CANDIDATE_MODE_SHADOW,
}
MODE_OF: dict[int, Mode] = {number: mode for mode, number in MODES.items()}


def job_message(job: jobs.Job) -> pb.Job:
    request = job.request
    return pb.Job(
        id=job.id,
        model=request.model,
        data=request.data,
        settings=job.settings,
        idempotency_key=request.idempotency_key,
        promotion=POLICIES[request.promotion],
        state=STATES[job.state],
        message=job.message,
        version=job.version or 0,
        promoted=job.promoted,
        attempt=job.attempt,
        created_at=timestamp(job.created_at),
        started_at=timestamp(job.started_at),
        finished_at=timestamp(job.finished_at),
    )


def event_message(job_id: str, numbered: NumberedEvent) -> pb.JobEvent:
    message = pb.JobEvent(job_id=job_id, sequence=numbered.sequence, time=timestamp(numbered.at))
    match numbered.event:
        case jobs.StateChanged() as event:
            changed = pb.StateChanged(state=STATES[event.state], message=event.message)
            message.state_changed.CopyFrom(changed)
        case jobs.Scored() as event:
            message.scored.CopyFrom(_scored(event))
        case jobs.Resolved() | jobs.Staged() | jobs.Failed():  # between the trainer and the service
            pass
        case event:  # the others have the same fields as their messages
            fields = event.model_dump(exclude={"kind"})
            target = getattr(message, event.kind)
            target.CopyFrom(type(target)(**fields))
    return message


def version_message(model: str, version: int, bundle: Bundle, promoted: bool) -> pb.Version:
    return pb.Version(
        model=model,
        version=version,
        promoted=promoted,
        created_at=timestamp(bundle.created_at),
        labels=bundle.labels,
        task=bundle.task,
        metrics=bundle.metrics,
        provenance=bundle.provenance,
    )


def candidate_message(wanted: Candidate, trial: Trial | None, problem: str) -> pb.Candidate:
    """`wanted` is the registry's candidate, `trial` the one in progress on this server."""
    message = pb.Candidate(
        version=wanted.version,
        mode=MODES[wanted.mode],
        percent=wanted.percent,
        problem=problem,
    )
    if trial and trial.candidate.version == wanted.version:
        message.ready = True
        counted = trial.comparison
        message.compared, message.agreed = counted.compared, counted.agreed
        message.dropped = counted.n_dropped
        message.note = trial.note
    return message


def timestamp(at: datetime | None) -> Timestamp | None:
    if at is None:
        return None
    message = Timestamp()
    message.FromDatetime(at)
    return message


def _scored(event: jobs.Scored) -> pb.Scored:
    return pb.Scored(
        candidate=_score(event.candidate),
        promoted=_score(event.promoted) if event.promoted else None,
        promoted_version=event.promoted_version or 0,
        images=event.images,
        gained=event.gained,
        lost=event.lost,
    )


def _score(score: jobs.Score) -> pb.Score:
    return pb.Score(metric=score.metric, value=score.value, log_loss=score.log_loss)
