"""A training job: its request, its record, and the events of its history.

The service stores these in its database. The training process gets an assignment as a file, and
writes events to its standard output, one JSON object per line.
"""

import math
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, TypeAdapter

from registry.record import Record

CHECKPOINT = "checkpoint.safetensors"  # in the folder of an unfinished training


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class PromotionPolicy(StrEnum):
    IF_BETTER = "if_better"
    ALWAYS = "always"
    NEVER = "never"


class JobRequest(Record):
    """A request for a training job."""

    model: str
    data: str
    settings: dict[str, str] = Field(default_factory=dict)
    idempotency_key: str = Field(default="", max_length=256)
    promotion: PromotionPolicy = PromotionPolicy.IF_BETTER
    # train with those of the promoted version, overridden by `settings`
    same_settings: bool = False


class Job(Record):
    """A request and what has become of it."""

    id: str
    request: JobRequest
    state: JobState
    message: str = ""
    version: int | None = None
    promoted: bool = False
    attempt: int = 0
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    # where the request asks for the promoted version's: those, overridden by its own
    resolved: dict[str, str] | None = None

    @property
    def settings(self) -> dict[str, str]:
        """What it trains with."""
        return self.request.settings if self.resolved is None else self.resolved


class Assignment(Record):
    """The instructions of a training process, in a file."""

    model: str
    data: Path
    settings: dict[str, str]
    within: tuple[Path, ...] = ()  # every image must lie below one of these; none: anywhere
    cache: Path  # decoded images and activations, shared by all jobs
    run: Path  # this job's own folder: weights, report
    stage: Path  # where to put the finished bundle; only the service writes to the registry
    # bundle of the promoted version, to be scored too; the name stays, because files of unfinished
    # jobs have it, and other people's trainers read it
    champion: Path | None = None
    champion_version: int | None = None


# Events

# JSON has no NaN or infinity, such as a loss that has overflowed: null is written instead, and read
# as NaN.
Number = Annotated[float, BeforeValidator(lambda given: math.nan if given is None else given)]


class StateChanged(Record):
    kind: Literal["state_changed"] = "state_changed"
    state: JobState
    message: str = ""


class StageStarted(Record):
    kind: Literal["stage_started"] = "stage_started"
    stage: str
    number: int
    of: int


class Progress(Record):
    """The progress of a stage, in images."""

    kind: Literal["progress"] = "progress"
    stage: str
    done: int
    total: int
    images_per_second: Number
    seconds_left: Number


class EpochFinished(Record):
    kind: Literal["epoch_finished"] = "epoch_finished"
    stage: str
    epoch: int
    epochs: int
    train_loss: Number
    valid_loss: Number
    metric: str
    metric_value: Number
    images_per_second: Number


class Note(Record):
    kind: Literal["note"] = "note"
    text: str


class Score(Record):
    """A model's score on held-out images; a higher `value` is better."""

    metric: str
    value: Number
    log_loss: Number


class Scored(Record):
    """Candidate and promoted version, both as ONNX, scored on the same held-out images.

    Here the candidate is the newly trained version, and has nothing to do with SetCandidate.
    """

    kind: Literal["scored"] = "scored"
    candidate: Score
    promoted: Score | None
    promoted_version: int | None
    images: int
    gained: int  # images that only the candidate got right
    lost: int  # images that only the promoted version got right


class GateDecided(Record):
    kind: Literal["gate_decided"] = "gate_decided"
    promote: bool
    reason: str


class Resolved(Record):
    """A trainer's answer when it is asked for the settings that a version was trained with,
    overridden by others."""

    kind: Literal["resolved"] = "resolved"
    settings: dict[str, str]


class Staged(Record):
    """The last event of a training process that succeeded: its bundle is complete."""

    kind: Literal["staged"] = "staged"
    folder: Path


class Failed(Record):
    """The last event of a training process that failed."""

    kind: Literal["failed"] = "failed"
    reason: str


Event = Annotated[
    StateChanged
    | StageStarted
    | Progress
    | EpochFinished
    | Note
    | Scored
    | GateDecided
    | Resolved
    | Staged
    | Failed,
    Field(discriminator="kind"),
]
EVENTS: TypeAdapter[Event] = TypeAdapter(Event)
