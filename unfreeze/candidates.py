"""The version being tried beside the promoted one, as the Admin service reports it."""

from dataclasses import dataclass
from typing import Literal

from unfreeze.v1 import admin_pb2

CandidateMode = Literal["split", "shadow"]

MODES: dict[CandidateMode, "admin_pb2.CandidateMode.ValueType"] = {
    "split": admin_pb2.CANDIDATE_MODE_SPLIT,
    "shadow": admin_pb2.CANDIDATE_MODE_SHADOW,
}
MODE_NAMES: dict[int, CandidateMode] = {number: name for name, number in MODES.items()}


@dataclass(frozen=True)
class Candidate:
    version: int
    mode: CandidateMode
    percent: float
    ready: bool  # loaded in the server that replied
    problem: str
    compared: int  # images that this server has run through both versions
    agreed: int  # of those, how many got the same label
    dropped: int  # images of its share that were not compared, because the server was busy
    note: str = ""  # how its labels or image size differ, and what it does not answer for that


def candidate(proto: admin_pb2.Candidate) -> Candidate:
    return Candidate(
        version=proto.version,
        mode=MODE_NAMES.get(proto.mode, "shadow"),
        percent=proto.percent,
        ready=proto.ready,
        problem=proto.problem,
        compared=proto.compared,
        agreed=proto.agreed,
        dropped=proto.dropped,
        note=proto.note,
    )
