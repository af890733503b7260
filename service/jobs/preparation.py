"""Prepares a trainer's folder: its assignment in a file, and an empty stage."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from registry.errors import Unavailable
from registry.files import write_durably
from registry.jobs import Assignment, Job
from registry.store import Registry


@dataclass(frozen=True)
class PromotedBundle:
    """The version that the new one has to beat."""

    version: int
    bundle: Path


def find_promoted(registry: Registry, model: str) -> PromotedBundle | None:
    """The promoted version; None if there is none.

    Raises:
        BundleError: a pointer of the model is damaged, so that nothing could be published.
        Unavailable: nothing could be published because the registry cannot be written to.
    """
    if problem := registry.write_problem(model):
        raise Unavailable(problem)
    registry.next_version(model)  # raises such errors now, rather than after hours of training
    promoted = registry.promoted(model)
    if promoted is None:
        return None
    version = promoted.pointer.version
    return PromotedBundle(version, registry.folder(model, version))


def prepare_folder(
    folder: Path,
    job: Job,
    promoted: PromotedBundle | None,
    *,
    cache: Path,
    data_roots: Sequence[Path],
) -> Path:
    """Writes the assignment to the job's `folder`, and clears what an earlier attempt has staged;
    returns the assignment's path.

    Args:
        cache: cache folder that all trainers share.
        data_roots: folders that the trainer may read data from.
    """
    stage = folder / "stage"
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(parents=True)
    (folder / "run").mkdir(exist_ok=True)
    cache.mkdir(exist_ok=True)
    assignment = Assignment(
        model=job.request.model,
        data=Path(job.request.data),
        settings=job.settings,
        within=tuple(data_roots),
        cache=cache,
        run=folder / "run",
        stage=stage,
        champion=promoted.bundle if promoted else None,
        champion_version=promoted.version if promoted else None,
    )
    path = folder / "assignment.json"
    write_durably(path, assignment.model_dump_json(indent=2).encode())
    return path
