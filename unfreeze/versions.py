"""Models and their versions, as the Admin service reports them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from unfreeze.candidates import Candidate, candidate
from unfreeze.times import time_of
from unfreeze.v1 import admin_pb2


@dataclass(frozen=True)
class Model:
    name: str
    promoted_version: int | None
    newest_version: int | None
    versions: int
    ready: bool
    problem: str  # why the server does not follow what is promoted; another version may answer
    candidate: Candidate | None  # being tried beside the promoted version
    live_version: int | None  # the one that answers; an older one if the promoted one fails to load


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
    """A new pointer: requests that name no version now get `version`."""

    model: str
    version: int
    replaced: int | None
    pointer: int
    note: str = ""  # how its labels differ from those of the version that answered before


def model(proto: admin_pb2.Model) -> Model:
    return Model(
        name=proto.name,
        promoted_version=proto.promoted_version or None,
        newest_version=proto.newest_version or None,
        versions=proto.versions,
        ready=proto.ready,
        problem=proto.problem,
        candidate=candidate(proto.candidate) if proto.HasField("candidate") else None,
        live_version=proto.live_version or None,
    )


def version(proto: admin_pb2.Version) -> Version:
    return Version(
        model=proto.model,
        version=proto.version,
        promoted=proto.promoted,
        created_at=time_of(proto.created_at),
        labels=tuple(proto.labels),
        task=proto.task,
        metrics=dict(proto.metrics),
        provenance=dict(proto.provenance),
    )


def promoted(proto: admin_pb2.PromoteResponse) -> Promoted:
    return Promoted(
        model=proto.model,
        version=proto.version,
        replaced=proto.replaced or None,
        pointer=proto.pointer,
        note=proto.note,
    )
