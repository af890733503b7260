"""The candidate: a version that is tried beside the promoted one, on a share of the requests."""

from datetime import UTC, datetime

from registry.errors import BadRequest, Conflict
from registry.pointers import Candidate, Cleared, Mode, Numbered
from registry.store import Registry


def candidate_of(registry: Registry, model: str) -> Numbered[Candidate] | None:
    """The candidate of `model`.

    A candidate belongs to the promotion beside which it was set. Any later promotion or rollback
    ends it, in the same single write: its figures compare it with a version that no longer answers,
    and in an emergency rollback one version should answer everything.

    Raises:
        BundleError: a pointer is damaged.
    """
    number, pointer = registry.candidates(model).in_force() or (0, None)
    promoted = registry.promoted(model)
    if isinstance(pointer, Candidate) and promoted and promoted.number == pointer.beside:
        return Numbered(number, pointer)
    return None


def check_percent(percent: float) -> float:
    """`percent`, if it is above 0 and at most 100.

    Raises:
        BadRequest: it is not.
    """
    if not 0 < percent <= 100:
        raise BadRequest(f"percent is {percent:g}; use more than 0 and at most 100")
    return percent


def set_candidate(
    registry: Registry,
    model: str,
    version: int,
    mode: Mode,
    percent: float,
    *,
    by: str,
    reason: str,
) -> Numbered[Candidate]:
    """Makes `version` the candidate for `percent` of the requests; returns its pointer.

    Raises:
        BadRequest: the percentage is not above 0 and at most 100.
        NotFound: there is no such version.
        Conflict: nothing is promoted, or this very version is; or a concurrent change of either.
    """
    check_percent(percent)
    registry.bundle(model, version)
    pointers = registry.candidates(model)
    promoted = registry.promoted(model)
    if promoted is None:
        raise Conflict(f"{model}: no version is promoted to compare with; promote one first")
    if promoted.pointer.version == version:
        raise Conflict(f"{model}: version {version} is already promoted; try another")
    pointer = Candidate(
        version=version,
        mode=mode,
        percent=percent,
        beside=promoted.number,
        at=datetime.now(UTC),
        by=by,
        reason=reason,
    )
    number = pointers.append(pointer)
    if registry.promoted(model) != promoted:  # which has ended the trial already
        raise Conflict(
            f"{model}: another version was promoted at the same time; check the present state and "
            "try again"
        )
    return Numbered(number, pointer)


def clear_candidate(
    registry: Registry, model: str, *, by: str, reason: str
) -> tuple[int, Candidate] | None:
    """Ends the trial of the candidate of `model`; returns the new pointer's number and the
    candidate that was cleared.

    Raises:
        Conflict: a concurrent change of the candidate.
    """
    pointers = registry.candidates(model)
    current = candidate_of(registry, model)
    if current is None:
        return None
    number = pointers.append(Cleared(at=datetime.now(UTC), by=by, reason=reason))
    return number, current.pointer
