"""What one caller waits for: a few images, and the answer to each."""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from registry.errors import BadImage
from registry.images import Float32Array, UInt8Array

# Triton's levels: 1 is the highest, 0 means the default.
HIGH, NORMAL, LOW = 1, 2, 3
DEFAULT_PRIORITY = 0
# For work that nobody waits for: it runs when nothing else does.
LOWEST = 4
# What one level is worth, in seconds of waiting: whoever waits long enough comes first.
HEAD_START_S = 1.0


Draw = Callable[[int], Iterable[UInt8Array]]


class Terms(NamedTuple):
    """How a request wants to be answered."""

    n_views: int = 1  # of each image, the plain one included
    priority: int = DEFAULT_PRIORITY
    queue_s: float = math.inf  # longest wait in the queue
    answer_s: float = math.inf  # the caller's deadline: one that cannot be met is refused at once


class Answer(NamedTuple):
    """What became of one image: probabilities [classes], or why there are none."""

    probabilities: Float32Array | None = None
    error: BadImage | None = None
    decode_s: float = 0
    queue_s: float = 0
    compute_s: float = 0
    cached: bool = False  # remembered, not run
    # moments of time.perf_counter, for traces
    queued_at: float = 0
    decode_at: float = 0  # 0: nothing had to be decoded
    compute_at: float = 0


@dataclass(slots=True, eq=False)
class Work:
    """Images in the queue. `draw(i)` gives the views of image `i`, each [s,s,3], in a thread."""

    n_images: int
    draw: Draw
    terms: Terms
    done: asyncio.Future[list[Answer]]
    queued_at: float = field(default_factory=time.perf_counter)
    abandoned: bool = False  # nobody waits any more
    answers: dict[int, Answer] = field(default_factory=dict)
    # two threads may hold views of one image, or images of one request
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def is_awaited(self) -> bool:
        """Somebody waits for the answer, so it is counted among those that callers get."""
        return self.terms.priority < LOWEST

    @property
    def urgency(self) -> float:
        """What is smaller comes first."""
        priority = self.terms.priority or NORMAL
        return math.inf if priority >= LOWEST else self.queued_at + priority * HEAD_START_S

    def expired(self, now: float) -> bool:
        """It has waited for longer than was said, or its caller waits no more, which the event loop
        may not have had the time to hear of."""
        return now - self.queued_at > min(self.terms.queue_s, self.terms.answer_s)

    def abandon(self) -> None:
        """Nobody waits: what has not begun will not, and what it holds is freed."""
        self.abandoned = True
        self.draw = _nothing

    def note(self, image: int, answer: Answer) -> bool:
        """Keeps the answer to an image, and says whether it was the last one."""
        with self.lock:
            self.answers[image] = answer
            return len(self.answers) == self.n_images

    def fail(self, error: Exception) -> None:
        """The caller gets the error; what else there is of this has become pointless."""
        self.abandon()
        with suppress(RuntimeError):  # the loop has closed: nobody waits any more
            self.done.get_loop().call_soon_threadsafe(self._fail, error)

    def _fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


@dataclass(slots=True, eq=False)
class Image:
    """One image of a `Work`, and what has come back of its views so far."""

    work: Work
    index: int
    decode_s: float = 0
    queue_s: float = 0
    compute_s: float = 0
    decode_at: float = 0
    compute_at: float = 0
    views: dict[int, Float32Array] = field(default_factory=dict)  # probabilities, by view
    n_views: int = 1

    @property
    def has_begun(self) -> bool:
        """The network was given it, or it is bad."""
        return bool(self.compute_at) or self.index in self.work.answers

    def add(self, view: int, probabilities: Float32Array, queue_s: float, compute_s: float) -> bool:
        """Notes one view's probabilities [classes], and says whether it was the last one."""
        with self.work.lock:
            self.views[view] = probabilities
            self.queue_s += queue_s if view == 0 else 0
            self.compute_s = max(self.compute_s, compute_s)
            return len(self.views) == self.n_views

    def answer(self) -> Answer:
        """The mean of all views, added up in their order: a request repeated is answered alike."""
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


def finish(answered: Sequence[tuple[Image, Answer]]) -> None:
    """Images have their answers; callers who lack none any more get theirs, woken together."""
    complete = [image.work for image, answer in answered if image.work.note(image.index, answer)]
    if complete:
        with suppress(RuntimeError):  # the loop has closed: nobody waits any more
            complete[0].done.get_loop().call_soon_threadsafe(_give, complete)


def _give(complete: Sequence[Work]) -> None:
    for work in complete:
        if not work.done.done():
            work.done.set_result([work.answers[i] for i in range(work.n_images)])


def _nothing(image: int) -> Iterable[UInt8Array]:
    raise AssertionError("abandoned work is not drawn")
