"""Aliases: append-only numbered pointer files, each created exclusively; the last one is in force.

    <root>/<model>/aliases/promoted/000042.json    which version answers
    <root>/<model>/aliases/candidate/000007.json   which version is tried beside it

Nothing is ever overwritten, so readers need no lock and two writers cannot both win.
"""

import os
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Generic, Literal, NamedTuple, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from registry.errors import BadRequest, BundleError, Conflict
from registry.files import create_exclusively, read_json
from registry.record import Record, explain

NUMBER = re.compile(r"[0-9]{1,18}")  # clients have signed integers of 64 bits for it
MAX_POINTER = 1 << 20  # bytes; servers read it every second
Mode = Literal["split", "shadow"]
Version = Annotated[int, Field(ge=1, lt=10**18)]
P = TypeVar("P", bound=Record)


def is_number(name: str) -> bool:
    """Whether a file or folder of this name may be a pointer or a version."""
    return bool(NUMBER.fullmatch(name))


class Pointer(Record):
    """One entry of the promotion history: from `at` on, `version` was the promoted one."""

    version: Version
    replaced: Version | None  # the last other version that was promoted; a rollback returns to it
    at: datetime
    by: str
    reason: str


class Candidate(Record):
    """From `at` on, `version` was tried on `percent` of the requests, until it was cleared or a
    promotion pointer after number `beside` came into force."""

    version: Version
    mode: Mode  # split: it answers them; shadow: it also runs, and its answers are compared
    percent: float = Field(gt=0, le=100)
    beside: int = Field(ge=1)
    at: datetime
    by: str
    reason: str


class Cleared(Record):
    """From `at` on, there was no candidate."""

    at: datetime
    by: str
    reason: str


class Numbered(NamedTuple, Generic[P]):
    """A pointer with its number, by which a later pointer is told from an earlier one."""

    number: int
    pointer: P


SUFFIX = ".json"
PROMOTED: TypeAdapter[Pointer] = TypeAdapter(Pointer)
CANDIDATE: TypeAdapter[Candidate | Cleared] = TypeAdapter(Candidate | Cleared)


class Pointers(Generic[P]):
    """The pointer files of one alias, as listed when this object was created."""

    def __init__(self, folder: Path, kind: TypeAdapter[P]) -> None:
        self._folder = folder
        self._kind = kind
        # names, not paths: a server lists them every second, and there is one for every change ever
        # made
        names = os.listdir(folder) if folder.is_dir() else ()
        self._names = sorted((name for name in names if _is_pointer(name)), key=_number)

    def history(self) -> list[Numbered[P]]:
        """Every readable pointer, oldest first."""
        return [
            Numbered(number, one) for number, one in self.each() if not isinstance(one, BundleError)
        ]

    def each(self) -> Iterator[tuple[int, P | BundleError]]:
        """Every pointer, or the error on reading it, with its number, oldest first."""
        for name in self._names:
            try:
                pointer = self._read(name)
            except BundleError as error:
                yield _number(name), error
            else:
                if pointer:
                    yield _number(name), pointer

    def in_force(self) -> Numbered[P] | None:
        """The pointer with the highest number.

        Raises:
            BundleError: the file is damaged.
        """
        for name in reversed(self._names):
            if pointer := self._read(name):
                return Numbered(_number(name), pointer)
        return None

    def append(self, pointer: P) -> int:
        """Puts `pointer` into force; returns its number.

        The number follows the last one listed, so a writer that came in between has taken it.

        Raises:
            BadRequest: the reason in it is too long.
            BundleError: the numbers are used up.
            Conflict: another writer came in between.
        """
        content = pointer.model_dump_json().encode()
        if len(content) > MAX_POINTER:
            raise BadRequest(f"the reason is too long: {len(content)} bytes; use a few words")
        number = _number(self._names[-1]) + 1 if self._names else 1
        if not is_number(str(number)):
            last = self._folder / self._names[-1]
            raise BundleError(f"{last}: no pointer can follow this number; remove the file")
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{number:06d}{SUFFIX}"
        try:
            create_exclusively(path, content)
        except FileExistsError as error:
            model, alias = self._folder.parent.parent.name, self._folder.name
            raise Conflict(
                f"{model}: the {alias} version was changed by somebody else at the same time; "
                "check the present state and try again"
            ) from error
        return number

    def _read(self, name: str) -> P | None:
        path = self._folder / name
        try:
            content = read_json(path, MAX_POINTER)
            if not content:  # being written, or its writer died: it never took effect
                return None
            return self._kind.validate_json(content)
        except ValidationError as error:
            raise BundleError(
                f"{path}: not a pointer: {explain(error)}; remove the file"
            ) from error
        except FileNotFoundError as error:
            if not path.is_symlink():  # removed since it was listed
                raise
            raise BundleError(
                f"{path}: not a pointer: a link that leads nowhere; remove it"
            ) from error
        except ValueError as error:
            raise BundleError(f"{path}: not a pointer: {error}; remove it") from error


def _is_pointer(name: str) -> bool:
    return name.endswith(SUFFIX) and is_number(name.removesuffix(SUFFIX))


def _number(name: str) -> int:
    return int(name.removesuffix(SUFFIX))
