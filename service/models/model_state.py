"""The versions of one model in memory, and why the server does not follow a pointer."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from registry.errors import Conflict
from registry.labels import label_note
from registry.pointers import Numbered, Pointer
from service.models.loaded_version import LoadedVersion
from service.models.trial import Trial

Promoted: TypeAlias = Numbered[Pointer]  # the promotion pointer in force

UNLOADED = "unloaded"
NOTHING_PROMOTED = (
    "the registry has no promoted version of it any more; the one in memory goes on answering"
)
FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 60.0


@dataclass
class LoadFailure:
    """Why a pointer is not followed, or a version requested by number cannot be loaded; `number` is
    that of the pointer or of the version. Retries use exponential backoff."""

    problem: str = ""
    _number: int = 0
    _tried: int = 0  # the last that was tried, whatever came of it
    _retry_at: float = 0
    _retry_s: float = FIRST_RETRY_S

    def note(self, number: int, problem: str) -> None:
        """Notes that its version could not be loaded."""
        if number != self._number:
            self._retry_s = FIRST_RETRY_S
        self.problem, self._number = problem, number
        self._retry_at = time.monotonic() + self._retry_s
        self._retry_s = min(2 * self._retry_s, LONGEST_RETRY_S)

    def forget(self) -> None:
        self.problem, self._number, self._retry_s = "", 0, FIRST_RETRY_S

    def note_try(self, number: int) -> bool:
        """Notes that it is tried now; returns whether that is another one than the last time."""
        is_another = number != self._tried
        self._tried = number
        return is_another

    def backs_off(self, number: int) -> bool:
        """Whether it is too early to retry."""
        return number == self._number and time.monotonic() < self._retry_at


@dataclass
class ModelState:
    """A model's versions in memory. Changed only by the event loop, and never partly across an
    await."""

    name: str
    live: LoadedVersion | None = None
    # for an instant rollback: what it replaced here, until what its pointer replaced is loaded
    previous: LoadedVersion | None = None
    previous_sought: int = 0  # the pointer for which it was last loaded, or failed to, on its own
    # in memory only because they were requested by number
    pinned: OrderedDict[int, LoadedVersion] = field(default_factory=OrderedDict)
    # why versions requested by number cannot be loaded
    failures: dict[int, LoadFailure] = field(default_factory=dict)
    follows: Promoted | None = None  # the pointer that made `live` live
    n_going_live: int = 0  # versions that are being loaded to go live
    unloaded: bool = False  # on request: loads nothing until it is loaded again
    failure: LoadFailure = field(default_factory=LoadFailure)

    trial: Trial | None = None
    candidate_pointer: int = 0  # number of the last one that was followed, also a clearing one
    candidate_failure: LoadFailure = field(default_factory=LoadFailure)

    # held while this server writes a pointer, so that its own callers do not conflict
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def pointer(self) -> int:
        """Number of the pointer that is followed; 0: none."""
        return self.follows.number if self.follows else 0

    @property
    def problem(self) -> str:
        """Why it does not follow its promoted version."""
        return UNLOADED if self.unloaded else self.failure.problem

    @property
    def label_note(self) -> str:
        """How the live version's labels differ from those of the version before it, for people;
        empty if they do not."""
        if not self.live or not self.previous:
            return ""
        previous = self.previous
        return label_note(previous.version, previous.bundle.labels, self.live.bundle.labels)

    def versions(self) -> Iterator[LoadedVersion]:
        """Everything in memory; one may come twice. May be called from any thread."""
        yield from self.wanted()
        if self.previous:
            yield self.previous

    def wanted(self) -> Iterator[LoadedVersion]:
        """The same without the previous version, which hardly any request is for."""
        trial = self.trial  # read once: the event loop may clear it meanwhile
        for loaded in (self.live, trial and trial.candidate, *self.pinned.values()):
            if loaded:
                yield loaded

    def find(self, version: int) -> LoadedVersion | None:
        """The version, if it is in memory."""
        if version in self.pinned:
            self.pinned.move_to_end(version)
        return next((loaded for loaded in self.versions() if loaded.version == version), None)

    def pin(self, loaded: LoadedVersion) -> None:
        """Keeps it in memory until it is the least recently used one. Retires it if another load of
        the same version was faster, such as one to go live beside one requested by number."""
        if self.find(loaded.version):
            loaded.retire()
        else:
            self.pinned[loaded.version] = loaded

    def drop_oldest_pinned(self, keep: int) -> None:
        """Keeps the `keep` last used; the others are freed when their readers have gone."""
        while len(self.pinned) > keep:
            self.release(self.pinned.popitem(last=False)[1])

    def release(self, *let_go: LoadedVersion | None) -> None:
        """Retires those that have no other place in this model."""
        for loaded in let_go:
            if loaded and not any(loaded is kept for kept in self.versions()):
                loaded.retire()


def restored_conflict(
    model: str, followed: Promoted | None, now: Promoted | None
) -> Conflict | None:
    """The conflict if a registry was restored from a backup or recreated: the pointer in force now
    is not a successor of the one that the server followed before. None if all is well: pointers are
    append-only."""
    if followed is None or now == followed or (now and now.number > followed.number):
        return None
    if now is None:
        return Conflict(f"{model}: {NOTHING_PROMOTED}")
    return Conflict(
        f"{model}: the registry was restored or recreated: {_named(now)} is in force, but this "
        f"server follows {_named(followed)}, whose version goes on answering; to serve what is "
        "promoted now, unload and load the model, or restart this server"
    )


def _named(promoted: Promoted) -> str:
    number, pointer = promoted
    return f"pointer {number} of {pointer.at:%Y-%m-%d %H:%M:%S}"
