"""The events of a training job, as the Admin service reports them."""

from dataclasses import dataclass
from datetime import datetime

from unfreeze.jobs import STATES, JobState
from unfreeze.times import time_of
from unfreeze.v1 import admin_pb2


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
    """Progress of a stage, in images."""

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
    """Candidate and promoted version on the same held-out images.

    The candidate is the newly trained version, and has nothing to do with SetCandidate.
    """

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
    """An event of a newer server, which this client does not know."""


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


def job_event(told: admin_pb2.JobEvent) -> JobEvent:
    return JobEvent(
        job_id=told.job_id,
        sequence=told.sequence,
        time=time_of(told.time),
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
