"""Admission control: a request that cannot be answered in time is refused at once."""

from registry.counted import are, counted
from registry.errors import Overloaded
from service.execution.run_times import RunTimes
from service.execution.work import HEAD_START_S, LOWEST, Terms

MEGABYTE = 1 << 20
OF_THE_QUEUE = ("queue_full", "queue_bytes", "expected_wait")  # their messages begin as Triton's
MARGIN = 0.7  # share of a deadline to use: all of it, by averages, would miss it half the time


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
        self._n_by_level = [0] * (LOWEST + 1)  # of these views, by priority
        self._n_requests = 0

    @property
    def expected_wait_s(self) -> float:
        """How long one more view would wait behind all others, judging by those that ran before."""
        return self.times.of(self._n_views)

    def wait_s(self, level: int, n_more: int = 0) -> float:
        """How long one more view of this priority would wait: behind those that are as urgent or
        run already, and those that have waited for so long that they are as urgent by now.

        Args:
            n_more: views that are to run too within that time.
        """
        n_behind = sum(self._n_by_level[level + 1 :])
        if not n_behind:
            return self.times.of(self._n_views + n_more)
        n_ahead = self._n_views - n_behind + n_more
        wait_s = self.times.of(n_ahead + min(n_behind, self.times.capacity))
        for other in range(level + 1, LOWEST):
            # the queue serves a level this much later than one that is so much more urgent
            n_ahead += self._n_by_level[other]
            wait_s = max(wait_s, self.times.of(n_ahead) - (other - level) * HEAD_START_S)
        return wait_s

    @property
    def stream_window(self) -> int:
        """Views that keep the network busy: a batch for every run, and as many to run next. 0 if so
        many are under way already, or half of any limit is taken: the rest is for others."""
        n_views = 2 * self.times.capacity
        below_half = (
            self._n_views < min(n_views, self._max_queue / 2)
            and self._n_bytes < self._max_bytes / 2
            and self.expected_wait_s < self._max_queue_s / 2
            and (not self._max_requests or self._n_requests < self._max_requests / 2)
        )
        return n_views if below_half else 0

    def enter(self, n_views: int, terms: Terms, n_bytes: int = 0) -> None:
        """Admits a request; an idle version takes any number of views. One of more than half of the
        queue needs that half to be free: otherwise it would have to find the version idle, which a
        busy one never is.

        Raises:
            Overloaded: a limit is reached, or the wait or the answer would take longer than `terms`
                allow.
        """
        if refusal := self.refusal(n_views, terms, n_bytes):
            raise refusal
        self._n_views += n_views
        self._n_by_level[terms.level] += n_views
        self._n_bytes += n_bytes
        self._n_requests += 1

    def refusal(self, n_views: int, terms: Terms, n_bytes: int = 0) -> Overloaded | None:
        """What `enter` would raise now; None if it would admit the request."""
        if not self._n_views or not (found := self._problem(n_views, terms, n_bytes)):
            return None
        reason, problem = found
        retry_after_s = max(self.expected_wait_s / 2, self.times.of(1))
        heading = "Exceeds maximum queue size: " if reason in OF_THE_QUEUE else ""
        return Overloaded(f"{heading}{problem}; try again later", retry_after_s, reason)

    def leave(self, n_views: int, terms: Terms, n_bytes: int = 0) -> None:
        """Notes that an admitted request has ended."""
        self._n_views -= n_views
        self._n_by_level[terms.level] -= n_views
        self._n_bytes -= n_bytes
        self._n_requests -= 1

    def _problem(self, n_views: int, terms: Terms, n_bytes: int) -> tuple[str, str] | None:
        """The limit that is reached: its name in the metrics, and a message."""
        if self._max_requests and (n := self._n_requests) >= self._max_requests:
            problem = f"{counted(n, 'request')} {are(n)} in flight, which is this model's limit"
            return "model_requests", problem
        if (n := self._n_views) + min(n_views, self._max_queue / 2) > self._max_queue:
            problem = (
                f"{counted(n, 'view of an image', 'views of images')} {are(n)} in flight and the "
                f"limit is {self._max_queue}"
            )
            return "queue_full", problem
        if self._n_bytes + n_bytes > self._max_bytes:
            mb, most_mb = self._n_bytes / MEGABYTE, self._max_bytes / MEGABYTE
            problem = f"{mb:.3g} MB of images are in flight and the limit is {most_mb:.3g} MB"
            return "queue_bytes", problem
        # a queue that is full is so for all; their own limits go by what would run before them
        own_s = self.wait_s(terms.level)
        for wait_s, longest_s in (
            (self.expected_wait_s, self._max_queue_s),
            (own_s, terms.queue_s),
        ):
            if wait_s > longest_s:
                problem = f"the wait would be {wait_s:.2g} s, the limit is {longest_s:.2g} s"
                return "expected_wait", problem
        # it may fill up the last batch that waits, but none that runs
        running_s = self.times.of(min(self._n_views, self.times.capacity))
        needed_s = max(self.wait_s(terms.level, n_views), running_s + self.times.of(n_views))
        if needed_s > MARGIN * terms.answer_s:
            problem = (
                f"an answer would take {needed_s:.2g} s, the deadline is in {terms.answer_s:.2g} s"
            )
            return "deadline", problem
        return None
