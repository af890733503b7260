"""What a version has done since it was loaded, for the protocol's ModelStatistics.

The counts cover both names of a model, `NAME` and `NAME-tensor`, and `unfreeze.v1.Classifier`: one
network with one queue answers all of them. Durations are in nanoseconds.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from service.execution.work import Answer

NS = 1_000_000_000


@dataclass
class Total:
    """How often something happened, and how long it took in total."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.ns += int(seconds * NS)


@dataclass
class Statistics:
    """Requests are counted by the event loop, runs by the threads that make them."""

    success: Total = field(default_factory=Total)
    fail: Total = field(default_factory=Total)
    queue: Total = field(default_factory=Total)
    # decoding or reading pixels, inference, building the reply: their counts are always equal
    compute_input: Total = field(default_factory=Total)
    compute_infer: Total = field(default_factory=Total)
    compute_output: Total = field(default_factory=Total)
    cache_hit: Total = field(default_factory=Total)
    n_images: int = 0  # that the network answered: neither those of the cache nor bad ones
    last_request_s: float = 0  # Unix time
    _runs: dict[int, Total] = field(default_factory=lambda: defaultdict(Total))  # by batch size
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def n_runs(self) -> int:
        """How often the network ran; a run of several images counts once."""
        return sum(total.count for total in self.runs_by_size().values())

    def runs_by_size(self) -> dict[int, Total]:
        """A snapshot of the runs by batch size."""
        with self._lock:
            return {n: Total(total.count, total.ns) for n, total in sorted(self._runs.items())}

    def answered(
        self,
        answers: Sequence[Answer],
        *,
        began: float,
        read_at: float,
        answered_at: float,
        ended: float,
    ) -> None:
        """Counts an answered request; times are readings of `time.perf_counter`.

        The slowest image stands for all, since they are processed in parallel.
        """
        self.last_request_s = time.time()
        self.success.add(ended - began)
        if answers[0].cached and all(answer.cached for answer in answers):
            self.queue.add(0)
            self.cache_hit.add(ended - began)
            return
        slowest = answers[0] if len(answers) == 1 else max(answers, key=_seconds)
        self.n_images += sum(
            answer.probabilities is not None for answer in answers if not answer.cached
        )
        self.queue.add(slowest.queue_s)
        self.compute_input.add(read_at - began + slowest.decode_s)
        self.compute_infer.add(slowest.compute_s)
        self.compute_output.add(ended - answered_at)

    def failed(self, total_s: float) -> None:
        """Counts a request that was refused, cancelled or failed."""
        self.fail.add(total_s)

    def ran(self, n_images: int, seconds: float) -> None:
        """Counts one run of the network; may be called from any thread."""
        with self._lock:
            self._runs[n_images].add(seconds)


def _seconds(answer: Answer) -> float:
    return answer.queue_s + answer.decode_s + answer.compute_s
