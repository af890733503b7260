"""What a server holds in memory of one model, and why it does not follow its promoted version."""

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from service.loader import Loaded

MAX_PINNED = 2  # versions that are in memory only because somebody asked for them by number
FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 60.0


@dataclass
class Model:
    """Its versions; changed under `lock` alone, and by `Live` alone."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    current: Loaded | None = None
    previous: Loaded | None = None  # what it replaced; a rollback is instant
    pinned: OrderedDict[int, Loaded] = field(default_factory=OrderedDict)
    pointer: int = 0  # number of the pointer that `current` follows

    problem: str = ""
    _broken_pointer: int = 0  # the pointer that the problem is about
    _retry_at: float = 0
    _retry_s: float = FIRST_RETRY_S

    def find(self, version: int) -> Loaded | None:
        """The version, if it is in memory."""
        for loaded in (self.current, self.previous):
            if loaded and loaded.version == version:
                return loaded
        if version in self.pinned:
            self.pinned.move_to_end(version)
        return self.pinned.get(version)

    def drop_oldest_pinned(self) -> None:
        """At most MAX_PINNED are left; the others are freed when their readers have gone."""
        while len(self.pinned) > MAX_PINNED:
            self.pinned.popitem(last=False)[1].retire()

    def note_problem(self, pointer: int, problem: str) -> None:
        """This pointer's version could not be loaded; each time it is left alone for longer."""
        if pointer != self._broken_pointer:
            self._retry_s = FIRST_RETRY_S
        self.problem, self._broken_pointer = problem, pointer
        self._retry_at = time.monotonic() + self._retry_s
        self._retry_s = min(2 * self._retry_s, LONGEST_RETRY_S)

    def forget_problem(self) -> None:
        self.problem, self._broken_pointer, self._retry_s = "", 0, FIRST_RETRY_S

    def retries_later(self, pointer: int) -> bool:
        """This pointer failed a moment ago, and nothing has changed since."""
        return pointer == self._broken_pointer and time.monotonic() < self._retry_at
