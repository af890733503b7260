"""Deferred updates of metrics: each is queued, and made on a scrape or when the queue is full.

In one comparison on a busy machine it saved about a twentieth of the CPU time of a request to a
tiny network.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import Metric
from prometheus_client.registry import Collector

MAX_QUEUED = 64


class DeferredUpdates(Collector):
    """Registered before the metrics that it updates, so that every scrape flushes it first."""

    def __init__(self) -> None:
        self._queued: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._flushing = threading.Lock()

    def defer(self, update: Callable[..., None], *arguments: Any) -> None:
        """Queues `update(*arguments)`: it will be called once, in order among those of a thread."""
        self._queued.append((update, arguments))
        if len(self._queued) >= MAX_QUEUED and self._flushing.acquire(blocking=False):
            try:
                self._update()
            finally:
                self._flushing.release()

    def flush(self) -> None:
        """Makes every update that is queued."""
        with self._flushing:
            self._update()

    def collect(self) -> Iterator[Metric]:
        self.flush()
        return iter(())

    def _update(self) -> None:
        for _ in range(len(self._queued)):  # leaves what is queued meanwhile for the next time
            update, arguments = self._queued.popleft()
            update(*arguments)
