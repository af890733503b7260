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


def job_event(proto: admin_pb2.JobEvent) -> JobEvent:
    return JobEvent(
        job_id=proto.job_id,
        sequence=proto.sequence,
        time=time_of(proto.time),
        kind=proto.WhichOneof("event") or "unknown",
        event=_event(proto),
    )


def _event(proto: admin_pb2.JobEvent) -> Event:
    match proto.WhichOneof("event"):
        case "state_changed":
            change = proto.state_changed
            return StateChanged(STATES.get(change.state, "unspecified"), change.message)
        case "stage_started":
            stage = proto.stage_started
            return StageStarted(stage.stage, stage.number, stage.of)
        case "progress":
            now = proto.progress
            return Progress(now.stage, now.done, now.total, now.images_per_second, now.seconds_left)
        case "epoch_finished":
            return _epoch(proto.epoch_finished)
        case "note":
            return Note(proto.note.text)
        case "scored":
            return _scored(proto.scored)
        case "gate_decided":
            return GateDecided(proto.gate_decided.promote, proto.gate_decided.reason)
    return Unknown()


def _epoch(proto: admin_pb2.EpochFinished) -> EpochFinished:
    return EpochFinished(
        stage=proto.stage,
        epoch=proto.epoch,
        epochs=proto.epochs,
        train_loss=proto.train_loss,
        valid_loss=proto.valid_loss,
        metric=proto.metric,
        metric_value=proto.metric_value,
        images_per_second=proto.images_per_second,
    )


def _scored(proto: admin_pb2.Scored) -> Scored:
    return Scored(
        candidate=_score(proto.candidate),
        promoted=_score(proto.promoted) if proto.HasField("promoted") else None,
        promoted_version=proto.promoted_version or None,
        images=proto.images,
        gained=proto.gained,
        lost=proto.lost,
    )


def _score(proto: admin_pb2.Score) -> Score:
    return Score(proto.metric, proto.value, proto.log_loss)
