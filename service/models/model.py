"""What a server holds in memory of one model, and why it does not follow a pointer."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from registry.errors import Conflict
from registry.pointers import Pointer
from service.models.candidacy import Candidacy
from service.models.loaded import Loaded

Promoted: TypeAlias = tuple[int, Pointer]  # what is promoted, with the pointer's number

UNLOADED = "unloaded"
NOTHING_PROMOTED = (
    "the registry has no promoted version of it any more; the one in memory goes on answering"
)
MAX_PINNED = 2  # versions that are in memory only because somebody asked for them by number
FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 60.0


@dataclass
class Trouble:
    """Why a pointer is not followed. Each time it is left alone for longer."""

    problem: str = ""
    _pointer: int = 0
    _retry_at: float = 0
    _retry_s: float = FIRST_RETRY_S

    def note(self, pointer: int, problem: str) -> None:
        """The version of this pointer could not be loaded."""
        if pointer != self._pointer:
            self._retry_s = FIRST_RETRY_S
        self.problem, self._pointer = problem, pointer
        self._retry_at = time.monotonic() + self._retry_s
        self._retry_s = min(2 * self._retry_s, LONGEST_RETRY_S)

    def forget(self) -> None:
        self.problem, self._pointer, self._retry_s = "", 0, FIRST_RETRY_S

    def waits(self, pointer: int) -> bool:
        """This pointer failed a moment ago, and nothing has changed since."""
        return pointer == self._pointer and time.monotonic() < self._retry_at


@dataclass
class Model:
    """Its versions in memory. Changed by the event loop alone, and never half across an await."""

    name: str
    current: Loaded | None = None
    previous: Loaded | None = None  # what it replaced; a rollback is instant
    pinned: OrderedDict[int, Loaded] = field(default_factory=OrderedDict)
    # of versions that somebody asked for by number, why they do not load
    broken: dict[int, Trouble] = field(default_factory=dict)
    follows: Promoted | None = None  # the pointer because of which `current` answers
    coming: int = 0  # versions that are being loaded to be `current`
    unloaded: bool = False  # by order: nothing comes into memory until it is loaded again
    trouble: Trouble = field(default_factory=Trouble)

    candidate: Candidacy | None = None
    candidate_pointer: int = 0  # number of the last one that was followed, if only by clearing
    candidate_trouble: Trouble = field(default_factory=Trouble)

    # held while this server writes a pointer: two of its callers do not collide with each other
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def pointer(self) -> int:
        """Number of the pointer that it follows; 0: none."""
        return self.follows[0] if self.follows else 0

    @property
    def problem(self) -> str:
        """Why it does not follow its promoted version."""
        return UNLOADED if self.unloaded else self.trouble.problem

    def versions(self) -> Iterator[Loaded]:
        """Everything in memory; one may come twice. May be asked from any thread."""
        yield from self.wanted()
        if self.previous:
            yield self.previous

    def wanted(self) -> Iterator[Loaded]:
        """The same without the one before the live one, which next to nobody asks for."""
        candidate = self.candidate  # which the event loop may take away meanwhile
        tried = candidate and candidate.loaded
        for loaded in (self.current, tried, *self.pinned.values()):
            if loaded:
                yield loaded

    def find(self, version: int) -> Loaded | None:
        """The version, if it is in memory."""
        if version in self.pinned:
            self.pinned.move_to_end(version)
        return next((loaded for loaded in self.versions() if loaded.version == version), None)

    def pin(self, loaded: Loaded) -> None:
        """It is in memory until it is the one that was not asked for the longest. Not so if another
        load was faster, as when a version goes live that somebody asks for by its number."""
        if self.find(loaded.version):
            loaded.retire()
        else:
            self.pinned[loaded.version] = loaded

    def drop_oldest_pinned(self) -> None:
        """At most MAX_PINNED are left; the others are freed when their readers have gone."""
        while len(self.pinned) > MAX_PINNED:
            self.release(self.pinned.popitem(last=False)[1])

    def release(self, *let_go: Loaded | None) -> None:
        """Those that are needed for nothing else are freed when their readers have gone."""
        for loaded in let_go:
            if loaded and not any(loaded is kept for kept in self.versions()):
                loaded.retire()


def put_back(model: str, followed: Promoted | None, now: Promoted | None) -> Conflict | None:
    """Why a server cannot go on from the pointer that it followed to the one that was in force when
    it looked after that. It can where this is None: pointers are only ever added, unless somebody
    restores a registry or begins it anew."""
    if followed is None or now == followed or (now and now[0] > followed[0]):
        return None
    if now is None:
        return Conflict(f"{model}: {NOTHING_PROMOTED}")
    return Conflict(
        f"{model}: the registry was put back or begun anew: {_named(now)} is in force, and this "
        f"server follows {_named(followed)}, whose version goes on answering; unload the model and "
        "load it, or restart this server, to take up what is promoted now"
    )


def _named(promoted: Promoted) -> str:
    number, pointer = promoted
    return f"pointer {number} of {pointer.at:%Y-%m-%d %H:%M:%S}"
