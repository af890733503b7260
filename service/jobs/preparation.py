"""What a trainer is given: its assignment in a file, and an empty stage."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from registry.files import write_durably
from registry.jobs import Assignment, Job
from registry.store import Registry


@dataclass(frozen=True)
class Champion:
    """The version that is to be beaten."""

    version: int
    bundle: Path


def find_champion(registry: Registry, model: str) -> Champion | None:
    """What is promoted now; None: nothing is.

    Raises:
        BundleError: a pointer of the model is damaged, so that nothing could be published.
    """
    registry.next_version(model)  # what is wrong with it is better told before hours of training
    promoted = registry.promoted(model)
    if promoted is None:
        return None
    version = promoted[1].version
    return Champion(version, registry.folder(model, version))


def prepare(
    folder: Path, job: Job, champion: Champion | None, *, cache: Path, data_roots: Sequence[Path]
) -> Path:
    """The job's `folder` holds its assignment, whose path this is, and nothing staged by an attempt
    before.

    Args:
        cache: what all trainers share.
        data_roots: folders that the trainer may read.
    """
    stage = folder / "stage"
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(parents=True)
    (folder / "run").mkdir(exist_ok=True)
    cache.mkdir(exist_ok=True)
    assignment = Assignment(
        model=job.request.model,
        data=Path(job.request.data),
        settings=job.request.settings,
        within=tuple(data_roots),
        cache=cache,
        run=folder / "run",
        stage=stage,
        champion=champion.bundle if champion else None,
        champion_version=champion.version if champion else None,
    )
    path = folder / "assignment.json"
    write_durably(path, assignment.model_dump_json(indent=2).encode())
    return path
