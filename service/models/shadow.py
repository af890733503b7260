"""Shadow mode: once the caller has the answer, the candidate answers too, and both are compared.

It must not cost callers anything: it runs only images that were answered already, at the lowest
priority, and drops them if requests are waiting for the live version.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from registry.bundle import Bundle
from registry.errors import Overloaded
from registry.images import UInt8Array
from service.execution.work import LOWEST, Answer, Terms
from service.models.comparison import Comparison
from service.models.loaded_version import LoadedVersion
from service.tracebacks import drop_tracebacks

log = logging.getLogger(__name__)

MAX_IN_FLIGHT = 16  # images; their pixels stay in memory until they are compared

# The views of image i, as a bundle needs them.
DecodeViewsFor = Callable[[Bundle, int], Iterable[UInt8Array]]


class Shadow:
    """Compares a candidate with a live version. Used from one event loop."""

    def __init__(
        self, live: LoadedVersion, candidate: LoadedVersion, comparison: Comparison
    ) -> None:
        self._live = live
        self._candidate = candidate
        self._comparison = comparison
        self._in_flight: dict[asyncio.Task[None], int] = {}
        self._has_logged = False

    def sample(self, decode: DecodeViewsFor, n_views: int) -> "Sample":
        """A sample of a request, to be compared once it is answered."""
        return Sample(self, self._live.bundle, self._candidate.bundle, decode, n_views)

    def offer(self, sample: "Sample", answers: Sequence[Answer]) -> None:
        """Starts comparing the answered images, at most MAX_IN_FLIGHT at a time; drops the rest."""
        good = [i for i, answer in enumerate(answers) if answer.probabilities is not None]
        free = MAX_IN_FLIGHT - sum(self._in_flight.values())
        taken = [] if self._live.executor.depth else good[:free]
        self._comparison.dropped(len(good) - len(taken))
        if taken:
            task = asyncio.create_task(self._compare(sample, taken, [answers[i] for i in taken]))
            self._in_flight[task] = len(taken)
            task.add_done_callback(self._in_flight.pop)

    async def _compare(self, sample: "Sample", taken: list[int], answers: list[Answer]) -> None:
        terms = Terms(n_views=sample.n_views, priority=LOWEST)
        try:
            with self._candidate as candidate:
                tried = await candidate.executor.run(
                    len(taken), lambda i: sample.for_candidate(taken[i]), terms
                )
        except Overloaded as error:
            self._comparison.dropped(len(taken))
            drop_tracebacks(error)
        except Exception as error:  # whatever it is, callers have their answers
            self._failed(len(taken), error)
            drop_tracebacks(error)
        else:
            for live, answer in zip(answers, tried, strict=True):
                self._count(live, answer)

    def _count(self, live: Answer, tried: Answer) -> None:
        if live.probabilities is None or tried.probabilities is None:
            self._failed(1, tried.error)
            return
        if np.isnan(tried.probabilities).any():
            self._failed(1, ValueError("some of its probabilities are NaN"))
            return
        self._comparison.count(live.probabilities, tried.probabilities)
        if not live.cached:
            self._comparison.timed(live.compute_s, tried.compute_s)

    def _failed(self, n_images: int, error: Exception | None) -> None:
        self._comparison.failed(n_images)
        if not self._has_logged:  # once is enough: every request may fail
            facts = {"model": self._live.model, "version": self._candidate.version}
            log.warning("shadow_failed", extra=facts | {"problem": str(error)})
            self._has_logged = True


class Sample:
    """One request that is to be compared once it is answered.

    The views decoded for the live version are kept for the candidate, if it takes the same.
    """

    def __init__(
        self, shadow: Shadow, live: Bundle, candidate: Bundle, decode: DecodeViewsFor, n_views: int
    ) -> None:
        self.n_views = n_views
        self._shadow = shadow
        self._live = live
        self._candidate = candidate
        self._decode = decode
        same_views = n_views < 2 or live.tta == candidate.tta
        self._reuse = same_views and live.image == candidate.image
        self._decoded: dict[int, list[UInt8Array]] = {}

    def for_live(self, i: int) -> Iterator[UInt8Array]:
        """The views of image `i` for the live version; called in a thread."""
        keep = self._reuse and i < MAX_IN_FLIGHT
        views = []
        for view in self._decode(self._live, i):
            if keep:
                views.append(view)
            yield view
        if keep:
            self._decoded[i] = views

    def for_candidate(self, i: int) -> Iterable[UInt8Array]:
        """The views of image `i` for the candidate; called in a thread."""
        views = self._decoded.pop(i, None)
        return self._decode(self._candidate, i) if views is None else views

    def answered(self, answers: Sequence[Answer]) -> None:
        """Takes the request's answers; the candidate may now run."""
        self._shadow.offer(self, answers)
