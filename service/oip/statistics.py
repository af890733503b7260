"""What a version has done since it was loaded, as the protocol's ModelStatistics tells it.

The counts of a version are those of both its names, `NAME` and `NAME-tensor`, and of
`unfreeze.v1.Classifier`: one network in one queue answers all of them. Durations are nanoseconds.
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
    """How often something happened, and how long all of it took."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.ns += int(seconds * NS)


@dataclass
class Statistics:
    """Requests are counted by the event loop; runs by the threads that make them."""

    success: Total = field(default_factory=Total)
    fail: Total = field(default_factory=Total)
    queue: Total = field(default_factory=Total)
    # decoding or reading pixels, the network, making the reply: three equal counts, always
    compute_input: Total = field(default_factory=Total)
    compute_infer: Total = field(default_factory=Total)
    compute_output: Total = field(default_factory=Total)
    cache_hit: Total = field(default_factory=Total)
    n_images: int = 0
    last_request_s: float = 0  # seconds of the epoch
    _runs: dict[int, Total] = field(default_factory=lambda: defaultdict(Total))  # by their images
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def n_runs(self) -> int:
        """How often the network ran; a run of several images counts once."""
        return sum(total.count for total in self.runs_by_size().values())

    def runs_by_size(self) -> dict[int, Total]:
        """The runs of each number of images, as they are now."""
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
        """A request was answered, at these seconds of `time.perf_counter`.

        The slowest image stands for all, which go side by side.
        """
        self.last_request_s = time.time()
        self.success.add(ended - began)
        if answers[0].cached and all(answer.cached for answer in answers):
            self.queue.add(0)
            self.cache_hit.add(ended - began)
            return
        slowest = answers[0] if len(answers) == 1 else max(answers, key=_seconds)
        self.n_images += len(answers)
        self.queue.add(slowest.queue_s)
        self.compute_input.add(read_at - began + slowest.decode_s)
        self.compute_infer.add(slowest.compute_s)
        self.compute_output.add(ended - answered_at)

    def failed(self, total_s: float) -> None:
        """A request was refused, given up or went wrong."""
        self.fail.add(total_s)

    def ran(self, n_images: int, seconds: float) -> None:
        """The network ran once; may be called from any thread."""
        with self._lock:
            self._runs[n_images].add(seconds)


def _seconds(answer: Answer) -> float:
    return answer.queue_s + answer.decode_s + answer.compute_s
