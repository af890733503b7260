"""Training jobs, as the Admin service reports them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from unfreeze.times import time_of
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
    version: int | None  # that it published
    promoted: bool
    attempt: int
    created_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def ended(self) -> bool:
        return self.state in ("succeeded", "failed", "cancelled")


def job(proto: admin_pb2.Job) -> Job:
    return Job(
        id=proto.id,
        model=proto.model,
        data=proto.data,
        settings=dict(proto.settings),
        idempotency_key=proto.idempotency_key,
        promotion=PROMOTION_NAMES.get(proto.promotion, "if_better"),
        state=STATES.get(proto.state, "unspecified"),
        message=proto.message,
        version=proto.version or None,
        promoted=proto.promoted,
        attempt=proto.attempt,
        created_at=time_of(proto.created_at),
        started_at=time_of(proto.started_at),
        finished_at=time_of(proto.finished_at),
    )
