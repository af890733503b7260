"""A unit of work: the images that one caller waits for, and their answers."""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from registry.errors import BadImage, Expired
from registry.images import Float32Array, UInt8Array

# Triton's priority levels: 1 is the highest, 0 means the default.
HIGH, NORMAL, LOW = 1, 2, 3
DEFAULT_PRIORITY = 0
# For work that no caller waits for: it runs when nothing else does.
LOWEST = 4
# What one level is worth, in seconds of queueing: aging, so that no request starves.
HEAD_START_S = 1.0


DecodeViews = Callable[[int], Iterable[UInt8Array]]


class Terms(NamedTuple):
    """How a request wants to be answered."""

    n_views: int = 1  # of each image, the plain one included
    priority: int = DEFAULT_PRIORITY
    queue_s: float = math.inf  # longest time in the queue
    answer_s: float = math.inf  # to the caller's deadline; refused at once if it would be missed

    @property
    def level(self) -> int:
        """Its priority, from HIGH to LOWEST."""
        return self.priority or NORMAL


class Answer(NamedTuple):
    """The result for one image: probabilities [classes], or the error."""

    probabilities: Float32Array | None = None
    error: BadImage | None = None
    decode_s: float = 0
    queue_s: float = 0
    compute_s: float = 0
    cached: bool = False  # from the cache, not run
    # readings of time.perf_counter, for traces
    queued_at: float = 0
    decode_at: float = 0  # 0: nothing had to be decoded
    compute_at: float = 0


@dataclass(slots=True, eq=False)
class Work:
    """The images of one request. `decode(i)` gives the views of image `i`, each [s,s,3]; it is
    called in a thread."""

    n_images: int
    decode: DecodeViews
    terms: Terms
    done: asyncio.Future[list[Answer]]
    queued_at: float = field(default_factory=time.perf_counter)
    abandoned: bool = False  # the caller does not wait any more
    timer: asyncio.TimerHandle | None = None  # looks whether it has been queued for too long
    answers: dict[int, Answer] = field(default_factory=dict)
    # several threads may have views of one image, or images of one request
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def is_awaited(self) -> bool:
        """Whether a caller waits for the answer; only then does it count in the metrics."""
        return self.terms.priority < LOWEST

    @property
    def urgency(self) -> float:
        """Sort key: smaller comes first."""
        level = self.terms.level
        return math.inf if level >= LOWEST else self.queued_at + level * HEAD_START_S

    def expired(self, now: float, waited_s: float) -> bool:
        """Whether an image that has waited for so long was queued for too long, or the caller's
        deadline has passed, which the event loop may not have noticed yet."""
        return waited_s > self.terms.queue_s or now - self.queued_at > self.terms.answer_s

    def expire(self, now: float) -> None:
        """Abandons the work because it was queued for too long."""
        ago = f"{now - self.queued_at:.2g} s after it was queued"
        self.fail(Expired(f"Request timeout expired: {ago}"))

    def abandon(self) -> None:
        """Gives up what has not begun, and frees what it holds."""
        self.abandoned = True
        self.decode = _nothing

    def note(self, image: int, answer: Answer) -> bool:
        """Records the answer to an image; True if it was the last one."""
        with self.lock:
            self.answers[image] = answer
            return len(self.answers) == self.n_images

    def fail(self, error: Exception) -> None:
        """Abandons the work and gives the caller the error."""
        with suppress(RuntimeError):  # the loop has closed: nobody waits any more
            self.done.get_loop().call_soon_threadsafe(self._fail, error)
        self.abandon()  # last: a thread that decodes it now fails, and the first error counts

    def _fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


@dataclass(slots=True, eq=False)
class Image:
    """One image of a `Work`, and the results of its views so far."""

    work: Work
    index: int
    decode_s: float = 0
    queue_s: float = 0
    compute_s: float = 0
    decode_at: float = 0
    ready_at: float = 0  # when its first view was queued to be run
    compute_at: float = 0
    views: dict[int, Float32Array] = field(default_factory=dict)  # probabilities, by view
    n_views: int = 1
    is_large: bool = False  # decoded one at a time, and not with the others

    @property
    def has_begun(self) -> bool:
        """Whether the network was given it, or it turned out to be bad."""
        return bool(self.compute_at) or self.index in self.work.answers

    def waited_s(self, now: float) -> float:
        """How long it has been in the queue so far, without decoding."""
        if not self.decode_at:
            return now - self.work.queued_at
        return self.queue_s + (now - self.ready_at if self.ready_at else 0)

    def add(self, view: int, probabilities: Float32Array, queue_s: float, compute_s: float) -> bool:
        """Records one view's probabilities [classes]; True if it was the last one."""
        with self.work.lock:
            self.views[view] = probabilities
            self.queue_s += queue_s if view == 0 else 0
            self.compute_s = max(self.compute_s, compute_s)
            return len(self.views) == self.n_views

    def answer(self) -> Answer:
        """The mean of all views, summed in a fixed order so that repeated requests get identical
        answers."""
        mean = self.views[0]
        if self.n_views > 1:
            mean = np.mean([self.views[i] for i in range(self.n_views)], axis=0, dtype=np.float32)
        return Answer(
            mean,
            None,
            self.decode_s,
            self.queue_s,
            self.compute_s,
            queued_at=self.work.queued_at,
            decode_at=self.decode_at,
            compute_at=self.compute_at,
        )


def _nothing(image: int) -> Iterable[UInt8Array]:
    raise AssertionError("abandoned work is not decoded")
