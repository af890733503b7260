"""Deferred counting: appends an entry now, and updates the metrics on a scrape or when a page is
full.

In one comparison on a busy machine it saved about a twentieth of the CPU time of a request to a
tiny network.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import Metric
from prometheus_client.registry import Collector

PAGE = 64  # entries


class Notebook(Collector):
    """Registered before the metrics that it updates, so that every scrape settles it first."""

    def __init__(self) -> None:
        self._entries: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._settling = threading.Lock()

    def note(self, count: Callable[..., None], *facts: Any) -> None:
        """Defers `count(*facts)`: it will be called once, in order among the notes of a thread."""
        self._entries.append((count, facts))
        if len(self._entries) >= PAGE and self._settling.acquire(blocking=False):
            try:
                self._count()
            finally:
                self._settling.release()

    def settle(self) -> None:
        """Counts everything that was noted."""
        with self._settling:
            self._count()

    def collect(self) -> Iterator[Metric]:
        self.settle()
        return iter(())

    def _count(self) -> None:
        for _ in range(len(self._entries)):  # leaves what is noted meanwhile for the next time
            count, facts = self._entries.popleft()
            count(*facts)
