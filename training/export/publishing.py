"""From a staged folder to a version, whether it was trained here or comes from elsewhere."""

from collections.abc import Mapping
from pathlib import Path

from registry.bundle import FILES, MODEL, Bundle, Reduced, Variant, files_of, seal
from registry.files import sha256_file
from registry.jobs import Assignment
from registry.store import Registry, check_name

# Largest difference from the golden answers: other CPUs round otherwise, and GPUs use TF32. Rounded
# as there, two trained EfficientNet-Lite0 moved the least sure of 24 answers by 0.008 and 0.012.
TOLERANCES = {f"{MODEL}/cpu": 1e-3, f"{MODEL}/cuda": 5e-2, f"{MODEL}/tensorrt": 5e-2}


def seal_stage(
    stage: Path, draft: Bundle, *, metrics: Mapping[str, float], provenance: Mapping[str, str]
) -> Bundle:
    """`stage` is a bundle: its manifest lists every file that is there. Gives the manifest."""
    files = {name: sha256_file(stage / name) for name in sorted(files_of(stage))}
    bundle = draft.model_copy(
        update={"metrics": dict(metrics), "provenance": dict(provenance), "files": files}
    )
    seal(stage, bundle)
    return bundle


def with_variants(
    draft: Bundle, variants: Mapping[Reduced, Variant], tolerances: Mapping[str, float]
) -> Bundle:
    """The manifest of a bundle that holds these copies of its model too."""
    known = draft.model_dump(exclude={"schema_version"})  # the lowest that can hold it is found
    files = draft.files | {FILES[precision]: "0" * 64 for precision in variants}
    return Bundle.model_validate(
        known | {"variants": variants, "tolerances": tolerances, "files": files}
    )


def assign(
    registry: Registry, model: str, data: Path, settings: dict[str, str], cache: Path, run: Path
) -> tuple[Assignment, int]:
    """What to train, to be judged beside the version that is promoted now, and the number of that
    one's pointer, 0 for none.

    Raises:
        BadRequest: `model` cannot name a model.
        BundleError: a pointer of it is damaged, so that nothing could be published.
    """
    before = registry.promoted(check_name(model))
    registry.next_version(model)  # what is wrong with it is better told before hours of training
    assignment = Assignment(
        model=model,
        data=data,
        settings=settings,
        cache=cache,
        run=run,
        stage=run / "stage",
        champion=registry.folder(model, before[1].version) if before else None,
        champion_version=before[1].version if before else None,
    )
    return assignment, before[0] if before else 0


def publish(
    registry: Registry, stage: Path, bundle: Bundle, *, pointer: int, promote: bool, by: str
) -> tuple[int, bool]:
    """`stage` has become a version. Gives its number and whether it is promoted now.

    Args:
        pointer: number of the pointer that was in force when the work began, 0 for none; only a
            first version is promoted unasked.

    Raises:
        Conflict: somebody else has promoted a version since; this one stays published.
    """
    version = registry.publish(stage, bundle)
    promoted = promote or not pointer
    if promoted:
        reason = f"unfreeze {by}"
        registry.promote(bundle.model, version, by=by, reason=reason, expected=pointer)
    return version, promoted
