"""Aliases: numbered files that are only ever added, each created exclusively; the last one rules.

    <root>/<model>/aliases/promoted/000042.json    which version answers
    <root>/<model>/aliases/candidate/000007.json   which version is tried beside it

Nothing is overwritten, so readers need no lock and two writers cannot both win.
"""

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Generic, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from registry.errors import BundleError, Conflict
from registry.files import create_exclusively
from registry.record import Record, explain

Mode = Literal["split", "shadow"]
P = TypeVar("P", bound=Record)


class Pointer(Record):
    """One entry of the history of what is promoted: from `at` on, the model meant `version`."""

    version: int = Field(ge=1)
    replaced: int | None  # the last other one that it meant; a rollback returns there
    at: datetime
    by: str
    reason: str


class Candidate(Record):
    """From `at` on, `version` was tried on `percent` of the requests, until it was cleared or
    another pointer than number `beside` was promoted."""

    version: int = Field(ge=1)
    mode: Mode  # split: it answers them; shadow: it is asked as well and its answers are compared
    percent: float = Field(gt=0, le=100)
    beside: int = Field(ge=1)
    at: datetime
    by: str
    reason: str


class Cleared(Record):
    """From `at` on, no version was tried."""

    at: datetime
    by: str
    reason: str


SUFFIX = ".json"
PROMOTED: TypeAdapter[Pointer] = TypeAdapter(Pointer)
CANDIDATE: TypeAdapter[Candidate | Cleared] = TypeAdapter(Candidate | Cleared)


class Pointers(Generic[P]):
    """The files of one alias as they were when this was made."""

    def __init__(self, folder: Path, kind: TypeAdapter[P]) -> None:
        self._folder = folder
        self._kind = kind
        # names, not paths: a server looks every second, and there is one for each change ever made
        names = os.listdir(folder) if folder.is_dir() else ()
        self._names = sorted((name for name in names if _is_pointer(name)), key=_number)

    def history(self) -> list[tuple[int, P]]:
        """Every pointer that can be read, with its number, oldest first."""
        return [(number, one) for number, one in self.each() if not isinstance(one, BundleError)]

    def each(self) -> Iterator[tuple[int, P | BundleError]]:
        """Every pointer, or what is wrong with it, with its number, oldest first."""
        for name in self._names:
            try:
                pointer = self._read(name)
            except BundleError as error:
                yield _number(name), error
            else:
                if pointer:
                    yield _number(name), pointer

    def in_force(self) -> tuple[int, P] | None:
        """The pointer with the highest number.

        Raises:
            BundleError: the file is damaged.
        """
        for name in reversed(self._names):
            if pointer := self._read(name):
                return _number(name), pointer
        return None

    def append(self, pointer: P) -> int:
        """The number of `pointer`, which is now in force.

        It is the one after those that were looked at: whoever came since has taken it.

        Raises:
            Conflict: somebody else came since.
        """
        number = _number(self._names[-1]) + 1 if self._names else 1
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{number:06d}{SUFFIX}"
        try:
            create_exclusively(path, pointer.model_dump_json().encode())
        except FileExistsError as error:
            model, alias = self._folder.parent.parent.name, self._folder.name
            raise Conflict(
                f"{model}: somebody else changed what is {alias} at the same moment; look again"
            ) from error
        return number

    def _read(self, name: str) -> P | None:
        path = self._folder / name
        content = path.read_bytes()
        if not content:  # being written, or its writer died: it never took effect
            return None
        try:
            return self._kind.validate_json(content)
        except ValidationError as error:
            raise BundleError(
                f"{path}: not a pointer: {explain(error)}; remove the file"
            ) from error


def _is_pointer(name: str) -> bool:
    return name.endswith(SUFFIX) and name.removesuffix(SUFFIX).isdecimal()


def _number(name: str) -> int:
    return int(name.removesuffix(SUFFIX))
