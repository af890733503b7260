"""Admission control: a request that cannot be answered in time is refused at once."""

import math

from registry.errors import Overloaded
from service.execution.run_times import RunTimes

MEGABYTE = 1 << 20
OF_THE_QUEUE = ("queue_full", "queue_bytes", "expected_wait")  # their messages begin as Triton's
MARGIN = (
    0.7  # share of a deadline to use; all of it, by these averages, would miss it half the time
)


class Admission:
    """Counts what one version has queued or running. Views count, not images: each is an inference.

    For the event loop only.
    """

    def __init__(
        self,
        times: RunTimes,
        *,
        max_queue: int,
        max_queue_s: float,
        max_requests: int,
        max_bytes: int,
    ) -> None:
        """
        Args:
            times: how long the version's runs take; whoever runs them tells it.
            max_queue: most views in flight.
            max_queue_s: longest expected wait, seconds.
            max_requests: most requests in flight; 0: no limit.
            max_bytes: most bytes of images in flight, as received.
        """
        self.times = times
        self._max_queue = max_queue
        self._max_queue_s = max_queue_s
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._n_bytes = 0
        self._n_views = 0
        self._n_requests = 0

    @property
    def expected_wait_s(self) -> float:
        """How long one more view would wait, judging by those that ran before."""
        return self.times.of(self._n_views)

    def enter(
        self,
        n_views: int,
        queue_s: float = math.inf,
        answer_s: float = math.inf,
        n_bytes: int = 0,
    ) -> None:
        """Admits a request; an idle version takes any number of views.

        Raises:
            Overloaded: there is no room, the wait would be longer than `queue_s`, or the answer
                would not come within `answer_s`.
        """
        if refusal := self.refusal(n_views, queue_s, answer_s, n_bytes):
            raise refusal
        self._n_views += n_views
        self._n_bytes += n_bytes
        self._n_requests += 1

    def refusal(
        self,
        n_views: int,
        queue_s: float = math.inf,
        answer_s: float = math.inf,
        n_bytes: int = 0,
    ) -> Overloaded | None:
        """What `enter` would raise now; None if it would admit the request."""
        if not self._n_views or not (found := self._problem(n_views, queue_s, answer_s, n_bytes)):
            return None
        reason, problem = found
        room_s = max(self.expected_wait_s / 2, self.times.of(1))
        heading = "Exceeds maximum queue size: " if reason in OF_THE_QUEUE else ""
        return Overloaded(f"{heading}{problem}; try again later", room_s, reason)

    def leave(self, n_views: int, n_bytes: int = 0) -> None:
        """Notes that an admitted request has ended."""
        self._n_views -= n_views
        self._n_bytes -= n_bytes
        self._n_requests -= 1

    def _problem(
        self, n_views: int, queue_s: float, answer_s: float, n_bytes: int
    ) -> tuple[str, str] | None:
        """The limit that is reached: its name in the metrics, and a message."""
        if self._max_requests and self._n_requests >= self._max_requests:
            problem = f"{self._n_requests} requests are in flight, which is this model's limit"
            return "model_requests", problem
        if (n := self._n_views) + n_views > self._max_queue:
            problem = f"{n} views of images are in flight and the limit is {self._max_queue}"
            return "queue_full", problem
        if self._n_bytes + n_bytes > self._max_bytes:
            mb, most_mb = self._n_bytes / MEGABYTE, self._max_bytes / MEGABYTE
            problem = f"{mb:.3g} MB of images are in flight and the limit is {most_mb:.3g} MB"
            return "queue_bytes", problem
        wait_s, longest_s = self.expected_wait_s, min(self._max_queue_s, queue_s)
        if wait_s > longest_s:
            problem = f"the wait would be {wait_s:.2g} s, the limit is {longest_s:.2g} s"
            return "expected_wait", problem
        if (needed_s := wait_s + self.times.of(n_views)) > MARGIN * answer_s:
            problem = f"an answer would take {needed_s:.2g} s, the deadline is in {answer_s:.2g} s"
            return "deadline", problem
        return None
