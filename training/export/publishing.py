"""From a staged folder to a version, trained here or imported."""

from collections.abc import Mapping
from pathlib import Path

from registry.bundle import FILES, MODEL, Bundle, Reduced, Variant, files_of, seal
from registry.errors import BundleError, Conflict
from registry.files import sha256_file
from registry.jobs import Assignment
from registry.labels import label_note
from registry.store import Registry, check_name

# Largest difference from the golden outputs: other CPUs round differently, and GPUs use TF32. With
# TF32 rounding, two trained EfficientNet-Lite0 moved the least certain of 24 outputs by 0.008 and
# 0.012.
TOLERANCES = {f"{MODEL}/cpu": 1e-3, f"{MODEL}/cuda": 5e-2, f"{MODEL}/tensorrt": 5e-2}


def seal_stage(
    stage: Path, draft: Bundle, *, metrics: Mapping[str, float], provenance: Mapping[str, str]
) -> Bundle:
    """Makes `stage` a bundle: writes a manifest of every file that is there, and returns it."""
    files = {name: sha256_file(stage / name) for name in sorted(files_of(stage))}
    bundle = draft.model_copy(
        update={"metrics": dict(metrics), "provenance": dict(provenance), "files": files}
    )
    seal(stage, bundle)
    return bundle


def with_variants(
    draft: Bundle, variants: Mapping[Reduced, Variant], tolerances: Mapping[str, float]
) -> Bundle:
    """The manifest with these variants of the model added."""
    known = draft.model_dump(exclude={"schema_version"})  # it becomes the lowest that fits
    files = draft.files | {FILES[precision]: "0" * 64 for precision in variants}
    return Bundle.model_validate(
        known | {"variants": variants, "tolerances": tolerances, "files": files}
    )


def assign(
    registry: Registry, model: str, data: Path, settings: dict[str, str], cache: Path, run: Path
) -> tuple[Assignment, int]:
    """What to train, to be compared with the version that is promoted now, and the number of that
    one's pointer, 0 for none.

    Raises:
        BadRequest: `model` is not a valid name.
        BundleError: one of its pointers is damaged, so that nothing could be published.
    """
    promoted = registry.promoted(check_name(model))
    version = promoted.pointer.version if promoted else None
    registry.next_version(model)  # to fail now rather than after hours of training
    assignment = Assignment(
        model=model,
        data=data,
        settings=settings,
        cache=cache,
        run=run,
        stage=run / "stage",
        champion=registry.folder(model, version) if version else None,
        champion_version=version,
    )
    return assignment, promoted.number if promoted else 0


def publish(
    registry: Registry, stage: Path, bundle: Bundle, *, pointer: int, promote: bool, by: str
) -> tuple[int, bool]:
    """Publishes `stage` as a version. Returns its number and whether it is promoted now.

    Args:
        pointer: number of the pointer that was current when the work began, 0 for none; only a
            first version is promoted by itself, unless somebody else has promoted one since.

    Raises:
        Conflict: it is to be promoted, and somebody else has promoted a version since; this one
            stays published.
    """
    version = registry.publish(stage, bundle)
    promoted = promote or not pointer
    if promoted:
        reason = f"unfreeze {by}"
        try:
            registry.promote(bundle.model, version, by=by, reason=reason, expected=pointer)
        except Conflict:
            if promote:
                raise
            promoted = False
    return version, promoted


def label_note_of(registry: Registry, model: str) -> str:
    """How the labels of the version that is promoted now differ from those of the one before it,
    for people; empty if they do not, or if that one is no longer there."""
    in_force = registry.promoted(model)
    if in_force is None or in_force.pointer.replaced is None:
        return ""
    version, before = in_force.pointer.version, in_force.pointer.replaced
    try:
        labels = [registry.bundle(model, each).labels for each in (before, version)]
    except BundleError:  # it was pruned, for example
        return ""
    return label_note(before, *labels)
