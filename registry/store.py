"""Models, versions and aliases in a folder.

    <root>/<model>/<version>/                     a bundle; version is 1, 2, 3, …
    <root>/<model>/aliases/                       pointers to versions: see registry/pointers.py

Versions are immutable, so readers need no lock.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from registry.bundle import MANIFEST, Bundle, files_of, read_bundle, seal
from registry.errors import BadRequest, BundleError, Conflict, NotFound
from registry.files import MOUNT, is_url, sha256_file, sync
from registry.pointers import (
    CANDIDATE,
    PROMOTED,
    Candidate,
    Cleared,
    Numbered,
    Pointer,
    Pointers,
    is_number,
)
from registry.quoted import quoted

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
TENSOR_SUFFIX = "-tensor"  # in the Open Inference Protocol, NAME-tensor is NAME fed with pixels


def is_name(text: str) -> bool:
    """Whether it is a valid model name."""
    return bool(NAME.fullmatch(text)) and not text.endswith(TENSOR_SUFFIX)


def check_name(model: str) -> str:
    """`model`, if it is a valid model name.

    Raises:
        BadRequest: it has characters other than letters, digits, '.', '_', '-', or is reserved.
    """
    if not is_name(model):
        raise BadRequest(
            f"{quoted(model, 128)} is not a valid model name: use 1 to 128 letters, digits, '.', "
            f"'_' and '-', beginning with a letter or digit and not ending in '{TENSOR_SUFFIX}'"
        )
    return model


class Registry:
    """A folder of models. Caches nothing: every call reads the folder."""

    def __init__(self, root: Path) -> None:
        """
        Raises:
            BadRequest: `root` is a URL.
        """
        if is_url(root):
            raise BadRequest(f"the registry {root} is a URL; {MOUNT}")
        self.root = root

    def names(self) -> list[str]:
        """Names of all folders that may be models, with or without versions."""
        found = self.root.iterdir() if self.root.is_dir() else ()
        return sorted(path.name for path in found if is_name(path.name))

    def models(self) -> list[str]:
        """Names of all models that have a version, sorted; those that cannot be read have none."""

        def versions(name: str) -> list[int]:
            with suppress(OSError):
                return self.versions(name)
            return []

        return [name for name in self.names() if versions(name)]

    def versions(self, model: str) -> list[int]:
        """Published versions, oldest first; empty for an unknown model."""
        folder = self.root / check_name(model)
        if not folder.is_dir():
            return []
        found = (path for path in folder.iterdir() if is_number(path.name))
        return sorted(int(path.name) for path in found if (path / MANIFEST).is_file())

    def folder(self, model: str, version: int) -> Path:
        """The bundle of a published version.

        Raises:
            NotFound: there is no such version.
        """
        folder = self.root / check_name(model) / str(version)
        if version < 1 or not (folder / MANIFEST).is_file():
            known = ", ".join(map(str, self.versions(model)[-5:])) or "none"
            raise NotFound(f"no version {version} of {model}; published: {known}")
        return folder

    def bundle(self, model: str, version: int) -> Bundle:
        """The manifest of a published version."""
        return read_bundle(self.folder(model, version))

    def publish(self, staged: Path, bundle: Bundle) -> int:
        """Publishes the files of `staged` with `bundle` as their manifest; returns the version.

        Creating a version's folder claims its number; writing the manifest, last, makes the version
        exist. A crash leaves a folder without one, which nobody reads. The digests are computed
        from the copied files and must equal those in `bundle.files`.

        Raises:
            BundleError: the files are not those that `bundle` lists, or as `next_version`.
        """
        folder = self._claim(check_name(bundle.model))
        try:
            _copy(staged, folder, bundle)
            seal(folder, bundle)
        except BaseException:  # such as a full disk, which half a bundle would keep full
            remove(folder)
            raise
        return int(folder.name)

    def write_problem(self, model: str) -> str:
        """Why no version of `model` could be published and promoted; empty if nothing is known to
        prevent it. Writes nothing."""
        folder = self.root / check_name(model)
        aliases = folder / "aliases"
        outermost = folder if folder.exists() else self.root
        for one in (outermost, aliases, aliases / "promoted"):
            if one.exists() and not (one.is_dir() and os.access(one, os.W_OK | os.X_OK)):
                shown = "the registry" if one == self.root else one.relative_to(self.root)
                return (
                    f"{shown} cannot be written to, so no version of {model} could be published; "
                    f"it must be a folder where user {os.getuid()} may write"
                )
        return ""

    def next_version(self, model: str) -> int:
        """The next version number; that of a pruned version is never reused.

        Raises:
            BundleError: a damaged pointer hides which version it named, or the numbers are used up.
        """
        folder = self.root / check_name(model)
        names = os.listdir(folder) if folder.is_dir() else ()
        taken = (int(name) for name in names if is_number(name))
        last = max((*taken, *self._ever_promoted(model), *self._ever_tried(model)), default=0)
        if not is_number(str(last + 1)):
            raise BundleError(f"{model}: no version can follow number {last}; remove what has it")
        return last + 1

    def _claim(self, model: str) -> Path:
        parent = self.root / model
        parent.mkdir(parents=True, exist_ok=True)
        while True:
            folder = parent / str(self.next_version(model))
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            sync(parent)
            return folder

    def _ever_promoted(self, model: str) -> Iterator[int]:
        """Every version that was promoted, including that of a damaged pointer if the pointer after
        it, which names what it replaced, can be read."""
        after: Pointer | BundleError | None = None
        for _, pointer in reversed(list(self._promotions(model).each())):
            if isinstance(pointer, Pointer):
                yield from (pointer.version, pointer.replaced or 0)
            elif not isinstance(after, Pointer):
                raise pointer
            after = pointer

    def _ever_tried(self, model: str) -> Iterator[int]:
        for _, pointer in self.candidates(model).each():
            if isinstance(pointer, BundleError):  # no other pointer names its version
                raise pointer
            if isinstance(pointer, Candidate):
                yield pointer.version

    # What is promoted

    def history(self, model: str) -> list[Numbered[Pointer]]:
        """Every readable promotion pointer, oldest first."""
        return self._promotions(model).history()

    def promoted(self, model: str) -> Numbered[Pointer] | None:
        """The pointer in force, or None if nothing was ever promoted."""
        return self._promotions(model).in_force()

    def promote(
        self, model: str, version: int, *, by: str, reason: str, expected: int | None = None
    ) -> Numbered[Pointer]:
        """Makes `version` the promoted version of `model`; returns the new pointer.

        This ends the trial of a candidate. Promoting the promoted version again does not change
        what a rollback returns to.

        Args:
            expected: number of the pointer that the decision was based on (0: none); if there is a
                newer one, nothing changes. None: promote in any case.

        Raises:
            NotFound: there is no such version.
            Conflict: somebody else promoted in the meantime.
        """
        self.bundle(model, version)
        pointers = self._promotions(model)
        number, current = pointers.in_force() or (0, None)
        if expected is not None and expected != number:
            raise Conflict(
                f"{model}: another version was promoted in the meantime "
                f"(pointer {number}, expected {expected})"
            )
        replaced = current.version if current else None
        if current and replaced == version:
            replaced = current.replaced
        pointer = Pointer(
            version=version, replaced=replaced, at=datetime.now(UTC), by=by, reason=reason
        )
        return Numbered(pointers.append(pointer), pointer)

    def rollback_target(self, model: str) -> tuple[int, int]:
        """The number of the current pointer and the version that it replaced.

        Raises:
            NotFound: there is no such model.
            Conflict: there is nothing to roll back to.
        """
        current = self.promoted(model)
        if current is None and not self.versions(model):
            raise NotFound(f"no model {quoted(model, 128)} in the registry")
        if current is None or current.pointer.replaced is None:
            raise Conflict(f"{model}: nothing to roll back to; promote a version by its number")
        return current.number, current.pointer.replaced

    def _promotions(self, model: str) -> Pointers[Pointer]:
        return Pointers(self.root / check_name(model) / "aliases" / "promoted", PROMOTED)

    def candidates(self, model: str) -> Pointers[Candidate | Cleared]:
        """The pointers to candidates, current and past: see registry/candidates.py."""
        return Pointers(self.root / check_name(model) / "aliases" / "candidate", CANDIDATE)


def remove(folder: Path) -> None:
    """Deletes the version in `folder`; it stops existing even if not every file can be deleted."""
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder)


def _copy(staged: Path, folder: Path, bundle: Bundle) -> None:
    for name in sorted(files_of(staged)):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(staged / name, target)
        sync(target)
        sync(target.parent)
    copied = {name: sha256_file(folder / name) for name in files_of(folder)}
    if copied != bundle.files:
        changed = sorted(set(copied.items()) ^ set(bundle.files.items()))[0][0]
        raise BundleError(
            f"{bundle.model}: {changed} changed while it was being published; try again"
        )
