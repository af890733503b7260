"""Whether there is room for a request: what cannot be answered in time is refused at once."""

import math

from registry.errors import Overloaded

SMOOTHING = 0.1  # weight of the newest batch in the running mean of what an image takes
MEGABYTE = 1 << 20
OF_THE_QUEUE = ("queue_full", "queue_bytes", "expected_wait")  # told with Triton's words before
MARGIN = 0.7  # of a deadline; what takes all of it by that mean misses it half of the time


class Admission:
    """Counts what is under way of one version. Views count, not images: each takes a run.

    `enter` and `leave` belong to the event loop; `learn` may be called from any thread.
    """

    def __init__(
        self, *, max_queue: int, max_queue_s: float, max_requests: int, max_bytes: int
    ) -> None:
        """
        Args:
            max_queue: views under way at which more are refused.
            max_queue_s: expected wait at which more are refused, seconds.
            max_requests: requests under way at which more are refused; 0: any number.
            max_bytes: of images under way, as they came, at which more are refused.
        """
        self._max_queue = max_queue
        self._max_queue_s = max_queue_s
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._n_bytes = 0
        self._n_views = 0
        self._n_requests = 0
        self._view_s = 0.0

    @property
    def expected_wait_s(self) -> float:
        """What one more view would wait, judging by those that ran before."""
        return self._n_views * self._view_s

    def learn(self, view_s: float) -> None:
        """A view has taken this long, divided by how many run side by side."""
        self._view_s += (view_s - self._view_s) * (SMOOTHING if self._view_s else 1)

    def enter(
        self,
        n_views: int,
        queue_s: float = math.inf,
        answer_s: float = math.inf,
        n_bytes: int = 0,
    ) -> None:
        """There is room; an idle version takes any number.

        Raises:
            Overloaded: there is none, or the wait would be longer than `queue_s`.
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
        """Why `enter` would raise now."""
        if not self._n_views or not (found := self._problem(n_views, queue_s, answer_s, n_bytes)):
            return None
        reason, problem = found
        room_s = max(self.expected_wait_s / 2, self._view_s)
        heading = "Exceeds maximum queue size: " if reason in OF_THE_QUEUE else ""
        return Overloaded(f"{heading}{problem}; try again later", room_s, reason)

    def leave(self, n_views: int, n_bytes: int = 0) -> None:
        """A request that had entered has ended."""
        self._n_views -= n_views
        self._n_bytes -= n_bytes
        self._n_requests -= 1

    def _problem(
        self, n_views: int, queue_s: float, answer_s: float, n_bytes: int
    ) -> tuple[str, str] | None:
        """The limit that is reached, as the metrics call it, and in words."""
        if self._max_requests and self._n_requests >= self._max_requests:
            problem = f"{self._n_requests} requests are under way, which is this model's limit"
            return "model_requests", problem
        if (n := self._n_views) + n_views > self._max_queue:
            problem = f"{n} views of images are under way and the limit is {self._max_queue}"
            return "queue_full", problem
        if self._n_bytes + n_bytes > self._max_bytes:
            mb, most_mb = self._n_bytes / MEGABYTE, self._max_bytes / MEGABYTE
            problem = f"{mb:.3g} MB of images are under way and the limit is {most_mb:.3g} MB"
            return "queue_bytes", problem
        wait_s, longest_s = self.expected_wait_s, min(self._max_queue_s, queue_s)
        if wait_s > longest_s:
            problem = f"the wait would be {wait_s:.2g} s, the limit is {longest_s:.2g} s"
            return "expected_wait", problem
        if (needed_s := wait_s + n_views * self._view_s) > MARGIN * answer_s:
            problem = f"an answer would take {needed_s:.2g} s, the deadline is in {answer_s:.2g} s"
            return "deadline", problem
        return None
