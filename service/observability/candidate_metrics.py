"""Prometheus metrics of candidates. All series of a candidate are removed when its trial ends."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
MODES = ("split", "shadow")
OUTCOMES = ("agreed", "differed", "dropped", "failed")
SIDES = ("live", "candidate")


class CandidateMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        one = ("model", "version")
        self.percent = Gauge(
            "unfreeze_candidate_percent",
            "Percentage of requests that a candidate is tried on, by mode: split or shadow.",
            (*one, "mode"),
            registry=registry,
        )
        self.problem = Gauge(
            "unfreeze_candidate_problem",
            "1 while the candidate cannot be loaded.",
            ("model",),
            registry=registry,
        )
        self.images = Counter(
            "unfreeze_shadow_images",
            "Images sampled for the candidate in shadow mode. Compared: agreed (both versions "
            "label them alike) or differed. Not compared: dropped (the server was busy) or failed.",
            (*one, "outcome"),
            registry=registry,
        )
        self.difference = Counter(
            "unfreeze_shadow_difference",
            "Sum over compared images of the mean absolute difference of their probabilities.",
            one,
            registry=registry,
        )
        self.compute_seconds = Histogram(
            "unfreeze_shadow_compute_seconds",
            "Time to run the batch of a compared image, by side: live or candidate.",
            (*one, "side"),
            buckets=SECONDS,
            registry=registry,
        )

    def begin(self, model: str, version: int, mode: str, percent: float) -> None:
        """Exports the candidate with this mode and no other."""
        for other in MODES:
            self.percent.remove(model, str(version), other)
        self.percent.labels(model, str(version), mode).set(percent)

    def end(self, model: str, version: int) -> None:
        """Removes all series of the candidate."""
        one = model, str(version)
        self.difference.remove(*one)
        for gauge, values in ((self.percent, MODES), (self.compute_seconds, SIDES)):
            for value in values:
                gauge.remove(*one, value)
        for outcome in OUTCOMES:
            self.images.remove(*one, outcome)
