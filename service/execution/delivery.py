"""Hands answers from the threads that made them to the event loop, where callers wait for them."""

import asyncio
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

from service.execution.queue import Queue
from service.execution.run_times import RunTimes
from service.execution.work import HIGH, Answer, Image, Work

TOGETHER = 3  # requests whose answers are not kept back for more
LONGEST_S = 0.03  # that an answer is kept back


class Delivery:
    """Gives callers their answers: at once, or a few together while the network is busy anyway.

    Every hand-over wakes the event loop, then the client, then the event loop again for the next
    request, each on a core where a network ran and with the caches that it left. On the whole, the
    callers gain by waiting for each other, because the network runs all the while.
    """

    def __init__(self, ready: Queue, times: RunTimes) -> None:
        """
        Args:
            ready: the views that wait to be run. If fewer wait than run at the same time, nothing
                is kept back, so that no thread runs out of work before the callers send more.
            times: how long runs take. Where they are slow, nothing is kept back either.
        """
        self._ready = ready
        self._times = times
        self._kept: list[Work] = []
        self._kept_until = 0.0  # when `_timer` gives what is kept, as by time.perf_counter
        self._timer: asyncio.TimerHandle | None = None
        self._lock = threading.Lock()

    def finish(self, answered: Sequence[tuple[Image, Answer]]) -> None:
        """Records answers; callers whose requests are complete get them within LONGEST_S."""
        complete = [
            image.work for image, answer in answered if image.work.note(image.index, answer)
        ]
        with self._lock:
            self._kept += complete
            if not self._kept or self._may_wait(complete):
                return
            given, self._kept = self._kept, []
        with suppress(RuntimeError):  # the loop has closed: nobody waits any more
            given[0].done.get_loop().call_soon_threadsafe(self._give, given)

    def _may_wait(self, complete: Sequence[Work]) -> bool:
        now = time.perf_counter()
        return (
            now < self._kept_until
            and len(self._kept) < TOGETHER
            and len(self._ready) >= self._times.capacity
            and self._times.of(TOGETHER) < LONGEST_S
            and not any(_is_urgent(work, now) for work in complete)
        )

    def _give(self, complete: Sequence[Work]) -> None:
        for work in complete:
            if not work.done.done():
                work.done.set_result([work.answers[i] for i in range(work.n_images)])
        if self._timer:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(LONGEST_S, self._give_kept)
        self._kept_until = time.perf_counter() + LONGEST_S

    def _give_kept(self) -> None:
        self._timer = None
        with self._lock:
            given, self._kept = self._kept, []
            self._kept_until = 0
        if given:
            self._give(given)


def _is_urgent(work: Work, now: float) -> bool:
    left_s = work.queued_at + work.terms.answer_s - now
    return work.terms.level == HIGH or left_s < LONGEST_S
