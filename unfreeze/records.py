"""What the Admin service tells, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from google.protobuf.timestamp_pb2 import Timestamp

from unfreeze.candidates import Candidate, candidate
from unfreeze.v1 import admin_pb2

JobState = Literal["unspecified", "queued", "running", "succeeded", "failed", "cancelled"]
Promotion = Literal["if_better", "always", "never"]

STATES: dict[int, JobState] = {
    admin_pb2.JOB_STATE_UNSPECIFIED: "unspecified",
    admin_pb2.JOB_STATE_QUEUED: "queued",
    admin_pb2.JOB_STATE_RUNNING: "running",
    admin_pb2.JOB_STATE_SUCCEEDED: "succeeded",
    admin_pb2.JOB_STATE_FAILED: "failed",
    admin_pb2.JOB_STATE_CANCELLED: "cancelled",
}
PROMOTIONS: dict[Promotion, "admin_pb2.PromotionPolicy.ValueType"] = {
    "if_better": admin_pb2.PROMOTION_POLICY_IF_BETTER,
    "always": admin_pb2.PROMOTION_POLICY_ALWAYS,
    "never": admin_pb2.PROMOTION_POLICY_NEVER,
}
PROMOTION_NAMES: dict[int, Promotion] = {number: name for name, number in PROMOTIONS.items()}


@dataclass(frozen=True)
class Job:
    id: str
    model: str
    data: str
    settings: Mapping[str, str]
    idempotency_key: str
    promotion: Promotion
    state: JobState
    message: str
    version: int | None  # what it published
    promoted: bool
    attempt: int
    created_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def ended(self) -> bool:
        return self.state in ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class Model:
    name: str
    promoted_version: int | None
    newest_version: int | None
    versions: int
    ready: bool
    problem: str
    candidate: Candidate | None  # what is tried beside the promoted version


@dataclass(frozen=True)
class Version:
    model: str
    version: int
    promoted: bool
    created_at: datetime | None
    labels: tuple[str, ...]
    task: str
    metrics: Mapping[str, float]
    provenance: Mapping[str, str]


@dataclass(frozen=True)
class Promoted:
    """A new pointer: from now on `model` means `version`."""

    model: str
    version: int
    replaced: int | None
    pointer: int


# Events of a job


@dataclass(frozen=True)
class StateChanged:
    state: JobState
    message: str


@dataclass(frozen=True)
class StageStarted:
    stage: str
    number: int
    of: int


@dataclass(frozen=True)
class Progress:
    """How far a stage is, in images."""

    stage: str
    done: int
    total: int
    images_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class EpochFinished:
    stage: str
    epoch: int
    epochs: int
    train_loss: float
    valid_loss: float
    metric: str
    metric_value: float
    images_per_second: float


@dataclass(frozen=True)
class Note:
    text: str


@dataclass(frozen=True)
class Score:
    metric: str
    value: float
    log_loss: float


@dataclass(frozen=True)
class Scored:
    """Candidate and promoted version on the same held-out images."""

    candidate: Score
    promoted: Score | None
    promoted_version: int | None
    images: int
    gained: int  # right in the candidate alone
    lost: int  # right in the promoted version alone


@dataclass(frozen=True)
class GateDecided:
    promote: bool
    reason: str


@dataclass(frozen=True)
class Unknown:
    """An event of a newer server, which this client cannot tell."""


Event = (
    StateChanged | StageStarted | Progress | EpochFinished | Note | Scored | GateDecided | Unknown
)


@dataclass(frozen=True)
class JobEvent:
    job_id: str
    sequence: int  # 1, 2, 3, … without gaps
    time: datetime | None
    kind: str  # the event's name in admin.proto, e.g. "epoch_finished"
    event: Event


def job(told: admin_pb2.Job) -> Job:
    return Job(
        id=told.id,
        model=told.model,
        data=told.data,
        settings=dict(told.settings),
        idempotency_key=told.idempotency_key,
        promotion=PROMOTION_NAMES.get(told.promotion, "if_better"),
        state=STATES.get(told.state, "unspecified"),
        message=told.message,
        version=told.version or None,
        promoted=told.promoted,
        attempt=told.attempt,
        created_at=_time(told.created_at),
        started_at=_time(told.started_at),
        finished_at=_time(told.finished_at),
    )


def model(told: admin_pb2.Model) -> Model:
    return Model(
        name=told.name,
        promoted_version=told.promoted_version or None,
        newest_version=told.newest_version or None,
        versions=told.versions,
        ready=told.ready,
        problem=told.problem,
        candidate=candidate(told.candidate) if told.HasField("candidate") else None,
    )


def version(told: admin_pb2.Version) -> Version:
    return Version(
        model=told.model,
        version=told.version,
        promoted=told.promoted,
        created_at=_time(told.created_at),
        labels=tuple(told.labels),
        task=told.task,
        metrics=dict(told.metrics),
        provenance=dict(told.provenance),
    )


def promoted(told: admin_pb2.PromoteResponse) -> Promoted:
    return Promoted(told.model, told.version, told.replaced or None, told.pointer)


def job_event(told: admin_pb2.JobEvent) -> JobEvent:
    return JobEvent(
        job_id=told.job_id,
        sequence=told.sequence,
        time=_time(told.time),
        kind=told.WhichOneof("event") or "unknown",
        event=_event(told),
    )


def _event(told: admin_pb2.JobEvent) -> Event:
    match told.WhichOneof("event"):
        case "state_changed":
            change = told.state_changed
            return StateChanged(STATES.get(change.state, "unspecified"), change.message)
        case "stage_started":
            stage = told.stage_started
            return StageStarted(stage.stage, stage.number, stage.of)
        case "progress":
            now = told.progress
            return Progress(now.stage, now.done, now.total, now.images_per_second, now.seconds_left)
        case "epoch_finished":
            return _epoch(told.epoch_finished)
        case "note":
            return Note(told.note.text)
        case "scored":
            return _scored(told.scored)
        case "gate_decided":
            return GateDecided(told.gate_decided.promote, told.gate_decided.reason)
    return Unknown()


def _epoch(told: admin_pb2.EpochFinished) -> EpochFinished:
    return EpochFinished(
        stage=told.stage,
        epoch=told.epoch,
        epochs=told.epochs,
        train_loss=told.train_loss,
        valid_loss=told.valid_loss,
        metric=told.metric,
        metric_value=told.metric_value,
        images_per_second=told.images_per_second,
    )


def _scored(told: admin_pb2.Scored) -> Scored:
    return Scored(
        candidate=_score(told.candidate),
        promoted=_score(told.promoted) if told.HasField("promoted") else None,
        promoted_version=told.promoted_version or None,
        images=told.images,
        gained=told.gained,
        lost=told.lost,
    )


def _score(told: admin_pb2.Score) -> Score:
    return Score(told.metric, told.value, told.log_loss)


def _time(told: Timestamp) -> datetime | None:
    return told.ToDatetime(UTC) if told.ByteSize() else None
