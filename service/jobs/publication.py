"""From a staged bundle to a version that is live, or the reason why not.

Each step first checks whether an earlier attempt at the job has done it, so that whenever the
server is killed, the next one goes on from there.
"""

import shutil
from pathlib import Path

from registry.bundle import verify_bundle
from registry.errors import BundleError, Conflict, Unavailable, UnfreezeError
from registry.jobs import GateDecided, Job, Scored
from registry.store import Registry
from service.jobs.gate import decide
from service.models.model_manager import ModelManager
from service.models.registry_calls import in_registry

JOB = "job"  # key in a bundle's provenance: id of the job that made it


def published_before(registry: Registry, job: Job) -> int | None:
    """The version that an earlier attempt at this job has published, if any.

    Raises:
        OSError: a version cannot be read now, so it may be that one.
    """
    for version in reversed(registry.versions(job.request.model)):
        try:
            bundle = registry.bundle(job.request.model, version)
        except BundleError:  # damaged, so not one that this job has just published
            continue
        if bundle.provenance.get(JOB) == job.id:
            return version
        if bundle.created_at < job.created_at:
            return None
    return None


def publish(registry: Registry, job: Job, stage: Path) -> int:
    """Publishes the bundle in `stage` and deletes the stage; returns the version.

    Raises:
        BundleError: the staged bundle is damaged or incomplete.
    """
    bundle = verify_bundle(stage)
    provenance = bundle.provenance | {JOB: job.id}
    named = bundle.model_copy(update={"model": job.request.model, "provenance": provenance})
    version = registry.publish(stage, named)
    shutil.rmtree(stage)
    return version


async def promote_if_good(
    registry: Registry, models: ModelManager, job: Job, version: int, scored: Scored | None
) -> GateDecided:
    """The gate's decision; if it is to promote, the version is live when this returns.

    Raises:
        Unavailable: the registry cannot be used.
    """
    model = job.request.model
    for _, pointer in await in_registry(registry.history, model):
        if pointer.version == version:  # promoted by an attempt that could not record its decision
            return GateDecided(promote=True, reason=pointer.reason)
    promoted = await in_registry(registry.promoted, model)
    number, current = (promoted.number, promoted.pointer.version) if promoted else (0, None)
    decision = decide(job.request.promotion, scored, current)
    if not decision.promote:
        return decision
    try:
        await models.operations.promote(
            model, version, by=f"job {job.id}", reason=decision.reason, expected=number
        )
    except Conflict as error:
        return GateDecided(promote=False, reason=str(error))
    except Unavailable:
        raise
    except UnfreezeError as error:
        reason = f"the live version stays, because the new one cannot be loaded: {error}"
        return GateDecided(promote=False, reason=reason)
    return decision
