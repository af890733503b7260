"""Compares a candidate's answers with the live version's."""

import numpy as np

from registry.bundle import Bundle
from registry.images import Float32Array
from service.observability.candidate_metrics import OUTCOMES, CandidateMetrics


class Comparison:
    """Comparison counts for one candidate and one live version, also exported as metrics."""

    def __init__(
        self, live: Bundle, candidate: Bundle, version: int, metrics: CandidateMetrics
    ) -> None:
        """`version` is the candidate's number."""
        self.compared = self.agreed = self.n_dropped = 0
        self._live = live
        self._candidate = candidate
        one = live.model, str(version)
        # kept, so that comparisons that end after the trial do not bring its series back
        self._images = {outcome: metrics.images.labels(*one, outcome) for outcome in OUTCOMES}
        self._difference = metrics.difference.labels(*one)
        self._live_s = metrics.compute_seconds.labels(*one, "live")
        self._candidate_s = metrics.compute_seconds.labels(*one, "candidate")

    def count(self, live: Float32Array, candidate: Float32Array) -> None:
        """Compares one image, given the probabilities [classes] of both versions."""
        ours, theirs = self._live, self._candidate
        alike = chosen(ours, live) == chosen(theirs, candidate)
        self.compared += 1
        self.agreed += alike
        self._images["agreed" if alike else "differed"].inc()
        self._difference.inc(difference(ours, live, theirs, candidate))

    def timed(self, live_s: float, candidate_s: float) -> None:
        """Notes how long the batch with the image took in each version."""
        self._live_s.observe(live_s)
        self._candidate_s.observe(candidate_s)

    def dropped(self, n_images: int) -> None:
        """Counts images that were not compared, because too many others were."""
        self.n_dropped += n_images
        self._images["dropped"].inc(n_images)

    def failed(self, n_images: int) -> None:
        """Counts images that the candidate failed to answer."""
        self._images["failed"].inc(n_images)


def chosen(bundle: Bundle, probabilities: Float32Array) -> set[str]:
    """The labels of an image: the most probable one, or for a multi-label model all those that
    reach their thresholds."""
    if not bundle.thresholds:
        return {bundle.labels[int(probabilities.argmax())]}
    reached = probabilities >= np.array(bundle.thresholds, np.float32)
    return {label for label, reaches in zip(bundle.labels, reached, strict=True) if reaches}


def difference(
    bundle: Bundle, probabilities: Float32Array, other: Bundle, others: Float32Array
) -> float:
    """Mean absolute difference over all labels; a label that one model lacks counts as 0 there."""
    if bundle.labels == other.labels:
        return float(np.abs(probabilities - others).mean())
    one = dict(zip(bundle.labels, probabilities.tolist(), strict=True))
    two = dict(zip(other.labels, others.tolist(), strict=True))
    labels = one.keys() | two.keys()
    total: float = sum(abs(one.get(label, 0) - two.get(label, 0)) for label in labels)
    return total / len(labels)
