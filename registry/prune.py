"""Old versions make room."""

from registry.candidates import candidate_of
from registry.errors import BadRequest
from registry.store import Registry, remove


def prune(registry: Registry, model: str, keep: int) -> list[int]:
    """Deletes all but the newest `keep` versions; gives the deleted ones.

    The promoted version, the one that a rollback would return to and a candidate always stay.
    """
    if keep < 1:
        raise BadRequest("keep must be at least 1")
    needed: set[int | None] = set()
    if promoted := registry.promoted(model):
        needed |= {promoted[1].version, promoted[1].replaced}
    if candidate := candidate_of(registry, model):
        needed.add(candidate[1].version)
    doomed = [version for version in registry.versions(model)[:-keep] if version not in needed]
    for version in doomed:
        remove(registry.root / model / str(version))
    return doomed
