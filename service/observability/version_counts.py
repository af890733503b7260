"""Counts of one version, with the labels of each metric resolved in advance: looking them up costs
more than counting."""

import asyncio
import math
from collections.abc import Sequence

from registry.errors import BadRequest, Expired, Overloaded
from service.execution.work import Answer
from service.observability.metrics import LIMITS_OF_MODELS, Metrics
from service.observability.tracing import CURRENT
from service.oip.statistics import Statistics

REASONS = ("cancelled", "expired")
# Of an image. NaN comes from float16 overflow, and would spoil every sum.
OUTCOMES = ("ok", "bad_image", "not_a_number")
REQUESTS = ("ok", "bad_request", "rejected", "cancelled", "error")  # error: the server's fault


class VersionCounts:
    """Counts for one version in memory: its stages by model, its answers by version too."""

    def __init__(self, metrics: Metrics, model: str, version: int, classes: Sequence[str]) -> None:
        self._metrics = metrics
        self._key = key = model, str(version)
        self._decode = metrics.decode_seconds.labels(model)
        self._queue = metrics.queue_seconds.labels(model)
        self._compute = metrics.compute_seconds.labels(model)
        self._encode = metrics.encode_seconds.labels(model)
        self._batch_size = metrics.batch_size.labels(model)
        self._rejected = {reason: metrics.rejected.labels(reason) for reason in LIMITS_OF_MODELS}
        self._dropped = {reason: metrics.dropped.labels(model, reason) for reason in REASONS}
        with metrics.showing:  # this thread loads a version that another may be unloading
            metrics.in_memory[key] += 1
            self._ok, self._bad, self._nan = (
                metrics.images.labels(*key, outcome) for outcome in OUTCOMES
            )
            self._requests = {it: metrics.requests.labels(*key, it) for it in REQUESTS}
            self._request = metrics.request_seconds.labels(*key)
            self._confidence = metrics.confidence.labels(*key)
            self._predictions = metrics.predictions.show(*key, classes)
        self.statistics = Statistics()
        self._open = True

    # Called in the threads that do the work

    def decoded(self, seconds: float) -> None:
        """One image has been decoded."""
        self._decode.observe(seconds)

    def ran(self, n_images: int, queue_s: float, compute_s: float) -> None:
        """A batch ran; its oldest image had been queued for `queue_s`."""
        self.statistics.ran(n_images, compute_s)
        self._batch_size.observe(n_images)
        self._queue.observe(queue_s)
        self._compute.observe(compute_s)

    def dropped(self, reason: str, n_images: int) -> None:
        """Images were not run: `cancelled` by their caller, or `expired` in the queue."""
        self._dropped[reason].inc(n_images)

    def rejected(self, reason: str) -> None:
        """A request was rejected because of a limit of this model."""
        self._rejected[reason].inc()

    # Called in the event loop

    def answered(self, answers: Sequence[Answer]) -> None:
        """Images have their answers, whatever happens to the request."""
        for answer in answers:
            if (probabilities := answer.probabilities) is None:
                self._bad.inc()
                continue
            best = int(probabilities.argmax())  # the first NaN, if there is one
            confidence = float(probabilities[best])
            if math.isnan(confidence):
                self._nan.inc()
                continue
            self._ok.inc()
            self._predictions[min(best, len(self._predictions) - 1)] += 1
            self._confidence.observe(confidence)

    def replied(
        self,
        answers: Sequence[Answer],
        *,
        began: float,
        read_at: float,
        answered_at: float,
        ended: float,
    ) -> None:
        """A request got its answers and then its reply; times are of `time.perf_counter`."""
        self.statistics.answered(
            answers, began=began, read_at=read_at, answered_at=answered_at, ended=ended
        )
        self._requests["ok"].inc()
        self._request.observe(ended - began)
        self._encode.observe(ended - answered_at)
        if span := CURRENT.get():
            span.stage("encode", answered_at, ended)

    def failed(self, error: BaseException, seconds: float) -> None:
        """A request was refused, cancelled or failed, after this time."""
        self.statistics.failed(seconds)
        self._requests[_outcome(error)].inc()

    def close(self) -> None:
        """Removes the series of this version, unless it was loaded again meanwhile; those of its
        model stay."""
        if not self._open:
            return
        self._open = False
        with self._metrics.showing:
            self._metrics.in_memory[self._key] -= 1
            if self._metrics.in_memory[self._key]:
                return
            for outcome in OUTCOMES:
                self._metrics.images.remove(*self._key, outcome)
            for outcome in REQUESTS:
                self._metrics.requests.remove(*self._key, outcome)
            self._metrics.request_seconds.remove(*self._key)
            self._metrics.confidence.remove(*self._key)
            self._metrics.predictions.hide(*self._key)


def _outcome(error: BaseException) -> str:
    match error:
        case BadRequest():
            return "bad_request"
        case asyncio.CancelledError() | Expired():  # a missed deadline ends in either of them
            return "cancelled"
        case Overloaded():
            return "rejected"
        case _:
            return "error"
