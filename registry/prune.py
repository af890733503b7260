"""Deletes old versions."""

import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from registry.bundle import MANIFEST
from registry.candidates import candidate_of
from registry.errors import BadRequest
from registry.pointers import is_number
from registry.store import Registry

ABANDONED_S = 24 * 3600.0  # no publication takes that long


def prune(registry: Registry, model: str, keep: int) -> list[int]:
    """Deletes all but the newest `keep` versions; returns the deleted ones.

    The promoted version, the one that a rollback would return to, and a candidate are always kept.
    The remains of interrupted publications and deletions are deleted too.
    """
    withdrawn = withdraw(registry, model, keep)
    sweep(registry, model, withdrawn)
    return withdrawn


def withdraw(registry: Registry, model: str, keep: int) -> list[int]:
    """The quick part, during which no pointer may change: the versions stop existing. Their files
    are left for `sweep`."""
    if keep < 1:
        raise BadRequest("keep must be at least 1")
    needed = _needed(registry, model)
    doomed = [version for version in registry.versions(model)[:-keep] if version not in needed]
    for version in doomed:
        (registry.root / model / str(version) / MANIFEST).unlink(missing_ok=True)
    return doomed


def sweep(registry: Registry, model: str, withdrawn: Iterable[int]) -> None:
    """The rest, which may take long: deletes the files of the versions that were withdrawn, and
    what was left of interrupted publications and deletions."""
    for version in withdrawn:
        shutil.rmtree(registry.root / model / str(version))
    needed = _needed(registry, model)
    for folder in _unpublished(registry.root / model):
        if int(folder.name) not in needed and _untouched_s(folder) > ABANDONED_S:
            _empty(folder)


def _needed(registry: Registry, model: str) -> set[int | None]:
    """Versions that a pointer names, and what a rollback would return to."""
    needed: set[int | None] = set()
    if promoted := registry.promoted(model):
        needed |= {promoted.pointer.version, promoted.pointer.replaced}
    if candidate := candidate_of(registry, model):
        needed.add(candidate.pointer.version)
    return needed


def _unpublished(parent: Path) -> list[Path]:
    """Numbered folders that are not versions, or no longer."""
    found = parent.iterdir() if parent.is_dir() else ()
    numbered = (path for path in found if is_number(path.name) and not path.is_symlink())
    return [path for path in numbered if path.is_dir() and not (path / MANIFEST).exists()]


def _untouched_s(folder: Path) -> float:
    """Seconds since anything there was changed; by ctime, which a copy does not preserve."""
    return time.time() - max(path.lstat().st_ctime for path in (folder, *folder.rglob("*")))


def _empty(folder: Path) -> None:
    """Frees the space, but keeps the folder, so that its number is not reused."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
