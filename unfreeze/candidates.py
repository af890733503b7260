"""The version that is tried beside the promoted one, as the Admin service tells of it."""

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
    ready: bool  # the server that was asked has it in memory
    problem: str
    compared: int  # images that this server has put to both versions
    agreed: int  # those that both label alike


def candidate(told: admin_pb2.Candidate) -> Candidate:
    return Candidate(
        version=told.version,
        mode=MODE_NAMES.get(told.mode, "shadow"),
        percent=told.percent,
        ready=told.ready,
        problem=told.problem,
        compared=told.compared,
        agreed=told.agreed,
    )
