"""From a staged bundle to a version that is live, or not, with the reason.

Each step asks first whether an earlier attempt at the job has done it, so that whatever moment the
server is killed at, the next one goes on from there.
"""

import shutil
from pathlib import Path

from registry.bundle import verify_bundle
from registry.errors import BundleError, Conflict, Unavailable, UnfreezeError
from registry.jobs import GateDecided, Job, Scored
from registry.store import Registry
from service.jobs.gate import decide
from service.models.live import Live
from service.models.registry_calls import in_registry

JOB = "job"  # in a bundle's provenance: the job that made it


def published_before(registry: Registry, job: Job) -> int | None:
    """The version that an earlier attempt at this job has published."""
    for version in reversed(registry.versions(job.request.model)):
        try:
            bundle = registry.bundle(job.request.model, version)
        except BundleError:  # somebody else's
            continue
        if bundle.provenance.get(JOB) == job.id:
            return version
        if bundle.created_at < job.created_at:
            return None
    return None


def publish(registry: Registry, job: Job, stage: Path) -> int:
    """The number of the version that `stage` has become; the stage is gone.

    Raises:
        BundleError: the trainer left something that is no whole bundle.
    """
    bundle = verify_bundle(stage)
    provenance = bundle.provenance | {JOB: job.id}
    named = bundle.model_copy(update={"model": job.request.model, "provenance": provenance})
    version = registry.publish(stage, named)
    shutil.rmtree(stage)
    return version


async def promote_if_good(
    registry: Registry, live: Live, job: Job, version: int, scored: Scored | None
) -> GateDecided:
    """What was decided; a version that is to be promoted is live when this returns.

    Raises:
        Unavailable: the registry cannot be used.
    """
    model = job.request.model
    for _, pointer in await in_registry(registry.history, model):
        if pointer.version == version:  # decided by an attempt that could not write it down
            return GateDecided(promote=True, reason=pointer.reason)
    promoted = await in_registry(registry.promoted, model)
    number, current = (promoted[0], promoted[1].version) if promoted else (0, None)
    decision = decide(job.request.promotion, scored, current)
    if not decision.promote:
        return decision
    try:
        await live.changes.promote(
            model, version, by=f"job {job.id}", reason=decision.reason, expected=number
        )
    except Conflict as error:
        return GateDecided(promote=False, reason=str(error))
    except Unavailable:
        raise
    except UnfreezeError as error:
        reason = f"the version that was live stays, for this one does not load: {error}"
        return GateDecided(promote=False, reason=reason)
    return decision
